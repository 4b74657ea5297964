"""Markers: rules at routes, decided inside the app, where its framework knows the route.

    @app.get("/search")
    @guard.limit("5/minute")                                    # a decorator of a plain or an `async` view, or
    async def search() -> ...

    router = APIRouter(dependencies=[Depends(guard.limit("100/minute"))])       # a dependency of FastAPI

A **marker** is what `guard.limit(...)` and `guard.key(...)` return: settings, and a guard they belong to. Put on a view
or on a router it becomes a **rule**, with counters of its own, named after that *place*: `module.qualname` of a view.

For the layers of frameworks:

- `marker.rule_at(place, name, view)` makes the rule of a marker at a place, or returns the one there is. Keep it: rules
  are known as long as somebody holds them, as a decorated view does.
- `rules_of(view)` (`keyguard.stack.route_rules`) are the rules that decorators have put on a view, the outermost first;
  `guard.markers.of(view)` those too of a view whose decorators stand above the framework's own, so that the framework
  does not call them.
- `guard.markers.place()` is the current request's place (`Place`), found by a context variable.
- `rule.ask(place)` and `await rule.aask(place)` decide, and raise `Refused`; a rule that was asked before for the
  request is not asked again, so a layer may ask first, and the decorator then does nothing. They return what the rule
  finds: an `Identity`, or `None`. The plain call may block, and is not for event loops if the store is awaited.
- `guard.markers.rules` are all of them, with `view`, `place`, `name`, and `limit`, their `RateLimit`.
- `guard.markers.check(...)` raises what is wrong with the rules of one view.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast, overload
from weakref import WeakValueDictionary, ref

from keyguard.drivers.inspection.starlette_routes import Met, key_in, met_in
from keyguard.errors import ConfigurationError
from keyguard.guards.api_keys import APIKeys
from keyguard.guards.rate_limit.guard import RateLimit
from keyguard.guards.rate_limit.naming import PlaceName
from keyguard.identity import Identity
from keyguard.stack.route_place import Place, place_here, place_in
from keyguard.stack.route_rules import RULES, KeyRule, LimitRule, RouteRule, rules_of
from keyguard.stack.views import (
    bound_in,
    is_awaited,
    is_trial,
    names_of_method,
    names_of_view,
    owned,
    parts_of_view,
    place_of_view,
    unwrapping,
)

T = TypeVar("T")
V = TypeVar("V", bound=Callable[..., Any])


class _Signature:
    """The signature by which FastAPI asks a marker for the connection; to everybody else, that of a decorator."""

    def __get__(self, marker: Any, owner: Any = None) -> inspect.Signature:
        import sys  # Starlette is not loaded for this: who asks for a dependency's signature has it

        requests = sys.modules.get("starlette.requests")
        if marker is None or requests is None:
            raise AttributeError("__signature__")
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter("connection", kind, annotation=requests.HTTPConnection)])


class Marker(Generic[T]):
    """A decorator of views, and a dependency for FastAPI's `Depends`: `guard.limit` and `guard.key` return it."""

    __signature__ = _Signature()

    def __init__(self, markers: Markers) -> None:
        self.markers = markers
        self._rules: WeakValueDictionary[str, RouteRule[T]] = WeakValueDictionary()
        self._kept: dict[str, RouteRule[T]] = {}
        """The rules at methods that nothing else keeps."""
        self._by_route: dict[int, tuple[ref[Any], RouteRule[T]]] = {}
        """The rule of each of FastAPI's routes, by the route's number, with the route."""
        # FastAPI looks at this attribute, and calls in its event loop what is `async`; `marker(...)` is `__call__`.
        vars(self)["__call__"] = self.depend

    @overload
    def __call__(self, /) -> None: ...

    @overload
    def __call__(self, view: V, /) -> V: ...

    @overload
    def __call__(self, view: None = None, /, *, connection: Any) -> Awaitable[T]: ...

    def __call__(self, view: Any = None, /, *, connection: Any = None) -> Any:
        """Decorate a view; or, called by FastAPI with the connection, decide."""
        if connection is not None:
            return self.depend(connection=connection)
        if view is None:  # Flask's `before_request`: its place is taken when the stack stands around the app
            raise ConfigurationError(
                f"{self!r} belongs to {self.markers.stack!r}, which does not stand around this app: guard.init_app(app)"
            )
        return self._decorated(view)

    async def depend(self, *, connection: Any) -> T:
        """Decide as a dependency of FastAPI. Raises `Refused`."""
        scope = connection.scope
        place = place_in(self.markers.stack, scope)
        return await self.rule_in(scope).aask(place, scope)

    def rule_in(self, scope: Mapping[str, Any]) -> RouteRule[T]:
        """Return the rule for the route that an ASGI scope names."""
        route = key_in(scope)
        rule = self._known(route)
        if rule is None:  # routes may come after the start
            root = str(scope.get("root_path", ""))
            for met in met_in(scope.get("app"), root.removeprefix(str(scope.get("app_root_path", root)))) or ():
                for call, place, _ in met.dependencies:
                    if call is self and self._known(met.key) is None:
                        self.learn(met.key, place, met.view)
            rule = self._known(route)
            if rule is None:
                raise ConfigurationError(f"{self!r} is asked at a route that cannot be seen among those of the app")
        return rule

    def _known(self, route: Any) -> RouteRule[T] | None:
        found = self._by_route.get(id(route))
        return found[1] if found is not None and found[0]() is route else None

    def learn(self, route: Any, place: str | None, view: Any) -> RouteRule[T]:
        """Return the rule for a route of FastAPI's. `place` is that of the router that the marker belongs to, if any.

        `route` is the object by which requests name it.
        """
        rule = self.rule_at(*names_of_view(view), view) if place is None else self.rule_at(place, place)
        self._by_route = {number: pair for number, pair in self._by_route.items() if pair[0]() is not None}
        self._by_route[id(route)] = ref(route), rule
        return rule

    def rule_at(self, place: str, name: str, view: Callable[..., Any] | None = None) -> RouteRule[T]:
        """Return the rule of this marker at a place: a new one, if there is none.

        `place` names its counters, `name` is for people. Raises `ConfigurationError` if it would share a counter with
        another limit by chance.
        """
        rule = self._rules.get(place)
        if rule is None:
            rule = self._rules[place] = self._rule(place, name, view)
            self.markers.add(rule)
        return rule

    def _rule(self, place: str, name: str, view: Callable[..., Any] | None) -> RouteRule[T]:
        raise NotImplementedError

    def _decorated(self, view: Any) -> Any:
        if is_trial(view):
            return view
        if not callable(view) or inspect.isclass(view):
            raise ConfigurationError(
                f"{self!r} is a decorator of views, plain functions and `async` ones, not of {view!r}: of a class "
                "decorate the methods, give FastAPI a dependency as Depends(guard.limit(...)), and Flask "
                "blueprint.before_request(guard.limit(...))"
            )
        if inspect.isasyncgenfunction(inspect.unwrap(view)):
            raise ConfigurationError(
                f"{place_of_view(view)} is an async generator, whose first part comes after the response has begun: "
                "use dependencies=[Depends(guard.limit(...))] instead of the decorator"
            )
        method = bound_in(view)
        rule = self.rule_at(*names_of_view(view), view) if method is None else self.rule_of_method(*owned(method))
        rules = (rule, *rules_of(view))
        self.markers.check(rules)
        stack = self.markers.stack
        wrapper: Any
        if is_awaited(view):

            @functools.wraps(view)
            async def awaiting(*args: Any, **kwargs: Any) -> Any:
                flow = rule.begin(place_here(stack))
                if flow is not None:
                    await flow
                return await view(*args, **kwargs)

            wrapper = awaiting
        else:

            @functools.wraps(view)
            def calling(*args: Any, **kwargs: Any) -> Any:
                rule.ask(place_here(stack))
                return view(*args, **kwargs)

            wrapper = calling
        setattr(wrapper, RULES, rules)
        with suppress(TypeError, ValueError):  # Pyramid looks at the parameters, and follows no `__wrapped__`
            wrapper.__signature__ = inspect.signature(view)
        if method is None:
            self.markers.note(wrapper)
            _keep(wrapper, view)
        return wrapper

    def rule_of_method(self, owner: type, method: Callable[..., Any]) -> RouteRule[T]:
        """Return the rule at a method of a class, which is decorated anew for each call: it is kept with this marker.

        Raises `ConfigurationError` as `rule_at` does.
        """
        place, name = names_of_method(owner, method.__name__)
        rule = self._kept.get(place)
        if rule is None:
            rule = self._kept[place] = self.rule_at(place, name, method)
        return rule


class LimitMarker(Marker[None]):
    """A limit for routes: what `guard.limit` returns."""

    def __init__(self, markers: Markers, rates: Sequence[Any], settings: Mapping[str, Any]) -> None:
        super().__init__(markers)
        self._rates = tuple(rates)
        self._settings = dict(settings)
        self.name: str | None = self._settings.pop("name")
        """The name that it was given: all views that it stands on share its counter then."""
        # Settings that are wrong are told of here, and not when it is put on a view.
        self.limit = self._made(self.name or PlaceName.at("route", "route"))

    def __repr__(self) -> str:
        return f"<marker of {self.limit!r}>"

    def _made(self, name: str) -> RateLimit:
        return RateLimit(*self._rates, name=name, **self._settings)

    def _rule(self, place: str, name: str, view: Callable[..., Any] | None) -> LimitRule:
        limit = self.limit if self.name else self._made(PlaceName.at(place, name))
        return LimitRule(self, place, view, limit, self.markers.at_once)


class KeyMarker(Marker[Identity]):
    """A key that routes need: what `guard.key` returns. As a dependency it returns the caller's `Identity`."""

    def __init__(self, markers: Markers, keys: APIKeys, scopes: frozenset[str]) -> None:
        super().__init__(markers)
        self._keys = keys
        self.scopes = scopes

    def __repr__(self) -> str:
        return f"<marker of a key{''.join(f' {scope}' for scope in sorted(self.scopes))}>"

    def _rule(self, place: str, name: str, view: Callable[..., Any] | None) -> KeyRule:
        return KeyRule(self, place, view, self._keys, self.scopes)


class Markers:
    """All markers of one stack, and their rules."""

    def __init__(self, stack: object, at_once: Any, begin: Callable[[RouteRule[Any]], None]) -> None:
        self.stack = stack
        self.at_once = at_once
        """The stack's store, if it answers at once and cannot fail; else `None`."""
        self._begin = begin
        """Makes the stack know of a new rule."""
        self._rules: list[ref[RouteRule[Any]]] = []
        self._views: list[ref[Any]] = []
        """The views that were decorated, as they are after it."""

    @property
    def rules(self) -> tuple[RouteRule[Any], ...]:
        """All rules there are, in the order in which they were made. Those of a FastAPI app are made at its start."""
        return tuple(_alive(self._rules))

    @property
    def views(self) -> tuple[Callable[..., Any], ...]:
        """The decorated views, as decorators have made them."""
        return tuple(_alive(self._views))

    def use(self, at_once: Any) -> None:
        """Have all rules decide by a store from now on."""
        self.at_once = at_once
        for rule in self.rules:
            if isinstance(rule, LimitRule):
                rule.use(at_once)

    def of(self, view: Callable[..., Any]) -> tuple[RouteRule[Any], ...]:
        """Return the rules of a view that a framework calls, also if decorators stand above the framework's own."""
        own = rules_of(view)
        if own:
            return own
        bare = inspect.unwrap(view)
        return next((rules_of(other) for other in reversed(self.views) if inspect.unwrap(other) is bare), ())

    def place(self) -> Place:
        """Return the place of the request that the calling code works for. Raises as `place_here` does."""
        return place_here(self.stack)

    def add(self, rule: RouteRule[Any]) -> None:
        """Take note of a new rule."""
        self._begin(rule)
        self._rules = [one for one in self._rules if one() is not None]
        self._rules.append(ref(rule))

    def note(self, view: Callable[..., Any]) -> None:
        """Take note of a decorated view."""
        self._views = [one for one in self._views if one() is not None]
        self._views.append(ref(view))

    def check(self, rules: Sequence[RouteRule[Any]]) -> None:
        """Raise `ConfigurationError` if rules that one request meets are one, or count in one counter."""
        for at, rule in enumerate(rules):
            for other in rules[:at]:
                twice = rule is other or rule.marker is other.marker
                if not twice and rule.limit is not None and other.limit is not None:
                    ours, theirs = rule.limit.counters[0], other.limit.counters[0]
                    twice = ours.shares(theirs) or not ours.rules.isdisjoint(theirs.rules)
                if twice:
                    raise ConfigurationError(
                        f"{rule!r} stands twice at {rule.place}, and each request would be charged twice to one "
                        "counter: take one of them off, or give it a name=..."
                    )


def learned(route: Met) -> Iterator[tuple[Marker[Any], RouteRule[Any], Any]]:
    """Yield the markers that a request meets at a route, each with its rule there, and the view; `None` for a router's.

    Those of dependencies get their rules by that.
    """
    for call, place, _ in route.dependencies:
        if isinstance(call, Marker):
            yield call, call.learn(route.key, place, route.view), None if place else route.view
    for part in parts_of_view(route.view):
        for rule in rules_of(part):
            yield cast("Marker[Any]", rule.marker), rule, part


def _keep(decorated: Any, view: Any) -> None:
    """Keep a decorated view as long as the view is kept, which a route may have if its decorator stands below."""
    for each in unwrapping(view):
        with suppress(AttributeError):  # a callable object without attributes of its own
            each.__keyguard_decorated__ = [*getattr(each, "__keyguard_decorated__", ()), decorated]


def _alive(refs: Iterable[ref[T]]) -> Iterator[T]:
    return (found for one in refs if (found := one()) is not None)
