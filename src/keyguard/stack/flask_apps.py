"""The Flask and Quart apps that a stack stands around, in which the rules at their routes are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from keyguard.drivers.inspection.app import frameworks_within, in_line
from keyguard.drivers.inspection.objects import modules_of

if TYPE_CHECKING:
    from keyguard.stack.flask_routes import FlaskRoutes
    from keyguard.stack.markers import Markers
    from keyguard.stack.route_rules import RouteRule

_HOMES = {"flask.app": "flask", "quart.app": "quart"}
"""The modules of apps, and those in which the current request stands."""


class FlaskApps:
    """The Flask and Quart apps that one stack stands around."""

    def __init__(self) -> None:
        self._known: WeakSet[FlaskRoutes] = WeakSet()
        self._others = False
        """Whether the stack stands around other apps, too: their views are not known here."""

    def watch(self, stack: Any, app: Any) -> None:
        """Have the rules of the stack asked in the apps of Flask and of Quart that it is put around."""
        within = frameworks_within(app)
        for inner in within:
            home = next((home for module, home in _HOMES.items() if module in modules_of(inner)), None)
            if home is not None and not any(routes.app is inner for routes in self._known):
                self._add(stack, inner, home)
            self._others = self._others or home is None
        self._others = self._others or not within

    def _add(self, stack: Any, app: Any, home: str) -> None:
        from keyguard.stack.flask_routes import FlaskRoutes

        self._known.add(FlaskRoutes(stack, self.lead_to, app, home))

    def rules_of(self, app: Any, markers: Markers | None) -> dict[str | None, tuple[RouteRule[Any], ...]]:
        """Return the rules of all endpoints of an app that the stack stands around.

        Raises `ConfigurationError`, before any request does, for rules that are wrong, or on no view.
        """
        innermost = [*in_line(app)][-1]
        for routes in [*self._known]:
            if routes.app is innermost and markers is not None:
                return routes.find(markers)
        return {}

    def lead_to(self, decorated: Any) -> bool:
        """Tell whether a decorated view belongs to a view of some app, or may do so."""
        return self._others or any(routes.leads_to(decorated) for routes in self._known)
