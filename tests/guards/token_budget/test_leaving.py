"""Clients that leave in the midst of an answer: it is read on, and settled exactly; or as far as it was seen."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
import trio
from flask import Flask, Response, g, request, stream_with_context
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import StreamingResponse
from starlette.routing import Route

from keyguard import Keyguard, TokenBudget
from keyguard.drivers.asgi import background
from keyguard.drivers.asgi import lasting as asgi_lasting
from keyguard.drivers.wsgi import lasting as wsgi_lasting
from keyguard.request import Lasting
from keyguard.stores.memory import MemoryStore
from tests.guards.token_budget.models import CALLER, CHAT, said, used
from tests.support.harness import Ask
from tests.support.servers import wait_until

BODY = json.dumps({**CHAT, "stream": True, "max_tokens": 1000}).encode()
SENT = -(-len(json.dumps({**CHAT, "stream": True, "max_tokens": 1000}).encode()) // 4)
FIELDS = (("content-type", "application/json"), ("content-length", str(len(BODY))))
ASK = Ask("/v1/chat/completions", FIELDS, method="POST", body=BODY)
PIECES = [b"data: %b\n\n" % json.dumps(one).encode() for one in [*[said("four")] * 5, used(9, 12)]]
EVENTS = "text/event-stream"


class Line:
    """A budget around an app, and what the app has done."""

    def __init__(self, **settings: Any) -> None:
        self.budget = TokenBudget("100000/day", by="ip", name="tokens", **settings)
        self.guard = Keyguard(self.budget, store=MemoryStore())
        self.sent = 0
        self.closed = 0
        self.told_to_stop = False

    @property
    def use(self) -> tuple[int, int]:
        (use,) = self.guard.limits.peek(CALLER, by="ip")
        return use.spent, use.held

    # -- the same app, in several ways ----------------------------------------------------------------------

    def starlette(self) -> Any:
        async def answer(request: StarletteRequest) -> StreamingResponse:
            await request.body()
            return StreamingResponse(self.made(), media_type=EVENTS)

        return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])

    async def made(self) -> AsyncIterator[bytes]:
        try:
            for piece in PIECES:
                await pause()
                self.sent += 1
                yield piece
        finally:
            self.closed += 1

    async def plain(self, scope: Any, receive: Any, send: Any) -> None:
        """An app that hears for itself whether its client has left."""
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", EVENTS.encode())]})
        async for piece in self.made():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def flask(self) -> Any:
        app = Flask("llm")

        @app.post("/v1/chat/completions")
        def answer() -> Response:
            g.model = request.json["model"]  # type: ignore[index]

            def made() -> Iterator[bytes]:
                try:
                    for piece in PIECES:
                        assert g.model == "m"  # the request is still there
                        self.sent += 1
                        yield piece
                finally:
                    self.closed += 1

            return Response(stream_with_context(made()), mimetype=EVENTS)

        return app.wsgi_app


async def pause() -> None:
    """Let others run, in either kind of event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        await trio.sleep(0.002)
    else:
        await asyncio.sleep(0.002)


# -- under ASGI -------------------------------------------------------------------------------------------------------


class Client:
    """One that leaves after so many parts: `receive` tells of it, `send` fails, or the caller is stopped."""

    def __init__(self, way: str, after: int) -> None:
        self.way = way
        self.after = after
        self.parts: list[bytes] = []
        self.gone = asyncio.Event()
        self.asked = False

    async def receive(self) -> Any:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": BODY, "more_body": False}
        await (self.gone if self.way == "is told" else asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.gone.is_set():
            if self.way == "fails":
                raise OSError("reset")
            return
        self.parts.append(message.get("body", b""))
        if len(self.parts) > self.after:
            self.gone.set()


async def leave(line: Line, app: Any, way: str, after: int = 2, spec: str = "2.3") -> Client:
    """Ask, and leave after so many parts. Return when nothing goes on any more."""
    client = Client(way, after)
    scope = {**ASK.scope(), "asgi": {"version": "3.0", "spec_version": spec}}
    task = asyncio.create_task(line.guard.asgi(app)(scope, client.receive, client.send))
    await client.gone.wait()
    if way == "is stopped":
        task.cancel()
    await asyncio.wait([task], timeout=20)
    assert task.done()
    await still(lambda: line.use[1] == 0 and asgi_lasting._going.number == 0)
    return client


async def still(over: Callable[[], bool]) -> None:
    """Wait until nothing goes on any more."""
    for _ in range(4000):
        if over():
            return
        await pause()
    raise AssertionError("something still goes on")


WAYS = ["is told", "fails", "is stopped"]


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
@pytest.mark.parametrize("app", ["starlette", "plain"])
@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_read_on_and_settled_exactly(way: str, app: str, spec: str) -> None:
    line = Line()
    client = asyncio.run(leave(line, line.starlette() if app == "starlette" else line.plain, way, spec=spec))
    assert 3 <= len(client.parts) <= 4
    assert (line.sent, line.closed) == (6, 1)
    assert line.use == (21, 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_before_the_head_is_waited_for_too(way: str) -> None:
    line = Line()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await line.plain(scope, receive, send)

    async def early() -> None:
        client = Client(way, 0)
        task = asyncio.create_task(line.guard.asgi(slow)(ASK.scope(), client.receive, client.send))
        await asyncio.sleep(0.01)
        client.gone.set()
        if way == "is stopped":
            task.cancel()
        await asyncio.wait([task])
        await still(lambda: asgi_lasting._going.number == 0)

    asyncio.run(early())
    assert (line.sent, line.use) == (6, (21, 0))


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_with_abort_the_app_is_stopped_and_what_was_seen_is_charged(mode: str) -> None:
    for way in WAYS:
        line = Line(on_disconnect="abort", mode=mode)
        asyncio.run(leave(line, line.starlette(), way))
        assert line.sent < 6
        spent, held = line.use
        assert held == 0
        assert spent == (len(BODY) + 1000 if mode == "hard" else SENT + line.sent) or way == "fails"
        assert 0 < spent <= len(BODY) + 1000


def test_with_abort_a_client_that_leaves_before_the_head_pays_its_input() -> None:
    for told, cost in (("soft", SENT), ("hard", len(BODY) + 1000)):
        line = Line(on_disconnect="abort", mode=told)

        async def never(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.Event().wait()

        async def early(line: Line = line, app: Any = never) -> None:
            client = Client("is stopped", 0)
            task = asyncio.create_task(line.guard.asgi(app)(ASK.scope(), client.receive, client.send))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0.01)

        asyncio.run(early())
        assert line.use == (cost, 0)


def test_it_is_read_on_for_so_long_and_for_so_many_bytes() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", EVENTS.encode())]})
        try:
            while True:
                await asyncio.sleep(0.001)
                line.sent += 1
                await send({"type": "http.response.body", "body": PIECES[0], "more_body": True})
        finally:
            line.closed += 1

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        work = asyncio.create_task(endless(scope, receive, send))
        while (await receive())["type"] != "http.disconnect":
            pass
        work.cancel()
        await asyncio.wait([work])

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", EVENTS.encode())]})
        await send({"type": "http.response.body", "body": PIECES[0], "more_body": True})
        try:
            await asyncio.Event().wait()
        finally:
            line.closed += 1

    for app, way, bound in (
        (listening, "is told", Lasting(0.2, 10**9)),
        (endless, "fails", Lasting(0.2, 10**9)),
        (endless, "is stopped", Lasting(60, 5000)),
        (deaf, "is stopped", Lasting(0.1, 10**9)),
    ):
        line = Line()
        line.budget._lasting = bound
        asyncio.run(leave(line, app, way, after=1))
        spent, held = line.use
        assert (line.closed, held) == (1, 0)
        assert spent == SENT + max(1, line.sent)


def test_no_more_than_so_many_go_on_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_lasting, "MOST", 0)
    monkeypatch.setattr(wsgi_lasting._room, "places", threading.BoundedSemaphore(1))
    wsgi_lasting._room.places.acquire()
    line = Line()
    asyncio.run(leave(line, line.starlette(), "is told"))
    assert line.sent < 6
    line = Line()
    closed_early(line, line.flask())
    assert line.sent < 6
    assert line.use[1] == 0


def test_an_app_that_fails_after_its_client_has_left_is_settled_too(caplog: pytest.LogCaptureFixture) -> None:
    line = Line()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", EVENTS.encode())]})
        for _ in range(4):
            await send({"type": "http.response.body", "body": PIECES[0], "more_body": True})
            await asyncio.sleep(0.005)
        raise ValueError("gone")

    asyncio.run(leave(line, failing, "is stopped"))
    assert line.use == (SENT + 4, 0)

    def failing_there(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", EVENTS)])
        yield from PIECES[:4]
        raise ValueError("gone")

    line = Line()
    closed_early(line, failing_there)
    assert line.use == (SENT + 4, 0)
    told = "the app failed in the midst of an answer whose client had left"
    wait_until(lambda: told in caplog.text, "a line of the log")


def test_errors_of_the_app_reach_the_server_while_the_client_is_there() -> None:
    line = Line()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        asyncio.run(_asked(line, failing))
    assert line.use == (0, 0)


async def _asked(line: Line, app: Any) -> None:
    client = Client("is told", 100)
    await line.guard.asgi(app)(ASK.scope(), client.receive, client.send)


def test_once_all_has_gone_a_client_that_leaves_is_told_of() -> None:
    line, told = Line(), []

    async def lingering(scope: Any, receive: Any, send: Any) -> None:
        await line.plain(scope, receive, send)
        told.append(await receive())

    async def ask() -> None:
        client = Client("is told", 6)
        await line.guard.asgi(lingering)(ASK.scope(), client.receive, client.send)

    asyncio.run(ask())
    assert told == [{"type": "http.disconnect"}]
    assert line.use == (21, 0)


def test_it_is_the_same_in_trio() -> None:
    for way in WAYS:
        line = Line()

        async def there(line: Line = line, way: str = way) -> None:
            gone, parts = trio.Event(), []
            asked = False

            async def receive() -> Any:
                nonlocal asked
                if not asked:
                    asked = True
                    return {"type": "http.request", "body": BODY, "more_body": False}
                await (gone if way == "is told" else trio.Event()).wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                if gone.is_set() and way == "fails":
                    raise OSError("reset")
                parts.append(message)
                if len(parts) > 2:
                    gone.set()

            async def ask() -> None:
                with scope:
                    await line.guard.asgi(line.plain)(ASK.scope(), receive, send)

            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await gone.wait()
                if way == "is stopped":
                    scope.cancel()
            await still(lambda: line.use[1] == 0 and asgi_lasting._going.number == 0)

        trio.run(there)
        assert (line.sent, line.use) == (6, (21, 0)), way


def test_at_the_end_of_a_lifespan_they_have_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PATIENCE", 0.3)

    async def ending(line: Line, app: Any) -> None:
        client = Client("is stopped", 1)
        task = asyncio.create_task(line.guard.asgi(app)(ASK.scope(), client.receive, client.send))
        await client.gone.wait()
        task.cancel()
        await asyncio.wait([task])
        assert asgi_lasting._going.number == 1
        await background.end_detached()
        assert line.use[1] == asgi_lasting._going.number == 0

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", EVENTS.encode())]})
        await send({"type": "http.response.body", "body": PIECES[0], "more_body": True})
        await asyncio.Event().wait()

    line = Line()
    asyncio.run(ending(line, line.plain))
    assert line.use == (21, 0)
    line = Line()
    asyncio.run(ending(line, endless))
    assert line.use == (SENT + 1, 0)


# -- under WSGI -------------------------------------------------------------------------------------------------------


def closed_early(line: Line, app: Any, after: int = 2) -> list[bytes]:
    """Ask, and close the body after so many parts. Return when nothing goes on any more."""
    body: Any = line.guard.wsgi(app)(ASK.environ(), lambda *head: print)
    parts = [part for part, _ in zip(body, range(after), strict=False)]
    body.close()
    wait_until(lambda: line.use[1] == 0, "the end of what is held")
    return parts


def test_flask_goes_on_in_its_own_request_in_a_thread() -> None:
    line = Line()
    assert len(closed_early(line, line.flask())) == 2
    wait_until(lambda: line.closed, "the end of the body")
    assert (line.sent, line.closed, line.use) == (6, 1, (21, 0))


def test_a_body_that_was_never_begun_is_read_as_well() -> None:
    line = Line()
    closed_early(line, line.flask(), 0)
    assert (line.sent, line.use) == (6, (21, 0))


def test_with_abort_it_is_closed() -> None:
    for told, cost in (("soft", SENT), ("hard", len(BODY) + 1000)):
        line = Line(on_disconnect="abort", mode=told)
        closed_early(line, line.flask())
        assert (line.sent < 6, line.closed) == (True, 1)
        assert line.use == (cost + (line.sent if told == "soft" else 0), 0)


def test_a_body_is_read_on_for_so_long_and_for_so_many_bytes() -> None:
    def endless(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", EVENTS)])
        while True:
            threading.Event().wait(0.001)
            line.sent += 1
            yield PIECES[0]

    for bound in (Lasting(0.1, 10**9), Lasting(60, 2000)):
        line = Line()
        line.budget._lasting = bound
        closed_early(line, endless)
        assert line.use == (SENT + line.sent, 0)


def test_a_body_that_was_sent_is_closed_where_it_is() -> None:
    line = Line()
    threads: list[Callable[[], Any]] = []

    class Kept(list[bytes]):
        def close(self) -> None:
            threads.append(threading.current_thread)
            assert threading.current_thread() is threading.main_thread()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", EVENTS)])
        return Kept(PIECES)

    body: Any = line.guard.wsgi(app)(ASK.environ(), lambda *head: print)
    assert len([*body]) == 6
    body.close()
    assert threads
    assert line.use == (21, 0)
