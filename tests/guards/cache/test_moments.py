"""What counts is when the app was asked: what was asked for before a purge or a change is not served after it.

In all processes, however long the app takes; and a change has happened when its request is over, not at its head.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, ResponseCache
from keyguard.testing import ManualClock
from tests.guards.cache.test_shared import VOIDED
from tests.support.cached import SHARED, Node, Nodes, store_url
from tests.support.harness import Ask, aask, ask_wsgi
from tests.support.servers import wait_until


@pytest.mark.parametrize(
    ("nodes", "void", "slow"), [(*how, 5.0 * (place % 2)) for place, how in enumerate(VOIDED)], indirect=["nodes"]
)
def test_21_what_was_asked_for_before_a_purge_elsewhere_is_not_held_either(
    nodes: Nodes, void: Callable[[Node], None], slow: float
) -> None:
    """It was held as if it had been checked when it came, and served for a second more."""
    one = nodes.node(local_ttl=1)
    other = Node(nodes.url, "wsgi", nodes.runner, nodes.clock, local_ttl=1)
    one.fields.append(("Cache-Tag", "t1"))

    def meanwhile() -> None:
        void(other)
        nodes.later(slow)

    one.meanwhile = meanwhile
    old = one.get()[0]
    one.meanwhile = lambda: None
    new, how = one.get()
    assert new != old
    assert how != "hit"
    assert one.get() == (new, "hit")
    other.close()


def test_21_a_stale_answer_that_was_purged_elsewhere_does_not_stand_in_for_a_failure(nodes: Nodes) -> None:
    one = nodes.node(local_ttl=1)
    other = Node(nodes.url, "wsgi", nodes.runner, nodes.clock, local_ttl=1)
    one.fields = [("Cache-Control", "max-age=1, stale-if-error=600")]
    one.get()
    nodes.later(2)

    def meanwhile() -> None:
        other.stack.cache.purge("/x")
        nodes.later(5)

    one.meanwhile, one.status = meanwhile, 503
    assert one.ask().status == 503
    other.close()


def test_21_and_22_who_asks_after_a_purge_elsewhere_gets_no_answer_from_before_it(nodes: Nodes) -> None:
    """It waits for one that was asked for before, and then asks itself."""
    one = Node(nodes.url, "wsgi", nodes.runner, nodes.clock, local_ttl=1)
    other = Node(nodes.url, "wsgi", nodes.runner, nodes.clock, local_ttl=1)
    asked, go = threading.Event(), threading.Event()

    def slow() -> None:
        asked.set()
        assert go.wait(30)

    one.meanwhile = slow
    leader = threading.Thread(target=one.get)
    leader.start()
    assert asked.wait(30)
    other.stack.cache.purge("/x")
    found: list[tuple[bytes, str]] = []
    follower = threading.Thread(target=lambda: found.append(one.get()))
    follower.start()
    flights = one.guards[0].flights
    wait_until(lambda: any(flight.signal._wakers for flight in list(flights._open.values())), "the follower waits")
    go.set()
    for thread in (leader, follower):
        thread.join(30)
    assert found[0][0] == b"%s 2" % one.store_name
    assert one.calls == 2
    one.close()
    other.close()


# -- the end of a change ----------------------------------------------------------------------------------------------


class Shop:
    """A value, and the moment between the answer to its change and the change."""

    def __init__(self) -> None:
        self.value = b"old"
        self.before: Any = None
        """Called before the change is made, when the answer to it has gone."""


async def change(shop: Shop) -> None:
    if shop.before is not None:
        await shop.before()
    shop.value = b"new"


def fastapi_dependency(shop: Shop) -> Any:
    from fastapi import Depends, FastAPI, Response

    app = FastAPI(openapi_url=None)

    async def session() -> AsyncIterator[None]:
        yield
        await change(shop)

    @app.get("/")
    async def read() -> Response:
        return Response(shop.value, headers={"Cache-Control": "max-age=600"})

    @app.post("/", dependencies=[Depends(session)])
    async def write() -> str:
        return "done"

    return app


def fastapi_dependency_and_function(shop: Shop) -> Any:
    app = fastapi_dependency(shop)

    @app.middleware("http")
    async def passing(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return app


def starlette_background(shop: Shop) -> Any:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import Response
    from starlette.routing import Route

    async def page(request: Any) -> Response:
        if request.method == "GET":
            return Response(shop.value, headers={"Cache-Control": "max-age=600"})
        return Response("done", background=BackgroundTask(change, shop))

    return Starlette(routes=[Route("/", page, methods=["GET", "POST"])])


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (fastapi_dependency, "memory"),
        (fastapi_dependency, "valkey"),
        (fastapi_dependency, "postgres"),
        (fastapi_dependency_and_function, "memory"),
        (fastapi_dependency_and_function, "cluster"),
        (starlette_background, "memory"),
        (starlette_background, "sqlite"),
        (starlette_background, "redis6"),
    ],
)
def test_21_a_change_that_is_made_after_its_answer(
    made: Any, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The old value was stored for its whole lifetime by who asked between the two."""

    async def story(url: str) -> None:
        shop, clock = Shop(), ManualClock()
        cache = ResponseCache()
        app = Keyguard(cache, store=url, clock=clock).asgi(made(shop))

        async def read() -> bytes:
            return (await aask(app, Ask("/"), lint=False)).body

        between: list[bytes] = []

        async def before() -> None:
            between.append(await read())

        assert await read() == b"old"
        shop.before = before
        await aask(app, Ask("/", method="POST"), lint=False)
        assert between == [b"old"]
        assert await read() == b"new"
        clock.advance(2)
        assert await read() == b"new"
        await asyncio.sleep(0)
        closing = getattr(cache.storage._store, "aclose", None)
        if closing is not None:
            await closing()

    if kind == "memory":
        asyncio.run(story("memory://"))
    else:
        with store_url(kind, request, tmp_path) as url:
            asyncio.run(story(url))


@pytest.mark.parametrize(
    ("kind", "in_iterable"),
    [("memory", True), *((kind, place % 2 == 1) for place, kind in enumerate(["memory", *SHARED]))],
)
def test_21_a_change_that_is_made_when_its_answer_is_closed(
    kind: str, in_iterable: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As Flask's teardown functions do, and generators behind their last `yield`."""
    value, between, clock = [b"old"], [], ManualClock()

    class Done:
        def __iter__(self) -> Iterator[bytes]:
            yield b"do"
            yield b"ne"

        def close(self) -> None:
            between.append(read())
            value[0] = b"new"

    def lazily() -> Iterator[bytes]:
        try:
            yield b"done"
        finally:
            between.append(read())
            value[0] = b"new"

    def app(environ: Any, start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "GET":
            start_response("200 OK", [("Cache-Control", "max-age=600"), ("Content-Length", "3")])
            return [value[0]]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return lazily() if in_iterable else Done()

    def story(url: str) -> None:
        outside = Keyguard(ResponseCache(), store=url, clock=clock).wsgi(app)
        nonlocal read
        read = lambda: ask_wsgi(outside, Ask("/"), lint=False).body  # noqa: E731
        assert read() == b"old"
        ask_wsgi(outside, Ask("/", method="POST"), lint=False)
        assert between == [b"old"]
        assert read() == b"new"
        clock.advance(2)
        assert read() == b"new"

    read: Callable[[], bytes] = bytes
    if kind == "memory":
        story("memory://")
    else:
        with store_url(kind, request, tmp_path) as url:
            story(url)


def test_21_and_2_an_answer_to_a_post_is_stored_after_its_change() -> None:
    """It tells of what is there then, so it is not void by it."""

    async def story() -> None:
        calls: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            calls.append(scope["method"])
            headers = [(b"cache-control", b"max-age=600"), (b"content-location", b"/")]
            headers.append((b"content-length", b"3"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"new"})
            await asyncio.sleep(0)

        outside = Keyguard(ResponseCache()).asgi(app)
        await aask(outside, Ask("/", method="POST"), lint=False)
        assert (await aask(outside, Ask("/"), lint=False)).body == b"new"
        assert calls == ["POST"]

    asyncio.run(story())
