"""Holds: units of a limit that are reserved, or in use, and not spent yet.

The holds of one caller on one limit lie under a key of their own beside the limit's state, and the limit is asked as if
they had been spent as well. So no kind of limit knows of them, and one of which nothing is ever held pays nothing.

State: the longest lease and the last number given, and for each hold its number, its units and the end of its lease;
eight bytes each. A number is the moment at which the hold began, or one more than the last: no number is given twice.

A hold ends when it is released, or with its lease. Time may be set back: no lease is longer from then on than the
longest one that was asked for.
"""

from __future__ import annotations

from struct import Struct

from keyguard.clock import SECOND
from keyguard.rates.limit import Limit, Taking

HELD_WAIT = SECOND
"""Microseconds after which a caller may try again whom only holds stand in the way of: they may end at any moment."""
MAX_HOLDS = 1000
"""Of one caller on one limit. A request for one more is refused as if there were no units left."""

NO_ROOM: Taking = (None, 0, 0, HELD_WAIT, HELD_WAIT)
"""The taking of a request for one more."""

_SUFFIX = ":held"
_HEAD = Struct("<QQ")
_HOLD = Struct("<QQQ")


def held_key(key: str) -> str:
    """Return the key of the holds on what is counted under a key."""
    pool, _, bucket = key.partition("|")
    return f"{pool}{_SUFFIX}|{bucket}"


class Holds:
    """The holds that stand under one key at a moment."""

    __slots__ = ("_last", "_longest", "changed", "ends", "units")

    def __init__(self, state: bytes | None, now: int) -> None:
        self.ends: dict[int, tuple[int, int]] = {}
        """Units, and the end of the lease, by number."""
        self.units = 0
        """The units of all of them."""
        self.changed = False
        """Whether the state must be written."""
        self._longest = self._last = 0
        if state is None:
            return
        self._longest, self._last = _HEAD.unpack_from(state)
        if len(state) == _HEAD.size:
            return
        latest = now + self._longest
        for number, units, end in _HOLD.iter_unpack(memoryview(state)[_HEAD.size :]):
            if end > latest:  # time was set back
                end, self.changed = latest, True
            if end > now:
                self.ends[number] = units, end
                self.units += units

    @property
    def full(self) -> bool:
        """Whether there may be no more of them."""
        return len(self.ends) >= MAX_HOLDS

    def add(self, units: int, lease: int, now: int) -> int:
        """Hold some units, at least one. Return how far the hold's number is ahead of the time."""
        self._last = number = max(now, self._last + 1)
        if lease > self._longest:
            self._longest = lease
        self.ends[number] = units, now + lease
        self.units += units
        self.changed = True
        return number - now

    def release(self, number: int) -> None:
        """End a hold, if it still stands."""
        units, _ = self.ends.pop(number, (0, 0))
        if units:
            self.units -= units
            self.changed = True

    def renew(self, number: int, lease: int, now: int) -> bool:
        """Have the lease of a hold begin anew. Return whether the hold still stands."""
        held = self.ends.get(number)
        if held is None:
            return False
        if lease > self._longest:
            self._longest = lease
        self.ends[number] = held[0], now + lease
        self.changed = True
        return True

    def change(self, key: str, now: int) -> tuple[str, bytes | None, int | None, Limit]:
        """Return what is to be written."""
        # If there are none, the last number is remembered for as long as a later hold could be given it.
        latest = 0 if self.ends else self._last + 1
        parts = [_HEAD.pack(self._longest, self._last)]
        for number, (units, end) in self.ends.items():
            parts.append(_HOLD.pack(number, units, end))
            if end > latest:
                latest = end
        ttl = latest - now
        return (key, None, None, HOLDS) if ttl <= 0 else (key, b"".join(parts), ttl, HOLDS)


def ask(limit: Limit, state: bytes | None, now: int, cost: int, held: int) -> Taking:
    """Ask a limit of which some units are held. The taking is without a state: nothing is charged yet.

    What remains is what is neither spent nor held. If the units that are held are all that is missing, the wait is
    `HELD_WAIT`. Asking for no units is not refused for what is held.
    """
    _, ttl, remaining, reset, wait = limit.take(state, now, cost + held)
    if not wait:
        return None, ttl, remaining, reset, 0
    if cost:
        _, ttl, _, reset, wait = limit.take(state, now, cost)
        _, _, remaining, _, short = limit.take(state, now, held)
        if not wait:
            reset = wait = HELD_WAIT
    else:
        short, wait = wait, limit.take(state, now, 0)[4]  # none, but of a kind that refuses whoever asks
    return None, ttl, 0 if short else remaining, reset, wait


class _Holds(Limit):
    """The holds themselves, for a store that asks what it writes: they are never forgotten, and end by themselves."""

    __slots__ = ()
    may_be_forgotten = False


HOLDS = _Holds(1, SECOND, "holds", "held")
"""The limit that the states of holds are told to belong to."""
