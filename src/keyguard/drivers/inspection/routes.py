"""The routes of an app, as its framework lists them, with their templates written as keyguard writes patterns.

Known are Starlette and FastAPI, Litestar, Flask and Quart, Django, Falcon and Bottle. Nothing is called but what lists
routes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from keyguard.drivers.inspection.app import in_line
from keyguard.drivers.inspection.django_routes import views_of
from keyguard.drivers.inspection.objects import modules_of
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
    return _routes_of(app, 0)


def _routes_of(app: Any, depth: int) -> list[Route] | None:
    for at in in_line(app):
        homes = modules_of(at)
        if _DISPATCHER in homes and depth < _DEEPEST:
            own = _routes_of(at.app, depth + 1)
            return None if own is None else [*own, *_mounted(at, depth)]
        for home, read in _READERS.items():
            if home in homes:
                before = getattr(at, "__dict__", {}).get("wsgi_app")  # which may be in the place of the app's own
                return [*read(at), *(_mounted(before, depth) if _DISPATCHER in modules_of(before) else ())]
    return None


def _mounted(dispatcher: Any, depth: int) -> Iterator[Route]:
    """List the routes of the apps that a dispatcher of Werkzeug's hands requests to, by prefix."""
    for prefix, app in dispatcher.mounts.items() if depth < _DEEPEST else ():
        for route in _routes_of(app, depth + 1) or [_route("/*", (), app)]:
            path = f"{prefix}{route.path}"
            yield Route(path, (*segments_of(prefix), *route.segments), route.methods, route.view)


_DISPATCHER = "werkzeug.middleware.dispatcher"
_DEEPEST = 5
"""So many dispatchers may lead to each other."""


@lru_cache(maxsize=4096)
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
        text = rule.rule
        for name, converter in getattr(rule, "_converters", {}).items():
            if not getattr(converter, "part_isolating", True):  # it may take slashes, as that for paths does
                text = re.sub(rf"<(?:[^<>]+:)?{re.escape(name)}>", f"<path:{name}>", text)
        yield _route(rule.rule, rule.methods, app.view_functions.get(rule.endpoint), rule.endpoint)._replace(
            segments=segments_of(text)
        )


def django_routes() -> Iterator[Route]:
    """List the routes of the Django project whose settings are in force."""
    from django.urls import get_resolver

    for template, methods, view in views_of(get_resolver().url_patterns):
        yield _route(template, methods, view)


def as_template(text: str) -> str:
    """Return a regular expression of Django's as a template; a template stays as it is."""
    if _SIGNS.search(text) is None:
        return text
    return _REGEX_GROUP.sub("{}", text.replace("^", "").replace(r"\Z", "").replace("$", ""))


_SIGNS = re.compile(r"[\^$(\[\\]")
_REGEX_GROUP = re.compile(r"\((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*\)|\\.|[\[][^\]]*\][*+?]?")


def _of_falcon(app: Any) -> Iterator[Route]:
    from falcon.inspect import inspect_routes, inspect_sinks, inspect_static_routes

    for route in inspect_routes(app):
        methods = [method.method for method in route.methods if not method.internal]
        yield _route(route.path, methods, None)
    for static in inspect_static_routes(app):
        yield _route(static.prefix.rstrip("/") + "/*", ("GET", "HEAD", "OPTIONS"), None)
    for sink in inspect_sinks(app):  # whose prefixes are regular expressions
        prefix = sink.prefix.rstrip("/") if _PLAIN.fullmatch(sink.prefix) else ""
        yield _route(f"{prefix}/*", (), None)


_PLAIN = re.compile(r"[\w/.~-]*")


def _of_bottle(app: Any) -> Iterator[Route]:
    for route in app.routes:
        rule = _OLD_STYLE.sub(lambda found: "{rest:path}" if found[1] else "{name}", route.rule)
        yield _route(rule, () if route.method in ("ANY", "PROXY") else (route.method,), route.callback)


_OLD_STYLE = re.compile(r"(?<=/):\w*(#[^#]*#)?")
"""A variable as Bottle has it since its first versions: `:name`, or `:name#expression#`."""

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
