"""`here()`: the request's state in handlers of every kind, in both worlds and in the frameworks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.testclient import TestClient

import keyguard.asgi
import keyguard.wsgi
from keyguard import ConfigurationError, Guard, Identity, Keyguard, OutsideRequest, RateLimit, Request, here
from tests.support.harness import Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app


class ByName(Guard):
    """Takes callers at their word."""

    provides = frozenset({"identity"})

    def __call__(self, request: Request) -> None:
        request.identity = Identity(request.headers["x-name"])


guard = Keyguard(ByName(), RateLimit("100/minute", by="subject"), store="memory://")
"""One that decides on the short way."""


async def slow(request: Request, forward: Any) -> Any:
    return await forward(request)


long = Keyguard(slow, ByName(), store="memory://", handlers=True)
noted: list[tuple[str, str]] = []
"""By whom a handler was called, and for whom it is at work as `here()` tells."""


def note(who: str) -> None:
    noted.append((who, guard.here().caller.subject))


def ask_for(who: str, target: str = "/") -> Ask:
    return Ask(f"{target}?who={who}", (("x-name", who), ("Accept", "*/*")))


# -- ASGI -----------------------------------------------------------------------------------------------------------


def who_of(scope: Any) -> str:
    return str(scope["query_string"].decode().partition("=")[2])


def raw(work: Callable[[str], Awaitable[Any]], *, late: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        if not late:
            await work(who_of(scope))
        await asgi_app(scope, receive, send)
        if late:
            await work(who_of(scope))

    return app


async def in_place(who: str) -> None:
    note(who)


async def in_tasks(who: str) -> None:
    async def child() -> None:
        await asyncio.sleep(0)
        note(who)

    await asyncio.gather(asyncio.create_task(child()), child())


async def in_a_thread(who: str) -> None:
    await asyncio.to_thread(note, who)


async def in_a_thread_of_its_own(who: str) -> None:
    thread = threading.Thread(target=contextvars.copy_context().run, args=(note, who))
    thread.start()
    await asyncio.to_thread(thread.join)


def fastapi_app() -> Any:
    app = FastAPI(openapi_url=None)

    @app.get("/async")
    async def view(who: str) -> None:
        await asyncio.sleep(0)
        note(who)

    @app.get("/def")
    def plain(who: str) -> None:
        note(who)

    def dependency(who: str) -> Iterator[None]:
        note(who)
        yield
        note(who)

    async def async_dependency(who: str) -> None:
        note(who)

    @app.get("/dependencies", dependencies=[Depends(dependency), Depends(async_dependency)])
    async def nothing() -> None: ...

    @app.get("/stream")
    async def stream(who: str) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(2):
                await asyncio.sleep(0)
                note(who)
                yield b"part"

        return StreamingResponse(parts())

    @app.get("/generator")
    def generator(who: str) -> StreamingResponse:
        def parts() -> Iterator[bytes]:
            for _ in range(2):
                note(who)
                yield b"part"

        return StreamingResponse(parts())

    @app.get("/background")
    async def background(who: str, tasks: BackgroundTasks) -> None:
        async def later() -> None:
            note(who)

        tasks.add_task(note, who)
        tasks.add_task(later)

    async def dispatch(request: Any, call_next: Any) -> Any:
        note(request.query_params["who"])
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    return app


ASGI_PLACES: dict[str, tuple[Callable[[], Any], int]] = {
    "in place": (lambda: raw(in_place), 1),
    "in tasks": (lambda: raw(in_tasks), 2),
    "in asyncio.to_thread": (lambda: raw(in_a_thread), 1),
    "in a thread with a copy of the context": (lambda: raw(in_a_thread_of_its_own), 1),
    "after the last byte": (lambda: raw(in_tasks, late=True), 2),
    "/async": (fastapi_app, 2),
    "/def": (fastapi_app, 2),
    "/dependencies": (fastapi_app, 4),
    "/stream": (fastapi_app, 3),
    "/generator": (fastapi_app, 3),
    "/background": (fastapi_app, 3),
}


@pytest.mark.parametrize("stack", [guard, long], ids=["short way", "long way"])
@pytest.mark.parametrize("place", ASGI_PLACES)
def test_a_handler_under_asgi_knows_its_own_request(place: str, stack: Keyguard) -> None:
    make, times = ASGI_PLACES[place]
    app = stack.asgi(make())
    noted.clear()

    async def together() -> None:
        asks = [ask_for(who, place if place.startswith("/") else "/") for who in ("ada", "bob", "eve")]
        answers = await asyncio.gather(*[aask(app, ask) for ask in asks])
        assert [answer.status for answer in answers] == [200, 200, 200]
        with pytest.raises(OutsideRequest):
            here()  # the task that called the app is not at work for any request

    asyncio.run(together())
    assert sorted(noted) == sorted([(who, who) for who in ("ada", "bob", "eve")] * times)


def test_a_handler_of_a_websocket_knows_its_request() -> None:
    app = FastAPI()

    @app.websocket("/ws")
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text + here().caller.subject)

    with TestClient(guard.asgi(app)).websocket_connect("/ws", headers={"x-name": "ada"}) as socket:
        socket.send_text("a: ")
        assert socket.receive_text() == "a: ada"
        socket.send_text("b: ")
        assert socket.receive_text() == "b: ada"


# -- WSGI -----------------------------------------------------------------------------------------------------------


def who_asks(environ: Any) -> str:
    return str(environ["QUERY_STRING"].partition("=")[2])


def plain_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    note(who_asks(environ))
    return wsgi_app(environ, start_response)


def generator_wsgi(environ: Any, start_response: Any) -> Iterator[bytes]:
    note(who_asks(environ))
    start_response("200 OK", [("Content-Type", "text/plain")])
    note(who_asks(environ))
    yield b"hel"
    note(who_asks(environ))
    yield b"lo"


def writing_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    note(who_asks(environ))
    write(b"hel")
    note(who_asks(environ))
    return [b"lo"]


class Closing:
    def __init__(self, who: str) -> None:
        self.who = who

    def __iter__(self) -> Iterator[bytes]:
        note(self.who)
        return iter([b"hello"])

    def close(self) -> None:
        note(self.who)


class ClosingSized(Closing):
    def __len__(self) -> int:
        return 1


def closing_wsgi(made: type[Closing]) -> Any:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return made(who_asks(environ))

    return app


def flask_app() -> Any:
    from flask import Flask, Response, request, stream_with_context

    app = Flask("here")

    @app.get("/view")
    def view() -> str:
        note(request.args["who"])
        return "hello"

    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            for _ in range(2):
                note(request.args["who"])
                yield "part"

        response = Response(stream_with_context(parts()))
        who = request.args["who"]
        response.call_on_close(lambda: note(who))
        return response

    @app.get("/async")
    async def view_in_a_loop() -> str:
        await asyncio.sleep(0)
        note(request.args["who"])
        return "hello"

    return app.wsgi_app


WSGI_PLACES: dict[str, tuple[Callable[[], Any], int]] = {
    "in place": (lambda: plain_wsgi, 1),
    "in a generator": (lambda: generator_wsgi, 3),
    "around write()": (lambda: writing_wsgi, 2),
    "in a body and its close()": (lambda: closing_wsgi(Closing), 2),
    "in a body that has a length": (lambda: closing_wsgi(ClosingSized), 2),
    "/view": (flask_app, 1),
    "/stream": (flask_app, 3),
    "/async": (flask_app, 1),
}


@pytest.mark.parametrize("stack", [guard, long], ids=["short way", "long way"])
@pytest.mark.parametrize("place", WSGI_PLACES)
def test_a_handler_under_wsgi_knows_its_own_request(place: str, stack: Keyguard) -> None:
    make, times = WSGI_PLACES[place]
    app = stack.wsgi(make())
    noted.clear()
    for who in ("ada", "bob"):
        assert ask_wsgi(app, ask_for(who, place if place.startswith("/") else "/")).status == 200
        with pytest.raises(OutsideRequest):
            here()  # the thread was at work for that request, and is no more
    assert noted == [("ada", "ada")] * times + [("bob", "bob")] * times


def test_bodies_that_one_thread_makes_in_turn_each_know_their_own_request() -> None:
    app = guard.wsgi(generator_wsgi)
    noted.clear()
    bodies = [iter(app(ask_for(who).environ(), lambda *_: None)) for who in ("ada", "bob", "eve")]
    for body in (*bodies, *bodies):
        next(body)
    for body in bodies:
        body.close()  # type: ignore[attr-defined]
    assert sorted(noted) == sorted([(who, who) for who in ("ada", "bob", "eve")] * 3)


def test_what_has_a_length_or_is_a_file_goes_to_the_server_as_it_is() -> None:
    """Servers send files by themselves, and derive `Content-Length` from a length of 1."""
    from wsgiref.util import FileWrapper

    parts = [b"hello"]
    file: Any = FileWrapper(None)  # type: ignore[arg-type]
    for body in (parts, tuple(parts), file):

        def app(environ: Any, start_response: Any, body: Any = body) -> Any:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return body

        for stack in (guard, long):
            assert stack.wsgi(app)({**ask_for("ada").environ(), "wsgi.file_wrapper": FileWrapper}, print) is body
    assert len(guard.wsgi(closing_wsgi(ClosingSized))(ask_for("ada").environ(), lambda *_: None)) == 1  # type: ignore[arg-type]


# -- Django, in both ----------------------------------------------------------------------------------------------


def django_apps() -> Any:
    """Return the apps for ASGI and WSGI, and what must be entered while they run."""
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.test import override_settings
    from django.urls import path

    from tests.support import frameworks

    frameworks._django()

    def view(request: HttpRequest) -> HttpResponse:
        note(request.GET["who"])
        return HttpResponse("hello")

    async def view_in_a_loop(request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(0)
        note(request.GET["who"])
        return HttpResponse("hello")

    def stream(request: HttpRequest) -> StreamingHttpResponse:
        def parts() -> Iterator[str]:
            for _ in range(2):
                note(request.GET["who"])
                yield "part"

        return StreamingHttpResponse(parts())

    async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
        async def parts() -> AsyncIterator[str]:
            for _ in range(2):
                note(request.GET["who"])
                yield "part"

        return StreamingHttpResponse(parts())

    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application

    views = {"view": view, "loop": view_in_a_loop, "stream": stream, "async-stream": async_stream}
    urls = type("urls", (), {"urlpatterns": [path(name, called) for name, called in views.items()]})
    return get_asgi_application(), get_wsgi_application(), override_settings(ROOT_URLCONF=urls)


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
@pytest.mark.parametrize("world", ["ASGI", "WSGI"])
def test_a_view_of_django_knows_its_own_request(world: str) -> None:
    asgi, wsgi, settings = django_apps()
    lint = world == "WSGI"  # Django's names of fields are not lower case
    with settings:
        for target, times in (("/view", 1), ("/loop", 1), ("/stream", 2), ("/async-stream", 2)):
            noted.clear()
            ask = ask_for("ada", target)
            answer = ask_asgi(guard.asgi(asgi), ask, lint=lint) if world == "ASGI" else ask_wsgi(guard.wsgi(wsgi), ask)
            assert (target, answer.status, noted) == (target, 200, [("ada", "ada")] * times)


# -- layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outer_handlers", "inner_handlers"), [(True, True), (True, False), (False, True)])
def test_all_layers_around_an_app_share_what_is_known(outer_handlers: bool, inner_handlers: bool) -> None:
    states: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        states.extend([here(), scope["keyguard"]])
        await asgi_app(scope, receive, send)

    def other_app(environ: Any, start_response: Any) -> Iterable[bytes]:
        states.extend([here(), environ["keyguard.request"]])
        return wsgi_app(environ, start_response)

    outer = Keyguard(ByName(), store="memory://", handlers=outer_handlers)
    for limited in (
        keyguard.asgi.RateLimit(app, "9/minute", by="subject", store="memory://", handlers=inner_handlers),
        keyguard.wsgi.RateLimit(other_app, "9/minute", by="subject", store="memory://", handlers=inner_handlers),
    ):
        states.clear()
        if isinstance(limited, keyguard.asgi.RateLimit):
            assert ask_asgi(outer.asgi(limited), ask_for("ada")).status == 200
        else:
            assert ask_wsgi(outer.wsgi(limited), ask_for("ada")).status == 200
        assert states[0] is states[1]
        assert states[0].caller.subject == "ada"


def test_an_app_that_asks_another_one_in_the_midst_of_its_work_is_its_own_request_s_again() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        note(who_of(scope))
        await asgi_app(scope, receive, send)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await aask(guard.asgi(inner), ask_for("bob"))
        note(who_of(scope))
        assert ask_wsgi(guard.wsgi(generator_wsgi), ask_for("eve")).status == 200
        note(who_of(scope))
        await asgi_app(scope, receive, send)

    noted.clear()
    assert ask_asgi(guard.asgi(outer), ask_for("ada")).status == 200
    assert noted == [("bob", "bob"), ("ada", "ada"), *[("eve", "eve")] * 3, ("ada", "ada")]


def test_an_app_behind_a_bridge_knows_its_request() -> None:
    from a2wsgi import ASGIMiddleware, WSGIMiddleware
    from asgiref.wsgi import WsgiToAsgi

    noted.clear()
    for bridge in (WSGIMiddleware, WsgiToAsgi):
        assert ask_asgi(guard.asgi(bridge(generator_wsgi)), ask_for("ada"), lint=False).status == 200
    assert ask_wsgi(guard.wsgi(ASGIMiddleware(raw(in_place))), ask_for("ada"), lint=False).status == 200
    assert noted == [("ada", "ada")] * 7


# -- the end, and the outside ----------------------------------------------------------------------------------------


def test_a_task_that_outlives_its_request_still_knows_that_one() -> None:
    noted.clear()

    async def story() -> None:
        tasks = []

        async def work(who: str, over: asyncio.Event) -> None:
            await over.wait()
            note(who)

        over = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.append(asyncio.create_task(work(who_of(scope), over)))
            await asgi_app(scope, receive, send)

        guarded = guard.asgi(app)
        for who in ("ada", "bob"):
            await aask(guarded, ask_for(who))
        over.set()
        await asyncio.gather(*tasks)

    asyncio.run(story())
    assert noted == [("ada", "ada"), ("bob", "bob")]


@pytest.mark.parametrize("failing", [guard, long], ids=["short way", "long way"])
def test_the_request_of_an_app_that_fails_is_left_too(failing: Keyguard) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError(who_of(scope))

    def other_app(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise LookupError(who_asks(environ))

    async def story() -> None:
        with pytest.raises(LookupError, match="ada"):
            await aask(failing.asgi(app), ask_for("ada"))
        with pytest.raises(OutsideRequest):
            here()

    asyncio.run(story())
    with pytest.raises(LookupError, match="ada"):
        ask_wsgi(failing.wsgi(other_app), ask_for("ada"))
    with pytest.raises(OutsideRequest):
        here()


def test_an_app_that_is_closed_from_elsewhere_fails_for_no_reason_of_ours() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Future()

    async def begin() -> Any:
        running = guard.asgi(app)(ask_for("ada").scope(), asgi_app, asgi_app)  # type: ignore[arg-type]
        running.send(None)
        return running

    running = asyncio.run(begin())
    running.close()  # in another context than it was begun in
    with pytest.raises(OutsideRequest):
        here()


def test_threads_that_were_not_told_say_how_they_can_be() -> None:
    said: list[str] = []

    def ask() -> None:
        with pytest.raises(OutsideRequest) as raised:
            guard.here()
        said.append(str(raised.value))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(None, ask)
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        await asgi_app(scope, receive, send)

    assert ask_asgi(guard.asgi(app), ask_for("ada")).status == 200
    assert len(said) == 2
    assert all("copy_context" in text and "asyncio.to_thread" in text for text in said)


def test_a_stack_that_notes_nothing_says_how_to_make_it() -> None:
    for without in (Keyguard(ByName(), store="memory://", handlers=False), Keyguard(store="memory://")):
        with pytest.raises(ConfigurationError, match=r"Keyguard\(\.\.\., handlers=True\)"):
            without.here()
    with pytest.raises(ConfigurationError, match="handlers is True or False, not 1"):
        Keyguard(handlers=1)  # type: ignore[arg-type]


def test_a_stack_without_guards_knows_its_requests_too() -> None:
    stack = Keyguard(store="memory://", handlers=True)
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((stack.here() is scope["keyguard"], here().identity))
        await asgi_app(scope, receive, send)

    assert ask_asgi(stack.asgi(app), Ask()).status == 200
    assert seen == [(True, None)]


def test_a_guard_may_ask_for_it_itself() -> None:
    class Asking(ByName):
        handlers = True

    assert isinstance(Keyguard(Asking(), store="memory://"), Keyguard)
    with pytest.raises(OutsideRequest):
        Keyguard(Asking(), store="memory://").here()
