"""The rules at routes of a Flask or a Quart app, asked before any function of the app hears of a request.

    @guard.limit("5/minute")                                    # above or below the route's own decorator
    @app.get("/search")
    def search(): ...

    blueprint.before_request(guard.limit("100/hour"))           # a blueprint, with all blueprints in it
    app.before_request(guard.limit("1000/hour"))                # all that the app serves

Flask calls what stands in its table of views. A decorator above `@app.route` is not among that, so the rules of each
endpoint are looked up in that table, once, when the first request comes: Flask tells nobody when it starts. If a rule
is wrong then, each request fails, and no view is run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from keyguard.drivers.inspection.code import cells_of
from keyguard.errors import ConfigurationError
from keyguard.stack.markers import Marker, Markers
from keyguard.stack.route_checks import check_alone
from keyguard.stack.route_rules import RouteRule, rules_of
from keyguard.stack.views import bare, place_of_view, unwrapping


class FlaskRoutes:
    """The rules at the routes of one app."""

    def __init__(self, stack: Any, lead_to: Callable[[Any], bool], app: Any, home: str) -> None:
        self.app = app
        self._stack = stack
        self._lead_to = lead_to
        """Tells whether a decorated view belongs to one of some app that the stack stands around."""
        self._groups: dict[str | None, tuple[RouteRule[Any], ...]] = {}
        """The rules of blueprints, by their names; under `None` those of the app."""
        self._rules: dict[str | None, tuple[RouteRule[Any], ...]] | None = None
        """All rules of each endpoint, by its name; under `None` those of requests that have none."""
        first: Any = self.ask if home == "flask" else self.aask
        app.before_request_funcs.setdefault(None, []).insert(0, first)
        if home == "quart":
            app.before_websocket_funcs.setdefault(None, []).insert(0, self.aask_websocket)

    @property
    def _markers(self) -> Markers | None:
        found: Markers | None = vars(self._stack).get("markers")
        return found

    # -- on each request ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask the rules of the endpoint of Flask's current request. Raises `Refused`."""
        markers = self._markers
        if markers is not None:
            rules = self._rules_for(markers, sys.modules["flask"].request)
            if rules:
                place = markers.place()
                for rule in rules:
                    rule.ask(place)

    async def aask(self) -> None:
        """Do as `ask` does, for Quart."""
        await self._aask(sys.modules["quart"].request)

    async def aask_websocket(self) -> None:
        """Do as `ask` does, for a websocket of Quart."""
        await self._aask(sys.modules["quart"].websocket)

    async def _aask(self, request: Any) -> None:
        markers = self._markers
        if markers is not None:
            rules = self._rules_for(markers, request)
            if rules:
                place = markers.place()
                for rule in rules:
                    await rule.aask(place)

    def _rules_for(self, markers: Markers, request: Any) -> Sequence[RouteRule[Any]]:
        table = self._rules
        if table is None:
            table = self.find(markers)
        rule = request.url_rule
        if rule is None:
            return table[None]
        if request.method == "OPTIONS" and getattr(rule, "provide_automatic_options", False):
            return ()  # Flask answers that itself, preflights above all: no view is run
        found = table.get(rule.endpoint)
        if found is None:  # it has got its view since
            found = self.find(markers).get(rule.endpoint, ())
        return found

    # -- once -----------------------------------------------------------------------------------------------

    def find(self, markers: Markers) -> dict[str | None, tuple[RouteRule[Any], ...]]:
        """Return the rules of all endpoints. Raises `ConfigurationError` for rules that are wrong, or on no view."""
        self._take_over(markers)
        above = self._decorated_above(markers)
        table: dict[str | None, tuple[RouteRule[Any], ...]] = {None: self._groups.get(None, ())}
        known: dict[str, Any] = {}
        for endpoint, view in self.app.view_functions.items():
            own = max([rules_of(view), *above.get(endpoint, ())], key=len)
            names = endpoint.split(".")[:-1]
            groups = [None, *(".".join(names[: number + 1]) for number in range(len(names)))]
            rules = (*(rule for name in groups for rule in self._groups.get(name, ())), *own)
            markers.check(rules)
            for rule in own:
                if rule.marker.markers is markers:
                    check_alone(rule.marker, rule, bare(view), known)
            table[endpoint] = rules
        self._rules = table
        return table

    def _take_over(self, markers: Markers) -> None:
        """Make rules of the markers among the functions that Flask calls before requests, in their place."""
        tables = [self.app.before_request_funcs, getattr(self.app, "before_websocket_funcs", {})]
        for table in tables:
            for name, functions in table.items():
                ours = [one for one in functions if isinstance(one, Marker) and one.markers is markers]
                made = [marker.rule_at(*self._names_of(name)) for marker in ours]
                known = self._groups.get(name, ())
                self._groups[name] = (*known, *(rule for rule in made if rule not in known))
                functions[:] = [one for one in functions if not any(one is marker for marker in ours)]

    def _names_of(self, name: str | None) -> tuple[str, str]:
        """Return the full name of a blueprint, or of the app, and the short one."""
        if name is None:
            return f"app {self.app.import_name}", self.app.name
        return f"blueprint {self.app.blueprints[name].import_name}.{name}", name

    def _decorated_above(self, markers: Markers) -> dict[str, list[tuple[RouteRule[Any], ...]]]:
        """Return the rules of decorators that stand above those of routes, by endpoint: no call goes through them.

        Raises `ConfigurationError` if they are those of no view of this app, nor of others with the same stack.
        """
        above: dict[str, list[tuple[RouteRule[Any], ...]]] = {}
        called = {id(each) for view in self._views() for each in unwrapping(view)}
        for decorated in markers.views:
            if id(decorated) in called:
                continue
            endpoints = self._endpoints(unwrapping(decorated))
            if not endpoints and not self.leads_to(decorated):
                endpoints = self._endpoints(_opened(decorated))
            for endpoint in endpoints:
                above.setdefault(endpoint, []).append(rules_of(decorated))
            if not endpoints and not self._lead_to(decorated):
                raise ConfigurationError(
                    f"{rules_of(decorated)[0]!r} stands on {place_of_view(decorated)}, which is the view of no route, "
                    "so it protects nothing. Take it off, register the blueprint of the view, or, if another "
                    "decorator stands between it and the route, give that one functools.wraps"
                )
        return above

    def _endpoints(self, within: Iterable[Any]) -> list[str]:
        found = set(map(id, within))
        return [endpoint for endpoint, view in self.app.view_functions.items() if id(view) in found]

    def _views(self) -> Iterator[Any]:
        """Yield all that Flask calls for a request: views, and the methods of class-based ones."""
        for view in self.app.view_functions.values():
            yield view
            kind = getattr(view, "view_class", None)
            for base in getattr(kind, "__mro__", ()):
                yield from vars(base).values()

    def leads_to(self, decorated: Any) -> bool:
        """Tell whether a view of this app calls a decorated view, or is called by it, as far as that can be seen."""
        within = set(map(id, unwrapping(decorated)))
        return any(each is decorated or id(each) in within for view in self._views() for each in _opened(view))


def _opened(view: Any) -> list[Any]:
    """List a view and all functions that it wraps or holds: a decorator may do without `functools.wraps`."""
    found: list[Any] = []
    waiting = [view]
    while waiting and len(found) < _DEEPEST:
        view = waiting.pop()
        if callable(view) and not any(view is one for one in found):
            found.append(view)
            waiting += [getattr(view, "__wrapped__", None), getattr(view, "func", None)]
            waiting += cells_of(view)
    return found


_DEEPEST = 100
"""So many functions are looked at."""
