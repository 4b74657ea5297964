"""Rules at the routes of a Starlette or FastAPI app: found when it starts, and refused if they would not be asked.

Rules:
- Every marker that a route meets gets its rule here, so that a stack knows all its limits before the first request.
- A rule that would leave its route unprotected stops the start: a decorator that the framework does not call, since it
  stands above the one that makes the route; a view that no route has; a marker of a stack that is not around the app.
- So does one that would charge twice, or to a counter that others share by chance.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from types import MethodType
from typing import Any

from keyguard.drivers.inspection.app import frameworks_within
from keyguard.drivers.inspection.objects import modules_of
from keyguard.drivers.inspection.routes import routes_of
from keyguard.drivers.inspection.starlette_routes import Met, met_in
from keyguard.errors import ConfigurationError
from keyguard.logs import logger
from keyguard.stack.markers import LimitMarker, Marker, Markers, learned
from keyguard.stack.route_rules import RouteRule, rules_of
from keyguard.stack.views import bare, names_of_view, parts_of_view

log = logger("keyguard")


def check_routes(
    stack: object, markers: Markers | None, app: Any, around: Iterable[object]
) -> list[tuple[str, frozenset[str], tuple[RouteRule[Any], ...]]]:
    """Make the rules of all routes, and raise `ConfigurationError` for the first that is wrong.

    Returns all routes: the template, the methods, and the rules of the stack that each request meets there.

    `markers` are those of the stack, and `around` the stacks further out. Nothing is looked at in an app of another
    framework than Starlette and FastAPI.
    """
    routes = met_in(app)
    if routes is None:
        return []
    found = []
    stacks = {id(one) for one in (*around, stack)}
    views: dict[str, Any] = {}
    for route in routes:
        _check_called(route)
        own = []
        for marker, rule, view in learned(route):
            if marker.markers is markers:
                own.append(rule)
                if view is not None:
                    check_alone(marker, rule, bare(view), views)
            elif id(marker.markers.stack) not in stacks | {id(engine.stack) for engine in route.engines}:
                raise ConfigurationError(
                    f"{rule!r} at {route.path} belongs to {marker.markers.stack!r}, which does not stand around the "
                    "app: app.add_middleware(guard.asgi)"
                )
        if markers is not None:
            markers.check(own)
        found.append((route.path, route.methods, () if inspect.isclass(route.view) else tuple(own)))
    if markers is not None:
        parts = [part for route in routes for part in parts_of_view(route.view)]
        _check_seen(markers, parts, hidden=any(route.view is None for route in routes))
    return found


def check_bottle(markers: Markers | None, app: Any) -> None:
    """Raise `ConfigurationError` for a decorator above the one that makes a route of a Bottle app.

    Bottle goes on to call the function below. Nothing is said of apps of other frameworks.
    """
    if markers is None:
        return
    for inner in frameworks_within(app):
        if "bottle" in modules_of(inner):
            called = {_number(route.view) for route in routes_of(inner) or ()}
            for view in markers.views:
                if not called.isdisjoint(map(_number, _below(view))):
                    raise _above(rules_of(view)[0])


def check_alone(marker: Marker[Any], rule: RouteRule[Any], view: Any, views: dict[str, Any]) -> None:
    """Raise if another view of the app, of the same name in full, has the same counter.

    `views` are those that have been met, by what the keys of their counters begin with.
    """
    limit = rule.limit
    if limit is None or (isinstance(marker, LimitMarker) and marker.name is not None):
        return
    for prefix in [one.prefix for one in limit.all_rules] or [limit.counter]:
        if views.setdefault(prefix, view) is not view:
            raise ConfigurationError(
                f"two views of the app are called {rule.place}, and {rule!r} would be one counter for both: give it a "
                "name=..., made from what tells the two apart"
            )


def _check_called(route: Met) -> None:
    for call, _, scopes in route.dependencies:
        name = getattr(call, "__name__", "")
        if name in ("limit", "key") and hasattr(getattr(call, "__self__", None), "check_routes"):
            raise ConfigurationError(
                f"Depends(guard.{name}) at {route.path} makes a marker for each request, and asks none: write "
                f"Depends(guard.{name}(...))"
            )
        if isinstance(call, Marker) and scopes:
            raise ConfigurationError(
                f"Security(..., scopes={[*scopes]}) at {route.path} says nothing to {call!r}: write "
                f"Depends(guard.key(scopes={[*scopes]}))"
            )
    if isinstance(route.view, Marker):
        raise ConfigurationError(
            f"at {route.path} stands {route.view!r} in the place of a view: write @guard.limit(...) with rates, and "
            "not @guard.limit"
        )
    for part in parts_of_view(route.view):
        if rules_of(part) and (inspect.isgeneratorfunction(bare(part)) or inspect.isasyncgenfunction(bare(part))):
            raise ConfigurationError(
                f"{names_of_view(part)[0]} makes its response part by part, and a rule as its decorator is asked too "
                "late: use dependencies=[Depends(guard.limit(...))]"
            )


def _check_seen(markers: Markers, parts: Sequence[Any], *, hidden: bool) -> None:
    """Raise if a decorated view is none of the parts of views that routes have, or if a route has what it decorates.

    `hidden` says that some apps cannot be looked into.
    """
    routed = {_number(bare(part)) for part in parts}
    called = {_number(part) for part in parts}
    # By their names: an app may be made more than once, each time with the same views.
    met = {(rule.place, rule.name) for part in parts for rule in rules_of(part)}
    for view in markers.views:
        rule = rules_of(view)[0]
        place = rule.place
        above = not called.isdisjoint(map(_number, _below(view)))
        if (place, rule.name) in met and not above:
            continue
        if above or _number(bare(view)) in routed:
            raise _above(rule)
        if hidden:
            log.warning("%r stands on %s, which is at no route that can be seen: is it asked?", rule, place)
            continue
        raise ConfigurationError(
            f"{rule!r} stands on {place}, which no route of the app has, as far as can be seen. If a decorator hides "
            "it, that needs functools.wraps; if it is the view of another app, give that a Keyguard of its own"
        )


def _above(rule: RouteRule[Any]) -> ConfigurationError:
    return ConfigurationError(
        f"the decorator {rule!r} stands above one that makes a route of {rule.place}, which is called without it: put "
        "it right above the function. If a route shall do without it, give that a function of its own"
    )


def _below(view: Any) -> Iterator[Any]:
    """Yield what a decorated view has been made of, from decorator to decorator."""
    met = {id(view)}
    while (view := getattr(view, "__wrapped__", None)) is not None and id(view) not in met:
        met.add(id(view))
        yield view


def _number(view: Any) -> tuple[int, ...]:
    """Return what tells a view from all others; a method is bound anew whenever it is asked for."""
    return (id(view.__self__), id(view.__func__)) if isinstance(view, MethodType) else (id(view),)
