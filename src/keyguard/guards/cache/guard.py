"""The response cache: a shared cache in the sense of RFC 9111, inside the app.

    ResponseCache()                                             # what the app's own headers allow, and nothing else
    ResponseCache(ttl=30, when=path("/products/*"))             # for apps that set none
    ResponseCache(by="key")                                     # answers that are each caller's own

A request's way through it:

    glance      a fresh entry that the request says nothing about: answered at once
    find        the entries that match, in this process or in the shared store
    use         fresh: answered; stale but usable: answered, and refreshed in the background
    errand      else the app is asked: by one request of many that miss the same, with the entry's validators

The rules themselves are in `policy.py`; nothing here decides what may be stored or used.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from keyguard.errors import ConfigurationError, StoreError
from keyguard.flow import Detach, Flow, call, is_async
from keyguard.guards.cache import settings as checks
from keyguard.guards.cache.answers import NO_CONDITIONS, Conditions, answer, gateway_timeout
from keyguard.guards.cache.directives import parse_cache_control
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.errand import Errand, asked_app
from keyguard.guards.cache.flights import Flights
from keyguard.guards.cache.keys import (
    UNCACHED,
    Query,
    Target,
    digest,
    everywhere,
    place,
    places_of,
    resolve,
    split_url,
    target_of,
    variance_of,
)
from keyguard.guards.cache.policy import Asked, Settings, Use, use
from keyguard.guards.cache.reports import CacheStats, Explanation, Reports
from keyguard.guards.cache.shared import Found, Shared, tag_mark
from keyguard.guards.cache.shelf import Shelf
from keyguard.guards.credentials import Sources
from keyguard.ops import Store
from keyguard.request import FieldSet, Forward, Request
from keyguard.response import Response
from keyguard.scripts import arun_flow, run_flow

log = logging.getLogger("keyguard")

SECOND = 1_000_000

When: TypeAlias = "Callable[[Request], bool | Awaitable[bool]]"

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"})
_CREDENTIALS = ("authorization", "x-api-key", "proxy-authorization")
_CONDITIONS = FieldSet(("if-none-match", "if-modified-since", "range"))
LONG_WAY = FieldSet(
    (*_CONDITIONS.names, *UNCACHED.names, "if-range", "cache-control", "pragma", "content-length", "content-type")
)
"""What makes a request more than a plain GET of a URL."""


class Candidates(NamedTuple):
    """What is stored for a request."""

    since: int
    """The store's time before it was looked for."""
    whole: Entry | None
    part: Entry | None
    varied: bool
    """Whether only variants are stored that do not match."""


class ResponseCache:
    """Serves stored responses, as RFC 9111 allows a shared cache to.

    Out of the box only responses with explicit freshness or a validator are stored, none that set a cookie, and none to
    requests with credentials unless the app says `public`, `must-revalidate` or `s-maxage` (section 3.5). Credentials
    are `Authorization`, `X-API-Key` and every place from which an `APIKeys` of the stack reads keys.

    - `ttl`: seconds that a response is fresh for which the app sets no lifetime. For status 200, 203, 300, 301, 308,
      404 and 410. A `Cookie` counts as credentials then.
    - `when`: a function of the request, such as `path("/products/*")`: whether it goes through the cache.
    - `by`: `"key"` or `"subject"` makes entries each caller's own: then what is `private` may be stored too
      (section 5.2.2.7), and nothing is shared between callers.
    - `public`: answers to callers with credentials are the same for all callers. An app's `private` still counts.
    - `heuristic`: responses with a `Last-Modified` and no lifetime are fresh for a tenth of their age, for a day at
      most (section 4.2.2).
    - `set_cookie`: store responses that set cookies, and give those to everybody.
    - `ignore_client_directives`: what requests say in `Cache-Control` and `Pragma` does not count (section 5.2.1); it
      is a way to burn the app.
    - `ignore_query`, `sort_query`: parameters that do not tell URLs apart (`"utm_*"`); whether order does not either.
    - `vary`: request fields that responses are chosen by, besides those that they name in `Vary` (section 4.1).
    - `targeted`: targeted fields in order of preference, such as `["CDN-Cache-Control"]` (RFC 9213).
    - `stale_on_error`: seconds that a stale entry may stand in for an app that fails, where the app itself says no
      `stale-if-error` (RFC 5861, section 4).
    - `serve_exhausted`: a caller whose limit is used up still gets what is fresh in the cache.
    - `coalesce`: seconds that a request waits for another one's answer to the same; 0: it does not wait.
    - `max_bytes`, `max_entries`, `max_variants` (of one URL), `max_entry_bytes`: bounds of what this process holds.
    - `local_bytes`, `local_ttl`: of a shared store, how much this process holds itself, and for how many seconds it
      uses that without asking the store.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    provides: frozenset[str] = frozenset()

    def __init__(
        self,
        *,
        ttl: int | None = None,
        when: When | None = None,
        by: Literal["key", "subject"] | None = None,
        public: bool = False,
        heuristic: bool = False,
        set_cookie: bool = False,
        ignore_client_directives: bool = False,
        ignore_query: Iterable[str] = (),
        sort_query: bool = False,
        vary: Iterable[str] = (),
        targeted: Iterable[str] = (),
        stale_on_error: int = 0,
        serve_exhausted: bool = False,
        coalesce: float = 10.0,
        max_bytes: int = 64 * 1024 * 1024,
        max_entries: int = 100_000,
        max_variants: int = 32,
        max_entry_bytes: int = 1024 * 1024,
        local_bytes: int = 16 * 1024 * 1024,
        local_ttl: float = 1.0,
        name: str = "keyguard",
    ) -> None:
        flags = {
            "public": public,
            "heuristic": heuristic,
            "set_cookie": set_cookie,
            "ignore_client_directives": ignore_client_directives,
            "sort_query": sort_query,
            "serve_exhausted": serve_exhausted,
        }
        checks.check_flags(flags)
        if when is not None and not callable(when):
            raise ConfigurationError(f"when is a function of the request, such as path('/products/*'), not {when!r}")
        if by not in (None, "key", "subject"):
            raise ConfigurationError(f"by is 'key', 'subject' or None, not {by!r}")
        self.settings = Settings(
            ttl=None if ttl is None else checks.whole("ttl", ttl, 1, 365 * 86400, "seconds"),
            private=by is not None,
            public=public,
            heuristic=heuristic,
            set_cookie=set_cookie,
            ignore_client=ignore_client_directives,
            targeted=checks.field_names("targeted", targeted),
            vary=checks.field_names("vary", vary),
            stale_on_error=checks.whole("stale_on_error", stale_on_error, 0, 7 * 86400, "seconds"),
        )
        self.when = when
        self.by = by
        self.serve_exhausted = serve_exhausted
        self.coalesce = checks.number("coalesce", coalesce, 0, 300)
        self.max_entry_bytes = checks.whole("max_entry_bytes", max_entry_bytes, 1, 2**31, "bytes")
        self.max_variants = checks.whole("max_variants", max_variants, 1, 10_000, "variants")
        self.name = checks.token("name", name)
        self.needs: frozenset[str] = frozenset() if by is None else frozenset({"identity"})
        self.query = Query(checks.texts("ignore_query", ignore_query), sort_query)
        self.flights = Flights()
        self.reports = Reports()
        self.shared: Shared | None = None
        self._bounds = {
            "max_bytes": checks.whole("max_bytes", max_bytes, 65536, 2**40, "bytes"),
            "local_bytes": checks.whole("local_bytes", local_bytes, 65536, 2**40, "bytes"),
            "max_entries": checks.whole("max_entries", max_entries, 1, 2**40, "entries"),
        }
        self._local_ttl = round(checks.number("local_ttl", local_ttl, 0, 60) * SECOND)
        self.shelf = Shelf(self._bounds["max_bytes"], self._bounds["max_entries"], self.max_variants)
        self._store: Store | None = None
        self._places: list[Sources] = []
        self._read_credentials([])
        self._glances = not is_async(when)

    def __repr__(self) -> str:
        return f"<ResponseCache {self.name}>"

    def asynchronous(self) -> dict[str, object]:
        """The settings that only an event loop can run."""
        return {"when": self.when} if is_async(self.when) else {}

    # -- put together by the stack --------------------------------------------------------------------------

    def attach(self, store: Store, *, shared: bool, sources: Sequence[Sources]) -> None:
        """Called when a stack is built: where entries are kept, and where its `APIKeys` read keys from.

        Raises `ConfigurationError` for a cache that already belongs to a stack with another store.
        """
        if self._store is not None and self._store is not store:
            raise ConfigurationError(f"{self!r} belongs to a stack with another store already; make a second one")
        self._store = store
        if shared and self.shared is None:
            self.shared = Shared(self.max_variants)
            self.shelf = Shelf(self._bounds["local_bytes"], self._bounds["max_entries"], self.max_variants)
        self._read_credentials(sources)

    def after_fork(self) -> None:
        """Called in a forked child."""
        self.shelf.renew()
        self.flights.renew()
        self.reports.renew()

    def _read_credentials(self, sources: Sequence[Sources]) -> None:
        self._places += sources
        names = [name for source in self._places for name in source.names]
        fields = {name.lower() for name in names if ":" not in name}
        if self.settings.ttl is not None and not self.settings.public:
            fields.add("cookie")  # the app has said nothing of who its answers are for
        self._credential_fields = FieldSet((*_CREDENTIALS, *sorted(fields - set(_CREDENTIALS))))
        self._elsewhere = [source for source in self._places if any(":" in name for name in source.names)]

    # -- the request ----------------------------------------------------------------------------------------

    def glance(self, request: Request) -> Response | None:
        """A fresh entry, where the request needs nothing but its head looked at; `None` means the long way."""
        if request.method != "GET" or not self._glances or request.websocket or request.sends(LONG_WAY):
            return None
        if self.when is not None and not self.when(request):
            return None
        target = self.target_of(request)
        slot = None if target is None else self.shelf.get(target.key)
        if slot is None:
            return None
        now = request.now()
        for entry in slot.entries:
            if entry.variance and entry.variance != variance_of(request, [name for name, _ in entry.variance]):
                continue
            if entry.part is not None or entry.must_validate or (self.shared is not None and self._old(entry, now)):
                return None
            if not (self.by or entry.open_to_credentials) and self.has_credentials(request):
                return None
            ttl = entry.lifetime - entry.current_age(now)
            if ttl <= 0:
                return None
            self.reports.counts.hits += 1
            return answer(request, entry, NO_CONDITIONS, now, f"{self.name}; hit; ttl={ttl}")
        return None

    async def __call__(self, request: Request, forward: Forward) -> Response:
        findings = request.findings
        if self in findings.caches:  # mounted twice: the outer one acts
            return await forward(request)
        findings.caches += (self,)
        bypassed = request.websocket or (self.when is not None and not await call(self.when, request))
        target = None if bypassed else self.target_of(request)
        if request.method not in ("GET", "HEAD"):
            return await self._changing(request, forward, target)
        if target is None or request.sends(UNCACHED) or request.header("content-length") not in (None, "0"):
            return await self._bypass(request, forward, "bypass")
        asked = self.asked_of(request, target)
        if "no-store" in asked.directives and not self.settings.ignore_client:
            return await self._bypass(request, forward, "request")
        found = await self.find(request, target, asked)
        conditions = Conditions.of(request) if request.sends(_CONDITIONS) else NO_CONDITIONS
        reason = "vary-miss" if found.varied else "uri-miss"
        entry = found.whole
        for candidate in (found.whole, found.part):
            if candidate is None or (candidate.part is not None and conditions.range is None):
                continue
            verdict = use(asked, candidate, request.now(), self.settings)
            if verdict in (Use.VALIDATE, Use.DEMANDED):
                reason = "stale" if verdict is Use.VALIDATE else "request"
                continue
            response = self._hit(request, candidate, conditions, stale=verdict is not Use.FRESH)
            if response is None:
                reason = "partial"
                continue
            if verdict is Use.REFRESH:
                await self._refresh(request, forward, target, asked, candidate, found.since)
            return response
        if "only-if-cached" in asked.directives and not self.settings.ignore_client:
            self.reports.counts.misses += 1
            return gateway_timeout(f"{self.name}; fwd={reason}; detail=only-if-cached")
        errand = Errand(self, request, forward, target, asked, conditions, entry, found.since, reason)
        return await errand.run()

    def target_of(self, request: Request) -> Target | None:
        """What a request is filed under; `None` where it is not cached."""
        partition = ""
        if self.by is not None:
            identity = request.findings.identity
            if identity is None:
                raise ConfigurationError(f"{self!r} is by {self.by}, but no APIKeys stands outside it")
            caller = identity.key_id if self.by == "key" else identity.subject
            partition = digest((self.by, "" if identity.anonymous else caller, *self.credentials_of(request)))
        return target_of(request, self.query, partition)

    def credentials_of(self, request: Request) -> list[str]:
        """All that the request carries of credentials, for a digest."""
        found = [f"{name}={request.header(name)}" for name in self._credential_fields.names if request.header(name)]
        for source in self._elsewhere:
            found += sorted(source.read(request))
        return found

    def has_credentials(self, request: Request) -> bool:
        """Whether the request carries credentials, or was found to be of somebody."""
        identity = request.findings.identity
        return (
            request.sends(self._credential_fields)
            or (identity is not None and not identity.anonymous)
            or any(source.read(request) for source in self._elsewhere)
        )

    def asked_of(self, request: Request, target: Target) -> Asked:
        """What the policy needs to know of a request."""
        text = request.header("cache-control")
        if text is not None:
            directives = parse_cache_control((text,))
        elif "no-cache" in (request.header("pragma") or "").lower():
            directives = {"no-cache": None}  # RFC 9111, section 5.4: where there is no Cache-Control
        else:
            directives = {}
        method = request.method
        ranged = request.header("range") if method == "GET" else None
        return Asked(method, directives, self.has_credentials(request), ranged, target.uri)

    # -- what is stored -------------------------------------------------------------------------------------

    async def find(self, request: Request, target: Target, asked: Asked) -> Candidates:
        """What is stored for a request and may be used for its caller: in this process, else in the shared store."""
        now = request.now()
        slot = self.shelf.get(target.key)
        entries = [] if slot is None else slot.entries
        since, varied = now, bool(entries)
        if self.shared is not None and (not entries or any(self._old(entry, now) for entry in entries)):
            try:
                found: Found = await self.shared.look(request, target)
            except StoreError:
                self.reports.counts.errors += 1
                return Candidates(0, None, None, False)
            since, entries, varied = found.since, found.entries, found.varied
            self._take_over(target, entries, now)
        else:
            entries = [
                entry
                for entry in entries
                if entry.variance == variance_of(request, [name for name, _ in entry.variance])
            ]
            since = max([entry.since for entry in entries], default=now) if self.shared is not None else now
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

    def hold(self, target: Target, entry: Entry, now: int) -> None:
        """Hold in this process what the shared store has just shown."""
        entry.checked = now
        self.shelf.put(target.key, places_of(target), entry)

    async def let_go(self, target: Target, entry: Entry) -> None:
        """Serve an entry no more."""
        self.shelf.drop(target.key, entry)
        if self.shared is not None:
            try:
                await self.shared.drop(target, entry)
            except StoreError:
                self.reports.counts.errors += 1

    def _take_over(self, target: Target, entries: list[Entry], now: int) -> None:
        """Hold what the shared store has just shown, and nothing else of that key."""
        self.shelf.drop_key(target.key)
        for entry in entries:
            self.hold(target, entry, now)

    def _old(self, entry: Entry, now: int) -> bool:
        return not 0 <= now - entry.checked < self._local_ttl

    async def keep(self, target: Target, entry: Entry, now: int) -> None:
        """Store an entry, in this process and where it is shared."""
        self.reports.counts.stored += 1
        entry.measure()
        self.hold(target, entry, now)
        if self.shared is not None and entry.since:
            try:
                await self.shared.keep(target, entry)
            except StoreError:
                self.reports.counts.errors += 1

    # -- answers --------------------------------------------------------------------------------------------

    def _hit(self, request: Request, entry: Entry, conditions: Conditions, *, stale: bool) -> Response | None:
        now = request.now()
        response = answer(request, entry, conditions, now, f"{self.name}; hit; ttl={entry.ttl(now)}")
        if response is not None:
            counts = self.reports.counts
            counts.hits += 1
            counts.stale += stale
        return response

    async def _bypass(self, request: Request, forward: Forward, why: str) -> Response:
        self.reports.counts.bypassed += 1
        response = await asked_app(request, forward)
        response.headers.add("Cache-Status", f"{self.name}; fwd={why}")
        return response

    async def _refresh(
        self, request: Request, forward: Forward, target: Target, asked: Asked, entry: Entry, since: int
    ) -> None:
        """Ask the app in the background, once for each entry (RFC 5861, section 3)."""
        now = request.now()
        if 0 <= now - entry.refreshing_since < 60 * SECOND:
            return
        entry.refreshing_since = now
        wanted = asked._replace(method="GET", directives={}, range=None)

        def refresh(detached: Request) -> Flow[Response]:
            detached.findings.caches += (self,)
            errand = Errand(self, detached, forward, target, wanted, NO_CONDITIONS, entry, since, "stale")
            return errand.refresh()

        if not await Detach(refresh, request):
            entry.refreshing_since = 0

    async def _changing(self, request: Request, forward: Forward, target: Target | None) -> Response:
        """A method other than GET and HEAD: what it changes is not served from the cache any more (section 4.4)."""
        self.reports.counts.bypassed += 1
        since = asked_at = request.now()
        if self.shared is not None and request.method == "POST" and target is not None:
            since = (await self.find(request, target, Asked("POST", {}, False, None))).since
        response = await asked_app(request, forward)
        done = 200 <= response.status < 400 and request.findings.refusal is None
        if done and request.method not in _SAFE:
            where = target or target_of(request, self.query, "")
            if where is not None:
                uris = [where.uri]
                for name in ("location", "content-location"):
                    uris += [resolve(where, line) or where.uri for line in response.headers.get_all(name)]
                await self._invalidate([place(where.host, uri) for uri in dict.fromkeys(uris)])
                since = max(since, request.now() if self.shared is None else 0)
        if done and request.method == "POST" and target is not None:
            errand = Errand(
                self, request, forward, target, self.asked_of(request, target), NO_CONDITIONS, None, since, "method"
            )
            return await errand.store(response, asked_at)
        response.headers.add("Cache-Status", f"{self.name}; fwd=method")
        return response

    # -- invalidation ---------------------------------------------------------------------------------------

    async def _invalidate(self, places: Sequence[str]) -> None:
        for where in places:
            self.flights.outdate(where)
            self.reports.counts.invalidated += 1
            self.shelf.drop_place(where)
        if self.shared is not None:
            try:
                await self.shared.invalidate(places)
            except StoreError:
                self.reports.counts.errors += 1

    def purge(self, url: str | None = None, *, tag: str | None = None) -> None:
        """Serve nothing any more that is stored for a URL, on one host or, for a path alone, on all; or under a tag.

        Every process follows within `local_ttl` seconds. Raises `ValueError` for what is no URL, and `StoreError`
        where a shared store cannot be told: then only this process has forgotten.
        """
        flow = self._purge(url, tag)
        run_flow(self._purged_store(), flow)

    async def apurge(self, url: str | None = None, *, tag: str | None = None) -> None:
        """`purge`, without holding up the event loop."""
        await arun_flow(self._purged_store(), self._purge(url, tag))

    def purge_all(self) -> None:
        """Serve nothing any more that is stored now."""
        run_flow(self._purged_store(), self._purge_everything())

    async def apurge_all(self) -> None:
        """`purge_all`, without holding up the event loop."""
        await arun_flow(self._purged_store(), self._purge_everything())

    def _purged_store(self) -> Any:
        return self._store

    async def _purge(self, url: str | None, tag: str | None) -> None:
        if (url is None) == (tag is None):
            raise ValueError("name a URL, or tag=...; purge_all() is for everything")
        self.reports.counts.invalidated += 1
        if tag is not None:
            self.flights.outdate(None)
            self.shelf.drop_where(lambda entry: tag in entry.tags)
            if self.shared is not None:
                await self.shared.purge([tag_mark(tag)])
            return
        assert url is not None
        host, uri = split_url(url)
        where = everywhere(uri) if host is None else place(host, uri)
        self.flights.outdate(where)
        self.shelf.drop_place(where)
        if self.shared is not None:
            await (self.shared.purge(["u" + where]) if host is None else self.shared.invalidate([where]))

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
        host, uri = split_url(url)
        return self.reports.last(everywhere(uri) if host is None else place(host, uri))
