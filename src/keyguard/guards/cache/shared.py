"""The entries that processes share, in whatever store the stack has.

Keys, all of one URI in one pool, so that on a cluster they lie together:

    rc:{place}|i{slot}          which variants a key has, the newest first
    rc:{place}|v{slot}{id}      one variant, head and body in one value: whoever reads it has it whole
    rc:{place}|!                when the URI was last invalidated, or first stored
    rc:{place}|l{flight}        which process asks the app just now
    rc:purges|log, |v           what was purged by tag, by path or altogether, and when; and when that last changed

Rules:
- A hit is one trip: the variant is asked for together with the rest, by the fields that the key varied by last time.
- Nothing is deleted to invalidate it. A variant knows the store's time before its request went to the app; what was
  invalidated or purged since is not used. So a response that was on its way during a purge does not come back after it.
- A server may evict what it likes. Where the mark of a URI, or the log of purges, has gone, what is older is not used.
- All is written with a time to live, about a day at most.
- A store that fails is a miss. These flows raise `StoreError`; the guard counts it and goes on.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from keyguard.errors import StoreError
from keyguard.flow import Flow
from keyguard.guards.cache.entry import Entry, Variance, decode, encode
from keyguard.guards.cache.keys import Target, digest, everywhere, place, variance_of
from keyguard.ops import Aside, Change, Look, Op, Put
from keyguard.request import Request

SECOND = 1_000_000
LONGEST = 86400
"""Seconds that an entry stays in a shared store at most."""

_MARK_TTL = (LONGEST + 3600) * SECOND
_PURGES = ("rc:purges|log", "rc:purges|v")
_MOST_PURGES = 1000
_HINTS = 10_000
_APART = b"-"
_APART_TTL = 2 * SECOND
_RENEW_EVERY = 3600 * SECOND


# -- operations ---------------------------------------------------------------------------------------------------


class Stamp(Op[int]):
    """Note the store's time under some keys of one pool. Evaluates to it."""

    __slots__ = ()

    def __init__(self, key: str) -> None:
        self.keys = (key,)

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        return now, [(self.keys[0], _moment(now), _MARK_TTL, None)]


class Ensure(Op[None]):
    """Write a moment where there is none."""

    __slots__ = ("moment",)
    likely = (None,)

    def __init__(self, key: str, moment: int) -> None:
        self.keys = (key,)
        self.moment = moment

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[None, Sequence[Change]]:
        return None, [(self.keys[0], _moment(self.moment), _MARK_TTL, None)] if old[0] is None else []


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
        listed = [item for item in _listed(old[0]) if item[0] != self.id and item[2] > now]
        listed.insert(0, [self.id, self.names, now + self.ttl])
        kept, dropped = listed[: self.most], listed[self.most :]
        value = json.dumps(kept, separators=(",", ":")).encode()
        ttl = max(item[2] for item in kept) - now
        return [item[0] for item in dropped], [(self.keys[0], value, ttl, None)]


class Purge(Op[int]):
    """Note that all entries with one of these marks are void from now on. Evaluates to the store's time."""

    __slots__ = ("marks",)

    def __init__(self, marks: Sequence[str]) -> None:
        self.keys = _PURGES
        self.marks = marks

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        purges = Purges(old[0], old[1], now)
        for mark in self.marks:
            purges.note(mark, now)
        return now, [(_PURGES[0], purges.encode(), _MARK_TTL, None), (_PURGES[1], _moment(now), _MARK_TTL, None)]


class Renew(Op[tuple[bytes, bytes]]):
    """Have what was purged outlive the entries. Where the store has lost that, what it still has is void."""

    __slots__ = ()

    def __init__(self) -> None:
        self.keys = _PURGES

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[tuple[bytes, bytes], Sequence[Change]]:
        log = Purges(old[0], old[1], now).encode()
        version = _moment(now) if old[1] is None else old[1]
        return (log, version), [(_PURGES[0], log, _MARK_TTL, None), (_PURGES[1], version, _MARK_TTL, None)]


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
        change: Change = (self.keys[0], _APART, _APART_TTL, None) if self.apart else (self.keys[0], None, None, None)
        return None, [change]


class Purges:
    """What was purged when, by mark: `*` for everything, `t` and a tag's digest, `u` and a path's."""

    __slots__ = ("floor", "moments")

    def __init__(self, log: bytes | None = None, version: bytes | None = None, now: int = 0) -> None:
        found = _json(log)
        self.floor: int = 0
        """Everything from before this moment counts as purged: more is not remembered."""
        self.moments: dict[str, int] = {}
        if version is None:
            self.floor = now  # a server may evict what it likes, and this is how it shows
        elif _is_log(found):
            self.floor, self.moments = found
        else:
            self.floor = _read_moment(version)

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


# -- the cache's side ---------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What a look into the store brought."""

    since: int
    """The store's time."""
    entries: list[Entry]
    """The variants that match the request: a whole response, a part of one."""
    varied: bool
    """Whether there are others, which do not match."""


class _Guess(NamedTuple):
    """What a look expects."""

    slot: str
    start: str
    """What the keys of all variants begin with."""
    names: tuple[str, ...]
    """The fields that the key varied by last time."""
    ids: list[str]
    """The variant that matches then: whole, and as a part where one is asked for."""


class Shared:
    """The store's half of a cache. Its flows await `Aside` steps, and raise `StoreError`."""

    def __init__(self, max_variants: int) -> None:
        self.max_variants = max_variants
        self._hints: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._purges = Purges()
        self._purges_seen: bytes | None = None
        self._renewed = 0

    async def look(self, request: Request, target: Target) -> Found:
        """The variants that match, in one trip where the key varies by what it varied by last time."""
        guess, asked = self._asked(request, target)
        (seen,) = await Aside(Look(*asked))
        return await self._found(request, target, guess, seen)

    def _asked(self, request: Request, target: Target) -> tuple[_Guess, list[str]]:
        """What is guessed, and the keys to look at: three, and one for each variant that might be there."""
        slot, pool = digest(target.key), place(target.host, target.uri)
        names = self._hints.get(slot, ())
        parts = (False, True) if request.header("range") is not None else (False,)
        ids = [_id(variance_of(request, names), part) for part in parts]
        start = f"rc:{pool}|v{slot}"
        keys = [_PURGES[1], f"rc:{pool}|!", f"rc:{pool}|i{slot}", *[start + id for id in ids]]
        return _Guess(slot, start, names, ids), keys

    async def _found(self, request: Request, target: Target, guess: _Guess, seen: Any) -> Found:
        """What to make of the values of these keys."""
        now, (version, mark, index, *values) = seen
        purges = await self._current_purges(version, now)
        blobs = dict(zip(guess.ids, values, strict=True))
        wanted: list[str] = []
        listed = [item for item in _listed(index) if item[2] > now]
        for id, names, _ in listed:
            if tuple(names) == guess.names:
                matches = id in blobs
            else:
                part = id[:1] == "p"
                matches = (len(guess.ids) > 1 or not part) and id == _id(variance_of(request, names), part)
            if matches:
                wanted.append(id)
        if listed:
            self._hint(guess.slot, tuple(listed[0][1]))
        missing = [id for id in wanted if id not in blobs]
        if missing:
            ((_, more),) = await Aside(Look(*[guess.start + id for id in missing]))
            blobs.update(zip(missing, more, strict=True))
        invalidated = _read_moment(mark)
        entries = []
        for id in wanted if mark is not None else ():
            blob = blobs[id]
            entry = None if blob is None else decode(blob)
            if entry is not None and entry.since > invalidated and not _purged(purges, entry, target):
                entries.append(entry)
        return Found(now, entries, len(listed) > len(wanted))

    async def keep(self, target: Target, entry: Entry, *also: Op[Any]) -> None:
        """Write an entry: first itself, then that it is there. What else is to be done then goes along."""
        slot, pool = digest(target.key), place(target.host, target.uri)
        id = _id(entry.variance, entry.part is not None)
        ttl = max(1, min(entry.usable_for(), LONGEST)) * SECOND
        names = [name for name, _ in entry.variance]
        enlist = Enlist(f"rc:{pool}|i{slot}", id, names, ttl, self.max_variants)
        mark = Ensure(f"rc:{pool}|!", entry.since - 1)
        _, _, dropped, *_ = await Aside(mark, Put(f"rc:{pool}|v{slot}{id}", encode(entry), ttl), enlist, *also)
        self._hint(slot, tuple(names))
        if dropped:
            await Aside(*[Put(f"rc:{pool}|v{slot}{old}", None) for old in dropped])

    async def drop(self, target: Target, entry: Entry) -> None:
        """Take an entry away."""
        slot, pool = digest(target.key), place(target.host, target.uri)
        await Aside(Put(f"rc:{pool}|v{slot}{_id(entry.variance, entry.part is not None)}", None))

    def varies_by(self, target: Target) -> tuple[str, ...]:
        """The request fields that a key varied by last time, as far as is known."""
        return self._hints.get(digest(target.key), ())

    async def invalidate(self, places: Sequence[str]) -> int:
        """Void all that is stored for some URIs. Returns the store's time after that."""
        moments = await Aside(*[Stamp(f"rc:{pool}|!") for pool in places])
        return int(max(moments)) + 1

    async def purge(self, marks: Sequence[str]) -> None:
        """Void all that has one of these marks."""
        await Aside(Purge(marks))

    async def _current_purges(self, version: bytes | None, now: int) -> Purges:
        """What was purged, as of this version at least."""
        due = version is None or not 0 <= now - self._renewed < _RENEW_EVERY
        if not due and version == self._purges_seen:
            return self._purges
        seen: bytes | None
        if due:
            try:
                ((log, seen),) = await Aside(Renew())
                self._renewed = now
            except StoreError:
                if version is None:
                    raise
                due = False  # it may still read
        if not due:
            ((_, (log, seen)),) = await Aside(Look(*_PURGES))
        purges = Purges(log, seen, now)
        self._purges, self._purges_seen = purges, seen
        return purges

    def _hint(self, slot: str, names: tuple[str, ...]) -> None:
        if self._hints.get(slot) != names:
            self._hints[slot] = names
            if len(self._hints) > _HINTS:
                self._hints.popitem(last=False)

    # -- one process asks, the others wait ------------------------------------------------------------------

    async def lease(
        self, request: Request, target: Target, flight: str, token: bytes, seconds: float
    ) -> tuple[bytes | None, Found]:
        """Try to be the process that asks. `None`: this one is. `APART`: nobody waits. Else another one is.

        And what is there now: whoever had the lease until a moment ago may have stored it.
        """
        guess, asked = self._asked(request, target)
        lease = Lease(_lease_key(target, flight), token, round(seconds * SECOND))
        (there, at), seen = await Aside(lease, Look(*asked))
        if there is None and at > seen[0]:
            # It was another one's when this one looked, and that one may have stored the answer since.
            (seen,) = await Aside(Look(*asked))
        return there, await self._found(request, target, guess, seen)

    async def poll(self, request: Request, target: Target, flight: str) -> tuple[bytes | None, Found]:
        """Who asks just now, and what is there."""
        guess, asked = self._asked(request, target)
        ((now, (holder, *values)),) = await Aside(Look(_lease_key(target, flight), *asked))
        return holder, await self._found(request, target, guess, (now, values))

    async def release(self, target: Target, flight: str, token: bytes, *, apart: bool) -> None:
        """Let another one ask."""
        await Aside(Release(_lease_key(target, flight), token, apart=apart, last=False))

    def releasing(self, target: Target, flight: str, token: bytes) -> Op[None]:
        """The same as an operation that goes along with storing the answer, and comes after it."""
        return Release(_lease_key(target, flight), token, apart=False, last=True)


APART = _APART


def new_token() -> bytes:
    """What tells one leader from another."""
    return secrets.token_bytes(12)


def purging(marks: Sequence[str]) -> Flow[None]:
    """The flow of a purge by marks, for who has only a store."""
    return Shared(1).purge(marks)


def _purged(purges: Purges, entry: Entry, target: Target) -> bool:
    if not purges.moments:  # nearly always: what follows are digests
        return purges.floor >= entry.since
    return purges.after(entry.since, ["*", "u" + everywhere(target.uri), *map(tag_mark, entry.tags)])


def _lease_key(target: Target, flight: str) -> str:
    return f"rc:{place(target.host, target.uri)}|l{flight}"


def _id(variance: Variance, part: bool) -> str:
    values = [text for name, value in variance for text in (name, "-" if value is None else "+" + value)]
    return ("p" if part else "w") + digest(values)


def _listed(value: bytes | None) -> list[list[Any]]:
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


def _read_moment(value: bytes | None) -> int:
    return 0 if value is None else int.from_bytes(value, "little", signed=True)
