"""What stands inside of a driver, as far as an app can be looked into: prefixes that it cuts off, CORS middleware.

Rules:
- A framework's app is taken for what its framework does; whatever stands in front of it (middleware, dispatchers,
  functions and their closures) is searched for the apps that it leads to, and for texts that could be a prefix.
- A prefix that the one app inside surely goes by counts for all rules. All others only close: one too many closes what
  need not be closed, one that is not found would leave it open. `Keyguard(root_path=...)` names what cannot be seen.
- Nothing is called: only what objects and functions hold is looked at, and a bounded part of it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from keyguard.drivers.engine import Engine
from keyguard.spelling import Inside

_MOST = 2000
"""Objects that are looked at."""
_PREFIX = re.compile(r"/[^\s?#*<>|]{1,200}")
_SPEAKING = re.compile("prefix|root|mount|script|base", re.IGNORECASE)
"""Names of settings that may hold a prefix without its slash."""
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, CodeType, re.Pattern)
_FRAMEWORKS = frozenset(
    {
        *("fastapi", "starlette", "flask", "quart", "django", "litestar", "falcon", "blacksheep"),
        *("bottle", "pyramid", "sanic", "aiohttp", "cherrypy"),
    }
)
"""Packages whose apps are no wrappers."""


class AppInside(Inside):
    """What an app shows of itself; it is looked at when it is first asked for, and its own prefix at once."""

    def __init__(self, app: Any, cut: str = "") -> None:
        self._app = app
        self.cut = cut
        self.root = own_prefix(_innermost(app))
        """The prefix that the one app inside goes by, in the place of the server's."""

    @cached_property
    def _found(self) -> _Found:
        return _search(self._app)

    @cached_property
    def hidden(self) -> tuple[str, ...]:
        return tuple(sorted(self._found.own - {self.root, self.cut}))

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        return tuple(sorted(self._found.own | self._found.prefixes))

    @cached_property
    def prefixed(self) -> bool:
        return super().prefixed

    @cached_property
    def answers_preflights(self) -> bool:
        return any(map(_answers_preflights, _in_line(self._app)))


class _Found:
    """The prefixes that were found."""

    def __init__(self) -> None:
        self.own: set[str] = set()
        """Of apps that go by one of their own, whatever the server says."""
        self.prefixes: set[str] = set()
        """Of mounts, and texts of what stands in front of apps."""


def own_prefix(app: Any) -> str:
    """The prefix that an app goes by, where it puts one of its own in the place of the server's."""
    homes = _homes(app)
    if "fastapi.applications" in homes:
        return str(app.root_path or "")
    if "django.core.handlers.asgi" in homes:
        settings: Any = sys.modules["django.conf"].settings
        return str(settings.FORCE_SCRIPT_NAME or "")
    return ""


# -- the line of what each request passes -----------------------------------------------------------------------


def _in_line(app: Any) -> Iterator[Any]:
    """What every request passes, from the outside: each leads to one app alone."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen and len(seen) < 100:
        seen.add(id(app))
        yield app
        if _is_framework(app):
            return
        further = [part for part in _distinct(_parts(app)) if _is_app(part)]
        app = further[0] if len(further) == 1 else None


def _innermost(app: Any) -> Any:
    return [*_in_line(app)][-1]


def _answers_preflights(app: Any) -> bool:
    """Whether it is CORS middleware, or an app with one, that lets no preflight through to a view."""
    homes = _homes(app)
    if "starlette.middleware.cors" in homes:
        return True
    if "starlette.applications" in homes:
        return any("starlette.middleware.cors" in _homes_of(layer.cls) for layer in app.user_middleware)
    if "litestar.app" in homes:
        return app.cors_config is not None
    if homes & {"django.core.handlers.asgi", "django.core.handlers.wsgi"}:
        settings: Any = sys.modules["django.conf"].settings
        everywhere = getattr(settings, "CORS_URLS_REGEX", r"^.*$") == r"^.*$"
        return everywhere and "corsheaders.middleware.CorsMiddleware" in settings.MIDDLEWARE
    return False


# -- all that can be reached ------------------------------------------------------------------------------------


def _search(app: Any) -> _Found:
    found = _Found()
    waiting, seen = [app], {id(app)}
    while waiting and len(seen) < _MOST:
        at = waiting.pop()
        further = _of_framework(at, found) if _is_framework(at) else _of_wrapper(at, found)
        for part in further:
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    return found


def _of_wrapper(wrapper: Any, found: _Found) -> list[Any]:
    """What stands in front of other apps: these, and its texts."""
    apps = [part for part in _parts(wrapper) if _is_app(part)]
    if apps and not _is_ours(wrapper):
        found.prefixes.update(_texts(wrapper))
    return apps


def _of_framework(app: Any, found: _Found) -> list[Any]:
    """What is mounted inside of a framework's app."""
    own = own_prefix(app)
    if own.strip("/"):
        found.own.add(own)
    further: list[Any] = []
    held = getattr(app, "__dict__", {})
    for layer in held.get("user_middleware", ()):  # of Starlette
        found.prefixes.update(_strings([*getattr(layer, "args", ()), *getattr(layer, "kwargs", {}).items()]))
    for prefix, mounted in _mounts(_routes(app)):
        found.prefixes.update(_strings([prefix]))
        further.append(mounted)
    # Middleware that was put in the place of the app's own callable.
    further += [held[name] for name in ("wsgi_app", "asgi_app") if name in held]
    return [part for part in further if part is not None]


def _routes(app: Any) -> Iterable[Any]:
    if _homes(app) & {"starlette.applications", "starlette.routing", "litestar.app"}:
        routes = app.routes
        return routes if isinstance(routes, list) else ()
    return ()


def _mounts(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Apps that are mounted among routes. Routes that only stand together under a prefix are the app's own."""
    for route in routes:
        whole = prefix + str(getattr(route, "path", ""))
        included = getattr(route, "original_router", None)  # of FastAPI
        if included is not None:
            yield from _mounts(included.routes, prefix + str(route.include_context.prefix))
        elif getattr(getattr(route, "route_handler", None), "is_mount", False):  # of Litestar
            yield whole, route.route_handler.fn
        elif hasattr(route, "routes"):  # Starlette's Mount and Host
            mounted = getattr(route, "_base_app", route.app)
            if "starlette.routing" in _homes(mounted):
                yield from _mounts(mounted.routes, whole)
            else:
                yield whole, route.app


# -- objects and functions --------------------------------------------------------------------------------------


def _homes(thing: Any) -> frozenset[str]:
    return _homes_of(type(thing))


def _homes_of(kind: Any) -> frozenset[str]:
    return frozenset(base.__module__ for base in getattr(kind, "__mro__", ()))


def _is_ours(thing: Any) -> bool:
    return isinstance(getattr(thing, "engine", None), Engine)


def _is_framework(thing: Any) -> bool:
    """Whether it is an app of a framework, or a mount of one, and not middleware that came with it."""
    homes = _homes(thing)
    names = {home.partition(".")[0] for home in homes}
    return bool(names & _FRAMEWORKS) and not any(".middleware" in home for home in homes)


def _is_app(thing: Any) -> bool:
    """Whether it can be called as an ASGI or a WSGI app is: by the names and number of what it takes."""
    if isinstance(thing, _ATOMS) or not callable(thing):
        return False
    if _is_framework(thing) or _is_ours(thing):
        return True
    if isinstance(thing, partial):
        return _is_app(thing.func) or any(map(_is_app, (*thing.args, *thing.keywords.values())))
    function = thing if isinstance(thing, (FunctionType, MethodType)) else _call_of(thing)
    bound = not isinstance(thing, FunctionType)
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType):
        return False
    code = function.__code__
    names = code.co_varnames[: code.co_argcount][1 if bound else 0 :]
    if code.co_flags & 0x04 and not names:  # `*args`
        return True
    return (
        (len(names) == 3 and names[2] == "send") or (len(names) >= 2 and "start" in names[1]) or names[:1] == ("scope",)
    )


def _parts(thing: Any) -> Iterator[Any]:
    """What an object or a function refers to by itself; what stands in lists and mappings of it, too."""
    if _is_ours(thing):
        yield thing.app  # the rest is keyguard's own
        return
    for part in _references(thing):
        if isinstance(part, Mapping):
            yield from [inner for value in part.values() for inner in _flat(value)]
        else:
            yield from _flat(part)


def _flat(part: Any) -> list[Any]:
    if isinstance(part, (list, tuple, set, frozenset)):
        return [inner for item in [*part][:_MOST] for inner in (item if isinstance(item, tuple) else (item,))]
    return [part]


def _references(thing: Any) -> Iterator[Any]:
    if isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, MethodType):
        yield thing.__self__
    elif isinstance(thing, FunctionType):
        yield from _of_function(thing)
    else:
        yield from _attributes(thing).values()
        call = _call_of(thing)
        if isinstance(call, FunctionType):
            yield from _of_function(call)


def _of_function(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue  # not filled yet
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield wrapped
    for code in _codes(function.__code__):
        yield from [function.__globals__[name] for name in code.co_names if name in function.__globals__]


def _call_of(thing: Any) -> Any:
    return inspect.getattr_static(type(thing), "__call__", None)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _attributes(thing: Any) -> dict[str, Any]:
    """What an instance holds, and the settings of its class."""
    held: dict[str, Any] = {}
    for base in reversed(type(thing).__mro__):
        for name, value in vars(base).items():
            if isinstance(value, str) and not name.startswith("__"):
                held[name] = value
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                held[name] = object.__getattribute__(thing, name)
            except AttributeError:
                continue
    return held | getattr(thing, "__dict__", {})


def _texts(thing: Any) -> Iterator[str]:
    """Texts of what stands in front of an app that could be a prefix."""
    if isinstance(thing, (partial, MethodType, FunctionType)):
        pass
    else:
        for name, value in _attributes(thing).items():
            if isinstance(value, str) and _SPEAKING.search(name):
                yield from _strings(["/" + value.strip("/")])
    yield from _strings(_references(thing))
    function = thing if isinstance(thing, FunctionType) else _call_of(thing)
    if isinstance(function, FunctionType):
        for code in _codes(function.__code__):
            yield from _strings(code.co_consts)


def _strings(values: Iterable[Any]) -> Iterator[str]:
    """Texts that could be a prefix, in a list of whatever, and in the mappings and lists there."""
    for value in values:
        if isinstance(value, str):
            if _PREFIX.fullmatch(value) and value.strip("/"):
                yield "/" + value.strip("/")
        elif isinstance(value, Mapping):
            yield from _strings([*value.keys(), *(text for text in value.values() if isinstance(text, str))])
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield from _strings([text for text in [*value][:_MOST] if isinstance(text, str)])


def _distinct(things: Iterable[Any]) -> list[Any]:
    return [*{id(thing): thing for thing in things}.values()]
