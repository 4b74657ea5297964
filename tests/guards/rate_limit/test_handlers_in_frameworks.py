"""One table of handlers in FastAPI, Flask and Django: each charges 3, reserves 10 and settles 7; some want too much."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.testclient import TestClient

import keyguard
from keyguard import Keyguard, RateLimit, Refused
from keyguard.stores.memory import MemoryStore
from tests.guards.rate_limit.test_handlers import Slow, left
from tests.support.harness import Ask, ask_asgi, ask_wsgi

LIMIT = RateLimit("100/minute", by="ip", cost=0, name="tokens")
REQUESTS = RateLimit("9/minute", by="ip", name="requests")


def stack(store: MemoryStore) -> Keyguard:
    return Keyguard(LIMIT, REQUESTS, store=store)


def work(guard: Keyguard, units: int = 10) -> None:
    guard.charge(3)
    with guard.reserve(units) as hold:
        hold.settle(7)


async def awork(guard: Keyguard, units: int = 10) -> None:
    guard.charge(3)
    async with guard.reserve(units) as hold:
        await asyncio.sleep(0)
        hold.settle(7)


# -- FastAPI --------------------------------------------------------------------------------------------------------


def fastapi_app(guard: Keyguard) -> Any:
    app = FastAPI(openapi_url=None)

    @app.get("/async")
    async def view() -> None:
        await awork(guard)

    @app.get("/def")
    def plain() -> None:
        work(guard)

    async def dependency() -> AsyncIterator[None]:
        async with guard.reserve(10) as hold:
            yield
            hold.settle(7)

    @app.get("/dependency", dependencies=[Depends(dependency)])
    async def nothing() -> None:
        guard.charge(3)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            guard.charge(1)
            async with guard.reserve(10) as hold:
                yield b"one"
                guard.charge(2)
                hold.settle(7)
            yield b"two"

        return StreamingResponse(parts())

    @app.get("/generator")
    def generator() -> StreamingResponse:
        def parts() -> Iterator[bytes]:
            guard.charge(1)
            with guard.reserve(10) as hold:
                yield b"one"
                guard.charge(2)
                hold.settle(7)
            yield b"two"

        return StreamingResponse(parts())

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(awork, guard)

    @app.get("/background-def")
    async def background_in_a_thread(tasks: BackgroundTasks) -> None:
        tasks.add_task(work, guard)

    @app.get("/fails")
    async def fails() -> None:
        guard.charge(10)
        async with guard.reserve(20):
            raise HTTPException(418)

    @app.get("/greedy")
    async def greedy() -> None:
        await awork(guard, 90)
        await awork(guard, 90)

    @app.get("/greedy-def")
    def greedy_plain() -> None:
        work(guard, 90)
        work(guard, 90)

    @app.get("/cheaper")
    async def cheaper() -> str:
        try:
            await awork(guard, 101)
        except Refused:
            await awork(guard, 5)
        return "a shorter answer"

    return app


def own_words(guard: Keyguard) -> Any:
    """One that answers refusals in words of its own."""
    app = fastapi_app(guard)

    @app.exception_handler(Refused)
    async def handler(request: Any, error: Refused) -> JSONResponse:
        return JSONResponse({"oh": "no"}, error.status_code)

    return app


FASTAPI: list[tuple[str, int, int, Any]] = [
    ("/async", 200, 10, None),
    ("/def", 200, 10, None),
    ("/dependency", 200, 10, None),
    ("/stream", 200, 10, None),
    ("/generator", 200, 10, None),
    ("/background", 200, 10, None),
    ("/background-def", 200, 10, None),
    ("/fails", 418, 10, None),
    ("/greedy", 429, 0, "usage"),
    ("/greedy-def", 429, 0, "usage"),
    ("/cheaper", 200, 13, None),
]


@pytest.mark.parametrize("place", ["inside", "around"])
@pytest.mark.parametrize("kind", [MemoryStore, Slow], ids=["at once", "awaited"])
@pytest.mark.parametrize(("target", "status", "spent", "cause"), FASTAPI, ids=[row[0] for row in FASTAPI])
def test_fastapi(target: str, status: int, spent: int, cause: Any, kind: type[MemoryStore], place: str) -> None:
    store = kind()
    guard = stack(store)
    app = fastapi_app(guard)
    if place == "inside":
        app.add_middleware(guard.asgi)
    else:
        app = guard.asgi(app)
    answer = ask_asgi(app, Ask(target), lint=False)
    assert answer.status == status
    check(answer, store, spent, cause)


def check(answer: Any, store: MemoryStore, spent: int, cause: Any) -> None:
    assert 100 - left(store, LIMIT) == spent
    assert 9 - left(store, REQUESTS) == (cause is None)
    if cause is not None:
        assert answer.get("content-type") == "application/problem+json"
        assert answer.get("retry-after") == "1"
        assert "tokens:100/minute" in answer.get("ratelimit-policy")
        problem = json.loads(answer.body)
        assert (problem["cause"], problem["violated-policies"]) == (cause, ["tokens:100/minute"])


def test_fastapi_in_its_own_words() -> None:
    store = MemoryStore()
    guard = stack(store)
    app = own_words(guard)
    app.add_middleware(guard.asgi)
    answer = ask_asgi(app, Ask("/greedy"), lint=False)
    assert (answer.status, answer.body, answer.get("retry-after")) == (429, b'{"oh":"no"}', "1")
    assert (left(store, LIMIT), left(store, REQUESTS)) == (100, 9)


HANDLED_BY = ["Refused", "429", "fastapi's HTTPException", "Starlette's HTTPException", "a plain function"]


@pytest.mark.parametrize("kind", HANDLED_BY)
@pytest.mark.parametrize("status", [429, 400, 200])
def test_an_app_that_answers_all_errors_in_one_form_answers_refusals_so(kind: str, status: int) -> None:
    """With its status it is a refusal, and costs nothing; else the app has served something."""
    from starlette.exceptions import HTTPException as StarletteHTTPException

    store = MemoryStore()
    told: list[Any] = []
    guard = Keyguard(LIMIT, REQUESTS, store=store, on_refusal=told.append)
    app = fastapi_app(guard)

    async def own(request: Any, error: Any) -> JSONResponse:
        return JSONResponse({"error": {"code": error.status_code, "message": error.detail}}, status)

    def plain(request: Any, error: Any) -> JSONResponse:
        return JSONResponse({"error": {"code": error.status_code, "message": error.detail}}, status)

    caught: Any = dict(zip(HANDLED_BY, [Refused, 429, HTTPException, StarletteHTTPException], strict=False))
    app.exception_handler(caught.get(kind, HTTPException))(plain if kind == "a plain function" else own)
    app.add_middleware(guard.asgi)
    answer = ask_asgi(app, Ask("/greedy"), lint=False)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"], answer.get("content-type")) == (status, 429, "application/json")
    assert (
        error["message"].startswith("All that is left of 'tokens:100/minute' is held") or "tokens" in error["message"]
    )
    assert (answer.get("retry-after"), len(told)) == (("1", 1) if status == 429 else (None, 0))
    assert left(store, LIMIT) == (100 if status == 429 else 87)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_handler_that_hands_on_to_fastapis_own_gets_a_whole_answer(wrapped: bool) -> None:
    from fastapi.exception_handlers import http_exception_handler

    guard = stack(MemoryStore())
    app = fastapi_app(guard)
    seen: list[Any] = []
    if wrapped:  # as tools do that watch an app: they wrap whatever answers, and leave the app's own list alone

        def watch(made: Any) -> Any:
            handlers = made._exception_handlers
            for kind, handler in [*handlers.items()]:

                async def watched(request: Any, error: Any, handler: Any = handler) -> Any:
                    seen.append(error)
                    return await handler(request, error)

                handlers[kind] = watched
            return made

        from starlette.middleware.exceptions import ExceptionMiddleware

        build = app.build_middleware_stack

        def built() -> Any:
            whole = inner = build()
            while not isinstance(inner, ExceptionMiddleware):
                inner = inner.app
            watch(inner)
            return whole

        app.build_middleware_stack = built
    else:

        @app.exception_handler(HTTPException)
        async def own(request: Any, error: Any) -> Any:
            seen.append(error)
            return await http_exception_handler(request, error)

    app.add_middleware(guard.asgi)
    answer = ask_asgi(app, Ask("/greedy"))
    assert (answer.status, answer.get("retry-after")) == (429, "1")
    problem = json.loads(answer.body)
    assert (problem["cause"] == "usage") if wrapped else [*problem] == ["detail"]
    assert len(seen) == (0 if wrapped else 1)


def test_litestar() -> None:
    """It answers in its own form, and with the fields of the refusal."""
    from litestar import Litestar, get

    store = MemoryStore()
    guard = stack(store)

    @get("/greedy")
    async def greedy() -> None:
        await awork(guard, 90)
        await awork(guard, 90)

    answer = ask_asgi(guard.asgi(Litestar([greedy])), Ask("/greedy"), lint=False)
    assert (answer.status, answer.get("retry-after")) == (429, "1")
    assert "tokens:100/minute" in json.loads(answer.body)["detail"]
    assert (left(store, LIMIT), left(store, REQUESTS)) == (100, 9)


def test_a_websocket_of_fastapi() -> None:
    store = MemoryStore()
    guard = stack(store)
    app = FastAPI()

    @app.websocket("/ws")
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            guard.charge(len(text))
            async with guard.reserve(20):
                await socket.send_text(str(left(store, LIMIT)))

    with TestClient(guard.asgi(app), client=("198.51.100.1", 1)).websocket_connect("/ws") as socket:
        socket.send_text("four")
        assert socket.receive_text() == "76"
        socket.send_text("fourth")
        assert int(socket.receive_text()) == 50
    assert left(store, LIMIT) == 50


@pytest.mark.parametrize("framework", [True, False])
@pytest.mark.parametrize(
    ("accepts", "extensions", "told"),
    [
        (True, {"websocket.http.response": {}}, {"websocket.accept": None, "websocket.close": 1013}),
        (False, {}, {"websocket.close": 1013}),
        (False, {"websocket.http.response": {}}, {"websocket.http.response.start": 429}),
    ],
)
def test_a_websocket_whose_handler_lets_a_refusal_pass_is_closed_for_now(
    framework: bool, accepts: bool, extensions: Any, told: dict[str, int | None]
) -> None:
    store = MemoryStore()
    guard = stack(store)
    sent: list[Any] = []

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if accepts:
            await send({"type": "websocket.accept"})
        await awork(guard, 90)
        await awork(guard, 90)

    async def chat(socket: WebSocket) -> None:
        if accepts:
            await socket.accept()
        await awork(guard, 90)
        await awork(guard, 90)

    app = FastAPI()
    app.websocket("/ws")(chat)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {**Ask("/ws").scope(), "type": "websocket", "subprotocols": [], "extensions": extensions}
    asyncio.run(guard.asgi(app if framework else raw)(scope, receive, send))
    heads = {one["type"]: one.get("code", one.get("status")) for one in sent if not one["type"].endswith("body")}
    assert heads == told


# -- Flask ------------------------------------------------------------------------------------------------------------


def flask_app(guard: Keyguard) -> Any:
    from flask import Flask, Response, stream_with_context

    app = Flask("costs")

    @app.get("/view")
    def view() -> str:
        work(guard)
        return "hello"

    @app.get("/loop")
    async def loop() -> str:
        await awork(guard)
        return "hello"

    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            guard.charge(1)
            with guard.reserve(10) as hold:
                yield "one"
                guard.charge(2)
                hold.settle(7)
            yield "two"

        return Response(stream_with_context(parts()))

    @app.get("/fails")
    def fails() -> str:
        guard.charge(10)
        with guard.reserve(20):
            raise ValueError

    @app.get("/greedy")
    def greedy() -> str:
        work(guard, 90)
        work(guard, 90)
        return "hello"

    @app.get("/cheaper")
    def cheaper() -> str:
        try:
            work(guard, 101)
        except Refused:
            work(guard, 5)
        return "a shorter answer"

    return app.wsgi_app


FLASK: list[tuple[str, int, int, Any]] = [
    ("/view", 200, 10, None),
    ("/loop", 200, 10, None),
    ("/stream", 200, 10, None),
    ("/fails", 500, 10, None),
    ("/greedy", 429, 0, "usage"),
    ("/cheaper", 200, 13, None),
]


@pytest.mark.parametrize(("target", "status", "spent", "cause"), FLASK, ids=[row[0] for row in FLASK])
def test_flask(target: str, status: int, spent: int, cause: Any) -> None:
    store = MemoryStore()
    guard = stack(store)
    answer = ask_wsgi(guard.wsgi(flask_app(guard)), Ask(target), lint=False)
    assert answer.status == status
    check(answer, store, spent, cause)


# -- Django -----------------------------------------------------------------------------------------------------------


def django_apps(guard: Keyguard) -> Any:
    """Return the apps for ASGI and WSGI, and what must be entered before they are made."""
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.test import override_settings
    from django.urls import path

    from tests.support import frameworks

    frameworks._django()

    def view(request: HttpRequest) -> HttpResponse:
        work(guard)
        return HttpResponse("hello")

    async def loop(request: HttpRequest) -> HttpResponse:
        await awork(guard)
        return HttpResponse("hello")

    def stream(request: HttpRequest) -> StreamingHttpResponse:
        def parts() -> Iterator[str]:
            work(guard)
            yield "part"

        return StreamingHttpResponse(parts())

    def greedy(request: HttpRequest) -> HttpResponse:
        work(guard, 90)
        work(guard, 90)
        return HttpResponse("hello")

    async def greedy_loop(request: HttpRequest) -> HttpResponse:
        await awork(guard, 90)
        await awork(guard, 90)
        return HttpResponse("hello")

    views: dict[str, Callable[..., Any]] = {
        "view": view, "loop": loop, "stream": stream, "greedy": greedy, "greedy-loop": greedy_loop
    }  # fmt: skip
    urls = type("urls", (), {"urlpatterns": [path(name, called) for name, called in views.items()]})
    return override_settings(ROOT_URLCONF=urls, MIDDLEWARE=["keyguard.django.RefusedMiddleware"])


DJANGO: list[tuple[str, int, int, Any]] = [
    ("/view", 200, 10, None),
    ("/loop", 200, 10, None),
    ("/stream", 200, 10, None),
    ("/greedy", 429, 0, "usage"),
    ("/greedy-loop", 429, 0, "usage"),
]


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
@pytest.mark.parametrize("world", ["asgi", "wsgi"])
@pytest.mark.parametrize(("target", "status", "spent", "cause"), DJANGO, ids=[row[0] for row in DJANGO])
def test_django(target: str, status: int, spent: int, cause: Any, world: str) -> None:
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application

    store = MemoryStore()
    guard = stack(store)
    with django_apps(guard):
        if world == "asgi":
            answer = ask_asgi(guard.asgi(get_asgi_application()), Ask(target), lint=False)
        else:
            answer = ask_wsgi(guard.wsgi(get_wsgi_application()), Ask(target), lint=False)
    assert answer.status == status
    check(answer, store, spent, cause)


def test_refused_is_an_exception_of_the_frameworks() -> None:
    import starlette.exceptions
    import werkzeug.exceptions

    store = MemoryStore()
    guard = stack(store)
    caught: list[Refused] = []

    def app(environ: Any, start_response: Any) -> Any:
        try:
            work(guard, 101)
        except keyguard.Refused as error:
            caught.append(error)
        start_response("200 OK", [])
        return []

    ask_wsgi(guard.wsgi(app), Ask(), lint=False)
    assert isinstance(caught[0], starlette.exceptions.HTTPException)
    assert isinstance(caught[0], werkzeug.exceptions.HTTPException)
    assert (caught[0].status_code, caught[0].code, str(caught[0])) == (429, 429, caught[0].refusal.detail)
