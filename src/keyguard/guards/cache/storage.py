"""What a cache holds, and for whom: finding, keeping, invalidating and purging entries, in this process and shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from keyguard.clock import monotonic, wall_clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.guard import Surroundings
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.flights import Flights
from keyguard.guards.cache.key import (
    Chosen,
    Query,
    Target,
    everywhere,
    place,
    places_of,
    split_url,
)
from keyguard.guards.cache.local import Shelf
from keyguard.guards.cache.policy import Asked, Settings
from keyguard.guards.cache.request import CONDITIONS as CONDITIONS
from keyguard.guards.cache.request import Asking
from keyguard.guards.cache.shared import Found, Shared
from keyguard.guards.cache.shared_ops import tag_mark
from keyguard.guards.cache.stats import CacheStats, Explanation, Reports
from keyguard.ops import Op
from keyguard.request import Request
from keyguard.response import ByteBudget
from keyguard.run import arun_flow, run_flow

SECOND = 1_000_000


class Bounds(NamedTuple):
    """How much a cache holds in one process."""

    bytes: int
    entries: int
    variants: int
    local_bytes: int
    """Bytes in front of a shared store."""


class Candidates(NamedTuple):
    """What is stored for a request."""

    since: int
    """The store's time before it was looked for."""
    whole: Entry | None
    part: Entry | None
    varied: bool
    """Whether only variants are stored that do not match."""


class Kept(NamedTuple):
    """What became of an entry that was to be stored."""

    told: bool
    """Whether what else was to be done in the shared store was done."""
    void: bool
    """Whether another process had purged it before it was there: then it is stored nowhere."""


class Holding(Asking):
    """The stored half of a response cache."""

    def __init__(
        self, *, name: str, settings: Settings, by: str | None, query: Query, bounds: Bounds, local_ttl: int
    ) -> None:
        super().__init__(name, settings, by, query)
        self.bounds = bounds
        self.local_ttl = local_ttl
        """Microseconds for which what this process holds of a shared store is used without asking."""
        self.room = ByteBudget(bounds.bytes)
        """For the copies of bodies that are on their way."""
        self.flights = Flights()
        self.reports = Reports()
        self.shared: Shared | None = None
        self.shelf = Shelf(bounds.bytes, bounds.entries, bounds.variants)
        self._store: Any = None
        self._time = 0, 0.0
        """A moment by the stack's clock, and the same by one that is never set back."""
        self._on_the_wall = False

    # -- put together by the stack --------------------------------------------------------------------------

    def attach(self, stack: Surroundings) -> None:
        """Note where entries are kept, and where the guards of the stack read keys from.

        Raises `ConfigurationError` for a cache that already belongs to a stack with another store.
        """
        if self._store is not None and self._store is not stack.store:
            raise ConfigurationError(f"{self!r} belongs to a stack with another store already; make a second one")
        self._store = stack.store
        self._on_the_wall = stack.clock is wall_clock
        if stack.shared and self.shared is None:
            self.shared = Shared(self.bounds.variants)
            self.shelf = Shelf(self.bounds.local_bytes, self.bounds.entries, self.bounds.variants)
        self._read_credentials(stack.sources)

    def after_fork(self) -> None:
        """Called in a forked child."""
        self.room = ByteBudget(self.bounds.bytes)
        self.shelf.renew()
        self.flights.renew()
        self.reports.renew()

    # -- what is stored -------------------------------------------------------------------------------------

    def note_time(self, now: int) -> None:
        """Have what is held in this process run out if the clock was set back: how old it is cannot be known then."""
        before, steady = self._time
        passed, really = now - before, 0
        if self._on_the_wall:
            really = round((monotonic() - steady) * SECOND)
        if passed < -SECOND or (before and passed < really - SECOND):
            if self.shared is not None:  # which knows when an entry came by the store's clock
                self.shelf.drop_where(lambda entry: True)
            else:
                self.shelf.run_out(now)
        elif passed < SECOND:
            return
        self._time = now, monotonic()

    async def find(self, request: Request, target: Target, asked: Asked) -> Candidates:
        """What is stored for a request and may be used for its caller: in this process, else in the shared store."""
        now = since = request.now()
        self.note_time(now)
        slot = self.shelf.get(target.key)
        held = [] if slot is None else slot.entries
        chosen = Chosen(request)
        entries = [entry for entry in held if chosen.has(entry.variance)]
        varied = bool(held)
        if self.shared is not None:
            if not entries or any(self.old(entry, now) for entry in entries):
                try:
                    found: Found = await self.shared.look(request, target)
                except StoreError:
                    self.reports.counts.errors += 1
                    return Candidates(0, None, None, False)
                since, varied = found.since, found.varied
                entries = self._take_over(request, target, entries, found.entries)
            else:
                since = max(entry.since for entry in entries)
        varied = varied and not entries
        if asked.credentials and self.by is None:
            entries = [entry for entry in entries if entry.open_to_credentials]
        whole = next((entry for entry in entries if entry.part is None), None)
        part = next((entry for entry in entries if entry.part is not None), None)
        return Candidates(since, whole, part, varied)

    def varies_by(self, target: Target) -> Sequence[str]:
        """The request fields that responses for a target varied by last time, as far as is known."""
        slot = self.shelf.get(target.key)
        if slot is not None and slot.entries:
            return [name for name, _ in slot.entries[0].variance]
        return () if self.shared is None else self.shared.varies_by(target)

    def hold(self, request: Request, target: Target, entry: Entry, checked: int) -> None:
        """Hold an entry in this process. `checked`: when it was known last that nothing of it is void."""
        entry.checked = checked
        special = self.by is not None or self.elsewhere or entry.part is not None or entry.must_validate
        if not special and entry.variance == () and not self.is_keyed(request):
            entry.address = request.address()
        self.shelf.put(target.key, places_of(target), entry)

    async def let_go(self, target: Target, entry: Entry) -> None:
        """Serve an entry no more."""
        self.shelf.drop(target.key, entry)
        if self.shared is not None:
            try:
                await self.shared.drop(target, entry)
            except StoreError:
                self.reports.counts.errors += 1

    def _take_over(self, request: Request, target: Target, held: list[Entry], found: list[Entry]) -> list[Entry]:
        """Hold what the shared store has just shown, and nothing else that would match the same."""
        now = request.now()
        if len(held) == len(found) and all(map(Entry.same_as, held, found)):
            for entry in held:  # the same still
                entry.checked = now
            return held
        for entry in held:
            self.shelf.drop(target.key, entry)
        for entry in reversed(found):  # the newest last: what is held last goes first
            self.hold(request, target, entry, now)
        return found

    def old(self, entry: Entry, now: int) -> bool:
        """Whether the shared store has to be asked if it still holds an entry."""
        return not 0 <= now - entry.checked < self.local_ttl

    async def keep(self, request: Request, target: Target, entry: Entry, asked_at: int, *also: Op[Any]) -> Kept:
        """Store an entry, in this process and where it is shared. `asked_at`: when the app was asked for it."""
        entry.measure()
        told, void, checked = not also, False, asked_at
        if self.shared is not None and entry.since:
            now = request.now()
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

    async def invalidate(self, places: Sequence[str], now: int) -> int:
        """Serve nothing any more that is stored for some URIs. Returns from when on entries are valid again."""
        for where in places:
            self.flights.outdate(where)
            self.shelf.drop_place(where)
        if self.shared is None:
            return now
        try:
            return await self.shared.invalidate(places)
        except StoreError:
            self.reports.counts.errors += 1
            return 0

    def purge(self, url: str | None = None, *, tag: str | None = None) -> None:
        """Serve nothing any more that is stored for a URL, on one host or, for a path alone, on all; or under a tag.

        Every process follows within `local_ttl` seconds. Raises `ValueError` for what is no URL, and `StoreError`
        where a shared store cannot be told: then only this process has forgotten.
        """
        flow = self._purge(url, tag)
        run_flow(self._store, flow)

    async def apurge(self, url: str | None = None, *, tag: str | None = None) -> None:
        """`purge`, without holding up the event loop."""
        await arun_flow(self._store, self._purge(url, tag))

    def purge_all(self) -> None:
        """Serve nothing any more that is stored now."""
        run_flow(self._store, self._purge_everything())

    async def apurge_all(self) -> None:
        """`purge_all`, without holding up the event loop."""
        await arun_flow(self._store, self._purge_everything())

    async def _purge(self, url: str | None, tag: str | None) -> None:
        if (url is None) == (tag is None):
            raise ValueError("name a URL, or tag=...; purge_all() is for everything")
        if not isinstance(url if tag is None else tag, str) or tag == "":
            raise ValueError(f"a URL or a tag is a text, and one at a time, not {url if tag is None else tag!r}")
        self.reports.counts.invalidated += 1
        if tag is not None:
            self.flights.outdate(None)
            self.shelf.drop_where(lambda entry: tag in entry.tags)
            if self.shared is not None:
                await self.shared.purge([tag_mark(tag)])
            return
        assert url is not None
        host, uri = self._address(url)
        where = everywhere(uri) if host is None else place(host, uri)
        self.flights.outdate(where)
        self.shelf.drop_place(where)
        if self.shared is not None:
            await (self.shared.purge(["u" + where]) if host is None else self.shared.invalidate([where]))

    def _address(self, url: str) -> tuple[str | None, str]:
        """Host and URI of a URL as this cache files it."""
        host, uri = split_url(url)
        return host, self.query.filed(uri)

    async def _purge_everything(self) -> None:
        self.flights.outdate(None)
        self.shelf.drop_where(lambda entry: True)
        if self.shared is not None:
            await self.shared.purge(["*"])

    # -- what it tells --------------------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """What it has done, and how full it is, in this process."""
        shelf = self.shelf
        return CacheStats(
            **self.reports.values(),
            evicted=shelf.evicted,
            entries=shelf.count,
            bytes=shelf.bytes,
            max_bytes=shelf.max_bytes,
        )

    def explain(self, url: str) -> Explanation:
        """Why the last response for a URL, or for a path on any host, was stored or was not. Raises `ValueError`."""
        host, uri = self._address(url)
        return self.reports.last(everywhere(uri) if host is None else place(host, uri))
