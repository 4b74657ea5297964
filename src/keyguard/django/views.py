"""The views of a project, with the rules that stand on them: for checks, which look before any request comes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from keyguard.drivers.inspection.code import cells_of
from keyguard.drivers.inspection.objects import class_of_view, distinct
from keyguard.drivers.inspection.routes import django_routes
from keyguard.stack.markers import Marker
from keyguard.stack.route_rules import RouteRule, rules_of


def views() -> Iterator[Any]:
    """List the callables that the URLs of the project lead to, each once."""
    yield from distinct(route.view for route in django_routes())


def load_views() -> None:
    """Import all views, so that the rules on them are there. Raises `ConfigurationError` for those that cannot work."""
    for view in views():
        for _ in rules_at_methods(view):
            pass


def markers_of(view: Any) -> list[Marker[Any]]:
    """List the markers on a view and, if it was made of a class, on the methods of that."""
    found: list[Marker[Any]] = []
    owner = class_of_view(view)
    methods = [method for _, method in inspect.getmembers(owner, inspect.isfunction)] if owner else []
    for function in [view, *methods]:
        found += [rule.marker for rule in rules_of(function) if isinstance(rule.marker, Marker)]
        for part in cells_of(function):
            # `method_decorator` keeps the decorators, and REST framework's `api_view` the function it has wrapped.
            if isinstance(part, FunctionType):
                found += [rule.marker for rule in rules_of(part) if isinstance(rule.marker, Marker)]
            else:
                found += [
                    one for one in (part if isinstance(part, (list, tuple)) else [part]) if isinstance(one, Marker)
                ]
    return [*dict.fromkeys(found)]


def rules_at_methods(view: Any) -> Iterator[list[RouteRule[Any]]]:
    """Make the rules at each method that `method_decorator` decorates, which it does with the first request otherwise.

    Raises `ConfigurationError` for those that cannot work.
    """
    owner = class_of_view(view)
    for _, function in inspect.getmembers(owner, inspect.isfunction) if owner else ():
        parts = dict(zip(function.__code__.co_freevars, cells_of(function), strict=False))
        decorators, method = parts.get("decorators"), parts.get("method")
        if isinstance(decorators, (list, tuple)) and isinstance(method, FunctionType):
            markers = [one for one in decorators if isinstance(one, Marker)]
            if markers:
                found = [marker.rule_of_method(owner, method) for marker in markers]
                markers[0].markers.check(found)
                yield found


def classes_of_rest(view: Any) -> Iterator[type]:
    """List the classes for throttles and authentication of a view of REST framework's."""
    owner = class_of_view(view)
    for attribute in ("throttle_classes", "authentication_classes"):
        for kind in getattr(owner, attribute, None) or ():
            if inspect.isclass(kind):
                yield kind
