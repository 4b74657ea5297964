"""The stored responses of a cache: finding, keeping, invalidating and purging them, in this process and shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keyguard.aside import putting_back
from keyguard.clock import SECOND, Clock, monotonic, travelling, wall_clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.flow import Flow
from keyguard.guard import Surroundings
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.key import Target
from keyguard.guards.cache.local import LocalCache
from keyguard.guards.cache.purge import (
    ALL_MARK,
    RecentPurges,
    digests_of,
    path_digest,
    path_mark,
    split_url,
    tag_mark,
    uri_digest,
)
from keyguard.guards.cache.purges_noted import purge_noted
from keyguard.guards.cache.request import CacheRequest, RequestReader
from keyguard.guards.cache.settings import Bounds
from keyguard.guards.cache.shared import Shared
from keyguard.guards.cache.stats import CacheStats, Explanation, Reports
from keyguard.guards.cache.variants import Chosen
from keyguard.ops import Op
from keyguard.request import CarriedRequest
from keyguard.response import ByteBudget
from keyguard.run import arun_flow, run_flow


class Candidates(NamedTuple):
    """The entries that match a request."""

    since: int
    """The store's time before it was asked."""
    whole: Entry | None
    part: Entry | None
    varied: bool
    """Whether only variants are stored that do not match."""


class Kept(NamedTuple):
    """The outcome of storing an entry."""

    told: bool
    """Whether the operations that went along were done in the shared store."""
    void: bool
    """Whether another process had purged it before it was there: then it is stored nowhere."""


class CacheStorage:
    """The entries of one cache: those that this process holds, in front of a shared store if there is one."""

    def __init__(self, reader: RequestReader, bounds: Bounds) -> None:
        self.reader = reader
        self.bounds = bounds
        self.budget = ByteBudget(bounds.bytes)
        """For the copies of bodies that are on their way."""
        self.purges = RecentPurges()
        self.reports = Reports()
        self.shared: Shared | None = None
        self.local = LocalCache(bounds.bytes, bounds.entries, bounds.variants)
        self._store: Any = None
        self._books: Any = None
        self._clock: Clock = wall_clock
        self._time = 0, 0.0
        """A moment by the stack's clock, and the same by one that is never set back."""
        self._on_the_wall = False

    def attach(self, stack: Surroundings) -> None:
        """Note where entries are kept.

        Raises `ConfigurationError` for a cache that already belongs to a stack with another store.
        """
        if self._store is not None and self._store is not stack.store:
            raise ConfigurationError(
                f"<ResponseCache {self.reader.name}> belongs to a stack with another store already; make a second one"
            )
        self._store, self._books, self._clock = stack.store, stack.books, stack.clock
        self._on_the_wall = stack.clock is wall_clock
        if stack.shared and self.shared is None:
            self.shared = Shared(self.bounds.variants)
            self.local = LocalCache(self.bounds.local_bytes, self.bounds.entries, self.bounds.variants)

    def set_aside(self) -> Callable[[], None]:
        """Begin anew, and return what puts back all that was."""
        names = (
            "budget",
            "purges",
            "reports",
            "shared",
            "local",
            "_store",
            "_books",
            "_clock",
            "_time",
            "_on_the_wall",
        )
        put_back = putting_back(self, *names)
        begun = CacheStorage(self.reader, self.bounds)
        for name in names:
            setattr(self, name, getattr(begun, name))
        return put_back

    def after_fork(self) -> None:
        """Take new locks, in a forked child."""
        self.budget = ByteBudget(self.bounds.bytes)
        self.local.renew()
        self.purges.renew()
        self.reports.renew()

    @property
    def max_entry_bytes(self) -> int:
        """The bytes that a body may have: in a cache of this process alone, not more than all of it."""
        limit = self.bounds.entry_bytes
        return limit if self.shared is not None else min(limit, self.local.max_bytes)

    # -- what is stored -------------------------------------------------------------------------------------

    def note_time(self, now: int) -> None:
        """Make all that this process holds stale if the clock was set back: its age cannot be known then."""
        before, steady = self._time
        passed, really = now - before, 0
        if self._on_the_wall and not travelling():
            really = round((monotonic() - steady) * SECOND)
        if passed < -SECOND or (before and passed < really - SECOND):
            if self.shared is not None:  # which knows when an entry came by the store's clock
                self.local.drop_where(lambda entry: True)
            else:
                self.local.expire_all(now)
        elif passed < SECOND:
            return
        self._time = now, monotonic()

    async def find(self, request: CarriedRequest, target: Target, asked: CacheRequest) -> Candidates:
        """Return the entries for a request that its caller may have: from this process, else from the shared store."""
        now = since = request.clock()
        self.note_time(now)
        slot = self.local.get(target.key)
        held = [] if slot is None else slot.entries
        chosen = Chosen(request)
        entries = [entry for entry in held if chosen.has(entry.variance)]
        varied = bool(held)
        if self.shared is not None:
            if not entries or any(self.old(entry, now) for entry in entries):
                try:
                    found = await self.shared.look(request, target)
                except StoreError:
                    self.reports.counts.errors += 1
                    return Candidates(0, None, None, False)
                since, varied = found.since, found.varied
                entries = self._take_over(request, target, entries, found.entries)
            else:
                since = max(entry.since for entry in entries)
        varied = varied and not entries
        if asked.credentials and self.reader.by is None:
            entries = [entry for entry in entries if entry.open_to_credentials]
        whole = next((entry for entry in entries if entry.part is None), None)
        part = next((entry for entry in entries if entry.part is not None), None)
        return Candidates(since, whole, part, varied)

    def varies_by(self, target: Target) -> Sequence[str]:
        """Return the request fields that responses for a target varied by last time, as far as is known."""
        slot = self.local.get(target.key)
        if slot is not None and slot.entries:
            return [name for name, _ in slot.entries[0].variance]
        return () if self.shared is None else self.shared.varies_by(target)

    def hold(self, request: CarriedRequest, target: Target, entry: Entry, checked: int) -> None:
        """Hold an entry in this process. `checked`: when it was last known not to be void."""
        entry.checked = checked
        reader = self.reader
        special = reader.by is not None or reader.elsewhere or entry.part is not None or entry.must_validate
        if not special and entry.variance == () and not reader.is_keyed(request):
            entry.address = request.address()
        self.local.put(target.key, digests_of(target.host, target.uri), entry)

    async def drop(self, target: Target, entry: Entry) -> None:
        """Stop serving an entry."""
        self.local.drop(target.key, entry)
        if self.shared is not None:
            try:
                await self.shared.drop(target, entry)
            except StoreError:
                self.reports.counts.errors += 1

    def _take_over(self, request: CarriedRequest, target: Target, held: list[Entry], found: list[Entry]) -> list[Entry]:
        """Hold the entries that the shared store has just shown, and no other that would match the same request."""
        now = request.clock()
        if len(held) == len(found) and all(map(Entry.same_as, held, found)):
            for entry in held:
                entry.checked = now
            return held
        for entry in held:
            self.local.drop(target.key, entry)
        for entry in reversed(found):  # the newest last, since the one that is held last is used first
            self.hold(request, target, entry, now)
        return found

    def old(self, entry: Entry, now: int) -> bool:
        """Tell whether the shared store, if there is one, must be asked if it still holds an entry."""
        return self.shared is not None and not 0 <= now - entry.checked < self.bounds.local_ttl

    def fresh_for(self, entry: Entry, now: int) -> int:
        """Return the seconds for which an entry answers plain requests; 0 or less if it does not."""
        self.note_time(now)
        if entry.part is not None or entry.must_validate or self.old(entry, now):
            return 0
        return entry.ttl(now)

    async def keep(
        self, request: CarriedRequest, target: Target, entry: Entry, asked_at: int, also: Sequence[Op[Any]]
    ) -> Kept:
        """Store an entry, in this process and in the shared store. `asked_at`: when the app was asked for it.

        `also`: operations that go along to the shared store.
        """
        entry.measure()
        told, void, checked = not also, False, asked_at
        if self.shared is not None and entry.since:
            now = request.clock()
            try:
                void = not await self.shared.keep(target, entry, *also)
            except StoreError:
                self.reports.counts.errors += 1
            else:
                told, checked = True, now
        if not void:
            self.reports.counts.stored += 1
            self.hold(request, target, entry, checked)
        return Kept(told, void)

    # -- invalidation ---------------------------------------------------------------------------------------

    async def invalidate(self, uris: Sequence[str], now: int) -> int:
        """Void all that is stored for some URIs, by their digests. Returns from when on entries are valid again."""
        for digest in uris:
            self.purges.note(digest)
            self.local.drop_uri(digest)
        if self.shared is None:
            return now
        try:
            return await self.shared.invalidate(uris)
        except StoreError:
            self.reports.counts.errors += 1
            return 0

    async def purge(self, url: str | None, tag: str | None) -> None:
        """Void all that is stored for a URL, or under a tag. Raises `ValueError` and `StoreError`."""
        if (url is None) == (tag is None):
            raise ValueError("name a URL, or tag=...; purge_all() is for everything")
        if isinstance(url, str):
            await self._purge_url(url)
        elif isinstance(tag, str) and tag:
            await self._purge_tag(tag)
        else:
            raise ValueError(f"a URL or a tag is a text, and one at a time, not {url if tag is None else tag!r}")

    async def _purge_url(self, url: str) -> None:
        host, uri = self._filed(url)
        self.reports.counts.invalidated += 1
        digest = path_digest(uri) if host is None else uri_digest(host, uri)
        self.purges.note(digest)
        self.local.drop_uri(digest)
        if self.shared is not None:
            await (self.shared.purge([path_mark(uri)]) if host is None else self.shared.invalidate([digest]))

    async def _purge_tag(self, tag: str) -> None:
        self.reports.counts.invalidated += 1
        self.purges.note(None)  # the tags of responses that are on their way are not known yet
        self.local.drop_where(lambda entry: tag in entry.tags)
        if self.shared is not None:
            await self.shared.purge([tag_mark(tag)])

    async def purge_all(self) -> None:
        """Void all that is stored. Raises `StoreError`."""
        self.purges.note(None)
        self.local.drop_where(lambda entry: True)
        if self.shared is not None:
            await self.shared.purge([ALL_MARK])

    def run(self, flow: Flow[None]) -> None:
        """Run one of these from a thread."""
        run_flow(self._store, flow)

    async def arun(self, flow: Flow[None]) -> None:
        """Run one of these without holding up the event loop."""
        await arun_flow(self._store, flow)

    def note_purge(self, what: str, actor: str | None) -> None:
        """Note in the audit log that somebody has purged something."""
        if actor is not None:
            run_flow(self._books, purge_noted(what, self._clock(), actor))

    async def anote_purge(self, what: str, actor: str | None) -> None:
        """Do the same without holding up the event loop."""
        if actor is not None:
            await arun_flow(self._books, purge_noted(what, self._clock(), actor))

    def _filed(self, url: str) -> tuple[str | None, str]:
        """Return host and URI of a URL as this cache files it."""
        host, uri = split_url(url)
        return host, self.reader.query.filed(uri)

    # -- reports ----------------------------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Return what the cache has done, and how full it is, in this process."""
        local = self.local
        return CacheStats(
            **self.reports.values(),
            evicted=local.evicted,
            entries=local.count,
            bytes=local.bytes,
            max_bytes=local.max_bytes,
        )

    def explain(self, url: str) -> Explanation:
        """Return why the last response for a URL, or for a path on any host, was stored or was not."""
        host, uri = self._filed(url)
        return self.reports.last(path_digest(uri) if host is None else uri_digest(host, uri))
