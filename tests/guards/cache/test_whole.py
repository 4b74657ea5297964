"""Only what is whole is stored: whatever ends a body that its app did not end, and whatever stands in between."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest
from a2wsgi import ASGIMiddleware as A2WSGI
from a2wsgi import WSGIMiddleware as A2ASGI
from asgiref.wsgi import WsgiToAsgi
from fastapi import FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse

from keyguard import Keyguard, RateLimit, ResponseCache, asgi, wsgi
from keyguard.testing import ManualClock
from tests.support.harness import Ask, aask, ask_wsgi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it is deprecated, and in use
    from starlette.middleware.wsgi import WSGIMiddleware

CONTROL = {"Cache-Control": "max-age=600"}
PARTS = (b"one ", b"two ", b"three ", b"four")
WHOLE = b"".join(PARTS)
GZIP = Ask("/", (("Accept-Encoding", "gzip"),))


class Broken(Exception):
    """What the app of these tests fails with."""


hanging: list[Callable[[], object]] = [lambda: None]
"""Called when an app hangs: what gives it up."""


class Play:
    """What happens while a body is sent, the first time; and how often the app was called."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.calls = 0
        self.gone = asyncio.Event()
        self.spec = "2.3"

    async def parts(self) -> AsyncIterator[bytes]:
        self.calls += 1
        what = self.what if self.calls == 1 else "whole"
        for number, part in enumerate(PARTS):
            if number == 2:
                if what == "fails":
                    raise Broken
                if what == "hangs":
                    hanging[0]()
                    await asyncio.sleep(3600)
                if what == "left":
                    self.gone.set()
                    await asyncio.sleep(0.02)
            yield part

    def plain_parts(self) -> Iterator[bytes]:
        self.calls += 1
        what = self.what if self.calls == 1 else "whole"
        for number, part in enumerate(PARTS):
            if number == 2 and what == "fails":
                raise Broken
            yield part


def fastapi(play: Play) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/")
    async def page() -> StreamingResponse:
        return StreamingResponse(play.parts(), headers=CONTROL, media_type="text/plain")

    return app


def fastapi_with_function(play: Play) -> FastAPI:
    app = fastapi(play)

    @app.middleware("http")
    async def measured(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["X-Measured"] = "1"
        return response

    return app


def raw(play: Play) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in CONTROL.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for part in play.parts():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def helpful(play: Play) -> Any:
    """An app whose messages come from different calls each."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def begin() -> None:
            headers = [(name.lower().encode(), value.encode()) for name, value in CONTROL.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def go_on() -> None:
            async for part in play.parts():
                await send({"type": "http.response.body", "body": part, "more_body": True})

        async def finish() -> None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await begin()
        await go_on()
        await finish()

    return app


# -- what stands in between -----------------------------------------------------------------------------------------


def last() -> dict[str, Any]:
    """The message that ends a body; a new one each time, for some middleware changes it."""
    return {"type": "http.response.body", "body": b"", "more_body": False}


def ends_in_handler(app: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except Exception:
            await send(last())

    return outer


def ends_after_handler(app: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(Exception):
            await app(scope, receive, send)
            return
        await send(last())

    return outer


def ends_in_finally(app: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        ended = False

        async def noting(message: Any) -> None:
            nonlocal ended
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await app(scope, receive, noting)
        finally:
            if not ended:
                await send(last())

    return outer


def times_out(app: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        with anyio.CancelScope() as scope_of_time:
            hanging[0] = scope_of_time.cancel
            await app(scope, receive, send)
        if scope_of_time.cancel_called:
            await send(last())

    return outer


def times_out_too(app: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        try:
            async with asyncio.timeout(None) as time:
                hanging[0] = lambda: time.reschedule(0)
                await app(scope, receive, send)
        except TimeoutError:
            await send(last())

    return outer


def hears_nothing(app: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(Exception):
            await app(scope, receive, send)

    return outer


class Hiding(BaseHTTPMiddleware):
    """Ends a body where the app inside has failed, and says nothing of it."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        parts = response.body_iterator

        async def quietly() -> AsyncIterator[bytes]:
            with contextlib.suppress(Exception):
                async for part in parts:
                    yield part

        response.body_iterator = quietly()
        return response


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


def ours(app: Any) -> Any:
    return asgi.RateLimit(app, "100000/second", by="ip", store="memory://")


BETWEEN: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda app: app,
    "passing": Passing,
    "two of them": lambda app: Passing(Passing(app)),
    "hiding": Hiding,
    "gzip": lambda app: GZipMiddleware(app, minimum_size=1),
    "gzip outside": lambda app: GZipMiddleware(Passing(app), minimum_size=1),
    "gzip inside": lambda app: Passing(GZipMiddleware(app, minimum_size=1)),
    "ours inside": lambda app: Passing(ours(app)),
    "ours outside": lambda app: ours(Passing(app)),
    "handler": ends_in_handler,
    "after handler": ends_after_handler,
    "finally": ends_in_finally,
    "handler outside": lambda app: ends_in_handler(Passing(app)),
    "after handler, gzip": lambda app: GZipMiddleware(ends_after_handler(app), minimum_size=1),
    "swallowed, ours inside": lambda app: ends_after_handler(ours(app)),
    "hears no error": lambda app: hears_nothing(Passing(app)),
}
APPS = {"raw": raw, "helpful": helpful, "fastapi": fastapi, "function": fastapi_with_function}


async def ask(app: Any, play: Play, request: Ask = GZIP) -> list[bytes]:
    """Ask as servers do: `receive` tells that the client has gone, and from spec 2.4 on `send` raises then as well."""
    parts: list[bytes] = []
    asked = False

    async def receive() -> Any:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await play.gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if play.gone.is_set() and play.spec == "2.4":
            raise OSError("the client has gone")
        if message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    scope = {**request.scope(), "asgi": {"version": "3.0", "spec_version": play.spec}}
    with contextlib.suppress(Exception):
        await app(scope, receive, send)
    return parts


def whole(body: bytes, encoding: str | None) -> bool:
    import gzip

    return (gzip.decompress(body) if encoding == "gzip" else body) == WHOLE


async def played(between: Any, inner: Any, play: Play, **options: Any) -> None:
    cache = ResponseCache(**options)
    app = Keyguard(cache, clock=ManualClock()).asgi(between(inner(play)))
    await ask(app, play)
    play.gone = asyncio.Event()
    answer = await aask(app, GZIP, lint=False)
    assert whole(answer.body, answer.get("content-encoding")), answer
    assert play.calls == (1 if play.what == "whole" else 2), answer
    answer = await aask(app, GZIP, lint=False)
    assert whole(answer.body, answer.get("content-encoding"))
    assert "hit" in (answer.get("cache-status") or ""), cache.explain("/")


@pytest.mark.parametrize("inner", APPS)
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("what", ["whole", "fails", "left"])
def test_7_what_broke_off_is_never_stored(what: str, between: str, inner: str) -> None:
    async def story() -> None:
        for spec in ("2.3", "2.4") if what == "left" else ("2.3",):
            play = Play(what)
            play.spec = spec
            if what == "left" and spec == "2.3" and inner in ("raw", "helpful"):
                continue  # nobody listens whether the client is there, so the app ends its body itself
            await played(BETWEEN[between], APPS[inner], play)

    asyncio.run(story())


@pytest.mark.parametrize("inner", APPS)
@pytest.mark.parametrize("between", [times_out, times_out_too])
@pytest.mark.parametrize("further", ["nothing", "passing", "gzip"])
def test_7_what_took_too_long_is_never_stored(further: str, between: Any, inner: str) -> None:
    asyncio.run(played(lambda app: between(BETWEEN[further](app)), APPS[inner], Play("hangs")))


# -- bridges, and WSGI ----------------------------------------------------------------------------------------------


def flask(play: Play) -> Any:
    from flask import Flask, Response

    app = Flask("whole")
    app.get("/")(lambda: Response(play.plain_parts(), headers=CONTROL))
    return app


def plain(play: Play) -> Any:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(CONTROL.items()))
        return play.plain_parts()

    return app


def writing(play: Play) -> Any:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", list(CONTROL.items()))
        for part in play.plain_parts():
            write(part)
        return []

    return app


WSGI_APPS = {"plain": plain, "writing": writing, "flask": flask}


@pytest.mark.parametrize("inner", ["plain", "flask"])
@pytest.mark.parametrize("bridge", [A2ASGI, WsgiToAsgi, WSGIMiddleware])
@pytest.mark.parametrize("between", ["nothing", "passing", "gzip outside"])
@pytest.mark.parametrize("what", ["whole", "fails"])
def test_7_over_a_bridge_to_wsgi(what: str, between: str, bridge: Any, inner: str) -> None:
    asyncio.run(played(BETWEEN[between], lambda play: bridge(WSGI_APPS[inner](play)), Play(what)))


def hears_no_error(app: Any) -> Any:
    def outer(environ: Any, start_response: Any) -> Iterator[bytes]:
        with contextlib.suppress(Broken):
            yield from app(environ, start_response)

    return outer


WSGI_BETWEEN: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda app: app,
    "ours": lambda app: wsgi.RateLimit(app, "100000/second", by="ip", store="memory://"),
    "swallowed, ours inside": lambda app: hears_no_error(wsgi.RateLimit(app, "99/second", by="ip", store="memory://")),
}


def played_in_wsgi(app: Any, play: Play, leaves: Callable[[Iterator[bytes]], Any] = list) -> None:
    cache = ResponseCache()
    outside = Keyguard(cache, clock=ManualClock()).wsgi(app)
    body: Any = ()
    with contextlib.suppress(Broken):
        body = outside(Ask().environ(), lambda status, headers, exc_info=None: lambda data: None)
        leaves(iter(body))
    if hasattr(body, "close"):
        body.close()
    answer = ask_wsgi(outside, Ask(), lint=False)
    assert answer.body == WHOLE
    assert play.calls == (1 if play.what == "whole" else 2), answer
    answer = ask_wsgi(outside, Ask(), lint=False)
    assert (answer.body, "hit" in (answer.get("cache-status") or "")) == (WHOLE, True), cache.explain("/")


@pytest.mark.parametrize("inner", WSGI_APPS)
@pytest.mark.parametrize("between", WSGI_BETWEEN)
@pytest.mark.parametrize("what", ["whole", "fails", "left"])
def test_7_under_wsgi(what: str, between: str, inner: str) -> None:
    play = Play(what)
    if what == "left":
        if inner == "writing":  # it has written all before anybody can leave
            return
        played_in_wsgi(WSGI_BETWEEN[between](WSGI_APPS[inner](play)), play, next)
    else:
        played_in_wsgi(WSGI_BETWEEN[between](WSGI_APPS[inner](play)), play)


@pytest.mark.parametrize("inner", APPS)
@pytest.mark.parametrize("between", ["nothing", "passing", "hiding", "gzip outside"])
@pytest.mark.parametrize("what", ["whole", "fails"])
def test_7_over_a_bridge_to_asgi(what: str, between: str, inner: str) -> None:
    play = Play(what)
    played_in_wsgi(A2WSGI(BETWEEN[between](APPS[inner](play))), play)


def test_7_a_server_that_cannot_write_any_more() -> None:
    """An app that goes on after that all the same has not told its whole body to anybody."""
    calls: list[int] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        calls.append(1)
        write = start_response("200 OK", list(CONTROL.items()))
        with contextlib.suppress(OSError):
            write(b"one ")
            write(b"two ")
        return [b"three"]

    def fails(data: bytes) -> None:
        raise OSError("the client has gone")

    outside = Keyguard(ResponseCache()).wsgi(app)
    b"".join(outside(Ask().environ(), lambda status, headers, exc_info=None: fails))
    assert ask_wsgi(outside, Ask(), lint=False).body == b"one two three"
    assert len(calls) == 2


# -- who waits for such an answer, and the background -----------------------------------------------------------------


def test_7_and_22_followers_get_no_stump() -> None:
    async def story() -> None:
        play = Play("fails")
        app = Keyguard(ResponseCache(), clock=ManualClock()).asgi(Passing(raw(play)))
        leader = asyncio.create_task(ask(app, play))
        followers = [asyncio.create_task(aask(app, GZIP, lint=False)) for _ in range(5)]
        await leader
        assert [(await follower).body for follower in followers] == [WHOLE] * 5
        assert play.calls == 2

    asyncio.run(story())


def test_7_and_22_followers_wait_for_the_apps_return_and_no_longer() -> None:
    """A stream whose end only its last message tells is settled when the app has returned."""

    async def story() -> None:
        play = Play("whole")
        app = Keyguard(ResponseCache(), clock=ManualClock()).asgi(Passing(raw(play)))
        answers = await asyncio.gather(*[aask(app, GZIP, lint=False) for _ in range(5)])
        assert [answer.body for answer in answers] == [WHOLE] * 5
        assert play.calls == 1

    asyncio.run(story())


def test_7_and_20_a_refresh_that_breaks_off_leaves_the_entry() -> None:
    async def story() -> None:
        clock = ManualClock()
        calls: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            calls.append(1)
            headers = [(b"cache-control", b"max-age=5, stale-while-revalidate=600")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"%d " % len(calls), "more_body": True})
            if len(calls) == 2:
                raise Broken
            await send({"type": "http.response.body", "body": b"whole"})

        outside = Keyguard(ResponseCache(), clock=clock).asgi(Passing(app))
        bodies = []
        for _ in range(4):
            bodies.append((await aask(outside, Ask(), lint=False)).body)
            clock.advance(10)
            for _ in range(20):
                await asyncio.sleep(0)
        assert bodies[:3] == [b"1 whole"] * 3
        assert bodies[3] == b"3 whole"

    asyncio.run(story())


def test_7_background_tasks_do_not_hold_up_who_reads(tmp_path: Any) -> None:
    """The client has its last byte before they end; only storing waits for them."""

    async def story() -> None:
        done, go = asyncio.Event(), asyncio.Event()
        calls: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            calls.append(1)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=600")]})
            await send({"type": "http.response.body", "body": b"one ", "more_body": True})
            await send({"type": "http.response.body", "body": b"two"})
            done.set()
            await go.wait()

        cache = ResponseCache()
        outside = Keyguard(cache, RateLimit("9/second", by="ip"), clock=ManualClock()).asgi(app)
        task = asyncio.create_task(aask(outside, Ask(), lint=False))
        await asyncio.wait_for(done.wait(), 30)
        assert cache.stats().entries == 0
        go.set()
        assert (await task).body == b"one two"
        assert (await aask(outside, Ask(), lint=False)).body == b"one two"
        assert len(calls) == 1

    asyncio.run(story())


def test_7_what_goes_on_after_its_length_leaves_the_shared_store_too(tmp_path: Any) -> None:
    """It was thought to be whole, and had been written."""

    async def story() -> None:
        calls: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            calls.append(1)
            headers = [(b"cache-control", b"max-age=600"), (b"content-length", b"3")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await send({"type": "http.response.body", "body": b" two"})

        url = f"sqlite:///{tmp_path}/cache.db?timeout=5"
        for _ in range(2):
            guard = Keyguard(ResponseCache(local_ttl=0), store=url)
            await aask(guard.asgi(app), Ask(), lint=False)
        assert len(calls) == 2

    asyncio.run(story())
