"""`Keyguard`: guards, a store and one notion of the client's address, put together and checked before any request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from itertools import groupby
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal

from keyguard.clock import Clock, wall_clock
from keyguard.drivers.inspection.app import AppInside
from keyguard.drivers.inspection.layers import layers_within
from keyguard.drivers.interpreter import Engine, Setup
from keyguard.errors import ConfigurationError
from keyguard.flow import check_takes, is_async, is_blocking
from keyguard.guard import Chain, Guard
from keyguard.guards.api_keys.guard import APIKeys
from keyguard.guards.cache import Exhausted, Explanation, ResponseCache
from keyguard.guards.cache.hits import Instant, instant
from keyguard.guards.ip_filter import IPFilter
from keyguard.guards.rate_limit.checks import RateLimitGroup
from keyguard.guards.rate_limit.guard import RateLimit
from keyguard.http.addresses import ClientAddress
from keyguard.http.paths import Paths
from keyguard.logs import logger
from keyguard.ops import Store
from keyguard.process.fork import renew_after_fork
from keyguard.refusal import Refusal
from keyguard.stack.counters import claim
from keyguard.stack.deployment import checked_workers, named_store, store_of_caches, tell_of_decisions, warn_of_workers
from keyguard.stack.needs import unmet_needs
from keyguard.stores import open_store
from keyguard.stores.best_effort import WatchedAside
from keyguard.stores.circuit_breaker import StoreHealth, Watched
from keyguard.stores.memory import MemoryStore

if TYPE_CHECKING:
    from keyguard.drivers.asgi.driver import ASGILayer
    from keyguard.drivers.wsgi.driver import WSGIApp, WSGIDriver
    from keyguard.keys import KeyRegistry


log = logger("keyguard")

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Keyguard:
    """A stack of guards, the first one outermost.

        guard = Keyguard(IPFilter(deny=[...]), APIKeys(), RateLimit("10/second", by="key"), store="sqlite:///k.db")
        app.add_middleware(guard.asgi)                  # Starlette, FastAPI, Litestar, Quart, ...
        app.wsgi_app = guard.wsgi(app.wsgi_app)         # Flask, Django, Falcon, Pyramid, ...

    - `store`: where keys and counters live: a URL (`memory://`, `sqlite:///file.db`) or a store object; by default the
      URL in the environment's `KEYGUARD_STORE`, else `memory://`. A memory store belongs to one process.
    - `trusted_proxies`: networks of the proxies whose `forwarded_header` counts (`"unix"` for unix sockets). By default
      no forwarding header counts.
    - `forwarded_header`: `"x-forwarded-for"`, `"forwarded"` (RFC 7239), or a header of one address.
    - `underscores`: names of request fields with an underscore that the app reads, such as `["tenant_id"]`. All others
      are taken off before guards and app see them (under WSGI most servers do that), since bridges and apps read
      `X_API_Key` as `X-API-Key`.
    - `request_id_header`: the response field in which refusals tell the request's id, such as `"X-Request-ID"`. None by
      default: if middleware or a proxy sets that field, there would be two. The id is the `X-Request-ID` that came
      with the request, else a random one, and stands in the refusal's body and the log.
    - `on_refusal`: a plain function called with each `Refusal`; it must not block.
    - `on_health`: one called with a `StoreHealth` when the store goes out of order, and when it answers again; it runs
      on a request, so it must not block either.
    - `root_path`: a prefix of paths that the app cuts off by itself, if that cannot be seen: rules are about the rest.
      Prefixes that servers and frameworks tell of need not be named again. By default code of your own that may give
      the app another path is taken to cut off any prefix, so `paths=["/admin"]` closes `/x/admin` as well; `False` says
      that none is cut off.
    - `workers`: how many processes serve the app. While the store is out of order each of them admits this part of the
      limits. By default what the environment's `WEB_CONCURRENCY` or the server tells, else 1.
    - `clock`: microseconds since the epoch; decisions use the store's own clock.

    Raises `ConfigurationError` for a setting that is wrong, and for guards in an order that cannot work.
    """

    _is_layer = False
    """True where other keyguard layers may stand outside this one."""

    def __init__(
        self,
        *guards: Guard,
        store: str | Store | EllipsisType = ...,
        trusted_proxies: Iterable[str] = (),
        forwarded_header: str = "x-forwarded-for",
        underscores: Iterable[str] = (),
        request_id_header: str | None = None,
        on_refusal: Callable[[Refusal], None] | None = None,
        on_health: Callable[[StoreHealth], None] | None = None,
        workers: int | None = None,
        root_path: str | Literal[False] = "",
        clock: Clock = wall_clock,
    ) -> None:
        for word, function in (("clock", clock), ("on_refusal", on_refusal), ("on_health", on_health)):
            if not callable(function) and (function is not None or word == "clock"):
                raise ConfigurationError(f"{word} is a function, not {function!r}")
            if is_async(function) or is_blocking(function):
                raise ConfigurationError(f"{word} is a plain function, and nobody would await {function!r}")
        for word, told, what in (("on_refusal", on_refusal, "a Refusal"), ("on_health", on_health, "a StoreHealth")):
            if told is not None:
                check_takes(word, told, what)
        self._root_path = _checked_prefix(root_path)
        self.guards = guards
        self.store = open_store(named_store() if store is ... else store)
        self._watched: Watched | None = None
        among = checked_workers(workers)
        watched = Watched(self.store, workers=among, clock=clock, notify=on_health)
        if type(self.store) is not MemoryStore:  # which cannot fail; a subclass may
            self._watched = watched
        self._here = watched
        self._clock = clock
        self._aside: WatchedAside | None = None
        self._attach_caches()
        tell_of_decisions(self.store, guards)
        self._source = ClientAddress(trusted_proxies, header=forwarded_header)
        self.underscores = _checked_underscores(underscores, guards, forwarded_header)
        if request_id_header is not None and not (
            isinstance(request_id_header, str) and _FIELD_NAME.fullmatch(request_id_header)
        ):
            raise ConfigurationError(f"request_id_header is the name of a header field, not {request_id_header!r}")
        self._request_id_header = request_id_header
        self._notify = on_refusal
        at_once = self.store if self._watched is None else None
        self._chain = Chain(_with_exhausted(_together(guards)), at_once)
        self._provides = frozenset().union(*(getattr(guard, "provides", ()) for guard in guards))
        self._needs = unmet_needs(guards)
        if self._needs and not self._is_layer:
            raise ConfigurationError(
                f"these guards need the {', '.join(self._needs)} of the caller, and none finds it: put APIKeys() first"
            )
        claim(self.store, guards)
        _check_filters(guards)
        if among > 1:
            warn_of_workers(self.store, guards, among)
        for guard in guards:
            if isinstance(guard, APIKeys):
                renew_after_fork(guard)
        limitations = getattr(self.store, "limitations", None)
        if limitations is not None:
            limits = [rule.limit for guard in guards if isinstance(guard, RateLimit) for rule in guard.all_rules]
            notice = limitations(limits, keys=any(isinstance(guard, APIKeys) for guard in guards))
            if notice:
                log.warning("%s", notice)

    def __repr__(self) -> str:
        return f"Keyguard({', '.join(map(repr, self.guards))})"

    @property
    def keys(self) -> KeyRegistry:
        """Issue, list, rotate and revoke the keys that this stack's `APIKeys` accepts."""
        for guard in self.guards:
            if isinstance(guard, APIKeys):
                return guard.registry(self.store)
        raise ConfigurationError("this stack has no APIKeys guard, so it has no keys")

    @property
    def cache(self) -> ResponseCache:
        """The stack's response cache: `purge`, `stats`, `explain`."""
        for guard in self.guards:
            if isinstance(guard, ResponseCache):
                return guard
        raise ConfigurationError("this stack has no ResponseCache")

    def explain(self, url: str) -> Explanation:
        """Why the last response for a URL, or for a path on any host, was stored in the cache or was not."""
        return self.cache.explain(url)

    def _attach_caches(self) -> None:
        caches = [guard for guard in self.guards if isinstance(guard, ResponseCache)]
        if not caches:
            return
        store = store_of_caches(self.store, caches)
        # A store that is this process's own needs no second level, and one that holds limits alone cannot be one.
        own = isinstance(getattr(store, "store", store), MemoryStore)  # leases may stand in front of it
        shared = not own and getattr(store, "holds_values", True)
        if shared:
            self._aside = WatchedAside(store, clock=self._clock)
        sources = [guard.sources for guard in self.guards if isinstance(guard, APIKeys)]
        for cache in caches:
            cache.attach(store, shared=shared, sources=sources, clock=self._clock)
            renew_after_fork(cache)
        order = [type(guard) for guard in self.guards if isinstance(guard, (APIKeys, ResponseCache))]
        if APIKeys in order and order.index(ResponseCache) < order.index(APIKeys):
            log.warning(
                "%r stands outside APIKeys: what the app calls public is served to callers whom APIKeys would refuse",
                caches[0],
            )

    @property
    def health(self) -> StoreHealth:
        """How the store does, as this process sees it: since when it has been out of order, and what was done so."""
        return StoreHealth(True, None, "", 0, 0) if self._watched is None else self._watched.health

    @cached_property
    def asgi(self) -> type[ASGILayer]:
        """Puts the guards around an ASGI app: `guard.asgi(app)`. Pass it to `add_middleware`, or call it.

        It is a class: what frameworks call a middleware class, and what agents patch.
        """
        from keyguard.drivers.asgi.driver import ASGILayer

        return type("Keyguard", (ASGILayer,), {"stack": self})

    def wsgi(self, app: WSGIApp) -> WSGIDriver:
        """Put the guards around a WSGI app."""
        from keyguard.drivers.wsgi.driver import WSGIDriver

        return WSGIDriver(app, self.engine(app, asynchronous=False))

    def _instant(self) -> Instant | None:
        outermost = self.guards[0] if self.guards else None
        if isinstance(outermost, ResponseCache) and outermost.instant:
            return instant(outermost, self._clock)
        return None

    def engine(self, app: Any, *, asynchronous: bool) -> Engine:
        """Return all that a driver around `app` needs.

        Raises `ConfigurationError` for layers in an order that cannot work.
        """
        for guard in () if asynchronous else self.guards:
            for word, function in getattr(guard, "asynchronous", dict)().items():
                raise ConfigurationError(
                    f"{word}={getattr(function, '__name__', function)!r} of {guard!r} is async, and there is no event "
                    "loop under WSGI: use a plain function"
                )
        _check_order(self._needs, app)
        if any(layer.source != self._source for layer in layers_within(app)):
            raise ConfigurationError(
                "two layers of keyguard around one app differ in trusted_proxies or forwarded_header, and a request "
                "has one client: give both the same"
            )
        if any(layer.underscores != self.underscores for layer in layers_within(app)):
            raise ConfigurationError(
                "two layers of keyguard around one app differ in underscores, and what the one keeps the other takes "
                "off: give both the same"
            )
        for cache in [guard for guard in self.guards if isinstance(guard, ResponseCache)]:
            for layer in layers_within(app):
                cache.add_sources(layer.sources)
                if layer.filters_addresses:
                    raise ConfigurationError(
                        f"{cache!r} would answer addresses that an IPFilter further in refuses. Add the filter after "
                        "it (add_middleware puts the last one outermost), or wrap it later"
                    )
        setup = Setup(
            chain=self._chain,
            store=self.store,
            watched=self._watched,
            here=self._here,
            aside=self._aside,
            source=self._source,
            clock=self._clock,
            provides=self._provides,
            needs=self._needs,
            sources=[guard.sources for guard in self.guards if isinstance(guard, APIKeys)],
            filters_addresses=any(isinstance(guard, IPFilter) for guard in self.guards),
            notify=self._notify,
            instant=self._instant(),
            underscores=self.underscores,
            request_id_header=self._request_id_header,
        )
        return Engine(setup, AppInside(app, self._root_path), asynchronous=asynchronous)


def _checked_prefix(prefix: str | Literal[False]) -> str | Literal[False]:
    if prefix is False or prefix == "":
        return prefix
    if isinstance(prefix, str) and prefix.strip("/") and "{" not in prefix and "*" not in prefix:
        with suppress(ConfigurationError):
            return Paths([prefix]).texts[0].rstrip("/")
    raise ConfigurationError(f"root_path is a prefix of paths such as '/api', not {prefix!r}")


def _checked_underscores(names: Iterable[str], guards: Iterable[Any], forwarded: str) -> frozenset[bytes]:
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise ConfigurationError(
            f"underscores is a list of names of header fields, such as ['tenant_id'], not {names!r}"
        )
    kept = set()
    ours = {name.lower() for guard in guards if isinstance(guard, APIKeys) for name in guard.sources.names}
    for name in names:
        if not isinstance(name, str) or "_" not in name or not _FIELD_NAME.fullmatch(name):
            raise ConfigurationError(f"underscores names header fields with an underscore in them, not {name!r}")
        name = name.lower()
        for read in (*ours, forwarded.lower()):
            if name != read and name.replace("_", "-") == read.replace("_", "-"):
                raise ConfigurationError(f"underscores cannot keep {name!r}: others would read it as {read!r}")
        kept.add(name)
    for name in ours:
        if "_" in name and ":" not in name and name not in kept:
            raise ConfigurationError(
                f"APIKeys reads {name!r}, but fields with an underscore in their name are taken off: write it with "
                f"hyphens, or name it in underscores=[{name!r}] as well"
            )
    return frozenset(name.encode() for name in kept)


def _check_order(needs: frozenset[str], app: Any) -> None:
    """Raise where the app inside already holds the layer that should stand outside."""
    for engine in layers_within(app):
        if needs & engine.provides:
            raise ConfigurationError(
                f"a guard needs the {', '.join(needs & engine.provides)} that a layer further in finds. Add APIKeys "
                "after it (add_middleware puts the last one outermost), or wrap it later"
            )


def _check_filters(guards: Iterable[Any]) -> None:
    """Raise where a cache would answer before the client's address was looked at."""
    cache: ResponseCache | None = None
    for guard in guards:
        if isinstance(guard, ResponseCache):
            cache = guard
        elif cache is not None and isinstance(guard, IPFilter):
            raise ConfigurationError(
                f"{cache!r} would answer addresses that {guard!r} refuses: put the filter before the cache"
            )


def _with_exhausted(guards: list[Any]) -> list[Any]:
    """The guards, with each cache that serves exhausted callers standing outside the limits right before it as well.

    No other guard may stand between: it would not be asked about a caller whom the limit has refused.
    """
    made = list(guards)
    for cache in [guard for guard in guards if isinstance(guard, ResponseCache) and guard.serve_exhausted]:
        place = made.index(cache)
        if place == 0 or not isinstance(made[place - 1], (RateLimit, RateLimitGroup)):
            raise ConfigurationError(
                f"{cache!r} serves exhausted callers: put it right after the RateLimit they exhaust"
            )
        made.insert(place - 1, Exhausted(cache))
    return made


def _together(guards: Iterable[Any]) -> list[Any]:
    """The guards, with rate limits that stand next to each other as one; not one that has a `__call__` of its own."""
    joined: list[Any] = []
    for limits, run in groupby(guards, _may_join):
        members = list(run)
        joined += [RateLimitGroup(members)] if limits and len(members) > 1 else members
    return joined


def _may_join(guard: object) -> bool:
    return isinstance(guard, RateLimit) and type(guard).__call__ is RateLimit.__call__
