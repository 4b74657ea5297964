"""Exhaustions in apps of real frameworks: each has a way of its own to answer errors that nobody handles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastapi
import litestar
import pytest

from keyguard import Cause, Keyguard, RateLimit, UpstreamCauses
from tests.guards.upstream_causes import exhaustions as made
from tests.guards.upstream_causes.exhaustions import RateLimitError, exhausted, raises
from tests.support import django_site
from tests.support.harness import Ask, ask_asgi, ask_wsgi

LEFT_ALONE = {
    "fallback": (200, b"from the fallback"),
    "own-503": (503, b"of the app"),
    "own-500": (500, b"of the app"),
    "handled-500": (500, b"handled"),
    "bug": (500, None),
    "bug-after-it": (500, None),
}
"""By path: what the app makes of an exhaustion by itself, or another error. Of some it matters only what it is not."""


class Handled(RateLimitError):
    """One for which the app has a handler, which answers 500."""


def stack(**more: Any) -> Keyguard:
    return Keyguard(RateLimit("100/minute"), UpstreamCauses(), clock=made.at_noon(), **more)


def fail(what: str) -> tuple[int, bytes]:
    """Do what a handler does at a path: raise, or say what it answers."""
    match what:
        case "plain":
            raises()()
        case "wrapped":
            made.wrapped()
        case "bug":
            made.bug()
        case "bug-after-it":
            made.bug_after_it()
        case "handled-500":
            raise Handled(exhausted())
    try:
        raise RateLimitError(exhausted())
    except RateLimitError:
        return (200, b"from the fallback") if what == "fallback" else (int(what.removeprefix("own-")), b"of the app")


def is_refused(status: int, body: bytes, wait: str | None) -> None:
    assert (status, json.loads(body)["cause"], wait) == (503, "upstream", "20")


# -- FastAPI ----------------------------------------------------------------------------------------------------


def fastapi_app() -> Any:
    from fastapi.responses import PlainTextResponse, Response, StreamingResponse

    app = fastapi.FastAPI()
    app.add_exception_handler(Handled, lambda request, error: PlainTextResponse("handled", 500))

    @app.get("/async/{what}")
    async def in_the_loop(what: str) -> Response:
        status, body = fail(what)
        return Response(body, status)

    @app.get("/thread/{what}")
    def in_a_thread(what: str) -> Response:
        status, body = fail(what)
        return Response(body, status)

    async def call(error: Exception | None, seconds: float = 0) -> str:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return "fine"

    @app.get("/gathered")
    async def gathered() -> list[str]:
        return await asyncio.gather(call(None), call(RateLimitError(exhausted())), call(None, 0.001))

    @app.get("/late")
    async def one_fails_and_the_others_go_well_before() -> list[Any]:
        error = RateLimitError(exhausted())
        found = await asyncio.gather(call(error), call(None, 0.001), return_exceptions=True)
        raise next(one for one in found if isinstance(one, Exception))

    @app.get("/grouped")
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(call(RateLimitError(exhausted())))
            group.create_task(call(None, 10))

    @app.get("/executor")
    async def in_a_thread_without_the_context() -> None:
        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, fail, "plain")

    @app.get("/dependency", dependencies=[fastapi.Depends(lambda: fail("plain"))])
    async def behind_a_dependency() -> None: ...

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            yield b"begun"
            fail("plain")

        return StreamingResponse(parts())

    @app.websocket("/socket/{when}")
    async def socket(websocket: fastapi.WebSocket, when: str) -> None:
        if when == "later":
            await websocket.accept()
        fail("plain")

    return app


AROUND: dict[str, Callable[[Keyguard, Any], Any]] = {
    "added to it": lambda guard, app: app.add_middleware(guard.asgi) or app,
    "around it": lambda guard, app: guard.asgi(app),
}


@pytest.fixture(params=AROUND)
def client(request: pytest.FixtureRequest) -> Any:
    from starlette.testclient import TestClient

    app = AROUND[request.param](stack(), fastapi_app())
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    "path",
    [
        *("/async/plain", "/async/wrapped", "/thread/plain", "/thread/wrapped"),
        *("/gathered", "/late", "/grouped", "/executor", "/dependency"),
    ],
)
def test_fastapi(client: Any, path: str) -> None:
    answer = client.get(path)
    is_refused(answer.status_code, answer.content, answer.headers.get("retry-after"))
    assert ";r=99;" in client.get("/async/fallback").headers["ratelimit"], "nothing was charged"


@pytest.mark.parametrize("path", LEFT_ALONE)
@pytest.mark.parametrize("where", ["async", "thread"])
def test_fastapi_is_left_alone(client: Any, where: str, path: str) -> None:
    answer = client.get(f"/{where}/{path}")
    status, body = LEFT_ALONE[path]
    assert answer.status_code == status
    assert answer.content == (body or b"Internal Server Error")


def test_a_stream_that_has_begun_cannot_be_refused(client: Any) -> None:
    answer = client.get("/stream")
    assert (answer.status_code, answer.content) == (200, b"begun")


def test_a_websocket_is_closed_as_for_other_refusals(client: Any) -> None:
    from starlette.testclient import WebSocketDenialResponse

    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/socket/before"):
        pass
    is_refused(denied.value.status_code, denied.value.content, denied.value.headers.get("retry-after"))
    with pytest.raises(RateLimitError), client.websocket_connect("/socket/later") as socket:
        socket.receive()


def test_a_websocket_of_a_server_without_denial_responses_is_told_to_try_again_later() -> None:
    scope = {**Ask("/socket/before").scope(), "type": "websocket", "subprotocols": []}
    del scope["method"]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(stack().asgi(fastapi_app())(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1013}]


def test_rules_at_routes_give_back_too() -> None:
    from starlette.testclient import TestClient

    guard, app = stack(), fastapi_app()
    app.add_middleware(guard.asgi)
    fails = iter([True, True, True, False])

    @app.get("/ruled", dependencies=[fastapi.Depends(guard.limit("1/minute", name="ruled"))])
    async def ruled() -> str:
        if next(fails):
            fail("plain")
        return "fine"

    client = TestClient(app)
    assert [client.get("/ruled").status_code for _ in range(5)] == [503, 503, 503, 200, 429]


# -- Flask and Quart ---------------------------------------------------------------------------------------------


def flask_app() -> Any:
    import flask

    app = flask.Flask("shop")
    app.register_error_handler(Handled, lambda error: ("handled", 500))

    @app.get("/<what>")
    def view(what: str) -> Any:
        status, body = fail(what)
        return body, status

    return app


@pytest.mark.parametrize("propagates", [False, True])
@pytest.mark.parametrize("path", ["plain", "wrapped"])
def test_flask(path: str, propagates: bool) -> None:
    app, guard = flask_app(), stack()
    app.config["PROPAGATE_EXCEPTIONS"] = propagates
    guard.init_app(app)
    client = app.test_client()
    answer = client.get(f"/{path}")
    is_refused(answer.status_code, answer.data, answer.headers.get("Retry-After"))
    assert ";r=99;" in client.get("/fallback").headers["RateLimit"], "nothing was charged"


@pytest.mark.parametrize("path", LEFT_ALONE)
def test_flask_is_left_alone(path: str) -> None:
    app = flask_app()
    stack().init_app(app)
    answer = app.test_client().get(f"/{path}")
    status, body = LEFT_ALONE[path]
    assert answer.status_code == status
    assert body is None or answer.data == body
    assert b"upstream" not in answer.data


@pytest.mark.parametrize(("status", "refused"), [(500, True), (200, False), (503, False)])
def test_a_page_of_flask_for_all_errors_that_nobody_handles(status: int, refused: bool) -> None:
    app = flask_app()
    app.register_error_handler(500, lambda error: ("something is wrong", status))
    stack().init_app(app)
    answer = app.test_client().get("/plain")
    if refused:
        is_refused(answer.status_code, answer.data, answer.headers.get("Retry-After"))
    else:
        assert (answer.status_code, answer.data) == (status, b"something is wrong")


@pytest.mark.parametrize("path", ["plain", "wrapped", *LEFT_ALONE])
def test_quart(path: str) -> None:
    import quart

    app = quart.Quart("shop")

    @app.errorhandler(Handled)
    async def handled(error: Handled) -> Any:
        return "handled", 500

    @app.get("/<what>")
    async def view(what: str) -> Any:
        status, body = fail(what)
        return body, status

    answer = ask_asgi(stack().asgi(app), Ask(f"/{path}"), lint=False)
    if path in LEFT_ALONE:
        assert answer.status == LEFT_ALONE[path][0]
        assert b"upstream" not in answer.body
    else:
        is_refused(answer.status, answer.body, answer.get("retry-after"))


# -- Django -----------------------------------------------------------------------------------------------------


def django_view(request: Any, what: str) -> Any:
    from django.http import HttpResponse

    status, body = fail(what)
    return HttpResponse(body, status=status)


async def django_coroutine(request: Any, what: str) -> Any:
    return django_view(request, what)


def urlpatterns() -> list[Any]:
    from django.urls import path

    return [path("view/<what>", django_view), path("loop/<what>", django_coroutine)]


DJANGO_PATHS = ["plain", "wrapped", "fallback", "own-503", "own-500", "bug", "bug-after-it"]


@pytest.mark.parametrize("kind", django_site.CLIENTS)
@pytest.mark.parametrize("view", ["view", "loop"])
@pytest.mark.parametrize("path", DJANGO_PATHS)
def test_django(kind: str, view: str, path: str) -> None:
    records: list[Any] = []
    urls = type("urls", (), {"urlpatterns": urlpatterns()})
    with django_site.site(stack(on_decision=records.append), ROOT_URLCONF=urls):
        answer = django_site.ask(kind, f"/{view}/{path}")
        left = django_site.ask(kind, f"/{view}/fallback").headers["RateLimit"]
    if path in LEFT_ALONE:
        assert answer.status == LEFT_ALONE[path][0]
        assert b'"upstream"' not in answer.body
    else:
        is_refused(answer.status, answer.body, answer.headers.get("Retry-After"))
        assert ";r=99;" in left, "nothing was charged"
        record = records[0]
        assert (record.outcome, record.cause, record.reason) == ("refused", Cause.UPSTREAM, "openai-exhausted")


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
@pytest.mark.parametrize("path", ["plain", "fallback", "bug"])
def test_django_as_a_whole(world: str, path: str) -> None:
    """The guards stand around the app that the server runs."""
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.test import override_settings

    urls = type("urls", (), {"urlpatterns": urlpatterns()})
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=[]):
        ask = Ask(f"/view/{path}")
        if world == "asgi":
            answer = ask_asgi(stack().asgi(get_asgi_application()), ask, lint=False)
        else:
            answer = ask_wsgi(stack().wsgi(get_wsgi_application()), ask)
    if path == "plain":
        is_refused(answer.status, answer.body, answer.get("retry-after"))
    else:
        assert answer.status == LEFT_ALONE[path][0]


# -- others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["plain", "wrapped", *LEFT_ALONE])
@pytest.mark.parametrize("inside", [False, True])
def test_litestar(path: str, inside: bool) -> None:
    @litestar.get(list(map("/{}".format, ["plain", "wrapped", *LEFT_ALONE])))
    async def view(request: litestar.Request) -> Any:
        status, body = fail(request.url.path.removeprefix("/"))
        return litestar.Response(body, status_code=status, media_type="text/plain")

    def handled(request: Any, error: Exception) -> Any:
        return litestar.Response(b"handled", status_code=500, media_type="text/plain")

    guard = stack()
    app: Any = litestar.Litestar(
        [view], exception_handlers={Handled: handled}, middleware=[guard.asgi] if inside else [], logging_config=None
    )
    answer = ask_asgi(app if inside else guard.asgi(app), Ask(f"/{path}"), lint=False)
    if path in LEFT_ALONE:
        status, body = LEFT_ALONE[path]
        assert answer.status == status
        assert body is None or answer.body == body
    else:
        is_refused(answer.status, answer.body, answer.get("retry-after"))


def test_falcon_is_not_refused_wrongly() -> None:
    """It answers 500 by itself, and tells nobody of the error."""
    import falcon

    class Resource:
        def on_get(self, request: Any, response: Any, what: str) -> None:
            fail(what)

    app = falcon.App()
    app.add_route("/{what}", Resource())
    for path in ("plain", "bug"):
        answer = ask_wsgi(stack().wsgi(app), Ask(f"/{path}"), lint=False)
        assert answer.status == 500
        assert b"upstream" not in answer.body
