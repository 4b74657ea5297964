"""The operations by which processes share a cache: what must happen at once, whatever the store.

They know nothing of requests. What a key holds is in `shared.py`; a value that is none of ours counts as none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from keyguard.guards.cache.key import digest
from keyguard.ops import Change, Op

SECOND = 1_000_000
LONGEST = 86400
"""Seconds that an entry stays in a shared store at most."""

PURGES = ("rc:purges|log", "rc:purges|v")
APART = b"-"
"""What stands in the place of a lease where nobody is to wait."""

_MARK_TTL = (LONGEST + 3600) * SECOND
_MOST_PURGES = 1000
_APART_TTL = 2 * SECOND


class Stamp(Op[int]):
    """Note the store's time under a key. Evaluates to it; where the clock lags, to a moment after the last."""

    __slots__ = ()

    def __init__(self, key: str) -> None:
        self.keys = (key,)

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        moment = _after(old[0], now)
        return moment, [(self.keys[0], _moment(moment), _MARK_TTL, None)]


class Ensure(Op[int]):
    """Write a moment where there is none. Evaluates to the one that stands there then."""

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

    __slots__ = ("id", "most", "names", "ttl")

    def __init__(self, key: str, id: str, names: Sequence[str], ttl: int, most: int) -> None:
        self.keys = (key,)
        self.id = id
        self.names = list(names)
        self.ttl = ttl
        self.most = most

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[list[str], Sequence[Change]]:
        items = [item for item in listed(old[0]) if item[0] != self.id and item[2] > now]
        items.insert(0, [self.id, self.names, now + self.ttl])
        kept, dropped = items[: self.most], items[self.most :]
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
        moment = _after(old[1], now)  # of two purges no two have one version, or others would miss the second
        for mark in self.marks:
            purges.note(mark, moment)
        return moment, [(PURGES[0], purges.encode(), _MARK_TTL, None), (PURGES[1], _moment(moment), _MARK_TTL, None)]


class Renew(Op[tuple[bytes, bytes]]):
    """Have what was purged outlive the entries. Where the store has lost that, what it still has is void."""

    __slots__ = ()

    def __init__(self) -> None:
        self.keys = PURGES

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[tuple[bytes, bytes], Sequence[Change]]:
        log = Purges(old[0], old[1], now).encode()
        version = _moment(now) if old[1] is None or not _is_moment(old[1]) else old[1]
        return (log, version), [(PURGES[0], log, _MARK_TTL, None), (PURGES[1], version, _MARK_TTL, None)]


class Lease(Op[tuple[bytes | None, int]]):
    """Become the one that asks the app. Evaluates to `None` for who is, else to what stands there; and to when.

    When is 0 where it was tried without looking first: then it came before whatever went along with it.
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
    """Stop being the one that asks; `apart` tells the others not to wait for the next one either.

    `last`: it goes along with operations that look before they write, and must not overtake them.
    """

    __slots__ = ("apart", "likely", "token")

    def __init__(self, key: str, token: bytes, *, apart: bool, last: bool) -> None:
        self.keys = (key,)
        self.likely = None if last else (token,)
        self.token = token
        self.apart = apart

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[None, Sequence[Change]]:
        if old[0] != self.token:
            return None, ()
        change: Change = (self.keys[0], APART, _APART_TTL, None) if self.apart else (self.keys[0], None, None, None)
        return None, [change]


class Purges:
    """What was purged when, by mark: `*` for everything, `t` and a tag's digest, `u` and a path's."""

    __slots__ = ("floor", "moments")

    def __init__(self, log: bytes | None = None, version: bytes | None = None, now: int = 0) -> None:
        found = _json(log)
        self.floor: int = 0
        """Everything from before this moment counts as purged: more is not remembered."""
        self.moments: dict[str, int] = {}
        if version is None or not _is_moment(version):
            self.floor = now  # a server may evict what it likes, and this is how it shows
        elif _is_log(found):
            self.floor, self.moments = found
        else:
            self.floor = read_moment(version)

    def note(self, mark: str, now: int) -> None:
        """A purge, now."""
        self.moments.pop(mark, None)
        self.moments[mark] = now
        while len(self.moments) > _MOST_PURGES:
            self.floor = max(self.floor, self.moments.pop(next(iter(self.moments))))

    def encode(self) -> bytes:
        """As a value."""
        return json.dumps([self.floor, self.moments], separators=(",", ":")).encode()

    def after(self, since: int, marks: Sequence[str]) -> bool:
        """Whether something with these marks was purged at or after a moment."""
        return self.floor >= since or any(self.moments.get(mark, 0) >= since for mark in marks)


def tag_mark(tag: str) -> str:
    """What stands for a tag."""
    return "t" + digest((tag,))


# -- values -----------------------------------------------------------------------------------------------------------


def listed(value: bytes | None) -> list[list[Any]]:
    """The items of an index; none of what is no index."""
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
    """Now, or right after the last moment, where the clock has been set back a little or stands still."""
    last = read_moment(value)
    return last + 1 if now <= last < now + LONGEST * SECOND else now


def read_moment(value: bytes | None) -> int:
    """What `Stamp` wrote; 0 for nothing, and the end of all days for what it cannot have written."""
    if value is None:
        return 0
    return int.from_bytes(value, "little", signed=True) if len(value) == 8 else 2**63
