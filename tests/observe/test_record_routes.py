"""The route of a record: the template that the framework has matched, and before that, what its table says."""

from __future__ import annotations

from typing import Any

import pytest
from a2wsgi import WSGIMiddleware
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import include, path, re_path
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.testclient import TestClient
from flask import Blueprint, Flask
from flask import request as flask_request
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from keyguard import Decision, Keyguard, RateLimit, Refused, Request, Response, refuse
from keyguard.refusal import Cause
from tests.support.django_site import site
from tests.support.harness import Ask, ask_asgi, ask_wsgi

CLOSED = "/closed"


def closed(request: Request) -> Response | None:
    """Refuse what has the field `X-Closed`, before any route is matched."""
    if request.headers.get("x-closed"):
        return refuse(request, Cause.PERMISSION, "Closed.", reason="closed")
    return None


def stack(told: list[Decision], *guards: Any) -> Keyguard:
    return Keyguard(closed, *guards, RateLimit("99/minute", by="ip"), store="memory://", on_decision=told.append)


async def hello(request: Any) -> PlainTextResponse:
    return PlainTextResponse("hello")


def fast() -> FastAPI:
    app, router, inner = FastAPI(), APIRouter(prefix="/things"), FastAPI()

    @app.get("/items/{id:int}")
    def item(id: int) -> int:
        return id

    @app.get("/items/{name}")
    def named(name: str) -> str:
        return name

    @router.get("/{name}")
    def thing(name: str) -> str:
        return name

    @inner.get("/deep/{x}")
    def deep(x: str) -> str:
        return x

    @app.websocket("/live/{room}")
    async def live(socket: WebSocket, room: str) -> None:
        await socket.accept()
        await socket.close()

    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/v2")
    app.mount("/sub", inner)
    app.mount("/twice", Starlette(routes=[Route("/{y}", hello)]))
    return app


FASTAPI = [
    ("/items/17", "/items/{id:int}", "/items/{id}"),
    ("/items/17?key=secret", "/items/{id:int}", "/items/{id}"),
    ("/items/ada", "/items/{name}", "/items/{name}"),
    ("/v1/things/a", "/v1/things/{name}", "/v1/things/{name}"),
    ("/v2/things/a", "/v2/things/{name}", "/v2/things/{name}"),
    ("/sub/deep/1", "/sub/deep/{x}", "/sub/deep/{x}"),
    ("/twice/1", "/twice/{y}", "/twice/{y}"),
    ("/4fK2mQ9xTzLb", "", ""),
]


@pytest.mark.parametrize("between", [False, True], ids=["alone", "under middleware"])
def test_fastapi(between: bool) -> None:
    told: list[Decision] = []
    app = fast()
    if between:

        async def dispatch(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.add_middleware(stack(told).asgi)
    with TestClient(app) as client:
        for target, *_ in FASTAPI:
            client.get(target)
            client.get(target, headers={"X-Closed": "yes"})
        with client.websocket_connect("/live/a"):
            pass
    for (_, template, _), served, refused in zip(FASTAPI, told[::2], told[1::2], strict=False):
        assert (served.outcome, served.route) == ("served", template)
        assert (refused.outcome, refused.route) == ("refused", template)
    assert (told[-1].status, told[-1].route) == (101, "/live/{room}")


def test_starlette() -> None:
    told: list[Decision] = []
    routes = [
        Route("/me", hello),
        Route("/{who}", hello),
        Mount("/api/{tenant}", routes=[Route("/x/{id}", hello, methods=["POST"])]),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(stack(told).asgi)
    with TestClient(app) as client:
        for method, target in (("GET", "/me"), ("GET", "/ada"), ("POST", "/api/shop/x/1"), ("GET", "/api/shop/x/1")):
            client.request(method, target)
            client.request(method, target, headers={"X-Closed": "yes"})
    found = [one.route for one in told]
    assert found == [
        route for one in ("/me", "/{who}", "/api/{tenant}/x/{id}", "/api/{tenant}/x/{id}") for route in [one] * 2
    ]


def test_an_app_behind_a_prefix_has_the_same_templates() -> None:
    told: list[Decision] = []
    inner = fast()
    outer = Starlette(routes=[Mount("/shop", stack(told).asgi(inner))])
    with TestClient(outer) as client:
        for target, *_ in FASTAPI:
            client.get("/shop" + target)
            client.get("/shop" + target, headers={"X-Closed": "yes"})
    assert [one.route for one in told] == [template for _, template, _ in FASTAPI for _ in range(2)]


def test_routes_that_are_added_later_are_found() -> None:
    told: list[Decision] = []
    app = fast()
    app.add_middleware(stack(told).asgi)
    with TestClient(app) as client:
        client.get("/items/1")
        app.add_api_route("/late/{x}", lambda x: x)
        client.get("/late/1")
    assert [one.route for one in told] == ["/items/{id:int}", "/late/{x}"]


def flask() -> Flask:
    app, shop, inner = Flask("app"), Blueprint("shop", "shop", url_prefix="/shop"), Blueprint("in", "in")
    app.add_url_rule("/items/<int:id>", "item", lambda id: str(id))
    app.add_url_rule("/items/<name>", "named", lambda name: name)
    inner.add_url_rule("/<uuid:one>", "one", lambda one: str(one))
    shop.add_url_rule("/x/<path:rest>", "rest", lambda rest: rest)
    shop.register_blueprint(inner, url_prefix="/in")
    app.register_blueprint(shop)
    return app


FLASK = [
    ("/items/17", "/items/<int:id>"),
    ("/items/ada", "/items/<name>"),
    ("/shop/x/a/b/c", "/shop/x/<path:rest>"),
    ("/shop/in/00000000-0000-4000-8000-000000000000", "/shop/in/<uuid:one>"),
    ("/4fK2mQ9xTzLb", ""),
]


@pytest.mark.parametrize("way", ["init_app", "wsgi", "dispatcher", "a2wsgi"])
def test_flask(way: str) -> None:
    told: list[Decision] = []
    app, guard, prefix = flask(), stack(told), ""
    outer: Any = app
    if way == "init_app":
        guard.init_app(app)
    elif way == "wsgi":
        outer = guard.wsgi(app)
    elif way == "dispatcher":
        outer, prefix = DispatcherMiddleware(Flask("outer"), {"/mounted": guard.wsgi(app)}), "/mounted"
    if way == "a2wsgi":
        served: Any = TestClient(guard.asgi(WSGIMiddleware(app)))
    else:
        served = Client(outer)
    for target, _ in FLASK:
        served.get(prefix + target)
        served.get(prefix + target, headers={"X-Closed": "yes"})
    expected = [template for _, template in FLASK for _ in range(2)]
    assert [one.route for one in told] == expected
    assert [one.outcome for one in told] == ["served", "refused"] * len(FLASK)


def page(request: Any, **found: Any) -> HttpResponse:
    return HttpResponse("page")


async def loop(request: Any, **found: Any) -> HttpResponse:
    return HttpResponse("loop")


urlpatterns = [
    path("items/<int:id>/", page),
    path("items/<slug:name>/", loop),
    path("shop/<slug:shop>/", include([re_path(r"^old/(?P<year>[0-9]{4})/$", page), path("new", page)])),
    path("files/<path:rest>", page),
]
DJANGO = [
    ("/items/17/", "/items/<int:id>/"),
    ("/items/ada/", "/items/<slug:name>/"),
    ("/shop/a/old/1999/", "/shop/<slug:shop>/old/{}/"),
    ("/shop/a/new", "/shop/<slug:shop>/new"),
    ("/files/a/b", "/files/<path:rest>"),
    ("/4fK2mQ9xTzLb", ""),
]


@pytest.mark.parametrize("way", ["wsgi", "asgi", "around wsgi", "around asgi"])
def test_django(way: str) -> None:
    told: list[Decision] = []
    guard = stack(told)
    around = {"MIDDLEWARE": []} if way.startswith("around") else {}
    with site(guard, ROOT_URLCONF=__name__, **around):
        served: Any = get_asgi_application() if way.endswith("asgi") else get_wsgi_application()
        if around:
            served = guard.asgi(served) if way.endswith("asgi") else guard.wsgi(served)
        for target, _ in DJANGO:
            for fields in ((), (("X-Closed", "yes"),)):
                asked = Ask(target, fields)
                answer = ask_asgi(served, asked, lint=False) if way.endswith("asgi") else ask_wsgi(served, asked)
                assert answer.status == (403 if fields else 404 if target == DJANGO[-1][0] else 200)
    assert [one.route for one in told] == [template for _, template in DJANGO for _ in range(2)]
    assert [one.outcome for one in told] == ["served", "refused"] * len(DJANGO)


# -- refusals inside the app ------------------------------------------------------------------------------------------


def limited(told: list[Decision]) -> tuple[Keyguard, RateLimit]:
    tokens = RateLimit("10/minute", by="ip", cost=0, name="tokens")
    return Keyguard(tokens, store="memory://", on_decision=told.append, handlers=True), tokens


INSIDE = [
    ("/rule", "served", 200, ()),
    ("/rule", "refused", 429, ("rule:1/minute",)),
    ("/reserve?units=4", "served", 200, ()),
    ("/reserve?units=40", "refused", 429, ("tokens:10/minute",)),
    ("/kind?units=40", "served", 200, ()),
]


def as_told(told: list[Decision]) -> list[tuple[str, str, int, tuple[str, ...]]]:
    return [(one.route, one.outcome, one.status, one.policies) for one in told]


EXPECTED = [(target.partition("?")[0], *rest) for target, *rest in INSIDE]


def test_refusals_inside_of_fastapi() -> None:
    told: list[Decision] = []
    guard, _ = limited(told)
    app = FastAPI()

    @app.get("/rule")
    @guard.limit("1/minute", by="ip", name="rule")
    async def rule() -> str:
        return "done"

    @app.get("/reserve")
    async def reserve(units: int) -> str:
        async with guard.reserve(units, "tokens"):
            return "done"

    @app.get("/kind")
    async def kind(units: int) -> str:
        try:
            async with guard.reserve(units, "tokens"):
                return "all"
        except Refused:
            return "less"

    app.add_middleware(guard.asgi)
    with TestClient(app) as client:
        for target, _, status, _ in INSIDE:
            assert client.get(target).status_code == status
    assert as_told(told) == EXPECTED


def test_refusals_inside_of_flask() -> None:
    told: list[Decision] = []
    guard, _ = limited(told)
    app = Flask("app")

    @app.get("/rule")
    @guard.limit("1/minute", by="ip", name="rule")
    def rule() -> str:
        return "done"

    @app.get("/reserve")
    def reserve() -> str:
        with guard.reserve(int(flask_request.args["units"]), "tokens"):
            return "done"

    @app.get("/kind")
    def kind() -> str:
        try:
            with guard.reserve(int(flask_request.args["units"]), "tokens"):
                return "all"
        except Refused:
            return "less"

    guard.init_app(app)
    client = app.test_client()
    for target, _, status, _ in INSIDE:
        assert client.get(target).status_code == status
    assert as_told(told) == EXPECTED


def test_routes_that_cannot_be_listed_end_no_request(caplog: pytest.LogCaptureFixture) -> None:
    class Routes:
        def iter_rules(self) -> Any:
            raise LookupError

    told: list[Decision] = []
    app = flask()
    guard = stack(told)
    served = Client(guard.wsgi(app.wsgi_app))
    app.url_map, url_map = Routes(), app.url_map  # type: ignore[assignment]
    assert served.get("/items/17", headers={"X-Closed": "yes"}).status_code == 403
    app.url_map = url_map
    assert served.get("/items/17").status_code == 200
    assert [one.route for one in told] == ["", "/items/<int:id>"]
    assert "the routes of" in caplog.text
