"""The operations by which processes share a cache: each happens at once, on any store.

They know nothing of requests. `shared.py` says what each key holds; a value of another form counts as none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from keyguard.clock import SECOND
from keyguard.ops import Change, Op

MAX_TTL = 86400
"""Seconds for which an entry stays in a shared store at most."""

PURGES = ("rc:purges|log", "rc:purges|v")
HIT_FOR_MISS = b"-"
"""Stands instead of a lease for a key whose answers may not be stored: no process waits for another then."""

_MARK_TTL = (MAX_TTL + 3600) * SECOND
_MAX_PURGES = 1000
_HIT_FOR_MISS_TTL = 2 * SECOND


class Stamp(Op[int]):
    """Note the store's time under a key. Evaluates to it; if the clock lags, to a moment after the last."""

    __slots__ = ()

    def __init__(self, key: str) -> None:
        self.keys = (key,)

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        moment = _after(old[0], now)
        return moment, [(self.keys[0], _moment(moment), _MARK_TTL, None)]


class Ensure(Op[int]):
    """Write a moment if none is written. Evaluates to the one that stands there then."""

    __slots__ = ("moment",)
    likely = (None,)

    def __init__(self, key: str, moment: int) -> None:
        self.keys = (key,)
        self.moment = moment

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        if _is_moment(old[0]):
            return read_moment(old[0]), ()
        return self.moment, [(self.keys[0], _moment(self.moment), _MARK_TTL, None)]


class Enlist(Op[list[str]]):
    """Put a variant at the head of a key's list. Evaluates to the ids that fell off its end."""

    __slots__ = ("id", "max", "names", "ttl")

    def __init__(self, key: str, id: str, names: Sequence[str], ttl: int, max: int) -> None:
        self.keys = (key,)
        self.id = id
        self.names = list(names)
        self.ttl = ttl
        self.max = max

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[list[str], Sequence[Change]]:
        items = [item for item in listed(old[0]) if item[0] != self.id and item[2] > now]
        items.insert(0, [self.id, self.names, now + self.ttl])
        kept, dropped = items[: self.max], items[self.max :]
        value = json.dumps(kept, separators=(",", ":")).encode()
        ttl = max(item[2] for item in kept) - now
        return [item[0] for item in dropped], [(self.keys[0], value, ttl, None)]


class Purge(Op[int]):
    """Note that all entries with one of these marks are void from now on. Evaluates to the store's time."""

    __slots__ = ("marks",)

    def __init__(self, marks: Sequence[str]) -> None:
        self.keys = PURGES
        self.marks = marks

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        purges = Purges(old[0], old[1], now)
        moment = _after(old[1], now)  # two purges never have one version, or other processes would miss the second
        for mark in self.marks:
            purges.note(mark, moment)
        return moment, [(PURGES[0], purges.encode(), _MARK_TTL, None), (PURGES[1], _moment(moment), _MARK_TTL, None)]


class Renew(Op[tuple[bytes, bytes]]):
    """Make the log of purges outlive the entries. If the store has lost it, all that is older is void."""

    __slots__ = ()

    def __init__(self) -> None:
        self.keys = PURGES

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[tuple[bytes, bytes], Sequence[Change]]:
        log = Purges(old[0], old[1], now).encode()
        version = _moment(now) if old[1] is None or not _is_moment(old[1]) else old[1]
        return (log, version), [(PURGES[0], log, _MARK_TTL, None), (PURGES[1], version, _MARK_TTL, None)]


class Lease(Op[tuple[bytes | None, int]]):
    """Become the process that asks the app. Evaluates to a holder and a moment.

    The holder is `None` if it is this process, else the value that stands there. The moment is the store's time; 0 if
    the lease was taken without looking first, so before anything that went along with it.
    """

    __slots__ = ("token", "ttl")
    likely = (None,)

    def __init__(self, key: str, token: bytes, ttl: int) -> None:
        self.keys = (key,)
        self.token = token
        self.ttl = ttl

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[tuple[bytes | None, int], Sequence[Change]]:
        if old[0] is not None and old[0] != self.token:
            return (old[0], now), ()
        return (None, now), [(self.keys[0], self.token, self.ttl, None)]


class Release(Op[None]):
    """Stop being the process that asks; `hit_for_miss` tells the others not to wait for the next one either.

    `last`: it goes along with operations that look before they write, and must not overtake them.
    """

    __slots__ = ("hit_for_miss", "likely", "token")

    def __init__(self, key: str, token: bytes, *, hit_for_miss: bool, last: bool) -> None:
        self.keys = (key,)
        self.likely = None if last else (token,)
        self.token = token
        self.hit_for_miss = hit_for_miss

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[None, Sequence[Change]]:
        if old[0] != self.token:
            return None, ()
        if self.hit_for_miss:
            return None, [(self.keys[0], HIT_FOR_MISS, _HIT_FOR_MISS_TTL, None)]
        return None, [(self.keys[0], None, None, None)]


class Purges:
    """The log of purges, by mark: `*` for everything, `t` and a tag's digest, `u` and a path's."""

    __slots__ = ("floor", "moments")

    def __init__(self, log: bytes | None = None, version: bytes | None = None, now: int = 0) -> None:
        found = _json(log)
        self.floor: int = 0
        """Everything from before this moment counts as purged, since older purges are not remembered."""
        self.moments: dict[str, int] = {}
        if version is None or not _is_moment(version):
            self.floor = now  # a server may evict what it likes, and this is how it shows
        elif _is_log(found):
            self.floor, self.moments = found
        else:
            self.floor = read_moment(version)

    def note(self, mark: str, now: int) -> None:
        """Note a purge, now."""
        self.moments.pop(mark, None)
        self.moments[mark] = now
        while len(self.moments) > _MAX_PURGES:
            self.floor = max(self.floor, self.moments.pop(next(iter(self.moments))))

    def encode(self) -> bytes:
        """Return the log as a value."""
        return json.dumps([self.floor, self.moments], separators=(",", ":")).encode()

    def after(self, since: int, marks: Sequence[str]) -> bool:
        """Tell whether something with these marks was purged at or after a moment."""
        return self.floor >= since or any(self.moments.get(mark, 0) >= since for mark in marks)


# -- values -----------------------------------------------------------------------------------------------------------


def listed(value: bytes | None) -> list[list[Any]]:
    """Return the items of an index; none if the value is not an index."""
    found = _json(value)
    return found if isinstance(found, list) and all(map(_is_item, found)) else []


def _is_item(item: Any) -> bool:
    if not isinstance(item, list) or len(item) != 3:
        return False
    id, names, end = item
    return type(id) is str and type(end) is int and type(names) is list and all(type(name) is str for name in names)


def _is_log(found: Any) -> bool:
    if not isinstance(found, list) or len(found) != 2 or type(found[0]) is not int or type(found[1]) is not dict:
        return False
    return all(type(moment) is int for moment in found[1].values())


def _json(value: bytes | None) -> Any:
    try:
        return None if value is None else json.loads(value)
    except (ValueError, RecursionError):
        return None


def _moment(now: int) -> bytes:
    return now.to_bytes(8, "little", signed=True)


def _is_moment(value: bytes | None) -> bool:
    return value is not None and len(value) == 8


def _after(value: bytes | None, now: int) -> int:
    """Return now, or right after the last moment if the clock has been set back a little or stands still."""
    last = read_moment(value)
    return last + 1 if now <= last < now + MAX_TTL * SECOND else now


def read_moment(value: bytes | None) -> int:
    """Return the moment that `Stamp` wrote; 0 for none, and a very late one for a value that it cannot have written."""
    if value is None:
        return 0
    return int.from_bytes(value, "little", signed=True) if len(value) == 8 else 2**63
