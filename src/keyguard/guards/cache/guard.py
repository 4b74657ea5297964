"""The response cache: a shared cache in the sense of RFC 9111, inside the app.

    ResponseCache()                                             # what the app's own headers allow, and nothing else
    ResponseCache(ttl=30, when=path("/products/*"))             # for apps that set none
    ResponseCache(by="key")                                     # answers that are each caller's own

A request's way through it:

    decide      a fresh entry that the request says nothing about: answered at once
    find        the entries that match, in this process or in the shared store
    use         fresh: answered; stale but usable: answered, and refreshed in the background
    errand      else the app is asked: by one request of many that miss the same, with the entry's validators

The rules themselves are in `policy.py`; nothing here decides what may be stored or used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeAlias

from keyguard.clock import Clock
from keyguard.conditions import Condition
from keyguard.errors import ConfigurationError
from keyguard.flow import Flow, call, is_async
from keyguard.guard import LONG, Decide, Guard, Long
from keyguard.guards.cache import settings as checks
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.exhausted import Exhausted
from keyguard.guards.cache.hits import Instant, instant
from keyguard.guards.cache.key import Chosen, Query, Target, changed_by, place, places_of, resolve
from keyguard.guards.cache.miss import Errand, asked_app, strip_tags
from keyguard.guards.cache.policy import Asked, Settings, Use, use
from keyguard.guards.cache.serving import NO_CONDITIONS, Conditions, answer, gateway_timeout
from keyguard.guards.cache.stats import Explanation
from keyguard.guards.cache.storage import CONDITIONS, Bounds, Holding
from keyguard.ops import Store, is_store
from keyguard.request import Forward, Request
from keyguard.response import Response
from keyguard.steps import Detach

SECOND = 1_000_000

When: TypeAlias = "Callable[[Request], bool | Awaitable[bool]]"

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"})


class ResponseCache(Holding, Guard):
    """Serves stored responses, as RFC 9111 allows a shared cache to.

    Out of the box only responses with explicit freshness or a validator are stored, none that set a cookie, and none to
    requests with credentials unless the app says `public`, `must-revalidate` or `s-maxage` (section 3.5). Credentials
    are `Authorization`, every place from which an `APIKeys` of the stack reads keys, and whatever else names a caller:
    fields like `X-API-Key` or `X-Forwarded-User`, `REMOTE_USER`, a user in the scope, the certificate of a client.

    - `ttl`: seconds that a response is fresh for which the app sets no lifetime. For status 200, 203, 300, 301, 308,
      404 and 410. Whatever may name a caller counts as credentials then, such as `Cookie` and `X-Tenant`.
    - `credentials`: names of request fields that count as credentials besides; of keys of the environ or scope too.
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
    - `targeted`: targeted fields in order of preference, such as `["CDN-Cache-Control"]` (RFC 9213). None by
      default: what an app says to a CDN, which it purges itself, it has not said to this cache.
    - `stale_on_error`: seconds that a stale entry may stand in for an app that fails, where the app itself says no
      `stale-if-error` (RFC 5861, section 4).
    - `serve_exhausted`: a caller whose limit is used up still gets what is fresh in the cache. The cache stands right
      after that limit then: no guard between them would be asked.
    - `coalesce`: seconds that a request waits for another one's answer to the same; 0: it does not wait.
    - `max_bytes`, `max_entries`, `max_variants` (of one URL), `max_entry_bytes`: bounds of what this process holds.
      Bodies that are on their way, in parts, may take `max_bytes` once more; what goes beyond that is not stored.
    - `local_bytes`, `local_ttl`: of a shared store, how much this process holds itself, and for how many seconds it
      uses that without asking the store.
    - `store`: where entries are shared, a URL or a store object, if not in the stack's own store. What is cached on a
      server of its own takes no room there from keys and limits.
    - `name`: what `Cache-Status` calls it. Caches of one name and of the same settings share what stands in one store:
      give those of different apps different names, or what one app answers to a forged `Host` is served by another.

    To behave like a general shared proxy: `ResponseCache(heuristic=True, set_cookie=True,
    targeted=["CDN-Cache-Control"], stale_on_error=60)`. Only for apps whose cookies are not any one client's own.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    keeps = frozenset({"values"})
    answers_early = True

    def __init__(
        self,
        *,
        ttl: int | None = None,
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
        stale_on_error: int = 0,
        serve_exhausted: bool = False,
        coalesce: float = 10.0,
        max_bytes: int = 64 * 1024 * 1024,
        max_entries: int = 100_000,
        max_variants: int = 32,
        max_entry_bytes: int = 1024 * 1024,
        local_bytes: int = 16 * 1024 * 1024,
        local_ttl: float = 1.0,
        store: str | Store | None = None,
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
        settings = Settings(
            ttl=None if ttl is None else checks.whole("ttl", ttl, 1, 365 * 86400, "seconds"),
            private=by is not None,
            public=public,
            heuristic=heuristic,
            set_cookie=set_cookie,
            ignore_client=ignore_client_directives,
            targeted=checks.field_names("targeted", targeted),
            vary=checks.field_names("vary", vary),
            credentials=checks.field_names("credentials", credentials, lower=False),
            stale_on_error=checks.whole("stale_on_error", stale_on_error, 0, 7 * 86400, "seconds"),
        )
        if store is not None and not isinstance(store, str) and not is_store(store):
            raise ConfigurationError(f"store is a URL or a store, not {store!r}")
        self.store = store
        self.when = when.surely if isinstance(when, Condition) else when
        self.serve_exhausted = serve_exhausted
        self.coalesce = checks.number("coalesce", coalesce, 0, 300)
        self._max_entry_bytes = checks.whole("max_entry_bytes", max_entry_bytes, 1, 2**31, "bytes")
        self.needs = frozenset() if by is None else frozenset({"identity"})
        super().__init__(
            name=checks.token("name", name),
            settings=settings,
            by=by,
            query=Query(checks.texts("ignore_query", ignore_query), sort_query),
            bounds=Bounds(
                checks.whole("max_bytes", max_bytes, 65536, 2**40, "bytes"),
                checks.whole("max_entries", max_entries, 1, 2**40, "entries"),
                checks.whole("max_variants", max_variants, 1, 10_000, "variants"),
                checks.whole("local_bytes", local_bytes, 65536, 2**40, "bytes"),
            ),
            local_ttl=round(checks.number("local_ttl", local_ttl, 0, 60) * SECOND),
        )

    def __repr__(self) -> str:
        return f"<ResponseCache {self.name}>"

    @property
    def max_entry_bytes(self) -> int:
        """How large a body may be: of a cache that is in this process alone, no larger than all of it."""
        return self._max_entry_bytes if self.shared is not None else min(self._max_entry_bytes, self.shelf.max_bytes)

    def functions(self) -> dict[str, When]:
        """The settings that are functions of the request."""
        return {} if self.when is None else {"when": self.when}

    def asynchronous(self) -> dict[str, object]:
        """The settings that only an event loop can run."""
        return {"when": self.when} if is_async(self.when) else {}

    def around_limits(self) -> Exhausted | None:
        return Exhausted(self, self.when) if self.serve_exhausted else None

    def instant(self, clock: Clock) -> Instant | None:
        # A plain hit needs no more than the request's address.
        if self.when is None and self.by is None and not self.settings.credentials:
            return instant(self, self.fresh_for, clock)
        return None

    # -- the request ----------------------------------------------------------------------------------------

    def decider(self, store: Any) -> Decide | None:
        """Return what answers with a fresh entry, if nothing but the head of the request has to be looked at."""
        return None if is_async(self.when) else self._decide

    def _decide(self, request: Request) -> Response | Literal[Long.LONG]:
        if request.method != "GET" or (self.when is not None and not self.when(request)):
            return LONG
        if self.by is None and self.plainly(request):
            entry = self.shelf.plain.get(request.address())
            if entry is not None:
                identity = request.findings.identity
                known = identity is not None and not identity.anonymous
                return LONG if known and not entry.open_to_credentials else self._fresh(request, entry)
            if not self.shelf.varied:
                return LONG
        if request.websocket or self.takes_long_way(request):
            return LONG
        target = self.target_of(request)
        slot = None if target is None else self.shelf.get(target.key)
        chosen = Chosen(request)
        for entry in () if slot is None else slot.entries:
            if not chosen.has(entry.variance):
                continue
            if not (self.by or entry.open_to_credentials) and self.has_credentials(request):
                return LONG
            return self._fresh(request, entry)
        return LONG

    def _fresh(self, request: Request, entry: Entry) -> Response | Literal[Long.LONG]:
        """The answer from an entry that matches, if it is fresh and nothing has to be asked."""
        now = request.now()
        ttl = self.fresh_for(entry, now)
        if ttl <= 0:
            return LONG
        self.reports.counts.hits += 1
        age = entry.lifetime - ttl
        if entry.built is None or entry.built[0] != age:
            self.shelf.touch(entry.key)  # once a second is often enough to tell what is in use
        return answer(request, entry, NO_CONDITIONS, now, f"{self.name}; hit; ttl={ttl}") or LONG

    def fresh_for(self, entry: Entry, now: int) -> int:
        """Seconds for which an entry answers plain requests; 0 or less where it does not."""
        self.note_time(now)
        if entry.part is not None or entry.must_validate:
            return 0
        if self.shared is not None and self.old(entry, now):
            return 0
        return entry.ttl(now)

    async def __call__(self, request: Request, forward: Forward) -> Response:
        findings = request.findings
        if request.websocket or self in findings.caches:  # mounted twice: the outer one acts
            return await forward(request)
        findings.caches += (self,)
        self.look_inside(request.inside, 1)
        bypassed = self.when is not None and not await call(self.when, request)
        target = None if bypassed else self.target_of(request)
        if request.method not in ("GET", "HEAD"):
            return await self._changing(request, forward, target)
        if target is None or self.bypasses(request) or request.header("content-length") not in (None, "", "0"):
            if bypassed:
                why = Explanation(False, "the function `when` says that it does not go through the cache", "")
            elif target is None:
                why = Explanation(False, "its URL or its Host cannot be read in one way", "RFC 9112, section 3.2")
            else:
                why = Explanation(False, "the request has a body, or a field that no copy answers to", "")
            return await self._bypass(request, forward, "bypass", why)
        asked = self.asked_of(request, target)
        if "no-store" in asked.directives and not self.settings.ignore_client:
            why = Explanation(False, "the request says no-store", "RFC 9111, section 5.2.1.5")
            return await self._bypass(request, forward, "request", why)
        moment = self.flights.moment
        found = await self.find(request, target, asked)
        conditions = Conditions.of(request) if request.sends(CONDITIONS) else NO_CONDITIONS
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
            if verdict is Use.REFRESH and request.method == "GET":
                await self._refresh(request, forward, target, asked, candidate, found.since, moment)
            return response
        if "only-if-cached" in asked.directives and not self.settings.ignore_client:
            self.reports.counts.misses += 1
            return gateway_timeout(f"{self.name}; fwd={reason}; detail=only-if-cached")
        errand = Errand(self, request, forward, target, asked, conditions, entry, found.since, reason)
        errand.moment = moment
        return await errand.run()

    # -- answers --------------------------------------------------------------------------------------------

    def _hit(self, request: Request, entry: Entry, conditions: Conditions, *, stale: bool) -> Response | None:
        now = request.now()
        response = answer(request, entry, conditions, now, f"{self.name}; hit; ttl={entry.ttl(now)}")
        if response is not None:
            counts = self.reports.counts
            counts.hits += 1
            counts.stale += stale
        return response

    async def _bypass(self, request: Request, forward: Forward, word: str, why: Explanation) -> Response:
        self.reports.counts.bypassed += 1
        response = await asked_app(request, forward)
        for where in places_of(changed_by(request, self.query)):
            self.reports.note(where, why)
        strip_tags(response)
        response.headers.add("Cache-Status", f"{self.name}; fwd={word}")
        return response

    async def _refresh(
        self, request: Request, forward: Forward, target: Target, asked: Asked, entry: Entry, since: int, moment: int
    ) -> None:
        """Ask the app in the background, once for each entry (RFC 5861, section 3)."""
        now = request.now()
        if 0 <= now - entry.refreshing_since < 60 * SECOND:
            return
        overdue = entry.refreshing_since != 0  # its app hangs, or its event loop is gone
        entry.refreshing_since = now
        wanted = asked._replace(method="GET", directives={}, range=None)

        def refresh(detached: Request) -> Flow[Response]:
            detached.findings.caches += (self,)
            errand = Errand(self, detached, forward, target, wanted, NO_CONDITIONS, entry, since, "stale")
            errand.moment = moment
            return errand.refresh(overdue=overdue)

        if not await Detach(refresh, request):
            entry.refreshing_since = 0

    async def _changing(self, request: Request, forward: Forward, target: Target | None) -> Response:
        """A method other than GET and HEAD: what it changes is not served from the cache any more (section 4.4)."""
        self.reports.counts.bypassed += 1
        asked_at = request.now()
        response = await asked_app(request, forward)
        errand: Errand | None = None
        done = 200 <= response.status < 400 and request.findings.refusal is None
        if done and request.method not in _SAFE:
            where = target or changed_by(request, self.query)
            uris = [where.uri]
            for name in ("location", "content-location"):
                found = [resolve(where, line) for line in response.headers.get_all(name)]
                uris += [self.query.filed(uri) for uri in found if uri is not None]
            places = [place(where.host, uri) for uri in dict.fromkeys(uris)]

            async def once_more() -> None:  # what was asked for since the head came may be from before the change
                since = await self.invalidate(places, request.now())
                if errand is not None:
                    errand.since, errand.moment = since, self.flights.moment

            since = await self.invalidate(places, asked_at)
            self.reports.counts.invalidated += len(places)
            request.after_app(once_more)
            if request.method == "POST" and target is not None:
                asked = self.asked_of(request, target)
                errand = Errand(self, request, forward, target, asked, NO_CONDITIONS, None, since, "method")
                errand.asked_at = asked_at
                return await errand.store(response, late=True)
        strip_tags(response)
        response.headers.add("Cache-Status", f"{self.name}; fwd=method")
        return response
