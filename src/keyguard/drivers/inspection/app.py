"""Look into an app, as far as that is possible: for prefixes that it cuts off, and for CORS middleware.

Rules:
- A framework's app is taken for what its framework does; whatever stands in front of it (middleware, dispatchers,
  functions and their closures) is searched for the apps that it leads to, and for texts that could be a prefix.
- A prefix that the one app inside surely goes by counts for all rules. All others only close: one too many closes what
  need not be closed, one that is not found would leave it open.
- Code of the app's own that may give the app another path, or hands a request on to what cannot be seen, may cut off
  any prefix: then each rest of a path is what may be routed. `Keyguard(root_path=...)` says which prefix it is.
- Nothing is called: only what objects and functions hold is looked at, and a bounded part of it.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from types import FunctionType, MethodType
from typing import Any, Literal, TypeVar

from keyguard.drivers.inspection.code import (
    functions_of,
    gives_another_path,
    held_by,
    inside_of,
    is_a,
    is_known,
    methods_of,
    passes_on,
)
from keyguard.drivers.inspection.cors import cors_among, tell_of_cors
from keyguard.drivers.inspection.credentials import seen_within
from keyguard.drivers.inspection.objects import (
    MOST,
    distinct,
    django_settings,
    early_middleware,
    further_parts,
    is_app,
    is_framework,
    is_ours,
    modules_of,
    modules_of_class,
    parts,
    strings,
    texts,
)
from keyguard.http.paths import prefix_pattern
from keyguard.http.spelling import Inside

T = TypeVar("T")

log = logging.getLogger("keyguard")


class AppInside(Inside):
    """An app, looked into when something of it is first asked for; its own prefix is found at once."""

    def __init__(self, app: Any, cut: str | Literal[False] = "") -> None:
        """`cut` is the prefix that the app is said to cut off by itself; false if it is said to cut off none."""
        self.app = app
        self._told = cut != ""
        self.cut = cut or ""
        self.root = self._looked(lambda: own_prefix(_innermost(app)), "")
        """The prefix that the one app inside goes by, in the place of the server's."""

    def _looked(self, look: Callable[[], T], else_: T) -> T:
        try:
            return look()
        except Exception:
            log.warning(
                "cannot look into %s: if it cuts off a prefix of paths, name it by Keyguard(root_path=...)",
                type(self.app).__name__,
                exc_info=True,
            )
            return else_

    @cached_property
    def _found(self) -> _Found:
        return self._looked(lambda: _search(self.app), _Found(unseen=True))

    @cached_property
    def hidden(self) -> tuple[str, ...]:
        return tuple(sorted(self._found.own - {self.root, self.cut}))

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        return tuple(sorted(self._found.own | self._found.prefixes))

    @cached_property
    def cuts_unseen(self) -> bool:
        return self._found.unseen and not self._told

    @cached_property
    def _cuts(self) -> re.Pattern[str] | None:
        # An own prefix is cut off by some wherever it stands.
        anywhere = [".*" + re.escape(prefix) for prefix in (self.cut, self.root) if prefix]
        found = [*anywhere, *(prefix_pattern(prefix).pattern for prefix in self.prefixes)]
        return re.compile("|".join(found), re.IGNORECASE | re.DOTALL) if found else None

    @cached_property
    def before(self) -> str:
        return self._looked(lambda: _cut_before(_innermost(self.app)), "")

    def may_cut(self, path: str) -> bool:
        if self.before:
            return True
        if self.cuts_unseen and "/" in path[1:]:
            return True
        cuts = self._cuts
        return cuts is not None and cuts.match(path) is not None

    def seen(self) -> tuple[bool, tuple[Any, ...]]:
        """Look anew: what an app puts together with its first request is not there before."""
        nothing: tuple[bool, tuple[Any, ...]] = (True, ())
        return self._looked(lambda: seen_within(self.app, lambda inner: _of_framework(inner, _Found())), nothing)

    @cached_property
    def _told_of_cors(self) -> bool:
        found = self._looked(lambda: cors_among(in_line(self.app)), "")
        if found:
            tell_of_cors(found)
        return True

    def tell_of_cors(self) -> None:
        assert self._told_of_cors  # once

    @cached_property
    def answers_preflights(self) -> bool:
        return self._looked(lambda: any(map(_answers_preflights, in_line(self.app))), False)


class _Found:
    """The prefixes that were found."""

    def __init__(self, *, unseen: bool = False) -> None:
        self.own: set[str] = set()
        """The own ones of apps that go by these, whatever the server says."""
        self.prefixes: set[str] = set()
        """Those of mounts, and texts of wrappers."""
        self.unseen = unseen
        """Whether something may cut off prefixes that are not among these."""


def own_prefix(app: Any) -> str:
    """Find the prefix that an app goes by, if it puts one of its own in the place of the server's."""
    homes = modules_of(app)
    if "fastapi.applications" in homes:
        return str(app.root_path or "")
    if "django.core.handlers.asgi" in homes:
        settings: Any = sys.modules["django.conf"].settings
        return str(settings.FORCE_SCRIPT_NAME or "")
    return ""


def _cut_before(app: Any) -> str:
    """Find the prefix that Litestar has cut off before it runs the middleware of a route: that of a mount.

    It hands `/x/` to what is mounted under `/sub`, for `/sub/x`, and middleware in its list stands there.
    """
    route: Any = app.__self__ if is_a(app, MethodType) else None
    if "litestar.routes.asgi" in modules_of(route) and route.route_handler.is_mount:
        return str(route.path).rstrip("/")
    return ""


# -- the line of what each request passes -----------------------------------------------------------------------


def in_line(app: Any) -> Iterator[Any]:
    """List what every request passes, from the outside: each leads to one app alone."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen and len(seen) < 100:
        seen.add(id(app))
        yield app
        if is_framework(app):
            return
        further = [part for part in distinct(parts(app)) if is_app(part)]
        app = further[0] if len(further) == 1 else None


def frameworks_within(app: Any) -> list[Any]:
    """List the apps of frameworks that a wrapper leads to, one or several, as a dispatcher does."""
    found: list[Any] = []
    waiting, seen = [app], {id(app)}
    while waiting and len(seen) < MOST:
        at = waiting.pop()
        if is_framework(at):
            found.append(at)
            continue
        further: list[Any] = []
        with suppress(Exception):  # what cannot be looked into leads nowhere
            further = [part for part in distinct(parts(at)) if is_app(part) and id(part) not in seen]
        seen.update(map(id, further))
        waiting += further
    return found


def _innermost(app: Any) -> Any:
    return [*in_line(app)][-1]


def _answers_preflights(app: Any) -> bool:
    """Tell whether it is CORS middleware, or an app with one, that lets no preflight through to a view."""
    homes = modules_of(app)
    if _calls_otherwise(type(app)):
        return False
    if "starlette.middleware.cors" in homes:
        return True
    if "starlette.applications" in homes:
        return _cors_first(app.user_middleware)
    if "litestar.app" in homes:
        return app.cors_config is not None
    settings = django_settings(app)
    if settings is not None:
        everywhere = getattr(settings, "CORS_URLS_REGEX", r"^.*$") == r"^.*$"
        return everywhere and "corsheaders.middleware.CorsMiddleware" in settings.MIDDLEWARE
    return False


def _calls_otherwise(kind: Any) -> bool:
    """Tell whether a subclass has a `__call__` of its own, which may answer some requests in another way."""
    call = inspect.getattr_static(kind, "__call__", None)  # which agents put something of theirs in the place of
    return is_a(call, FunctionType) and not is_known(call)


def _cors_first(layers: Iterable[Any]) -> bool:
    """Tell whether one of some middleware is for CORS, and none further out leads to another app."""
    for layer in layers:
        if "starlette.middleware.cors" in modules_of_class(layer.cls):
            return not _calls_otherwise(layer.cls)
        settings = [*getattr(layer, "args", ()), *getattr(layer, "kwargs", {}).values()]
        if any(is_app(part) for setting in settings for part in inside_of(setting)):
            return False
    return False


# -- all that can be reached ------------------------------------------------------------------------------------


def _search(app: Any) -> _Found:
    found = _Found()
    waiting, seen = [app], {id(app)}
    while waiting and len(seen) < MOST:
        at = waiting.pop()
        further = _of_framework(at, found) if is_framework(at) else _of_wrapper(at, found)
        for part in further:
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    found.unseen = found.unseen or bool(waiting)  # more than is looked at
    return found


def _of_wrapper(wrapper: Any, found: _Found) -> list[Any]:
    """Note the texts of a wrapper, and what its code does; returns the apps that it leads to."""
    apps = [part for part in parts(wrapper) if is_app(part)]
    if is_ours(wrapper):
        return apps
    apps += [part for part in (*parts(wrapper), *further_parts(wrapper)) if is_app(part, loosely=True)]
    if apps:
        found.prefixes.update(texts(wrapper))
    functions = functions_of(wrapper)
    found.unseen = found.unseen or gives_another_path(functions) or (not apps and passes_on(functions))
    return apps


def _of_framework(app: Any, found: _Found) -> list[Any]:
    """Note the prefixes of an app; returns the apps that are mounted in it."""
    own = own_prefix(app)
    if own.strip("/"):
        found.own.add(own)
    further: list[Any] = []
    held = held_by(app)
    for layer in held.get("user_middleware", ()):  # of Starlette
        settings = [*getattr(layer, "args", ()), *getattr(layer, "kwargs", {}).values()]
        found.prefixes.update(strings(settings))
        further += [part for setting in settings for part in inside_of(setting) if is_app(part)]
        for code in (layer.cls, *settings):
            _read(code, found)
    _read_own_calls(app, found)
    for prefix, mounted in _mounts(_routes(app)):
        found.prefixes.update(strings([prefix]))
        further.append(mounted)
    if "blacksheep.server.application" in modules_of(app):
        for route in app.mount_registry.mounted_apps:
            found.prefixes.update(strings([route.pattern.decode("latin-1").removesuffix("/*")]))
            further.append(route.handler)
    for component in early_middleware(app):
        _read(component, found)
    # Middleware that was put in the place of the app's own callable, and what answers if no route does.
    further += [held[name] for name in ("wsgi_app", "asgi_app") if name in held]
    further += [part for part in (held_by(held.get("router")).get("default"),) if not is_a(part, MethodType)]
    return [part for part in further if part is not None]


def _read(code: Any, found: _Found) -> None:
    """Note what a class or a function of middleware does that the app has not called yet."""
    functions = functions_of(code)
    if functions:
        found.prefixes.update(texts(code))
        found.unseen = found.unseen or gives_another_path(functions)


def _read_own_calls(app: Any, found: _Found) -> None:
    """Note what the methods do by which a subclass of a framework's app puts itself in front of it."""
    for function in methods_of(type(app)):
        if function.__name__ in _CALLS:
            _read(function, found)


_CALLS = frozenset(
    {"__call__", "wsgi_app", "asgi_app", "full_dispatch_request", "get_response", "build_middleware_stack"}
)


def _routes(app: Any) -> Iterable[Any]:
    if modules_of(app) & {"starlette.applications", "starlette.routing", "litestar.app"}:
        routes = app.routes
        return routes if isinstance(routes, list) else ()
    return ()


def _mounts(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List the apps that are mounted among routes. Routes that only stand together under a prefix are the app's own."""
    for route in routes:
        whole = prefix + str(getattr(route, "path", ""))
        included = getattr(route, "original_router", None)  # of FastAPI
        if included is not None:
            yield from _mounts(included.routes, prefix + str(route.include_context.prefix))
        elif getattr(getattr(route, "route_handler", None), "is_mount", False):  # of Litestar
            yield whole, route.route_handler.fn
        elif hasattr(route, "routes"):  # Starlette's Mount and Host
            mounted = getattr(route, "_base_app", route.app)
            if "starlette.routing" in modules_of(mounted):
                yield from _mounts(mounted.routes, whole)
            else:
                yield whole, route.app
        elif is_framework(getattr(route, "endpoint", None)):  # an app in the place of a view
            yield whole, route.endpoint
