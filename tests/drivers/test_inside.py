"""Prefixes of an app's own, and what hides an app from its guards: no rule is led past, in real frameworks."""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import a2wsgi
import falcon
import falcon.asgi
import flask
import pytest
import socketio
import wrapt
from asgiref.wsgi import WsgiToAsgi
from django.conf import LazySettings
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.urls import path as django_path
from django.utils.functional import SimpleLazyObject
from fastapi import APIRouter, FastAPI
from flask import Flask
from hypercorn.middleware.dispatcher import AsyncioDispatcherMiddleware
from litestar import Litestar, asgi, get
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from rest_framework.urlpatterns import format_suffix_patterns
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import keyguard.asgi
from keyguard import APIKeys, ConfigurationError, IPFilter, Keyguard, RateLimit, Request, Response, path
from tests.support.frameworks import APPS
from tests.support.harness import Answer, Ask, aask, ask_asgi, ask_wsgi

NAMES = ("admin", "health", "other")
PREFIXES = ("", "/api", "/v1", "/api/v1", "/api/api", "/x/api", "/t1/api")
PLAIN = [f"{prefix}/{name}" for prefix in PREFIXES for name in NAMES]


def targets_of(prefixes: Sequence[str], ends: Sequence[str]) -> list[str]:
    plain = [f"{prefix}/{name}{end}" for end in ends for prefix in prefixes for name in NAMES]
    odd = ("admin", "health", "//admin", "/x/admin", "/health/../admin")
    return plain + [prefix + spelled for prefix in prefixes for spelled in odd]


TARGETS = targets_of(PREFIXES, ("", "/"))
FEWER_TARGETS = targets_of(("", "/api", "/api/v1", "/api/api", "/x/api"), ("",))


# -- apps that say which of their routes they ran -------------------------------------------------------------------


def starlette_app(end: str = "") -> Starlette:
    def endpoint(name: str) -> Any:
        async def answer(request: StarletteRequest) -> PlainTextResponse:
            return PlainTextResponse(name)

        return answer

    return Starlette(routes=[Route(f"/{name}{end}", endpoint(name)) for name in NAMES])


def fastapi_app(root_path: str = "") -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.root_path = root_path
    app.router.routes += starlette_app().routes
    return app


def included_app() -> FastAPI:
    router = APIRouter()
    router.mount("/v1", starlette_app())
    app = FastAPI(openapi_url=None)
    app.include_router(router, prefix="/api")
    return app


def flask_app() -> Flask:
    app = Flask("inside")
    for name in NAMES:
        app.add_url_rule(f"/{name}", name, functools.partial(str, name))
    return app


def litestar_app() -> Litestar:
    def handler(name: str) -> Any:
        async def answer() -> str:
            return name

        return get(f"/{name}", name=name, media_type="text/plain")(answer)

    return Litestar([handler(name) for name in NAMES], openapi_config=None, logging_config=None)


def litestar_mount() -> Litestar:
    @asgi("/api", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    inner = starlette_app("/")  # what Litestar mounts sees a slash at each end
    return Litestar([mounted], openapi_config=None, logging_config=None)


class Resource:
    def __init__(self, name: str) -> None:
        self.name = name

    def on_get(self, req: Any, resp: Any) -> None:
        resp.text = self.name


class AsyncResource(Resource):
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.text = self.name


def falcon_app(prefix: str = "") -> Any:
    app = falcon.asgi.App()
    for name in NAMES:
        app.add_route(f"{prefix}/{name}", AsyncResource(name))
    return app


def falcon_wsgi() -> Any:
    app = falcon.App()
    for name in NAMES:
        app.add_route(f"/{name}", Resource(name))
    return app


def django_view(request: HttpRequest, name: str) -> HttpResponse:
    return HttpResponse(name)


URLS = type("urls", (), {"urlpatterns": [django_path(name, django_view, {"name": name}) for name in NAMES]})


# -- what may stand between the guards and the app ------------------------------------------------------------------


class Stripping:
    """Middleware as many projects have it: it takes a prefix off, and is told which."""

    def __init__(self, app: Any, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self.prefix):
            scope = {**scope, "path": scope["path"][len(self.prefix) :] or "/", "root_path": ""}
        await self.app(scope, receive, send)


class SlottedStripping(Stripping):
    __slots__ = ("app", "prefix")


class ConstantStripping(Stripping):
    prefix = "/api"

    def __init__(self, app: Any) -> None:
        self.app = app


class BareStripping(Stripping):
    """Its prefix is written without a slash."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        head = f"/{self.prefix}/"
        if scope["type"] == "http" and scope["path"].startswith(head):
            scope = {**scope, "path": "/" + scope["path"].removeprefix(head)}
        await self.app(scope, receive, send)


def closure(app: Any) -> Any:
    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return wrapper


def stripping_closure(app: Any) -> Any:
    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix("/api")}
        await app(scope, receive, send)

    return wrapper


GLOBAL_APP = fastapi_app("/api")


async def global_wrapper(scope: Any, receive: Any, send: Any) -> None:
    await GLOBAL_APP(scope, receive, send)


async def with_app(app: Any, scope: Any, receive: Any, send: Any) -> None:
    await app(scope, receive, send)


def pass_on(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def decorated(app: Any) -> Any:
    @functools.wraps(app.__call__)
    async def wrapper(*args: Any) -> None:
        await app(*args)

    return wrapper


def dispatching(apps: dict[str, Any]) -> Any:
    async def dispatcher(scope: Any, receive: Any, send: Any) -> None:
        for prefix, app in apps.items():
            if scope["path"].startswith(prefix + "/"):
                scope = {**scope, "path": scope["path"][len(prefix) :], "root_path": ""}
                await app(scope, receive, send)
                return
        await apps[""](scope, receive, send)

    return dispatcher


def wsgi_stripping(app: Any, prefix: str) -> Any:
    def wrapper(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(prefix):
            environ["SCRIPT_NAME"] = prefix
            environ["PATH_INFO"] = environ["PATH_INFO"][len(prefix) :]
        found: Iterable[bytes] = app(environ, start_response)
        return found

    return wrapper


def in_flask(inside: Any) -> Flask:
    app = flask_app()
    app.wsgi_app = inside(app.wsgi_app)  # type: ignore[method-assign]
    return app


ASGI: dict[str, Callable[[], Any]] = {
    "the app itself": starlette_app,
    "an app with a prefix": lambda: fastapi_app("/api"),
    "a prefix with a slash at its end": lambda: fastapi_app("/api/"),
    "socketio": lambda: socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi"), other_asgi_app=fastapi_app("/api")),
    "middleware": lambda: CORSMiddleware(fastapi_app("/api")),
    "middleware of an app": lambda: with_middleware(starlette_app(), Stripping, prefix="/api"),
    "a closure": lambda: closure(fastapi_app("/api")),
    "closures": lambda: closure(closure(socketio.ASGIApp(None, other_asgi_app=closure(fastapi_app("/api"))))),
    "a function and a global": lambda: global_wrapper,
    "a partial function": lambda: functools.partial(with_app, fastapi_app("/api")),
    "a decorated function": lambda: decorated(fastapi_app("/api")),
    "a bound method": lambda: Stripping(starlette_app(), "/api").__call__,
    "a prefix that is stripped": lambda: Stripping(starlette_app(), "/api"),
    "one that slots hold": lambda: SlottedStripping(starlette_app(), "/api"),
    "one that a class holds": lambda: ConstantStripping(starlette_app()),
    "one without a slash": lambda: BareStripping(starlette_app(), "api"),
    "one that a function holds": lambda: stripping_closure(starlette_app()),
    "two that are stripped": lambda: Stripping(Stripping(starlette_app(), "/v1"), "/api"),
    "one behind another guard": lambda: Keyguard(RateLimit("9999/hour")).asgi(Stripping(starlette_app(), "/api")),
    "a mount": lambda: Starlette(routes=[Mount("/api", app=starlette_app())]),
    "a mount with a variable": lambda: Starlette(routes=[Mount("/{tenant}/api", app=starlette_app())]),
    "mounts in mounts": lambda: Starlette(routes=[Mount("/api", routes=[Mount("/v1", app=starlette_app())])]),
    "a mount of an app with a prefix": lambda: Starlette(routes=[Mount("/", app=fastapi_app("/api"))]),
    "a host": lambda: Starlette(routes=[Host("example.test", app=fastapi_app("/api"))]),
    "a router": lambda: Router([Mount("/api", app=starlette_app())]),
    "a mount in an included router": included_app,
    "a dispatcher": lambda: dispatching({"/api": starlette_app(), "": starlette_app()}),
    "a dispatcher of hypercorn": lambda: AsyncioDispatcherMiddleware({"/api": starlette_app(), "/": starlette_app()}),
    "apps with prefixes in a dispatcher": lambda: dispatching({"/shop": fastapi_app("/v1"), "": fastapi_app("/api")}),
    "litestar": litestar_app,
    "a mount of litestar": litestar_mount,
    "falcon": falcon_app,
    "falcon, which ignores prefixes": lambda: falcon_app("/api"),
    "flask over a2wsgi": lambda: a2wsgi.WSGIMiddleware(flask_app()),
    "flask over asgiref": lambda: WsgiToAsgi(flask_app()),
    "a dispatcher over a2wsgi": lambda: a2wsgi.WSGIMiddleware(DispatcherMiddleware(flask_app(), {"/api": flask_app()})),
    "sentry": lambda: SentryAsgiMiddleware(fastapi_app("/api")),
    "opentelemetry": lambda: OpenTelemetryMiddleware(fastapi_app("/api")),
    "a proxy of an agent": lambda: wrapt.FunctionWrapper(fastapi_app("/api"), pass_on),
    "one of this project's layers": lambda: keyguard.asgi.RateLimit(fastapi_app("/api"), "9999/hour"),
}
KNOWN = (
    *("an app with a prefix", "socketio", "middleware", "a closure", "closures", "a function and a global"),
    *("a partial function", "a decorated function", "sentry", "opentelemetry", "a proxy of an agent"),
)
"""Those in which each request gets to the one app with a prefix of its own."""
WSGI: dict[str, Callable[[], Any]] = {
    "the app itself": flask_app,
    "the app's callable": lambda: flask_app().wsgi_app,
    "a dispatcher": lambda: DispatcherMiddleware(flask_app(), {"/api": flask_app(), "/v1": flask_app()}),
    "a dispatcher in a dispatcher": lambda: DispatcherMiddleware(
        flask_app(), {"/api": DispatcherMiddleware(flask_app(), {"/v1": flask_app()})}
    ),
    "a dispatcher in flask": lambda: in_flask(lambda app: DispatcherMiddleware(app, {"/api": flask_app()})),
    "a prefix that is stripped": lambda: wsgi_stripping(flask_app(), "/api"),
    "one that is stripped in flask": lambda: in_flask(lambda app: wsgi_stripping(app, "/api")),
    "falcon": falcon_wsgi,
    "fastapi over a2wsgi": lambda: a2wsgi.ASGIMiddleware(fastapi_app("/api")),
}


def with_middleware(app: Starlette, layer: Any, **options: Any) -> Starlette:
    app.add_middleware(layer, **options)
    return app


@contextmanager
def in_peace() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def routes_run(world: str, app: Any, root: str, targets: Sequence[str] = TARGETS) -> dict[str, str]:
    """Which route answers each target; those that are not there are left out."""

    async def ask_all() -> dict[str, Answer | None]:
        return {target: await asked(target) for target in targets}

    async def asked(target: str) -> Answer | None:
        ask = Ask(target, root=root)
        try:
            return await aask(app, ask, lint=False) if world == "asgi" else ask_wsgi(app, ask, lint=False)
        except Exception:  # some answer a path without a slash with a traceback
            return None

    answers = asyncio.run(ask_all())
    found = {target: answer.body.decode() for target, answer in answers.items() if answer and answer.status == 200}
    return {target: name for target, name in found.items() if name in NAMES}


EVERY_APP = pytest.mark.parametrize(
    ("world", "inside"), [*[("asgi", name) for name in ASGI], *[("wsgi", name) for name in WSGI]], ids=str
)


@pytest.mark.filterwarnings("ignore")
@EVERY_APP
def test_whatever_hides_the_app_no_rule_is_led_past(world: str, inside: str) -> None:
    """The app itself is asked what it routes where.

    No request to `admin` passes a guard that closes it, and nothing but `health` is opened for all.
    """
    make = (ASGI if world == "asgi" else WSGI)[inside]
    patterns = ["/admin", "/api/admin"] if "ignores" in inside else ["/admin"]
    by_address = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=patterns))
    by_key = Keyguard(APIKeys(paths=path(*patterns)))
    opened = Keyguard(APIKeys(public=["/health"]))
    for root, targets, closing in (
        ("", TARGETS, (by_address, by_key)),
        ("/api", FEWER_TARGETS, (by_key,)),
        ("/x", FEWER_TARGETS, (by_address,)),
    ):
        plain = routes_run(world, make(), root, targets)
        assert "admin" in plain.values() or root
        for closed in closing:
            guarded = routes_run(world, getattr(closed, world)(make()), root, targets)
            assert "admin" not in guarded.values()
            # What is not closed is served as before.
            assert {target: name for target, name in plain.items() if target in guarded} == guarded
            assert {target for target, name in plain.items() if target in PLAIN and name != "admin"} <= guarded.keys()
        assert set(routes_run(world, getattr(opened, world)(make()), root, targets).values()) <= {"health"}


@pytest.mark.filterwarnings("ignore")
def test_an_app_with_a_prefix_of_its_own_opens_what_it_routes() -> None:
    for name in KNOWN:
        app = Keyguard(APIKeys(public=["/health"])).asgi(ASGI[name]())
        assert [ask_asgi(app, Ask(target), lint=False).status for target in ("/health", "/api/health")] == [200, 200]
    # Where nobody knows which app gets a request, a door stays shut until the prefix is named.
    app = Keyguard(APIKeys(public=["/health"])).asgi(ASGI["apps with prefixes in a dispatcher"]())
    assert ask_asgi(app, Ask("/api/health"), lint=False).status == 401


@pytest.mark.filterwarnings("ignore")
def test_what_is_mounted_in_an_app_stands_under_the_whole_path_for_what_opens() -> None:
    app = Keyguard(APIKeys(public=["/api/health", "/static/*"])).asgi(ASGI["a mount"]())
    assert ask_asgi(app, Ask("/api/health"), lint=False).status == 200
    wsgi = Keyguard(APIKeys(public=["/api/*"])).wsgi(WSGI["a dispatcher"]())
    assert ask_wsgi(wsgi, Ask("/api/health"), lint=False).status == 200


def test_routes_that_stand_together_are_the_app_s_own() -> None:
    """`Mount("/users", routes=[...])` groups routes; nothing else than the whole path is meant by a rule."""
    app = Starlette(routes=[Mount("/users", routes=starlette_app().routes)])
    guarded = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).asgi(app)
    assert ask_asgi(guarded, Ask("/users/admin"), lint=False).status == 200
    assert ask_asgi(guarded, Ask("/admin"), lint=False).status == 403


def test_mounts_of_an_app_that_is_built_like_blacksheep_s() -> None:
    """Which keeps routes to mounted apps in a registry, and takes a prefix in any case."""

    class Application:
        def __init__(self, *mounts: tuple[str, Any]) -> None:
            routes = [SimpleNamespace(pattern=prefix.encode() + b"/*", handler=app) for prefix, app in mounts]
            self.mount_registry = SimpleNamespace(mounted_apps=routes)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            for route in self.mount_registry.mounted_apps:
                prefix = route.pattern.decode()[:-2]
                if scope["path"].lower().startswith(prefix + "/"):
                    await route.handler({**scope, "path": scope["path"][len(prefix) :]}, receive, send)
                    return

    Application.__module__ = "blacksheep.server.application"
    app = Application(("/api", Application(("/v1", starlette_app()))))
    guarded = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).asgi(app)
    statuses = [
        ask_asgi(guarded, Ask(t), lint=False).status for t in ("/api/v1/admin", "/API/V1/admin", "/api/v1/other")
    ]
    assert statuses == [403, 403, 200]


# -- Django, which has one set of settings ---------------------------------------------------------------------------


FORCED = (None, "/api", "/api/")
ROOTS = ("", "/api", "/x")
AROUND: Sequence[Callable[[Any], Any]] = (
    lambda app: app,
    closure,
    lambda app: socketio.ASGIApp(None, other_asgi_app=app),
)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("force", FORCED)
def test_django_s_own_prefix(force: str | None, root: str) -> None:
    """What stands around the app changes from case to case: each with each prefix, and with each root."""
    around = AROUND[(FORCED.index(force) + ROOTS.index(root)) % len(AROUND)]
    with override_settings(ROOT_URLCONF=URLS, FORCE_SCRIPT_NAME=force):
        asgi_app, wsgi_app = around(APPS["django"][0]), APPS["django"][1]
        closed = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"]))
        public = Keyguard(APIKeys(public=["/health"]))
        for app, world in ((asgi_app, "asgi"), (wsgi_app, "wsgi")):
            assert routes_run(world, app, root, FEWER_TARGETS)
            assert "admin" not in routes_run(world, getattr(closed, world)(app), root, FEWER_TARGETS).values()
            found = routes_run(world, getattr(public, world)(app), root, FEWER_TARGETS)
            assert set(found.values()) <= {"health"}


def test_format_suffixes_are_paths_of_their_own() -> None:
    """Django REST framework routes `/users.json` as `/users`: a rule names both, or a variable in the whole segment."""
    users = django_path("users", django_view, {"name": "admin"})
    urls = type("urls", (), {"urlpatterns": format_suffix_patterns([users])})

    def closed(*patterns: str) -> list[int]:
        app = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=patterns)).wsgi(APPS["django"][1])
        with override_settings(ROOT_URLCONF=urls):
            return [ask_wsgi(app, Ask(target)).status for target in ("/users", "/users.json")]

    assert closed("/users", "/users.json") == [403, 403]
    assert closed("/{users}") == [403, 403]


# -- objects that must not be asked too much --------------------------------------------------------------------------


class Explosive:
    """A proxy without an object, as frameworks have them for the request of the moment."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"there is no request, and no {name}")

    def __call__(self, *args: Any) -> Any: ...


def test_proxies_lazy_objects_and_circles_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    inner = fastapi_app("/api")
    proxies = (flask.request, flask.current_app, SimpleLazyObject(lambda: 1 // 0), LazySettings(), Explosive())

    class Wrapper:
        def __init__(self, app: Any) -> None:
            self.app, self.again, self.proxies, self.missing = app, self, proxies, {"a": proxies}

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    for app in (Wrapper(inner), closure(Wrapper(inner)), dispatching({"": inner, **dict(enumerate(proxies))})):
        guarded = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).asgi(app)
        assert ask_asgi(guarded, Ask("/api/admin"), lint=False).status == 403
    assert caplog.text.count("cannot look into") == 0


def test_what_cannot_be_looked_into_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Starlette):
        @property
        def routes(self) -> Any:
            raise OSError

    guarded = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).asgi(Broken())
    assert ask_asgi(guarded, Ask("/admin"), lint=False).status == 403
    assert "name it by Keyguard(root_path=...)" in caplog.text


def test_an_app_of_any_size_is_looked_into_for_a_moment() -> None:
    apps: list[Any] = [closure(starlette_app()) for _ in range(2500)]

    async def one_of_many(scope: Any, receive: Any, send: Any) -> None:
        await apps[0](scope, receive, send)

    guarded = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])).asgi(one_of_many)
    assert ask_asgi(guarded, Ask("/admin"), lint=False).status == 403


# -- a prefix that is named -----------------------------------------------------------------------------------------


def test_a_prefix_that_cannot_be_seen_is_named() -> None:
    """One that comes with the request, say."""

    async def stripping(scope: Any, receive: Any, send: Any) -> None:
        prefix = dict(scope["headers"]).get(b"x-script-name", b"").decode()
        await starlette(scope | {"path": scope["path"].removeprefix(prefix)}, receive, send)

    starlette = starlette_app()
    headers = (("X-Script-Name", "/shop"),)
    guard = Keyguard(
        IPFilter(allow=["10.0.0.0/8"], paths=["/admin"]),
        APIKeys(public=["/health"], scopes=lambda r: ["x"] if r.path == "/other" else None, optional=True),
        root_path="/shop",
    )
    app = guard.asgi(stripping)
    statuses = [
        ask_asgi(app, Ask(target, headers), lint=False).status
        for target in ("/shop/admin", "/shop/health", "/shop/other", "/shopadmin", "/x/shop/admin", "/shop/x")
    ]
    assert statuses == [403, 200, 401, 400, 400, 404]
    environ_app = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"]), root_path="/shop/").wsgi(flask_app())
    assert [ask_wsgi(environ_app, Ask(t)).status for t in ("/shop/admin", "/admin", "/other")] == [403, 403, 200]


@pytest.mark.parametrize("prefix", ["api", "/", "//", "/a//b", "/{x}", "/api/*", "/a;b", "/a?b", 5, None])
def test_what_is_no_prefix_does_not_start(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match="root_path is a prefix"):
        Keyguard(RateLimit("1/second"), root_path=prefix)


def test_a_function_reads_the_path_behind_the_app_s_own_prefix() -> None:
    def closed(request: Request) -> Response | None:
        return Response(403, [], b"") if request.path.startswith("/admin") else None

    for name in KNOWN:
        with in_peace():
            app = Keyguard(closed).asgi(ASGI[name]())
            assert [ask_asgi(app, Ask(t), lint=False).status for t in ("/api/admin", "/admin", "/api/other")] == [
                *(403, 403, 200)
            ]
    with in_peace():
        app = Keyguard(closed).asgi(ASGI["apps with prefixes in a dispatcher"]())
        assert ask_asgi(app, Ask("/api/admin"), lint=False).status == 400
