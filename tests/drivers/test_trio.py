"""Under trio's event loop: everything that works in asyncio's, or the app does not start and says why."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

import keyguard.wsgi
from keyguard import (
    APIKeys,
    ConfigurationError,
    Forward,
    Identity,
    Keyguard,
    RateLimit,
    Request,
    Response,
    ResponseCache,
    open_store,
)
from keyguard.drivers.asgi import background as asgi_detached
from keyguard.flow import Signal, Wait
from keyguard.ops import Op, Settle, Store
from keyguard.process.event_loops import in_thread, in_trio
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.drivers.test_asgi_driver import lifespan_app
from tests.support.harness import Ask, asgi_app
from tests.support.neighbours import ASGI_SERVERS, BRIDGES, served
from tests.support.servers import RedisServer

STORES = ["memory", "sqlite"]


def url_of(kind: str, folder: Path) -> str:
    return "memory://" if kind == "memory" else f"sqlite:///{folder}/trio.db?timeout=5"


async def aask(app: Any, ask: Ask) -> tuple[int, dict[str, str], bytes]:
    """One request, in trio's loop; the client stays."""
    messages: list[Any] = []
    asked = False

    async def receive() -> Any:
        nonlocal asked
        if asked:
            await trio.sleep_forever()
        asked = True
        return {"type": "http.request", "body": ask.body, "more_body": False}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        messages.append(message)

    await app(ask.scope(), receive, send)
    head = messages[0]
    fields = {name.decode(): value.decode() for name, value in head["headers"]}
    return head["status"], fields, b"".join(message.get("body", b"") for message in messages[1:])


def lookup(key: str) -> Identity | None:
    return Identity("ada", key_id="1") if key == "right" else None


async def alookup(key: str) -> Identity | None:
    await trio.sleep(0.001)
    return lookup(key)


RIGHT = Ask("/", (("X-API-Key", "right"),))


@pytest.mark.parametrize("kind", STORES)
def test_a_story_with_everything_in_it(kind: str, tmp_path: Path) -> None:
    ended: list[str] = []

    async def settling(request: Request, forward: Forward) -> Response:
        async def at_end() -> None:
            await trio.lowlevel.checkpoint()
            ended.append(request.path)

        request.at_end(at_end)
        response = await forward(request)
        await trio.lowlevel.checkpoint()
        return response

    async def hello(request: StarletteRequest) -> StreamingResponse:
        async def parts() -> Any:
            yield b"hello "
            await trio.lowlevel.checkpoint()
            yield request.scope["keyguard"].identity.subject.encode()

        return StreamingResponse(parts(), headers={"Cache-Control": "no-store"})

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("open")
        await websocket.close()

    app = Starlette(routes=[Route("/hello", hello), WebSocketRoute("/ws", socket)])
    guard = Keyguard(settling, APIKeys(), RateLimit("5/hour", by="key"), ResponseCache(), store=url_of(kind, tmp_path))
    app.add_middleware(guard.asgi)
    key = {"X-API-Key": guard.keys.issue("ada").key.reveal()}
    with TestClient(app, backend="trio") as client:
        assert client.get("/hello").status_code == 401
        assert [client.get("/hello", headers=key).text for _ in range(4)] == ["hello ada"] * 4
        with client.websocket_connect("/ws", headers=key) as opened:
            assert opened.receive_text() == "open"
        assert client.get("/hello", headers=key).status_code == 429
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=key):
            pass
    assert ended[:6] == ["/hello"] * 5 + ["/ws"]


@pytest.mark.parametrize("kind", STORES)
def test_many_at_once_are_counted_exactly(kind: str, tmp_path: Path) -> None:
    guard = Keyguard(APIKeys(lookup=alookup), RateLimit("20/hour", by="key"), store=url_of(kind, tmp_path))
    app = guard.asgi(asgi_app)
    statuses: list[int] = []

    async def one() -> None:
        statuses.append((await aask(app, RIGHT))[0])

    async def story() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(one)

    trio.run(story)
    assert (statuses.count(200), statuses.count(429)) == (20, 40)


def test_while_another_process_holds_the_file_nobody_is_refused_at_random(tmp_path: Path) -> None:
    """That is what took asyncio's threads; and the loop does not stand still."""
    guard = Keyguard(RateLimit("1000/hour"), store=f"sqlite:///{tmp_path}/trio.db?timeout=20")
    app = guard.asgi(asgi_app)
    statuses: list[int] = []
    turns = 0

    async def one() -> None:
        statuses.append((await aask(app, Ask()))[0])

    async def story() -> None:
        nonlocal turns
        await one()
        holder = sqlite3.connect(tmp_path / "trio.db", isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
            for _ in range(30):
                await trio.sleep(0.01)
                turns += 1
            holder.execute("COMMIT")
        holder.close()

    trio.run(story)
    assert statuses == [200] * 11
    assert turns == 30


@pytest.mark.parametrize("kind", STORES)
def test_the_cache_waits_refreshes_and_shares_there_too(kind: str, tmp_path: Path) -> None:
    clock = ManualClock()
    made: list[int] = []
    store: Store = open_store(url_of(kind, tmp_path), clock)
    guard = Keyguard(ResponseCache(), store=store, clock=clock)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        made.append(1)
        await trio.sleep(0.05)
        head = [(b"cache-control", b"max-age=10, stale-while-revalidate=60")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"%d" % len(made)})

    guarded = guard.asgi(app)
    bodies: list[bytes] = []

    async def one() -> None:
        bodies.append((await aask(guarded, Ask()))[2])

    async def story() -> None:
        await aask(guarded, Ask("/warm"))  # what a store has held for a second is used by all
        made.clear()
        clock.advance(2)
        async with trio.open_nursery() as nursery:  # one asks the app, the others wait for it
            for _ in range(10):
                nursery.start_soon(one)
        assert (len(made), bodies) == (1, [b"1"] * 10)
        clock.advance(20)
        await one()  # stale, and refreshed in the background
        assert bodies[-1] == b"1"
        await asgi_detached.end_detached()
        await one()
        assert (len(made), bodies[-1]) == (2, b"2")
        await guard.cache.apurge("/")
        await one()
        assert (len(made), bodies[-1]) == (3, b"3")

    trio.run(story)
    if hasattr(store, "close"):
        store.close()
    assert not asgi_detached._detached


def test_work_in_the_background_that_does_not_end_is_stopped_with_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyguard.drivers.asgi.background._PATIENCE", 0.05)
    clock = ManualClock()
    guard = Keyguard(ResponseCache(), clock=clock)
    cancelled: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if clock.now > ManualClock().now:
            try:
                await receive()
                await receive()  # a client that is nobody stays for ever
            finally:
                cancelled.append("in the background")
        head = [(b"cache-control", b"max-age=1, stale-while-revalidate=60")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b""})

    guarded = guard.asgi(app)

    async def story() -> None:
        await aask(guarded, Ask())
        clock.advance(5)
        assert (await aask(guarded, Ask()))[0] == 200
        await trio.sleep(0.01)
        await asgi_detached.end_detached()

    trio.run(story)
    assert cancelled == ["in the background"]


def test_keys_are_managed_there_too(tmp_path: Path) -> None:
    guard = Keyguard(APIKeys(), store=f"sqlite:///{tmp_path}/trio.db?timeout=5")

    async def story() -> list[str]:
        issued = await guard.keys.aissue("ada")
        await guard.keys.arevoke(issued.record.id)
        return [record.subject for record in await guard.keys.alist()]

    assert trio.run(story) == ["ada"]


def test_a_client_that_leaves_is_given_back_what_was_taken(tmp_path: Path) -> None:
    guard = Keyguard(RateLimit("2/hour", by=lambda request: "all"), store=f"sqlite:///{tmp_path}/trio.db?timeout=5")
    notes: list[str] = []
    waits = [trio.Event() for _ in range(3)]
    begun = iter(waits)

    async def waiting(request: Request, forward: Forward) -> Response:
        request.at_end(lambda: notes.append("end"))
        next(begun).set()
        await trio.sleep_forever()
        return await forward(request)

    app = Keyguard(guard.guards[0], waiting, store=guard.store).asgi(asgi_app)

    async def story() -> list[int]:
        for wait in waits:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(aask, app, Ask())
                await wait.wait()
                nursery.cancel_scope.cancel()
        statuses: list[int] = []
        with trio.fail_after(60):
            while statuses.count(200) < 2:  # what is given back is given back by a task of its own
                statuses.append((await aask(guard.asgi(asgi_app), Ask()))[0])
        return [*statuses, (await aask(guard.asgi(asgi_app), Ask()))[0]]

    assert trio.run(story)[-1] == 429
    assert notes == ["end"] * 3


def test_a_guard_that_is_cancelled_in_trio_s_own_wait_is_let_go() -> None:
    """It may want to await something of the loop then: it cannot go on in another task, and harms nobody."""
    notes: list[str] = []

    async def guard(request: Request, forward: Forward) -> Response:
        try:
            return await forward(request)
        finally:
            notes.append("let go")
            await trio.lowlevel.checkpoint()
            notes.append("never here")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep_forever()

    async def story() -> None:
        with trio.move_on_after(0.05):
            await aask(Keyguard(guard).asgi(app), Ask())
        await trio.sleep(0.05)

    trio.run(story)
    assert notes == ["let go"]


class Hanging:
    """A store for trio's event loop that does not answer after some operations."""

    timeout = 0.5
    needs_asyncio = False

    def __init__(self, after: int) -> None:
        self._near = MemoryStore(clock=ManualClock())
        self.scan = self._near.scan
        self.asked: list[str] = []
        self.settled = trio.Event()
        self._after: int | None = after

    def execute(self, ops: Any) -> list[Any]:
        self.asked.append(type(ops[0]).__name__)
        if isinstance(ops[0], Settle):
            self.settled.set()
        return self._near.execute(ops)

    async def aexecute(self, ops: Any) -> list[Any]:
        if len(self.asked) == self._after:
            self._after = None
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.execute(ops)


@pytest.mark.parametrize("long", [False, True])
def test_a_request_that_is_cancelled_while_its_store_is_asked_charges_nothing_and_harms_nobody(long: bool) -> None:
    store = Hanging(1)
    limits = [RateLimit("9/minute", by="ip", name=name) for name in "ab"]

    async def between(request: Request, forward: Forward) -> Response:
        return await forward(request)

    guard = Keyguard(limits[0], between if long else lambda request: None, limits[1], store=store)

    async def story() -> None:
        with trio.move_on_after(0.05):
            await aask(guard.asgi(asgi_app), Ask())
        with trio.fail_after(20):
            await store.settled.wait()
        await trio.sleep(0.05)  # and this loop goes on

    trio.run(story)
    assert store.asked == ["Take", "Settle"]


def test_a_signal_from_a_thread_is_heard() -> None:
    async def story() -> tuple[bool, bool, bool]:
        signal = Signal()
        late = await Wait(signal, 0, 0.01).in_loop()
        threading.Timer(0.05, signal.move).start()
        heard = await Wait(signal, 0, 20).in_loop()
        return late, heard, await Wait(signal, 0, 20).in_loop()

    assert trio.run(story) == (False, True, True)


def test_both_kinds_of_loop_may_serve_one_app_at_a_time(tmp_path: Path) -> None:
    guard = Keyguard(
        APIKeys(lookup=lookup), RateLimit("40/hour", by="key"), store=f"sqlite:///{tmp_path}/both.db?timeout=5"
    )
    app = FastAPI()
    app.add_middleware(guard.asgi)

    @app.get("/")
    async def hello() -> str:
        return "hello"

    def ask(backend: Any) -> list[int]:
        with TestClient(app, backend=backend) as client:
            return [client.get("/", headers={"X-API-Key": "right"}).status_code for _ in range(15)]

    with ThreadPoolExecutor(4) as pool:
        found = [status for part in pool.map(ask, ["trio", "asyncio", "trio", "asyncio"]) for status in part]
    assert (found.count(200), found.count(429)) == (40, 20)


def test_which_loop_runs_is_known() -> None:
    async def there() -> tuple[bool, bool]:
        return in_trio(), await in_thread(in_trio)

    import asyncio

    assert trio.run(there) == (True, False)
    assert asyncio.run(there()) == (False, False)
    assert not in_trio()


def test_middleware_that_runs_the_app_in_another_task_may_stand_around_and_inside(tmp_path: Path) -> None:
    class Around(BaseHTTPMiddleware):
        async def dispatch(self, request: StarletteRequest, call_next: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return await call_next(request)

    guard = Keyguard(
        APIKeys(lookup=alookup), RateLimit("20/hour", by="key"), store=f"sqlite:///{tmp_path}/trio.db?timeout=5"
    )
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse(request.scope["keyguard"].identity.subject))])
    app.add_middleware(Around)
    app.add_middleware(guard.asgi)
    app.add_middleware(Around)
    found: list[tuple[int, bytes]] = []

    async def one() -> None:
        status, _, body = await aask(app, RIGHT)
        found.append((status, body if status == 200 else b""))

    async def story() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(one)

    trio.run(story)
    assert (found.count((200, b"ada")), found.count((429, b""))) == (20, 20)


def test_a_wsgi_app_in_starlette_s_bridge_is_told_who_calls_there_too() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["keyguard.request"].identity.subject.encode()]

    inside = keyguard.wsgi.RateLimit(app, "2/hour", by="key")
    guarded = Keyguard(APIKeys(lookup=alookup)).asgi(BRIDGES["starlette"](inside))

    async def story() -> list[int]:
        assert (await aask(guarded, RIGHT))[2] == b"ada"
        return [(await aask(guarded, RIGHT))[0] for _ in range(2)]

    assert trio.run(story) == [200, 429]


# -- stores that need asyncio -----------------------------------------------------------------------------------------


class OfAsyncio(MemoryStore):
    needs_asyncio = True

    async def aexecute(self, ops: Any) -> list[Any]:
        import asyncio

        await asyncio.sleep(0)
        return self.execute(ops)


class InFront:
    """A tier in front of it."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def execute(self, ops: list[Op[Any]]) -> list[Any]:
        found: list[Any] = self.store.execute(ops)
        return found

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = self.store.scan(prefix)
        return found


@pytest.mark.parametrize("store", [OfAsyncio(), InFront(OfAsyncio())])
def test_an_app_with_a_store_that_needs_asyncio_does_not_start(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = Keyguard(RateLimit("1000/hour"), store=store).asgi(lifespan_app)
    told = pytest.raises(ConfigurationError, match="OfAsyncio needs asyncio, and this is trio's")
    with told, TestClient(app, backend="trio"):
        pass
    with TestClient(app, backend="asyncio"):
        pass
    # With no lifespan nobody can be told before the first request: then all of them are refused, never some.
    bare = Keyguard(RateLimit("1000/hour"), store=store).asgi(asgi_app)

    async def story() -> list[int]:
        return [(await aask(bare, Ask()))[0] for _ in range(5)]

    assert trio.run(story) == [503] * 5
    assert "Serve the app on asyncio" in caplog.text


# -- hypercorn -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hypercorn_on_trio_refuses_nobody_at_random(tmp_path: Path) -> None:
    with served(
        ASGI_SERVERS["hypercorn-trio"], "tests.support.served_neighbours:limited_asgi", tmp_path,
        KEYGUARD_STORE=url_of("sqlite", tmp_path),
    ) as server, ThreadPoolExecutor(16) as pool:  # fmt: skip
        statuses = [answer[0] for answer in pool.map(lambda _: server.get("/"), range(130))]
        assert (statuses.count(200), statuses.count(429)) == (100, 30)
        assert "Error" not in server.stop()


@pytest.mark.slow
def test_hypercorn_on_trio_with_redis_works_or_does_not_start(valkey: RedisServer, tmp_path: Path) -> None:
    command = served(
        ASGI_SERVERS["hypercorn-trio"], "tests.support.served_neighbours:limited_asgi", tmp_path,
        KEYGUARD_STORE=f"{valkey.url}?namespace=trio&timeout=1",  # it serves sixteen at once, on a busy machine
    )  # fmt: skip
    if getattr(open_store(valkey.url), "needs_asyncio", False):
        try:
            with command as server:  # its port is open before its app starts
                server.process.wait(60)
                log = server.log
        except AssertionError as error:
            log = str(error)
        assert "needs asyncio, and this is trio's event loop" in log
        return
    with command as server, ThreadPoolExecutor(16) as pool:
        statuses = [answer[0] for answer in pool.map(lambda _: server.get("/"), range(130))]
    assert (statuses.count(200), statuses.count(429)) == (100, 30)


def test_importing_keyguard_loads_neither_loop() -> None:
    import sys

    code = "import sys, keyguard, keyguard.asgi; print('trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_plain_text_is_served_there() -> None:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("x"))])
    app.add_middleware(Keyguard(RateLimit("1/hour")).asgi)
    client = TestClient(app, backend="trio")
    assert [client.get("/").status_code for _ in range(2)] == [200, 429]
