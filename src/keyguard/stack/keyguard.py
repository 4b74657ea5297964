"""`Keyguard`: guards, a store and one notion of the client's address, put together and checked before any request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from keyguard.chain import Chain
from keyguard.clock import Clock, wall_clock
from keyguard.decision import Decision
from keyguard.drivers.inspection.app import AppInside
from keyguard.drivers.inspection.interface import check_interface
from keyguard.drivers.inspection.layers import layers_within
from keyguard.drivers.interpreter import Engine, Setup
from keyguard.drivers.rendering import Rendered, Rendering
from keyguard.errors import ConfigurationError
from keyguard.gate import arranged, members_of
from keyguard.guard import AnyGuard, Guard, Surroundings, declared, may_decide, sources_of
from keyguard.http.forwarding import ClientAddress
from keyguard.logs import logger
from keyguard.manual_clock import GivenClock, ManualClock, clock_from
from keyguard.observer import Observer
from keyguard.ops import Store, traits_of
from keyguard.overrides import overrides_of
from keyguard.process.fork import renew_after_fork
from keyguard.process.workers import checked_workers
from keyguard.refusal import Refusal
from keyguard.request.current import note_requests
from keyguard.stack.counters import claim
from keyguard.stack.deployment import (
    check_clock,
    check_limitations,
    named_store,
    store_of_values,
    tell_of_decisions,
    warn_of_workers,
)
from keyguard.stack.disabled import NOT_ENABLED, anonymous
from keyguard.stack.flask_apps import FlaskApps
from keyguard.stack.for_dashboard import ForDashboard, warn_of_dashboards
from keyguard.stack.for_developers import ForDevelopers
from keyguard.stack.for_flask import ForFlask
from keyguard.stack.for_observers import ForObservers
from keyguard.stack.for_operators import ForOperators
from keyguard.stack.for_policies import ForPolicies
from keyguard.stack.for_tests import ForTests
from keyguard.stack.needs import unmet_needs, why_unmet
from keyguard.stack.order import check_alike, check_guards, check_innermost, check_layers
from keyguard.stack.own_usage import with_own_usage
from keyguard.stack.policies import patterns_of, stacked, unwrapped
from keyguard.stack.settings import (
    check_functions,
    checked_field_name,
    checked_prefix,
    checked_switch,
    checked_underscores,
)
from keyguard.stack.written import StackNote, check_names, module_of_caller, names_of_bans
from keyguard.stores import open_store
from keyguard.stores.best_effort import BestEffortStore
from keyguard.stores.circuit_breaker import CircuitBreaker, StoreHealth
from keyguard.stores.memory import MemoryStore

if TYPE_CHECKING:
    from keyguard.drivers.asgi.driver import ASGILayer
    from keyguard.drivers.wsgi.driver import WSGIApp, WSGIDriver
    from keyguard.policies import Policy
    from keyguard.upstream.pool import KeyPool

log = logger("keyguard")


class Keyguard(ForDevelopers, ForTests, ForPolicies, ForOperators, ForObservers, ForDashboard, ForFlask):
    """A stack of guards, and of policies (`keyguard.policies`) that say which guards a request has to pass.

    The first one is outermost.

        guard = Keyguard(IPFilter(deny=[...]), APIKeys(), RateLimit("10/second", by="key"), store="sqlite:///k.db")
        app.add_middleware(guard.asgi)                  # Starlette, FastAPI, Litestar, Quart, ...
        guard.init_app(app)                             # Flask
        application = guard.wsgi(application)           # Django, Falcon, Pyramid, Bottle, ...

    - `store`: the place of keys and counters, a URL (`memory://`, `sqlite:///file.db`) or a store object; by default
      the URL in the environment's `KEYGUARD_STORE`, else `memory://`. A memory store belongs to one process.
    - `trusted_proxies`: networks of the proxies whose `forwarded_header` counts (`"unix"` for unix sockets). By default
      no forwarding header counts.
    - `forwarded_header`: `"x-forwarded-for"`, `"forwarded"` (RFC 7239), or a header of one address.
    - `trusted_hops`: how many proxies stand in front of the app, if their addresses are not known: the client is the
      hop before them. It counts only if the peer is private, a unix socket, or among `trusted_proxies`. If the header
      names fewer hops, the client is unknown.
    - `ipv6_prefix`: how many bits of an IPv6 address tell callers apart, 32 to 128, for limits, guesses and bans.
    - `underscores`: names of request fields with an underscore that the app reads, such as `["tenant_id"]`. All others
      are taken off before guards and app see them (under WSGI most servers do that), since bridges and apps read
      `X_API_Key` as `X-API-Key`.
    - `request_id_header`: the response field in which refusals tell the request's id (as their bodies and the log do),
      such as `"X-Request-ID"`. None by default: if others set it, there would be two. The id is that of the request.
    - `on_refusal`: a plain function called with each `Refusal`; it must not block.
    - `render_refusal`: a plain function that is given a `Refusal` and returns its body: a dict or a list, which becomes
      JSON, text, bytes, a `Response` if the type is another one or there are more fields, or `None` for the problem
      details. Status, cause, the log, and the fields that tell of limits, of waiting and of challenges stay.
    - `on_health`: one called with a `StoreHealth` when the store fails, and when it answers again; it must not block.
    - `on_decision`: one called with the `Decision` of each request, when the head of its response leaves; it must not
      block. `log_decision` writes it as a line of JSON. Stand it in the outermost stack of an app.
    - `root_path`: a prefix of paths that the app cuts off by itself, if that cannot be seen: rules are about the rest.
      Prefixes that servers and frameworks tell of need not be named again. By default code of your own that may give
      the app another path is taken to cut off any prefix, so `paths=["/admin"]` closes `/x/admin` as well; `False` says
      that none is cut off.
    - `workers`: how many processes serve the app. While the store is out of order each of them admits this part of the
      limits. By default what the environment's `WEB_CONCURRENCY` or the server tells, else 1.
    - `name`: stands in the store over what the stack's limits are, for the command `keyguard limits`; stacks of other
      apps on the same store have other names. By default the module that makes the stack.
    - `clock`: a function that returns the time as a `datetime` with a time zone; decisions use the store's own clock.
      Or a `keyguard.testing.ManualClock`, by which all goes: a store that is opened from a URL too. A store object has
      the clock that it was made with: give it the same one.
    - `enabled`: `False` guards nothing: each request goes to the app, its caller is anonymous, nothing is counted, and
      a warning at the start says so. For development, and for tests of something else.
    - `handlers`: whether the app's handlers call `here()`, `charge()` or `reserve()`. By default they can, unless there
      are no guards; what makes the body of a WSGI app can if its view has, or if no `Content-Length` tells that the
      body is there. `True` lets all of them, and so does a limit with `cost=0`; `False` saves what it costs to note
      each request for them, some 2,000 instructions.
    - `overrides`: whether `guard.overrides` and `keyguard overrides` may put other limits in the place of those of one
      subject. Twice a second one request of each process reads them, in one more trip; a memory store needs none.
    - `usage`: a `Usage()`, which counts what callers ask for and spend, for `guard.usage`.
    - `alerts`: an `Alerts(...)`, which tells people when callers come near their limits, and when something is wrong.
    - `pools`: each `KeyPool` of the app, for metrics, alerts and the dashboard.

    Raises `ConfigurationError` for a setting that is wrong, and for guards in an order that cannot work.
    """

    _is_layer = False
    """Whether other keyguard layers may stand outside this one."""

    def __init__(
        self,
        *guards: AnyGuard | Policy,
        store: str | Store | EllipsisType = ...,
        trusted_proxies: Iterable[str] = (),
        forwarded_header: str = "x-forwarded-for",
        trusted_hops: int = 0,
        ipv6_prefix: int = 64,
        underscores: Iterable[str] = (),
        request_id_header: str | None = None,
        on_refusal: Callable[[Refusal], None] | None = None,
        render_refusal: Callable[[Refusal], Rendered] | None = None,
        on_health: Callable[[StoreHealth], None] | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        workers: int | None = None,
        root_path: str | Literal[False] = "",
        name: str | None = None,
        clock: GivenClock | None = None,
        enabled: bool = True,
        handlers: bool | None = None,
        overrides: bool = False,
        usage: Observer | None = None,
        alerts: Observer | None = None,
        pools: Iterable[KeyPool] = (),
    ) -> None:
        check_functions(clock, on_refusal, on_health, render_refusal, on_decision)
        self.enabled = self._guarding = checked_switch("enabled", enabled)
        self._overrides_on = checked_switch("overrides", overrides)
        self._root_path = checked_prefix(root_path)
        self._stacked = stacked(with_own_usage(guards, usage))
        members = members_of(self._stacked)
        self.guards = tuple([unwrapped(guard) for guard in members])
        self._declared = [declared(guard) for guard in members]
        self._workers = among = checked_workers(workers, 1)
        self._on_health = on_health
        readers = [(guard, sources_of(guard)) for guard in members if declared(guard).sources]
        self._sources = [sources for _, sources in readers]
        manual = clock if isinstance(clock, ManualClock) else None
        opened = open_store(named_store() if store is ... else store, manual)
        if manual is not None:
            check_clock(opened, manual)
        self._connect(opened, clock_from(clock, wall_clock))
        check_guards(members)
        check_innermost(self._stacked)
        tell_of_decisions(self.store, members)
        self._source = ClientAddress(
            trusted_proxies, header=forwarded_header, hops=trusted_hops, ipv6_prefix=ipv6_prefix
        )
        self.underscores = checked_underscores(underscores, readers, forwarded_header)
        self._request_id_header = checked_field_name(request_id_header)
        self._notify = on_refusal
        self._sinks = () if on_decision is None else (on_decision,)
        self._rendering = None if render_refusal is None else Rendering(render_refusal)
        self._handlers_setting = handlers
        self._engines = WeakSet()
        self._flask_apps = FlaskApps()
        self._drivers = WeakSet()
        self._home = self.store
        """The store that it was given, also in a test, which has one of its own."""
        wanted = handlers is not None and checked_switch("handlers", handlers)
        self._handlers = wanted or any(guard.handlers for guard in self._declared)
        self._notes = self._handlers or (handlers is None and bool(guards)) or any(one.notes for one in self._declared)
        if self._notes:
            note_requests()
        self._chain = self._chained(self._stacked)
        self._provides: frozenset[str] = frozenset().union(*(declared(guard).provides for guard in self._stacked))
        self._needs = unmet_needs(self._stacked)
        if self._needs and not self._is_layer:
            why = why_unmet(self._stacked, self._needs)
            raise ConfigurationError(f"these guards need the {', '.join(self._needs)} of the caller{why}")
        claim(self.store, members)
        bans = names_of_bans(self.guards)
        self._note = StackNote(self.store, name, self._default_name(), self._facts(self._declared), bans)
        if among > 1:
            warn_of_workers(self.store, members, among)
        check_limitations(self.store, self._declared)
        self._observe([("usage", usage), ("alerts", alerts)], pools)
        if not enabled:
            log.warning(NOT_ENABLED, self)

    @property
    def name(self) -> str:
        """Return the name under which the stack writes its limits into its store."""
        return self._note.name

    def _default_name(self) -> str:
        return module_of_caller()

    def __repr__(self) -> str:
        return f"Keyguard({', '.join(map(repr, self._stacked))})"

    def _connect(self, store: Store, clock: Clock, values: Store | None = None) -> None:
        """Have the guards keep what they keep in a store, and go by a clock.

        `values` is where caches keep theirs, whatever store they name.
        """
        self.store, self._clock = store, clock
        self._here = CircuitBreaker(store, workers=self._workers, clock=clock, notify=self._hear_of_health)
        # A store in memory cannot fail; a subclass of it may.
        self._watched = None if type(store) is MemoryStore else self._here
        self._overridden = overrides_of(store, watching=self._watched is not None) if self._overrides_on else None
        self._aside: BestEffortStore | None = None
        keepers = [guard for guard in self._declared if "values" in guard.keeps]
        shared, kept = False, store
        if keepers:
            kept = values or store_of_values(store, keepers)
            # A store that is this process's own needs no second level, and one that holds limits alone cannot be one.
            own = traits_of(traits_of(kept).store or kept).of_one_process  # leases may stand in front of it
            shared = not own and traits_of(kept).holds_values
            if shared:
                self._aside = BestEffortStore(kept, clock=clock)
        self._places = kept, shared
        self._attach()

    def _attach(self) -> None:
        """Tell the guards of the stack."""
        values, shared = self._places
        for guard in self._declared:
            where = values if "values" in guard.keeps else self.store
            guard.attach(Surroundings(where, shared, self._sources, self._clock, self.store))
            if type(guard).after_fork is not Guard.after_fork:
                renew_after_fork(guard)

    def _chained(self, guards: Sequence[AnyGuard]) -> Chain:
        """Return these guards as they run: on the store, and if they are enabled."""
        if not self._guarding:
            chain = Chain([anonymous] if any("identity" in guard.provides for guard in self._declared) else [])
        else:
            at_once = self.store if self._watched is None else None
            chain = Chain(arranged(guards), at_once, None if self._watched is None else self.store)
        if "markers" in vars(self):
            chain.add(self._innermost)
        return chain

    @cached_property
    def asgi(self) -> type[ASGILayer]:
        """Return what puts the guards around an ASGI app. Pass it to `add_middleware`, or call it: `guard.asgi(app)`.

        It is a class, since frameworks take middleware classes, and monitoring agents patch classes.
        """
        from keyguard.drivers.asgi.driver import ASGILayer

        return type("Keyguard", (ASGILayer,), {"stack": self})

    def wsgi(self, app: WSGIApp) -> WSGIDriver:
        """Put the guards around a WSGI app."""
        from keyguard.drivers.wsgi.driver import WSGIDriver

        return WSGIDriver(app, self.engine(app, asynchronous=False))

    def engine(self, app: Any, *, asynchronous: bool) -> Engine:
        """Return all that a driver around `app` needs.

        Raises `ConfigurationError` for layers in an order that cannot work, and for an app of the other interface.
        """
        check_interface(app, asynchronous=asynchronous)
        for guard in () if asynchronous else self._declared:
            for word, function in guard.asynchronous().items():
                raise ConfigurationError(
                    f"{word}={getattr(function, '__name__', function)!r} of {guard!r} is async, and there is no event "
                    "loop under WSGI: use a plain function"
                )
        check_layers(self._declared, self._needs, app)
        from keyguard.stack.route_checks import check_bottle  # here, since the first request may check routes

        check_bottle(vars(self).get("markers"), app)
        warn_of_dashboards(self, app)
        for layer in layers_within(app):
            check_alike(layer, self._source, self.underscores)
            if isinstance(layer.note, StackNote):
                check_names(self._note, layer.note)
            for guard in self._declared:
                guard.add_sources(layer.sources)
        engine = Engine(self._setup(), AppInside(app, self._root_path), asynchronous=asynchronous)
        self._engines.add(engine)
        self._flask_apps.watch(self, app)
        return engine

    def _setup(self) -> Setup:
        """Return the stack as its engines see it."""
        at_home = self.store is self._home
        observing = [sink for sink in self._observing if sink not in self._sinks] if at_home else []
        first = self._stacked[0] if self._stacked and self._guarding else None
        strips = [sources_of(guard) for guard in self._declared if guard.strips]
        outermost = declared(first) if may_decide(first, "instant") and not strips else None
        return Setup(
            chain=self._chain,
            store=self.store,
            watched=self._watched,
            here=self._here,
            aside=self._aside,
            source=self._source,
            clock=self._clock,
            provides=self._provides,
            needs=self._needs,
            sources=self._sources,
            filters_addresses=any(guard.filters_addresses for guard in self._declared),
            notify=self._notify,
            instant=None if outermost is None or not at_home else outermost.instant(self._clock),
            underscores=self.underscores,
            request_id_header=self._request_id_header,
            note=self._note if self._guarding and at_home else None,
            drivers=self._drivers,
            notes=self._notes,
            rendering=self._rendering,
            overrides=self._overridden,
            reads_bodies=any(guard.reads_bodies for guard in self._declared),
            outlasts=any(guard.outlasts for guard in self._declared),
            strips=strips,
            handlers=self._handlers,
            sinks=(*self._sinks, *observing),
            observers=self._observers if at_home else (),
            patterns=patterns_of([*self._declared, *self._stacked]),
            stack=self,
        )
