"""The routes of an app, as its framework lists them, with their templates written as keyguard writes patterns.

Known are Starlette and FastAPI, Litestar, Flask and Quart, Django, Falcon and Bottle. Nothing is called but what lists
routes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from keyguard.drivers.inspection.app import in_line
from keyguard.drivers.inspection.objects import class_of_view, modules_of
from keyguard.drivers.inspection.starlette_routes import met_in

SOME = "{}"
"""The segment of a template in whose place there may be any text."""
REST = "*"
"""The last segment of a template, if the rest of the path may be anything."""


class Route(NamedTuple):
    """A route of an app."""

    path: str
    """Its template, such as `"/items/{id}"`, as the framework has it."""
    segments: tuple[str, ...]
    """The same in segments: a text, `SOME` or `REST`."""
    methods: frozenset[str]
    """The methods that it answers; none if it answers all of them, or is that of a websocket."""
    view: Any
    """The function or the class that answers; `None` if that cannot be seen."""
    of_framework: Any = None
    """The route as its framework knows it: of Starlette `Met`, of Flask the name of the endpoint."""

    @property
    def name(self) -> str:
        """Return what developers call it: `"GET /items/{id}"`."""
        return f"{','.join(sorted(self.methods - {'HEAD', 'OPTIONS'})) or 'ANY'} {self.path}"


def routes_of(app: Any) -> list[Route] | None:
    """List the routes of the app inside; `None` if it is not an app of a framework that is known."""
    for at in in_line(app):
        for home, read in _READERS.items():
            if home in modules_of(at):
                return list(read(at))
    return None


def segments_of(template: str) -> tuple[str, ...]:
    """Cut a template, or a pattern of keyguard's, into segments.

    Variables are written `{name}`, `{name:int}`, `<name>` or `<int:name>`. One that is a part of a segment makes the
    segment one of any text, and one that takes slashes makes all from there on the rest.
    """
    found: list[str] = []
    for segment in template.strip("/").split("/"):
        if segment == REST or _OF_PATHS.search(segment) is not None:
            return (*found, REST)
        found.append(SOME if _VARIABLE.search(segment) is not None else segment)
    return tuple(found)


_VARIABLE = re.compile(r"\{.*?\}|<.*?>")
_OF_PATHS = re.compile(r"\{[^}]*:path\}|<path[:(][^>]*>|<[^>]*:path>|\{\*|<[^>]*:re:[^>]*>")


def _route(path: str, methods: Iterable[str] | None, view: Any, of_framework: Any = None) -> Route:
    return Route(path or "/", segments_of(path), frozenset(methods or ()), view, of_framework)


# -- frameworks -------------------------------------------------------------------------------------------------


def _of_starlette(app: Any) -> Iterator[Route]:
    for met in met_in(app) or ():
        yield _route(met.path, met.methods, met.view, met)


def _of_litestar(app: Any) -> Iterator[Route]:
    for route in app.routes:
        handlers = getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]
        path = route.path + "/*" if any(getattr(handler, "is_mount", False) for handler in handlers) else route.path
        for handler in handlers:
            methods = getattr(handler, "http_methods", None)
            if methods == {"OPTIONS"} and len(handlers) > 1:
                continue  # which Litestar adds by itself
            yield _route(path, methods, getattr(handler, "fn", None))


def _of_flask(app: Any) -> Iterator[Route]:
    for rule in app.url_map.iter_rules():
        yield _route(rule.rule, rule.methods, app.view_functions.get(rule.endpoint), rule.endpoint)


def django_routes() -> Iterator[Route]:
    """List the routes of the Django project whose settings are in force."""
    from django.urls import get_resolver

    yield from _of_patterns(get_resolver().url_patterns, "")


def _of_patterns(patterns: Sequence[Any], prefix: str) -> Iterator[Route]:
    for pattern in patterns:
        text = str(pattern.pattern)
        if hasattr(pattern.pattern, "_regex_pattern") or type(pattern.pattern).__name__ == "RegexPattern":
            text = as_template(text)
        below = getattr(pattern, "url_patterns", None)
        if below is not None:
            yield from _of_patterns(below, prefix + text)
            continue
        view = pattern.callback
        methods = {name.upper() for name in getattr(view, "actions", None) or ()}
        kind = class_of_view(view)
        if not methods and kind is not None:
            methods = {name.upper() for name in getattr(kind, "http_method_names", ()) if hasattr(kind, name)}
        yield _route("/" + prefix + text, methods, view)


def as_template(text: str) -> str:
    """Return a regular expression of Django's as a template; a template stays as it is."""
    if _SIGNS.search(text) is None:
        return text
    return _REGEX_GROUP.sub("{}", text.replace("^", "").replace(r"\Z", "").replace("$", ""))


_SIGNS = re.compile(r"[\^$(\[\\]")
_REGEX_GROUP = re.compile(r"\((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*\)|\\.|[\[][^\]]*\][*+?]?")


def _of_falcon(app: Any) -> Iterator[Route]:
    from falcon.inspect import inspect_routes

    for route in inspect_routes(app):
        methods = [method.method for method in route.methods if not method.internal]
        yield _route(route.path, methods, None)


def _of_bottle(app: Any) -> Iterator[Route]:
    for route in app.routes:
        yield _route(route.rule, () if route.method in ("ANY", "PROXY") else (route.method,), route.callback)


_READERS: dict[str, Callable[[Any], Iterable[Route]]] = {
    "starlette.applications": _of_starlette,
    "starlette.routing": _of_starlette,
    "litestar.app": _of_litestar,
    "flask.app": _of_flask,
    "quart.app": _of_flask,
    "django.core.handlers.base": lambda app: django_routes(),
    "falcon.app": _of_falcon,
    "bottle": _of_bottle,
}
