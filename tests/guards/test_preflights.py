"""CORS preflights: what passes without a key, what only looks like it, and what an app gets to run for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import a2wsgi
import pytest
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.urls import re_path
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from flask import Flask, request
from litestar import Litestar, asgi, route
from litestar.config.cors import CORSConfig
from litestar.handlers import HTTPRouteHandler
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

import keyguard.asgi
from keyguard import APIKeys, Identity, IPFilter, Keyguard, RateLimit, ResponseCache
from tests.support.frameworks import APPS
from tests.support.harness import Answer, Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

ASKED = (("Origin", "https://a.test"), ("Access-Control-Request-Method", "DELETE"))
PREFLIGHT = Ask("/", ASKED, method="OPTIONS")
KEY = ("X-API-Key", "right")


def lookup(key: str) -> Identity | None:
    return Identity("ada") if key == "right" else None


def with_fields(*fields: tuple[str, str], **more: Any) -> Ask:
    return replace(PREFLIGHT, headers=(*ASKED, *fields), **more)


# -- apps that do something for whoever gets that far ----------------------------------------------------------------


class Override:
    """The middleware that Flask's documentation shows, "HTTP Method Overrides", and names that others take."""

    names = ("HTTP_X_HTTP_METHOD_OVERRIDE", "HTTP_X_HTTP_METHOD", "HTTP_X_METHOD_OVERRIDE", "HTTP_X_HTTP_VERB")

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for name in self.names:
            method = environ.get(name, "").upper()
            if method:
                environ["REQUEST_METHOD"] = method
        found: Iterable[bytes] = self.app(environ, start_response)
        return found


def flask_with_override(ran: list[str]) -> Any:
    app = Flask("override")

    @app.route("/", methods=["DELETE", "GET"])
    def delete() -> str:
        ran.append(request.method)
        return "deleted"

    return Override(app.wsgi_app)


def django_with_function_view(ran: list[str]) -> type:
    """URLs of a view that runs whatever the method, as Django's function views do."""

    def view(request: HttpRequest) -> HttpResponse:
        ran.append(f"{request.method} {request.body.decode()}")
        return HttpResponse("done")

    return type("urls", (), {"urlpatterns": [re_path("", view)]})


OVERRIDES = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-HTTP-Verb"]


@pytest.mark.parametrize("name", [*OVERRIDES, *[name.lower() for name in OVERRIDES]])
@pytest.mark.parametrize("preflights", [None, True])
def test_a_method_override_makes_it_a_request_like_others(name: str, preflights: bool | None) -> None:
    for header in (name, name.replace("-", "_")):  # bridges and some servers make one variable of both
        ran: list[str] = []
        app = flask_with_override(ran)
        guard = Keyguard(APIKeys(lookup=lookup, preflights=preflights), RateLimit("1/minute", by="key"))
        ask = with_fields((header, "DELETE"))
        assert ask_wsgi(guard.wsgi(app), ask).status == 401
        assert ask_asgi(guard.asgi(a2wsgi.WSGIMiddleware(app)), ask, lint=False).status == 401
        assert ran == []
        keyed = replace(ask, headers=(*ask.headers, KEY))
        assert [ask_wsgi(guard.wsgi(app), keyed).status for _ in range(2)] == [200, 429]
        assert ran == ["DELETE"]


STACKS: dict[str, Any] = {
    "readme": lambda: Keyguard(IPFilter(deny=["203.0.113.0/24"]), APIKeys(), RateLimit("9/second", by="key")),
    "keys alone": lambda: Keyguard(APIKeys()),
    "with a cache": lambda: Keyguard(APIKeys(), ResponseCache()),
    "for some paths": lambda: Keyguard(APIKeys(paths=["/*"])),
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "ask",
    [
        PREFLIGHT,
        replace(PREFLIGHT, target="/?_method=DELETE"),
        with_fields(("Content-Length", "2"), body=b"{}"),
        with_fields(("Content-Length", "0")),
        with_fields(("Access-Control-Request-Headers", "x-api-key")),
    ],
    ids=["plain", "a method in the query", "a body", "an empty body", "as browsers send it"],
)
def test_a_view_that_runs_whatever_the_method_is_not_run_for_who_has_no_key(stack: str, ask: Ask) -> None:
    ran: list[str] = []
    with override_settings(ROOT_URLCONF=django_with_function_view(ran)):
        asgi, wsgi = APPS["django"]
        assert ask_asgi(STACKS[stack]().asgi(asgi), ask, lint=False).status == 401
        assert ask_wsgi(STACKS[stack]().wsgi(wsgi), ask).status == 401
    assert ran == []


def test_it_is_not_run_for_the_anonymous_beyond_their_limit() -> None:
    ran: list[str] = []
    with override_settings(ROOT_URLCONF=django_with_function_view(ran)):
        guard = Keyguard(APIKeys(optional=True), RateLimit("2/minute", by="key"))
        app = guard.wsgi(APPS["django"][1])
        assert [ask_wsgi(app, PREFLIGHT).status for _ in range(4)] == [200, 200, 429, 429]
    assert len(ran) == 2


@pytest.mark.parametrize("preflights", [None, True])
@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_a_thousand_of_them_run_the_app_no_more_often_than_the_limit_outside_says(
    world: str, preflights: bool | None
) -> None:
    ran: list[str] = []

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["method"])
        await asgi_app(scope, receive, send)

    def wsgi_counting(environ: Any, start_response: Any) -> Iterable[bytes]:
        ran.append(environ["REQUEST_METHOD"])
        return wsgi_app(environ, start_response)

    guard = Keyguard(RateLimit("5/minute", by="ip"), APIKeys(lookup=lookup, preflights=preflights))

    async def ask_all(app: Any, asks: list[Ask]) -> list[int]:
        return [(await aask(app, ask, lint=False)).status for ask in asks]

    asks = [PREFLIGHT, replace(PREFLIGHT, headers=(*ASKED, KEY))] * 500
    if world == "asgi":
        statuses = asyncio.run(ask_all(guard.asgi(counting), asks))
    else:
        app = guard.wsgi(wsgi_counting)
        statuses = [ask_wsgi(app, ask, lint=False).status for ask in asks]
    assert statuses.count(429) == 995
    assert len(ran) <= 5


def test_what_an_app_makes_of_one_is_counted() -> None:
    """An app that dispatches a copied scope again, as a request of another method: it is no preflight any more."""
    inner = Keyguard(RateLimit("1/minute")).asgi(asgi_app)

    async def batch(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "method": "DELETE"}, receive, send)

    app = Keyguard(APIKeys(preflights=True)).asgi(batch)
    assert [ask_asgi(app, PREFLIGHT, lint=False).status for _ in range(2)] == [200, 429]


def litestar_with_a_mount(ran: list[str]) -> Litestar:
    @asgi("/mounted", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["method"])
        await asgi_app(scope, receive, send)

    return Litestar([mounted], cors_config=CORSConfig(allow_origins=["*"]), logging_config=None, openapi_config=None)


@pytest.mark.parametrize(
    "headers",
    [
        (("Origin", ""), ASKED[1]),
        (("Origin", ""), *ASKED),
        (("Origin", " "), ASKED[1]),
        (("Origin", "https://a.test https://b.test"), ASKED[1]),
        (*ASKED, ("Origin", "https://b.test")),
        (ASKED[0], ("Access-Control-Request-Method", "")),
        (*ASKED, ("Access-Control-Request-Method", "GET")),
        (ASKED[0],),
        (ASKED[1],),
    ],
    ids=str,
)
def test_a_preflight_says_one_thing_in_each_of_its_fields(headers: Any) -> None:
    """Litestar's CORS middleware, for one, lets a request pass to the app if its `Origin` is empty."""
    ran: list[str] = []
    ask = Ask("/mounted", headers, method="OPTIONS")
    for preflights in (None, True):
        guard = Keyguard(APIKeys(preflights=preflights))
        assert ask_asgi(guard.asgi(litestar_with_a_mount(ran)), ask, lint=False).status == 401
        assert ask_wsgi(guard.wsgi(wsgi_app), ask).status == 401
    assert ran == []


# -- no body ----------------------------------------------------------------------------------------------------------


def test_whatever_comes_with_it_the_app_gets_no_body() -> None:
    """From HTTP/2 on no field need announce a body; under WSGI a server may hand on one that was not announced."""
    got: list[bytes] = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        got.append(message["body"])
        assert message["more_body"] is False
        await asgi_app(scope, receive, send)

    def wsgi_reading(environ: Any, start_response: Any) -> Iterable[bytes]:
        got.append(environ["wsgi.input"].read())
        assert environ["CONTENT_LENGTH"] == "0"
        return wsgi_app(environ, start_response)

    guard = Keyguard(APIKeys(preflights=True))
    smuggled = replace(PREFLIGHT, body=b"delete=1", version="2")
    assert ask_asgi(guard.asgi(reading), smuggled).status == 200
    assert ask_wsgi(guard.wsgi(wsgi_reading), smuggled, lint=False).status == 200
    assert got == [b"", b""]


def test_an_app_that_waits_for_its_client_to_leave_hears_of_it() -> None:
    heard: list[str] = []

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"] for _ in range(2)])
        await asgi_app(scope, receive, send)

    messages = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.request", "body": b"y"},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None: ...

    app = Keyguard(APIKeys(preflights=True)).asgi(waiting)
    asyncio.run(app(PREFLIGHT.scope(), receive, send))
    assert heard == ["http.request", "http.disconnect"]


# -- CORS middleware that is seen -------------------------------------------------------------------------------------


def cors(app: Any) -> Any:
    return CORSMiddleware(app, allow_origins=["https://a.test"], allow_methods=["DELETE"])


def fastapi_with_cors(ran: list[str]) -> FastAPI:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.test"], allow_methods=["DELETE"])

    @app.api_route("/", methods=["OPTIONS", "DELETE"])
    def view() -> str:
        ran.append("view")
        return "done"

    return app


def litestar_with_cors(ran: list[str]) -> Litestar:
    @route("/", http_method=["DELETE"], status_code=200)
    async def view() -> str:
        ran.append("view")
        return "done"

    assert isinstance(view, HTTPRouteHandler)
    return Litestar([view], cors_config=CORSConfig(allow_origins=["https://a.test"]), logging_config=None)


SEEN: dict[str, Any] = {
    "starlette's": lambda ran: cors(asgi_app),
    "of an app": fastapi_with_cors,
    "litestar's": litestar_with_cors,
    "behind a wrapper": lambda ran: keyguard.asgi.RateLimit(fastapi_with_cors(ran), "99/minute", by="ip"),
    "in a list": lambda ran: Starlette(middleware=[Middleware(CORSMiddleware, allow_origins=["https://a.test"])]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", SEEN)
def test_it_passes_to_cors_middleware_that_is_seen_inside(where: str) -> None:
    ran: list[str] = []
    for guard in (Keyguard(APIKeys()), Keyguard(APIKeys(), RateLimit("1/day", by="key"))):
        app = guard.asgi(SEEN[where](ran))
        answers = [ask_asgi(app, PREFLIGHT, lint=False) for _ in range(3)]
        assert [answer.get("access-control-allow-origin") for answer in answers] == ["https://a.test"] * 3
        assert all(answer.body == b"" for answer in answers)
        assert ask_asgi(app, with_fields(("X-HTTP-Method-Override", "DELETE")), lint=False).status == 401
    assert ran == []


@pytest.mark.parametrize(
    "app",
    [
        asgi_app,
        FastAPI(),
        Starlette(routes=[Mount("/sub", app=cors(asgi_app))]),  # others than those below it get past
        Litestar([], logging_config=None),
    ],
    ids=["none", "an app without", "one that is mounted", "litestar without"],
)
def test_where_none_is_seen_it_needs_a_key(app: Any) -> None:
    assert ask_asgi(Keyguard(APIKeys()).asgi(app), PREFLIGHT, lint=False).status == 401


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"MIDDLEWARE": []}, 401),
        ({"MIDDLEWARE": ["corsheaders.middleware.CorsMiddleware"]}, 200),
        ({"MIDDLEWARE": ["corsheaders.middleware.CorsMiddleware"], "CORS_URLS_REGEX": r"^/api/.*$"}, 401),
    ],
)
def test_django_s_is_seen_in_its_settings(settings: dict[str, Any], status: int) -> None:
    with override_settings(**settings):
        asgi, wsgi = APPS["django"]
        assert ask_asgi(Keyguard(APIKeys()).asgi(asgi), PREFLIGHT, lint=False).status == status
        assert ask_wsgi(Keyguard(APIKeys()).wsgi(wsgi), PREFLIGHT).status == status


def test_it_is_answered_without_a_body_and_what_belongs_to_one() -> None:
    guard = Keyguard(APIKeys(preflights=True))
    one: Answer = ask_asgi(guard.asgi(asgi_app), PREFLIGHT)
    other = ask_wsgi(guard.wsgi(wsgi_app), PREFLIGHT)
    assert one == other
    assert (one.status, one.body, one.headers) == (200, b"", [("content-length", "0")])
