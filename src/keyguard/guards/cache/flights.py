"""Coalescing: of many requests that miss the same entry at a time, one asks the app and the others wait for its answer.

The request that asks is the flight's leader. How a flight ends, and what its followers do:

    LANDED      the answer is stored: they use it, if it suits them
    APART       the answer may not be stored, or the app failed: all ask the app themselves, and nobody waits again soon
    LEFT        the leader's client went before the answer was whole, or one of them has waited for as long as is set:
                one of them leads next

Ending a flight never awaits and never blocks for long: it is done in `finally` blocks, from any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from keyguard.flow import Signal
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.key import Key, digest

OPEN, LANDED, APART, LEFT = range(4)

_REMEMBERED = 10_000
_SHORT = 300


class Flight:
    """One request of the app that others may wait for."""

    __slots__ = ("entry", "signal", "state")

    def __init__(self) -> None:
        self.state = OPEN
        self.entry: Entry | None = None
        self.signal = Signal()


class Flights:
    """The flights of this process."""

    def __init__(self) -> None:
        self._open: dict[Key, Flight] = {}
        self._apart: OrderedDict[str | Key, int] = OrderedDict()
        self.moment = 0
        """How often something has been purged: what a request notes before it asks the app."""
        self._purged: OrderedDict[str, int] = OrderedDict()
        self._all_purged = 0
        self._lock = threading.Lock()

    def renew(self) -> None:
        """Called in a forked child: nobody there flies what the parent began."""
        self._open = {}
        self._lock = threading.Lock()

    def join(self, key: Key) -> tuple[Flight, bool]:
        """The flight for a key, and whether the caller leads it."""
        with self._lock:
            flight = self._open.get(key)
            if flight is not None:
                return flight, False
            flight = self._open[key] = Flight()
            return flight, True

    def end(self, key: Key, flight: Flight, state: int, entry: Entry | None = None) -> None:
        """End a flight, once; later calls change nothing."""
        with self._lock:
            if flight.state != OPEN:
                return
            flight.state, flight.entry = state, entry
            if self._open.get(key) is flight:
                del self._open[key]
        flight.signal.move()

    # -- what is purged while it is on its way ----------------------------------------------------------------

    def outdate(self, place: str | None) -> None:
        """Let nothing be stored that is on its way now to `place`; `None` means everywhere."""
        with self._lock:
            self.moment += 1
            if place is None:
                self._all_purged = self.moment
                self._purged.clear()
                return
            self._purged[place] = self.moment
            self._purged.move_to_end(place)
            if len(self._purged) > _REMEMBERED:
                self._all_purged = self._purged.popitem(last=False)[1]  # what is forgotten may have been anything

    def outdated(self, places: tuple[str, ...], moment: int) -> bool:
        """Whether what was asked for at `moment` has been purged since: then it is not stored."""
        if moment == self.moment:
            return False
        return moment < self._all_purged or any(moment < self._purged.get(place, 0) for place in places)

    # -- what is not worth waiting for ----------------------------------------------------------------------

    def set_apart(self, key: Key, until: int) -> None:
        """Note that the answers for a key may not be stored; nobody waits for them until then (microseconds)."""
        name = _name(key)
        with self._lock:
            self._apart[name] = until
            self._apart.move_to_end(name)
            if len(self._apart) > _REMEMBERED:
                self._apart.popitem(last=False)

    def is_apart(self, key: Key, now: int) -> bool:
        """Whether requests for a key do not wait for each other."""
        until = self._apart.get(_name(key)) if self._apart else None
        return until is not None and now < until <= now + 3600 * 1_000_000

    def rejoin(self, key: Key) -> None:
        """Take that back."""
        if self._apart:
            with self._lock:
                self._apart.pop(_name(key), None)


def _name(key: Key) -> str | Key:
    """What a key is remembered by: itself, unless it is long, as a URL may be."""
    return key if sum(map(len, key)) <= _SHORT else digest(key)
