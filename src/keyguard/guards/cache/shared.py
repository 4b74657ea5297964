"""The entries that processes share, in whatever store the stack has.

Keys, all of one URI in one pool, so that on a cluster they lie together:

    rc:{uri}|i{slot}            which variants a key has, the newest first
    rc:{uri}|v{slot}{id}        one variant, head and body in one value, so that a reader has it whole
    rc:{uri}|!                  when the URI was last invalidated, or first stored
    rc:{uri}|l{flight}          which process asks the app just now
    rc:purges|log, |v           what was purged by tag, by path or altogether, and when; and when that last changed

`uri`, `slot` and `flight` are digests: of the URI, of the key, of what requests share that wait for each other.

Rules:
- A hit is one trip: the variant is asked for together with the rest, by the fields that the key varied by last time.
- Invalidating deletes nothing. A variant knows the store's time before its request went to the app, and is not used if
  its URI was invalidated or purged since. So a response that was on its way during a purge does not come back after it.
- Entries know when they came by the store's clock as well: a machine whose own clock is behind keeps none for longer.
- If the store's clock was set back, an entry from the time to come is dropped: it is neither before nor after a purge.
- A server may evict what it likes. If the mark of a URI or the log of purges has gone, older entries are not used.
- All is written with a time to live, about a day at most.
- A store that fails is a miss. These flows raise `StoreError`; the guard counts it and goes on.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from keyguard.clock import SECOND
from keyguard.digests import digest
from keyguard.errors import StoreError
from keyguard.guards.cache.entry import Entry, decode, encode
from keyguard.guards.cache.key import Target
from keyguard.guards.cache.purge import ALL_MARK, path_mark, tag_mark, uri_digest
from keyguard.guards.cache.shared_ops import (
    MAX_TTL,
    PURGES,
    Enlist,
    Ensure,
    Lease,
    Purge,
    Purges,
    Release,
    Renew,
    Stamp,
    listed,
    read_moment,
)
from keyguard.guards.cache.variants import Chosen, Variance, variance_of
from keyguard.ops import BestEffort, Op, Put, ReadWithTime
from keyguard.request import CarriedRequest

_HINTS = 10_000
_RENEW_EVERY = 3600 * SECOND
_SKEW = 2 * SECOND  # less than that may be the trip to the store


class Found(NamedTuple):
    """The result of a look into the store."""

    since: int
    """The store's time."""
    entries: list[Entry]
    """The variants that match the request: a whole response, a part of one."""
    varied: bool
    """Whether there are others, which do not match."""


class _Guess(NamedTuple):
    """A guess at what a look into the store brings."""

    slot: str
    start: str
    """The beginning of the keys of all variants."""
    names: tuple[str, ...]
    """The fields that the key varied by last time."""
    ids: list[str]
    """The variant that matches then: whole, and as a part if one is asked for."""


class Shared:
    """The entries of a shared store. Its flows await `BestEffort` steps, and raise `StoreError`."""

    def __init__(self, max_variants: int) -> None:
        self.max_variants = max_variants
        self._hints: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._purges = Purges()
        self._purges_seen: bytes | None = None
        self._renewed = 0
        self._ahead = 0
        """Microseconds by which this machine's clock is ahead of the store's."""

    async def look(self, request: CarriedRequest, target: Target) -> Found:
        """Return the variants that match, in one trip if the key still varies by what it varied by last time."""
        guess, asked = self._asked(request, target)
        (seen,) = await BestEffort(ReadWithTime(*asked))
        return await self._found(request, target, guess, seen)

    def _asked(self, request: CarriedRequest, target: Target) -> tuple[_Guess, list[str]]:
        """Return a guess and the keys to look at: three, and one for each variant that might be there."""
        slot, pool = digest(target.key), uri_digest(target.host, target.uri)
        names = self._hints.get(slot, ())
        parts = (False, True) if request.header("range") is not None else (False,)
        ids = [_id(variance_of(request, names), part) for part in parts]
        start = f"rc:{pool}|v{slot}"
        keys = [PURGES[1], f"rc:{pool}|!", f"rc:{pool}|i{slot}", *[start + id for id in ids]]
        return _Guess(slot, start, names, ids), keys

    async def _found(self, request: CarriedRequest, target: Target, guess: _Guess, seen: Any) -> Found:
        """Return what the values of these keys hold."""
        now, (version, mark, index, *values) = seen
        ahead = self._ahead = request.clock() - now
        purges = await self._current_purges(version, now)
        blobs = dict(zip(guess.ids, values, strict=True))
        wanted: list[str] = []
        living = [item for item in listed(index) if item[2] > now]
        chosen = Chosen(request)
        for id, names, _ in living:
            if tuple(names) == guess.names:
                matches = id in blobs
            else:
                part = id[:1] == "p"
                matches = (len(guess.ids) > 1 or not part) and id == _id(chosen.by(names), part)
            if matches:
                wanted.append(id)
        if living:
            self._hint(guess.slot, tuple(living[0][1]))
        missing = [id for id in wanted if id not in blobs]
        if missing:
            ((_, more),) = await BestEffort(ReadWithTime(*[guess.start + id for id in missing]))
            blobs.update(zip(missing, more, strict=True))
        invalidated = read_moment(mark)
        entries, astray = [], []
        for id in wanted if mark is not None else ():
            blob = blobs[id]
            entry = None if blob is None else decode(blob)
            if entry is not None and entry.since > now + 1:
                astray.append(guess.start + id)
            elif entry is not None and entry.since > invalidated and not _purged(purges, entry, target):
                if entry.there + ahead < entry.received - _SKEW:  # this clock is behind that of whoever stored it
                    entry.received = entry.there + ahead
                entries.append(entry)
        if astray:
            await BestEffort(*[Put(key, None) for key in astray])
        return Found(now, entries, len(living) > len(wanted))

    async def keep(self, target: Target, entry: Entry, *also: Op[Any]) -> bool:
        """Write an entry, then note that it is there; other operations go along and come after that.

        False if it was void before it was there: its URI was purged after the app was asked.
        """
        slot, pool = digest(target.key), uri_digest(target.host, target.uri)
        id = _id(entry.variance, entry.part is not None)
        entry.there = max(0, entry.received - self._ahead)
        ttl = max(1, min(entry.usable_for(), MAX_TTL)) * SECOND
        names = [name for name, _ in entry.variance]
        enlist = Enlist(f"rc:{pool}|i{slot}", id, names, ttl, self.max_variants)
        mark = Ensure(f"rc:{pool}|!", entry.since - 1)
        put = Put(f"rc:{pool}|v{slot}{id}", encode(entry), ttl)
        invalidated, (now, (version,)), _, dropped, *_ = await BestEffort(
            mark, ReadWithTime(PURGES[1]), put, enlist, *also
        )
        self._hint(slot, tuple(names))
        if dropped:
            await BestEffort(*[Put(f"rc:{pool}|v{slot}{old}", None) for old in dropped])
        purges = await self._current_purges(version, now)
        return entry.since > invalidated and not _purged(purges, entry, target)

    async def drop(self, target: Target, entry: Entry) -> None:
        """Delete an entry."""
        slot, pool = digest(target.key), uri_digest(target.host, target.uri)
        await BestEffort(Put(f"rc:{pool}|v{slot}{_id(entry.variance, entry.part is not None)}", None))

    def varies_by(self, target: Target) -> tuple[str, ...]:
        """Return the request fields that a key varied by last time, as far as is known."""
        return self._hints.get(digest(target.key), ())

    async def invalidate(self, uris: Sequence[str]) -> int:
        """Void all that is stored for some URIs, by their digests. Returns the store's time after that."""
        moments = await BestEffort(*[Stamp(f"rc:{pool}|!") for pool in uris])
        return int(max(moments)) + 1

    async def purge(self, marks: Sequence[str]) -> None:
        """Void all that has one of these marks."""
        await BestEffort(Purge(marks))

    async def _current_purges(self, version: bytes | None, now: int) -> Purges:
        """Return the log of purges, as of this version at least."""
        due = version is None or not 0 <= now - self._renewed < _RENEW_EVERY
        if not due and version == self._purges_seen:
            return self._purges
        seen: bytes | None
        if due:
            try:
                ((log, seen),) = await BestEffort(Renew())
                self._renewed = now
            except StoreError:
                if version is None:
                    raise
                due = False  # it may still read
        if not due:
            ((_, (log, seen)),) = await BestEffort(ReadWithTime(*PURGES))
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
        self, request: CarriedRequest, target: Target, flight: str, token: bytes, seconds: float
    ) -> tuple[bytes | None, Found]:
        """Try to become the process that asks. Returns which one is, and what is there now.

        The first is `None` if this process is, `HIT_FOR_MISS` if no process waits for another, else another's token.
        The second matters because whoever had the lease until a moment ago may have stored the answer.
        """
        guess, asked = self._asked(request, target)
        lease = Lease(_lease_key(target, flight), token, round(seconds * SECOND))
        (there, at), seen = await BestEffort(lease, ReadWithTime(*asked))
        if there is None and at > seen[0]:
            # It was another one's when this one looked, and that one may have stored the answer since.
            (seen,) = await BestEffort(ReadWithTime(*asked))
        return there, await self._found(request, target, guess, seen)

    async def poll(self, request: CarriedRequest, target: Target, flight: str) -> tuple[bytes | None, Found]:
        """Return which process asks just now, and what is there."""
        guess, asked = self._asked(request, target)
        ((now, (holder, *values)),) = await BestEffort(ReadWithTime(_lease_key(target, flight), *asked))
        return holder, await self._found(request, target, guess, (now, values))

    async def release(self, target: Target, flight: str, token: bytes, *, hit_for_miss: bool) -> None:
        """Let another process ask; with `hit_for_miss`, all of them."""
        await BestEffort(Release(_lease_key(target, flight), token, hit_for_miss=hit_for_miss, last=False))

    def releasing(self, target: Target, flight: str, token: bytes) -> Op[None]:
        """Return the same as an operation that goes along with storing the answer, and comes after it."""
        return Release(_lease_key(target, flight), token, hit_for_miss=False, last=True)


def new_token() -> bytes:
    """Return what tells one leader from another."""
    return secrets.token_bytes(12)


def _purged(purges: Purges, entry: Entry, target: Target) -> bool:
    if not purges.moments:  # nearly always: what follows are digests
        return purges.floor >= entry.since
    return purges.after(entry.since, [ALL_MARK, path_mark(target.uri), *map(tag_mark, entry.tags)])


def _lease_key(target: Target, flight: str) -> str:
    return f"rc:{uri_digest(target.host, target.uri)}|l{flight}"


def _id(variance: Variance, part: bool) -> str:
    values = [text for name, value in variance for text in (name, "-" if value is None else "+" + value)]
    return ("p" if part else "w") + digest(values)
