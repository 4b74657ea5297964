"""The routes of Starlette and FastAPI apps with all that stands around their views: layers, and dependencies.

FastAPI's routers stand among the routes unopened, and open for each place at which they are included. A dependency of a
router is told apart from one of a route by its `Depends(...)`, an object that the router's list and the route's share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from keyguard.drivers.inspection.app import in_line
from keyguard.drivers.inspection.layers import layers_within
from keyguard.drivers.inspection.objects import modules_of
from keyguard.drivers.interpreter import Engine

Owners = dict[int, str]
"""The place of the router that a `Depends(...)` belongs to, by the number of that object."""


class Met(NamedTuple):
    """A route, with what a request meets on its way to the view."""

    path: str
    methods: frozenset[str]
    key: Any
    """The object by which the request names it: see `key_in`."""
    view: Any
    """The view: a function, a class of Starlette's, or static files. `None` for a mounted app that cannot be looked
    into."""
    dependencies: tuple[tuple[Callable[..., Any], str | None, tuple[str, ...]], ...]
    """The functions that FastAPI asks before, each with the place of its router, `None` if it is the route's own, and
    the scopes that `Security(...)` names."""
    engines: tuple[Engine, ...]
    """The layers of keyguard between the app and the route, as far as they can be seen."""


def met_in(app: Any, prefix: str = "") -> list[Met] | None:
    """List the routes of the app inside; `None` if it is neither Starlette's nor FastAPI's.

    `prefix` is where the app is mounted.
    """
    router = _router_of(app)
    return None if router is None else [*_of_app(app, prefix, ())]


def key_in(scope: Mapping[str, Any]) -> Any:
    """Return the object by which an ASGI scope names its route; `None` if it names none."""
    route = scope.get("route")
    context = (scope.get("fastapi") or {}).get("effective_route_context")
    if context is not None and (context.original_route is route or context.starlette_route is route):
        return context  # of the place at which a router is included
    return route


def _line_of(app: Any) -> list[Any]:
    """List what every request passes, as far as it can be looked into."""
    found: list[Any] = []
    with suppress(Exception):
        found.extend(in_line(app))  # which adds what has come before it fails
    return found


def _router_of(app: Any) -> Any:
    """Return what has the routes: an app's router."""
    for at in _line_of(app):
        router = getattr(at, "router", at)
        if isinstance(getattr(router, "routes", None), list) and hasattr(router, "default"):
            return router
    return None


def _of_app(app: Any, prefix: str, engines: tuple[Engine, ...]) -> Iterator[Met]:
    engines += tuple(layers_within(app))
    router = _router_of(app)
    if router is None:
        seen = app if "starlette.staticfiles" in modules_of(app) else None
        yield Met(f"{prefix}/*", frozenset(), app, seen, (), engines)
    else:
        owners = _owned(getattr(router, "dependencies", ()), {}, prefix or "/")
        yield from _of_routes(router.routes, prefix, owners, engines)


def _owned(dependencies: Iterable[Any], owners: Owners, place: str) -> Owners:
    return {**{id(one): place for one in dependencies}, **owners}


def _of_routes(routes: Iterable[Any], prefix: str, owners: Owners, engines: tuple[Engine, ...]) -> Iterator[Met]:
    routes = [*routes]
    for number, route in enumerate(routes):
        included = getattr(route, "original_router", None)
        if included is None:
            yield from _of_route(route, getattr(route, "starlette_route", None) or route, prefix, owners, engines)
            continue
        context = route.include_context
        place = f"{prefix}{context.prefix}{included.prefix}" or "/"
        if _stands_before(routes[:number], context.prefix + included.prefix):
            place = f"{place} ({number})"  # the order of routers is the same in all processes
        inner = _owned([*context.dependencies, *included.dependencies], owners, place)
        yield from _of_routes(route.effective_candidates(), prefix, inner, engines)


def _stands_before(routes: Iterable[Any], prefix: str) -> bool:
    """Tell whether a router with this prefix is included before."""
    before = [route for route in routes if getattr(route, "original_router", None) is not None]
    return any(route.include_context.prefix + route.original_router.prefix == prefix for route in before)


def _of_route(key: Any, route: Any, prefix: str, owners: Owners, engines: tuple[Engine, ...]) -> Iterator[Met]:
    path = prefix + str(getattr(route, "path", ""))
    view = getattr(route, "endpoint", None)
    if view is not None:
        methods = frozenset(getattr(route, "methods", None) or ())
        yield Met(path, methods, key, view, tuple(_dependencies(route, owners)), engines)
    elif getattr(route, "app", None) is not None:
        yield from _of_app(route.app, path.rstrip("/"), engines)


def _dependencies(route: Any, owners: Owners) -> Iterator[tuple[Callable[..., Any], str | None, tuple[str, ...]]]:
    given = getattr(route, "dependencies", None) or ()
    dependant = getattr(route, "dependant", None)
    for number, one in enumerate(getattr(dependant, "dependencies", ())):
        # Those that are given in lists come first, in their order; then those of parameters.
        place = owners.get(id(given[number])) if number < len(given) else None
        yield from ((call, place, scopes) for call, scopes in _calls(one))


def _calls(dependant: Any) -> Iterator[tuple[Callable[..., Any], tuple[str, ...]]]:
    if dependant.call is not None:
        yield dependant.call, tuple(getattr(dependant, "own_oauth_scopes", None) or ())
    for further in dependant.dependencies:
        yield from _calls(further)
