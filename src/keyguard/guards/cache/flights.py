"""Flights: of the requests in a process that miss the same entry, one asks the app and the others wait for its answer.

The request that asks is the flight's leader. How a flight ends, and what its followers do:

    LANDED          the answer is stored: they use it, if it suits them
    HIT_FOR_MISS    the answer may not be stored, or the app failed: all ask the app themselves, and for a while no
                    request for this key waits again
    LEFT            the leader's client went before the answer was whole, or a follower has waited for as long as is
                    set: one of them leads next

Ending a flight never awaits and never blocks for long: it is done in `finally` blocks, from any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from keyguard.clock import SECOND
from keyguard.digests import digest
from keyguard.flow import Signal
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.key import Key

OPEN, LANDED, HIT_FOR_MISS, LEFT = range(4)

_REMEMBERED = 10_000
_SHORT = 300
_HOUR = 3600 * SECOND


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
        self._hit_for_miss: OrderedDict[str | Key, int] = OrderedDict()
        self._lock = threading.Lock()

    def renew(self) -> None:
        """Forget the open flights, in a forked child: their leaders are in the parent."""
        self._open = {}
        self._lock = threading.Lock()

    def join(self, key: Key) -> tuple[Flight, bool]:
        """Return the flight for a key, and whether the caller leads it."""
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

    # -- answers that are not worth waiting for --------------------------------------------------------------

    def hit_for_miss(self, key: Key, until: int) -> None:
        """Note that the answers for a key may not be stored, so that no request waits for one until then."""
        name = _name(key)
        with self._lock:
            self._hit_for_miss[name] = until
            self._hit_for_miss.move_to_end(name)
            if len(self._hit_for_miss) > _REMEMBERED:
                self._hit_for_miss.popitem(last=False)

    def is_hit_for_miss(self, key: Key, now: int) -> bool:
        """Tell whether requests for a key do not wait for each other."""
        until = self._hit_for_miss.get(_name(key)) if self._hit_for_miss else None
        return until is not None and now < until <= now + _HOUR

    def coalesce_again(self, key: Key) -> None:
        """Take `hit_for_miss` back."""
        if self._hit_for_miss:
            with self._lock:
                self._hit_for_miss.pop(_name(key), None)


def _name(key: Key) -> str | Key:
    """Return what a key is remembered by: itself, unless it is long, as a URL may be."""
    return key if sum(map(len, key)) <= _SHORT else digest(key)
