"""Code of an app's own in front of it: what it cuts off leads past no rule, and what only looks on closes nothing."""

from __future__ import annotations

import os
import re
import sys
import time
import types
from collections import namedtuple
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import falcon
import pytest
from django.test.utils import override_settings
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import Response as WerkzeugResponse

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit, path
from keyguard.drivers.inspection.code import inside_of
from tests.drivers.test_inside import (
    NAMES,
    PLAIN,
    URLS,
    Resource,
    Stripping,
    closure,
    fastapi_app,
    flask_app,
    routes_run,
    starlette_app,
    targets_of,
    with_middleware,
)
from tests.support.frameworks import APPS
from tests.support.harness import Ask, ask_asgi, ask_wsgi

TARGETS = targets_of(("", "/api", "/v1", "/api/v1", "/x/api"), ("",))

# -- what cuts off a prefix, in ways that no text in it shows ---------------------------------------------------------

config: Any = types.ModuleType("config")
config.PREFIX = "/api"
config.app = fastapi_app("/api")
os.environ["KEYGUARD_TEST_PREFIX"] = "/api"
PATTERN = re.compile(r"^/(api|v1)(?=/)")
KEYS = ("path", "raw_path")
PATH_KEY = "path"


class Config:
    PREFIX = "/api"
    app = fastapi_app("/api")


@dataclass
class Settings:
    prefix: str = "/api"


SETTINGS = Settings()


def helper(path: str) -> str:
    return path.removeprefix("/api")


def by_pattern(path: str) -> str:
    match = re.match(r"^/(api|v1)(/.*)$", path)
    return match.group(2) if match else path


def set_path(scope: Any, path: str) -> None:
    scope["path"] = path


CUTS: dict[str, Callable[[str], str]] = {
    "a module's": lambda p: p.removeprefix(config.PREFIX),
    "a class's": lambda p: p.removeprefix(Config.PREFIX),
    "an object's": lambda p: p.removeprefix(SETTINGS.prefix),
    "the environment's": lambda p: p.removeprefix(os.environ["KEYGUARD_TEST_PREFIX"]),
    "a helper's": lambda p: helper(p),
    "a pattern": lambda p: PATTERN.sub("", p),
    "another pattern": by_pattern,
    "a pattern in place": lambda p: re.sub(r"^/v\d+", "", p),
    "a split": lambda p: "/" + p.split("/", 2)[2] if p.startswith("/api/") else p,
    "the first segment, whatever it is": lambda p: "/" + p.split("/", 2)[2] if p.count("/") > 1 else p,
    "all but the last segment": lambda p: "/" + p.rsplit("/", 1)[1],
    "a text put together": lambda p: p.removeprefix("/" + "a" + "pi"),
}
WRITES: dict[str, Callable[[Any, str], Any]] = {
    "a copy": lambda scope, path: {**scope, "path": path},
    "a copy with more": lambda scope, path: {**scope, "path": path, "root_path": ""},
    "a call of dict": lambda scope, path: dict(scope, path=path),
    "an item": lambda scope, path: scope.__setitem__("path", path) or scope,
    "an update": lambda scope, path: scope.update(path=path) or scope,
    "an update by a mapping": lambda scope, path: scope.update({"path": path}) or scope,
    "a union": lambda scope, path: scope | {"path": path},
    "a helper": lambda scope, path: set_path(scope, path) or scope,
    "keys in a loop": lambda scope, path: [scope.update({key: path}) for key in KEYS[:1]] and scope,
    "a key by name": lambda scope, path: scope.update({PATH_KEY: path}) or scope,
}


def cutting(cut: Callable[[str], str], write: Callable[[Any, str], Any] = WRITES["a copy"]) -> Any:
    app = starlette_app()

    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = write(scope, cut(scope["path"]) or "/")
        await app(scope, receive, send)

    return wrapper


class Cutting:
    def __init__(self, app: Any) -> None:
        self.app = app

    def cut(self, path: str) -> str:
        return path.removeprefix("/api")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["path"] = self.cut(scope["path"]) or "/"
        await self.app(scope, receive, send)


class CuttingByProperty(Cutting):
    @property
    def prefix(self) -> str:
        return "/a" + "pi"

    def cut(self, path: str) -> str:
        return path.removeprefix(self.prefix)


class CuttingRequests(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        request.scope["path"] = request.scope["path"].removeprefix("/api") or "/"
        return await call_next(request)


async def cut_request(request: Any, call_next: Any) -> Any:
    request.scope["path"] = by_pattern(request.scope["path"])
    return await call_next(request)


def cutting_factory(app: Any) -> Any:
    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": by_pattern(scope["path"])}
        await app(scope, receive, send)

    return wrapper


class CuttingFastAPI(FastAPI):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["path"] = by_pattern(scope["path"])
        await super().__call__(scope, receive, send)


class Dispatching:
    def __init__(self, mounted: list[Any], default: Any) -> None:
        self.mounted, self.default = mounted, default

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for mount in self.mounted:
            prefix, app = (mount["prefix"], mount["app"]) if isinstance(mount, dict) else (mount.prefix, mount.app)
            if scope["path"].startswith(prefix + "/"):
                await app({**scope, "path": scope["path"][len(prefix) :]}, receive, send)
                return
        await self.default(scope, receive, send)


Named = namedtuple("Named", "prefix app")


@dataclass
class Mounted:
    prefix: str
    app: Any


class Terse:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, s: Any, r: Any, w: Any) -> None:
        await self.app(s, r, w)


class Lazy:
    """Its app is made by the first request."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            self._app = self.factory()
        await self._app(scope, receive, send)


class LazyWithPage(Lazy):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/starting":
            await PlainTextResponse("starting", 503)(scope, receive, send)
        else:
            self._app = self._app or self.factory()
            await self._app(scope, receive, send)


async def of_a_module(scope: Any, receive: Any, send: Any) -> None:
    await config.app(scope, receive, send)


async def of_a_class(scope: Any, receive: Any, send: Any) -> None:
    await Config.app(scope, receive, send)


async def imported(scope: Any, receive: Any, send: Any) -> None:
    import keyguard_test_lazy  # type: ignore[import-not-found]

    await keyguard_test_lazy.app(scope, receive, send)


sys.modules["keyguard_test_lazy"] = types.SimpleNamespace(app=fastapi_app("/api"))  # type: ignore[assignment]


def fastapi_of(kind: type[FastAPI]) -> FastAPI:
    app = kind(openapi_url=None)
    app.router.routes += starlette_app().routes
    return app


def as_fallback() -> Starlette:
    app = Starlette()
    app.router.default = fastapi_app("/api")
    return app


ASGI: dict[str, Callable[[], Any]] = {
    **{f"cut by {name}": lambda cut=cut: cutting(cut) for name, cut in CUTS.items()},  # type: ignore[misc]
    **{f"set by {name}": lambda write=write: cutting(by_pattern, write) for name, write in WRITES.items()},  # type: ignore[misc]
    "a method": lambda: Cutting(starlette_app()),
    "a property": lambda: CuttingByProperty(starlette_app()),
    "in a list": lambda: with_middleware(starlette_app(), Cutting),
    "of requests": lambda: CuttingRequests(starlette_app()),
    "of requests, in a list": lambda: with_middleware(starlette_app(), CuttingRequests),
    "of requests, by a function": lambda: with_middleware(starlette_app(), BaseHTTPMiddleware, dispatch=cut_request),
    "a factory in a list": lambda: with_middleware(starlette_app(), cutting_factory),
    "a subclass of an app": lambda: fastapi_of(CuttingFastAPI),
    "mounts in dicts": lambda: Dispatching([{"prefix": "/api", "app": starlette_app()}], starlette_app()),
    "mounts in tuples": lambda: Dispatching([Named("/api", starlette_app())], starlette_app()),
    "mounts in objects": lambda: Dispatching([Mounted("/api", fastapi_app("/v1"))], fastapi_app("/api")),
    "the app of a module": lambda: of_a_module,
    "the app of a class": lambda: of_a_class,
    "an app that is imported late": lambda: imported,
    "an app that is made late": lambda: Lazy(lambda: fastapi_app("/api")),
    "an app that is made late, and a page until then": lambda: LazyWithPage(lambda: fastapi_app("/api")),
    "other names": lambda: Terse(Terse(fastapi_app("/api"))),
    "an app in the place of a view": lambda: Starlette(
        routes=[Route("/api/{rest:path}", endpoint=fastapi_app("/api")), *starlette_app().routes]
    ),
    "an app in the place of a 404": as_fallback,
}


class CuttingFlask(Flask):
    def wsgi_app(self, environ: Any, start_response: Any) -> Any:
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/api")
        return super().wsgi_app(environ, start_response)


def flask_of(kind: type[Flask]) -> Flask:
    app = kind("inside")
    for name in NAMES:
        app.add_url_rule(f"/{name}", name, lambda name=name: name)  # type: ignore[misc]
    return app


def terse_wsgi() -> Any:
    app = flask_app()

    def cut(env: Any, sr: Any) -> Iterable[bytes]:
        env["PATH_INFO"] = by_pattern(env["PATH_INFO"])
        answer: Iterable[bytes] = app(env, sr)
        return answer

    return lambda e, s: cut(e, s)


class CuttingFalcon:
    def process_request(self, req: Any, resp: Any) -> None:
        req.path = by_pattern(req.path)


def falcon_of(component: Any) -> Any:
    app = falcon.App(middleware=[component])
    for name in NAMES:
        app.add_route(f"/{name}", Resource(name))
    return app


WSGI: dict[str, Callable[[], Any]] = {
    "a subclass of an app": lambda: flask_of(CuttingFlask),
    "other names": terse_wsgi,
    "middleware of falcon": lambda: falcon_of(CuttingFalcon()),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("world", "inside"), [*[("asgi", name) for name in ASGI], *[("wsgi", name) for name in WSGI]], ids=str
)
def test_whatever_cuts_off_a_prefix_no_closing_rule_is_led_past(world: str, inside: str) -> None:
    make = (ASGI if world == "asgi" else WSGI)[inside]
    plain = routes_run(world, make(), "", TARGETS)
    assert [target for target, name in plain.items() if name == "admin" and target.count("/") > 1], "it cuts nothing"
    closed = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"]))
    guarded = routes_run(world, getattr(closed, world)(make()), "", TARGETS)
    assert "admin" not in guarded.values()
    assert {target for target, name in plain.items() if target in PLAIN and name != "admin"} <= guarded.keys()
    opened = Keyguard(APIKeys(public=["/health"]))
    assert set(routes_run(world, getattr(opened, world)(make()), "", TARGETS).values()) <= {"health"}


class CutsPathInfo:
    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        request.path_info = by_pattern(request.path_info)
        return self.get_response(request)


def test_middleware_of_django_is_read() -> None:
    from django.core.handlers.wsgi import WSGIHandler

    with override_settings(ROOT_URLCONF=URLS, MIDDLEWARE=[f"{__name__}.CutsPathInfo"]):
        app = WSGIHandler()
        assert ask_wsgi(app, Ask("/api/admin")).body == b"admin"
        closed = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).wsgi(app)
        assert [ask_wsgi(closed, Ask(target)).status for target in ("/api/admin", "/api/health")] == [403, 200]
    with override_settings(ROOT_URLCONF=URLS):
        open_ = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).wsgi(APPS["django"][1])
        assert ask_wsgi(open_, Ask("/api/admin")).status == 404


# -- what only looks on ----------------------------------------------------------------------------------------------


class Timing:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        began = time.monotonic()
        told = {"path": scope["path"], "method": scope.get("method", "")}

        async def timed(message: Any) -> None:
            if message["type"] == "http.response.start":
                told["seconds"] = time.monotonic() - began
                message["headers"] = [*message.get("headers", ()), (b"x-time", b"1")]
            await send(message)

        if scope["type"] == "http" and scope["path"].startswith("/static"):
            scope["state"] = {"static": True}
        await self.app(scope, receive, timed)


async def tell(request: Any, call_next: Any) -> Any:
    response = await call_next(request)
    response.headers["X-Path"] = request.url.path
    print("told", {"path": request.url.path, "root_path": request.scope.get("root_path", "")})
    return response


def wsgi_timing(app: Any) -> Any:
    def timing(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "") == "/favicon.ico":
            start_response("404 Not Found", [])
            return []
        environ["timing.began"] = time.monotonic()
        answer: Iterable[bytes] = app(environ, start_response)
        return answer

    return timing


async def answering(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse(scope["path"].rpartition("/")[2])(scope, receive, send)


def wsgi_answering(environ: Any, start_response: Any) -> Iterable[bytes]:
    return WerkzeugResponse(environ["PATH_INFO"].rpartition("/")[2])(environ, start_response)


LOOKING_ON: dict[str, Callable[[], Any]] = {
    "a timer": lambda: Timing(starlette_app()),
    "one in a list": lambda: with_middleware(starlette_app(), Timing),
    "a function of requests": lambda: with_middleware(starlette_app(), BaseHTTPMiddleware, dispatch=tell),
    "closures": lambda: closure(closure(starlette_app())),
    "starlette's": lambda: CORSMiddleware(GZipMiddleware(starlette_app()), allow_origins=["*"]),
    "starlette's in a list": lambda: with_middleware(
        with_middleware(starlette_app(), SessionMiddleware, secret_key="x"), TrustedHostMiddleware
    ),
    "a subclass of an app": lambda: fastapi_of(type("Shop", (FastAPI,), {})),
    "keyguard": lambda: Keyguard(RateLimit("9999/hour")).asgi(starlette_app()),
    "an app by hand": lambda: answering,
    "flask": flask_app,
    "a timer around flask": lambda: wsgi_timing(flask_app()),
    "werkzeug's": lambda: ProxyFix(flask_app(), x_prefix=1),
    "a WSGI app by hand": lambda: wsgi_answering,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inside", LOOKING_ON)
def test_what_only_looks_on_closes_nothing_more(inside: str) -> None:
    app = LOOKING_ON[inside]()
    guard = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=path("/admin")))
    wsgi = "flask" in inside or "WSGI" in inside or "werkzeug" in inside
    ask, guarded = (ask_wsgi, guard.wsgi(app)) if wsgi else (ask_asgi, guard.asgi(app))
    found = [ask(guarded, Ask(target), lint=False).status for target in ("/admin", "/api/admin", "/x/y/admin")]
    assert found in ([403, 404, 404], [403, 200, 200])


def test_a_prefix_that_is_named_closes_what_stands_behind_it_and_no_more() -> None:
    for root_path, statuses in (("", [403, 403]), ("/v1", [403, 404]), (False, [200, 404])):
        guard = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"]), root_path=root_path)
        app = guard.asgi(cutting(CUTS["a pattern in place"]))
        assert [ask_asgi(app, Ask(target)).status for target in ("/v1/admin", "/x/admin")] == statuses


class Choosing:
    def __init__(self, apps: list[Any]) -> None:
        self.apps = apps

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.apps[0](scope, receive, send)


def test_large_tables_of_an_app_s_own_are_not_read_to_their_end() -> None:
    """They cost the first request no more than a moment."""
    table = {str(n): {str(m): [n, m] for m in range(300)} for n in range(300)}

    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        if table:
            await app(scope, receive, send)

    app = fastapi_app("/api")
    parts = sum(1 for _ in inside_of(table))
    assert parts <= 4000
    closed = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).asgi(wrapper)
    assert ask_asgi(closed, Ask("/api/admin")).status == 403


class Unreadable(dict[str, Any]):
    def keys(self) -> Any:
        raise RuntimeError("not now")


def test_what_cannot_be_looked_into_may_cut_off_anything(caplog: pytest.LogCaptureFixture) -> None:
    app = Cutting(starlette_app())
    app.more = Unreadable()  # type: ignore[attr-defined]
    many = Choosing([fastapi_app("/x"), *[closure(starlette_app) for _ in range(3000)]])
    closed = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"]))
    assert ask_asgi(closed.asgi(app), Ask("/x/admin")).status == 403
    assert "name it by Keyguard(root_path=...)" in caplog.text
    assert ask_asgi(closed.asgi(many), Ask("/x/admin")).status == 403


def test_a_prefix_of_many_segments_is_no_work_without_a_bound() -> None:
    guard = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).asgi(cutting(CUTS["a pattern"]))
    assert ask_asgi(guard, Ask("/x" * 15 + "/admin")).status == 403
    assert ask_asgi(guard, Ask("/x" * 3000)).status == 404


def test_a_dispatcher_in_front_of_cors_middleware_leads_no_preflight_past_it() -> None:
    ran: list[str] = []

    async def legacy(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["method"])
        await PlainTextResponse("done")(scope, receive, send)

    class Partly(CORSMiddleware):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].startswith("/api"):
                await super().__call__(scope, receive, send)
            else:
                await self.app(scope, receive, send)

    class Forking:
        def __init__(self, app: Any, other: Any) -> None:
            self.app, self.other = app, other

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await (self.other if scope["path"].startswith("/legacy") else self.app)(scope, receive, send)

    class Forked(FastAPI):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await (legacy if scope["path"].startswith("/legacy") else super().__call__)(scope, receive, send)

    def with_cors(app: Any, **options: Any) -> Any:
        app.add_middleware(options.pop("kind", CORSMiddleware), allow_origins=["*"], allow_methods=["*"])
        return app

    preflight = (("Origin", "https://a.test"), ("Access-Control-Request-Method", "DELETE"))
    for app in (
        with_middleware(with_cors(Starlette()), Forking, other=legacy),
        with_cors(Starlette(), kind=Partly),
        Partly(legacy, allow_origins=["*"]),
        with_cors(Forked(openapi_url=None)),
        Stripping(Forking(with_cors(Starlette()), legacy), "/api"),
    ):
        ask = Ask("/legacy", preflight, method="OPTIONS")
        assert ask_asgi(Keyguard(APIKeys()).asgi(app), ask, lint=False).status == 401
    assert ran == []
    seen = with_cors(with_middleware(starlette_app(), Timing))
    assert ask_asgi(Keyguard(APIKeys()).asgi(seen), Ask("/", preflight, method="OPTIONS"), lint=False).status == 200
