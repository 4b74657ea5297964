"""The response cache: a shared cache in the sense of RFC 9111, inside the app.

    ResponseCache()                                             # what the app's own headers allow, and nothing else
    ResponseCache(ttl=30, when=path("/products/*"))             # for apps that set none
    ResponseCache(by="key")                                     # answers that are each caller's own

A request's way through it:

    decide      a fresh entry, for a request of which only the head has to be looked at: answered at once
    find        the entries that match, in this process or in the shared store
    use         fresh: answered; stale but usable: answered, and refreshed in the background
    Miss        else the app is asked: by one request of many that miss the same, with the entry's validators

The rules themselves are in `policy.py`; nothing here decides what may be stored or used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from keyguard.aside import in_turn, putting_back
from keyguard.clock import SECOND, Clock
from keyguard.conditions import Condition
from keyguard.errors import ConfigurationError
from keyguard.flow import Flow, call, is_async
from keyguard.guard import LONG, Decide, Guard, Surroundings
from keyguard.guards.cache import settings as checks
from keyguard.guards.cache.decorators import ask_app
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.exhausted import Exhausted
from keyguard.guards.cache.flights import Flights
from keyguard.guards.cache.for_apps import ForApps
from keyguard.guards.cache.hits import Hits, Instant
from keyguard.guards.cache.keeping import Lookup
from keyguard.guards.cache.key import Query, Target, changed_by
from keyguard.guards.cache.miss import Miss
from keyguard.guards.cache.policy import Use, use
from keyguard.guards.cache.purge import changed_uris, digests_of, uri_digest
from keyguard.guards.cache.request import CONDITIONS, CacheRequest, RequestReader
from keyguard.guards.cache.serving import NO_CONDITIONS, Conditions, answer, gateway_timeout, strip_tags
from keyguard.guards.cache.settings import When
from keyguard.guards.cache.stats import AMBIGUOUS_URL, BYPASSED, NO_COPY_ANSWERS, NO_STORE, Explanation
from keyguard.guards.cache.storage import CacheStorage
from keyguard.keys.credentials import Sources
from keyguard.ops import Store, is_store
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response
from keyguard.steps import Detach
from keyguard.units import Duration, microseconds

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"})
_REFRESH_FOR = 60 * SECOND


class ResponseCache(ForApps, Guard):
    """Serve stored responses, as RFC 9111 allows a shared cache to.

    Out of the box only responses with explicit freshness or a validator are stored, none that set a cookie, and none to
    requests with credentials unless the app says `public`, `must-revalidate` or `s-maxage` (section 3.5). Credentials
    are `Authorization`, every place from which an `APIKeys` of the stack reads keys, and all else that names a caller:
    fields like `X-API-Key` or `X-Forwarded-User`, `REMOTE_USER`, a user in the scope, the certificate of a client.

    - `ttl`: how long a response is fresh if the app sets no lifetime: seconds, a `timedelta`, or a text such as
      `"10 minutes"`, like all durations here. For status 200, 203, 300, 301, 308, 404 and 410. All that may name a
      caller counts as credentials then, such as `Cookie` and `X-Tenant`.
    - `credentials`: names of request fields that count as credentials besides; of keys of the environ or scope too.
    - `when`: a function of the request, such as `path("/products/*")`, that says whether it goes through the cache.
    - `by`: `"key"` or `"subject"` makes entries each caller's own: then `private` responses may be stored too
      (section 5.2.2.7), and nothing is shared between callers.
    - `public`: answers to callers with credentials are the same for all callers. An app's `private` still counts.
    - `heuristic`: responses with a `Last-Modified` and no lifetime are fresh for a tenth of their age, for a day at
      most (section 4.2.2).
    - `set_cookie`: store responses that set cookies, and give those cookies to everybody.
    - `ignore_client_directives`: ignore `Cache-Control` and `Pragma` of requests (section 5.2.1), by which a client can
      put load on the app.
    - `ignore_query`, `sort_query`: parameters that do not tell URLs apart (`"utm_*"`); whether order does not either.
    - `vary`: request fields by which responses are chosen, besides those that they name in `Vary` (section 4.1).
    - `targeted`: targeted fields in order of preference, such as `["CDN-Cache-Control"]` (RFC 9213). None by
      default: an app that tells a CDN how long to keep a response, and purges it there, has not told this cache.
    - `stale_on_error`: how long a stale entry may stand in for an app that fails, if the app itself does not
      say `stale-if-error` (RFC 5861, section 4).
    - `serve_exhausted`: a caller whose limit is used up still gets fresh entries. The cache stands right
      after that limit then: no guard between them would be asked.
    - `coalesce`: how long a request waits for another one's answer to the same; 0: it does not wait.
    - `max_bytes`, `max_entries`, `max_variants` (of one URL), `max_entry_bytes`: bounds of what this process holds.
      Bodies that are on their way, in parts, may take `max_bytes` once more; those beyond that are not stored.
    - `local_bytes`, `local_ttl`: how much of a shared store this process holds itself, and for how long it uses
      that without asking the store.
    - `store`: where entries are shared, a URL or a store object, if not in the stack's own store. On a server of their
      own, entries take no memory from keys and limits.
    - `name`: its name in `Cache-Status`. Caches of one name and of the same settings share the entries of one store:
      give those of different apps different names, or one app's answer to a forged `Host` is served by another.

    To behave like a general shared proxy: `ResponseCache(heuristic=True, set_cookie=True,
    targeted=["CDN-Cache-Control"], stale_on_error=60)`. Only for apps whose cookies are not one client's own.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    keeps = frozenset({"values"})
    answers_early = True
    unshadowed = "a cache refuses nobody"

    def __init__(
        self,
        *,
        ttl: Duration | None = None,
        when: When | None = None,
        by: Literal["key", "subject"] | None = None,
        credentials: Iterable[str] = (),
        public: bool = False,
        heuristic: bool = False,
        set_cookie: bool = False,
        ignore_client_directives: bool = False,
        ignore_query: Iterable[str] = (),
        sort_query: bool = False,
        vary: Iterable[str] = (),
        targeted: Iterable[str] = (),
        stale_on_error: Duration = 0,
        serve_exhausted: bool = False,
        coalesce: Duration = 10,
        max_bytes: int = 64 * 1024 * 1024,
        max_entries: int = 100_000,
        max_variants: int = 32,
        max_entry_bytes: int = 1024 * 1024,
        local_bytes: int = 16 * 1024 * 1024,
        local_ttl: Duration = 1,
        store: str | Store | None = None,
        name: str = "keyguard",
    ) -> None:
        checks.check_flags(sort_query=sort_query, serve_exhausted=serve_exhausted)
        if when is not None and not callable(when):
            raise ConfigurationError(f"when is a function of the request, such as path('/products/*'), not {when!r}")
        settings = checks.settings(
            ttl=ttl,
            by=by,
            public=public,
            heuristic=heuristic,
            set_cookie=set_cookie,
            ignore_client_directives=ignore_client_directives,
            targeted=targeted,
            vary=vary,
            credentials=credentials,
            stale_on_error=stale_on_error,
        )
        if store is not None and not isinstance(store, str) and not is_store(store):
            raise ConfigurationError(f"store is a URL or a store, not {store!r}")
        self.name = checks.token("name", name)
        self.store = store
        self.when = when.surely if isinstance(when, Condition) else when
        self.serve_exhausted = serve_exhausted
        self.coalesce = microseconds("coalesce", coalesce, max="5 minutes") / SECOND
        self.needs = frozenset() if by is None else frozenset({"identity"})
        bounds = checks.bounds(max_bytes, max_entries, max_variants, max_entry_bytes, local_bytes, local_ttl)
        query = Query(checks.texts("ignore_query", ignore_query), sort_query)
        self.reader = RequestReader(self.name, settings, by, query)
        self.storage = CacheStorage(self.reader, bounds)
        self.flights = Flights()
        self.hits = Hits(self.storage, self.when)

    def __repr__(self) -> str:
        return f"<ResponseCache {self.name}>"

    def functions(self) -> dict[str, When]:
        """Return the settings that are functions of the request."""
        return {} if self.when is None else {"when": self.when}

    def asynchronous(self) -> dict[str, object]:
        """Return the settings that only an event loop can run."""
        return {"when": self.when} if is_async(self.when) else {}

    # -- put together by the stack --------------------------------------------------------------------------

    def attach(self, stack: Surroundings) -> None:
        self.storage.attach(stack)
        self.reader.read_credentials(stack.sources)

    def add_sources(self, sources: Sequence[Sources]) -> None:
        self.reader.add_sources(sources)

    def set_aside(self) -> Callable[[], None]:
        put_back = in_turn(self.storage.set_aside(), putting_back(self, "flights", "hits"))
        self.flights, self.hits = Flights(), Hits(self.storage, self.when)
        return put_back

    def after_fork(self) -> None:
        self.storage.after_fork()
        self.flights.renew()

    def around_limits(self) -> Exhausted | None:
        return Exhausted(self.storage, self.when) if self.serve_exhausted else None

    def decider(self, store: Any) -> Decide | None:
        return None if is_async(self.when) else self.hits.find

    def instant(self, clock: Clock) -> Instant | None:
        return self.hits.instant(clock)

    # -- the request ----------------------------------------------------------------------------------------

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        state, reader = request.state, self.reader
        if request.websocket or self in state.caches:  # mounted twice: the outer one acts
            return await forward(request)
        state.caches += (self,)
        reader.look_inside(request.inside, 1)
        bypassed = self.when is not None and not await call(self.when, request)
        target = None if bypassed else reader.target_of(request)
        if request.method not in ("GET", "HEAD"):
            return await self._changing(request, forward, target)
        if target is None or reader.bypasses(request) or request.header("content-length") not in (None, "", "0"):
            why = BYPASSED if bypassed else AMBIGUOUS_URL if target is None else NO_COPY_ANSWERS
            return await self._bypass(request, forward, "bypass", why)
        asked = reader.read(request, target)
        if "no-store" in asked.directives and not reader.settings.ignore_client:
            return await self._bypass(request, forward, "request", NO_STORE)
        return await self._answer(request, forward, target, asked)

    async def _answer(self, request: CarriedRequest, forward: Forward, target: Target, asked: CacheRequest) -> Response:
        """Answer from what is stored, else from the app."""
        settings = self.reader.settings
        moment = self.storage.purges.moment
        found = await self.storage.find(request, target, asked)
        conditions = Conditions.of(request) if request.sends(CONDITIONS) else NO_CONDITIONS
        reason = "vary-miss" if found.varied else "uri-miss"
        for candidate in (found.whole, found.part):
            if candidate is None or (candidate.part is not None and conditions.range is None):
                continue
            verdict = use(asked, candidate, request.clock(), settings)
            if verdict in (Use.VALIDATE, Use.DEMANDED):
                reason = "stale" if verdict is Use.VALIDATE else "request"
                continue
            response = self._hit(request, candidate, conditions, stale=verdict is not Use.FRESH)
            if response is None:
                reason = "partial"
                continue
            if verdict is Use.REFRESH and request.method == "GET":
                await self._refresh(request, forward, target, asked, candidate, found.since, moment)
            return response
        if "only-if-cached" in asked.directives and not settings.ignore_client:
            self.storage.reports.counts.misses += 1
            return gateway_timeout(f"{self.name}; fwd={reason}; detail=only-if-cached")
        lookup = Lookup(request, target, asked, reason, moment, found.since, conditions, found.whole)
        return await Miss(self.storage, self.flights, self.coalesce, lookup, forward).run()

    def _hit(self, request: CarriedRequest, entry: Entry, conditions: Conditions, *, stale: bool) -> Response | None:
        if conditions is NO_CONDITIONS and not stale and request.method == "GET":
            found = self.hits.fresh(request, entry)
            if found is not LONG:
                return found
        now = request.clock()
        response = answer(request, entry, conditions, now, f"{self.name}; hit; ttl={entry.ttl(now)}")
        if response is not None:
            counts = self.storage.reports.counts
            counts.hits += 1
            counts.stale += stale
        return response

    async def _bypass(self, request: CarriedRequest, forward: Forward, word: str, why: Explanation) -> Response:
        """Ask the app, and keep nothing of it."""
        self.storage.reports.counts.bypassed += 1
        response = await ask_app(request, forward)
        target = changed_by(request, self.reader.query)
        self.storage.reports.note(digests_of(target.host, target.uri), why)
        strip_tags(response)
        response.headers.add("Cache-Status", f"{self.name}; fwd={word}")
        return response

    async def _refresh(
        self,
        request: CarriedRequest,
        forward: Forward,
        target: Target,
        asked: CacheRequest,
        entry: Entry,
        since: int,
        moment: int,
    ) -> None:
        """Ask the app in the background, once for each entry (RFC 5861, section 3)."""
        now = request.clock()
        if 0 <= now - entry.refreshing_since < _REFRESH_FOR:
            return
        overdue = entry.refreshing_since != 0  # its app hangs, or its event loop is gone
        entry.refreshing_since = now
        wanted = asked._replace(method="GET", directives={}, range=None)

        def refresh(detached: CarriedRequest) -> Flow[Response]:
            detached.state.caches += (self,)
            lookup = Lookup(detached, target, wanted, "stale", moment, since, entry=entry)
            return Miss(self.storage, self.flights, self.coalesce, lookup, forward).refresh(overdue=overdue)

        if not await Detach(refresh, request):
            entry.refreshing_since = 0

    async def _changing(self, request: CarriedRequest, forward: Forward, target: Target | None) -> Response:
        """Ask the app by a method other than GET and HEAD, and void what it changes (RFC 9111, section 4.4)."""
        storage, reader = self.storage, self.reader
        storage.reports.counts.bypassed += 1
        asked_at = request.clock()
        response = await ask_app(request, forward)
        lookup: Lookup | None = None
        done = 200 <= response.status < 400 and request.state.refusal is None
        if done and request.method not in _SAFE:
            where = target or changed_by(request, reader.query)
            uris = changed_uris(where.host, where.uri, response.headers)
            digests = list({uri_digest(where.host, reader.query.filed(uri)): None for uri in uris})

            async def once_more() -> None:  # what was asked for since the head came may be from before the change
                since = await storage.invalidate(digests, request.clock())
                if lookup is not None:
                    lookup.since, lookup.moment = since, storage.purges.moment

            since = await storage.invalidate(digests, asked_at)
            storage.reports.counts.invalidated += len(digests)
            request.after_app(once_more)
            if request.method == "POST" and target is not None:
                asked = reader.read(request, target)
                lookup = Lookup(request, target, asked, "method", storage.purges.moment, since, asked_at=asked_at)
                miss = Miss(storage, self.flights, self.coalesce, lookup, forward)
                return await miss.keeping.store(response, late=True)
        strip_tags(response)
        response.headers.add("Cache-Status", f"{self.name}; fwd=method")
        return response
