"""A limit that counts failures is fair: right log-ins at once all pass, wrong ones as often as it says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from threading import Barrier, Thread
from typing import Any

import pytest

from keyguard import Keyguard, RateLimit
from keyguard.guards.rate_limit import turns
from keyguard.stores.memory import MemoryStore
from keyguard.stores.redis import RedisStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, aask, ask_wsgi
from tests.support.servers import RedisServer

RIGHT = Ask("/login", (("X-Password", "right"),), method="POST")
WRONG = Ask("/login", (("X-Password", "wrong"),), method="POST")


def status_of(password: bytes) -> int:
    return 200 if password == b"right" else 401


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    password = dict(scope["headers"])[b"x-password"]
    for _ in range(3):
        await asyncio.sleep(0)  # it is compared, which takes a while
    await send({"type": "http.response.start", "status": status_of(password), "headers": []})
    await send({"type": "http.response.body", "body": b""})


def wsgi_app(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response(f"{status_of(environ['HTTP_X_PASSWORD'].encode())} Any", [])
    return [b""]


def stack(store: Any, rate: str = "3/minute") -> Keyguard:
    return Keyguard(RateLimit(rate, by="ip", paths=["/login"], count="failures"), store=store)


def at_once(world: str, stacks: list[Keyguard], asks: list[Ask]) -> Counter[int]:
    """Send requests at the same time, in turn to each of these stacks. Returns how often each status came."""
    answers: list[Any] = []
    if world == "asgi":

        async def story() -> list[Any]:
            apps = [one.asgi(asgi_app) for one in stacks]
            found = await asyncio.gather(*[aask(apps[n % len(apps)], ask, lint=False) for n, ask in enumerate(asks)])
            for one in stacks:
                if hasattr(one.store, "aclose"):
                    await one.store.aclose()
            return found

        answers = asyncio.run(story())
    else:
        apps = [one.wsgi(wsgi_app) for one in stacks]
        barrier = Barrier(len(asks))

        def send(number: int, ask: Ask) -> None:
            barrier.wait(60)
            answers.append(ask_wsgi(apps[number % len(apps)], ask, lint=False))

        threads = [Thread(target=send, args=pair) for pair in enumerate(asks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for answer in answers:
        if answer.status == 429 and "held" in answer.body.decode():
            assert answer.get("retry-after") == "1"
    return Counter(answer.status for answer in answers)


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_thirty_right_ones_at_once_all_pass(world: str) -> None:
    assert at_once(world, [stack("memory://")], [RIGHT] * 30) == {200: 30}


def test_of_thirty_wrong_ones_at_once_three_pass(world: str) -> None:
    one = stack("memory://")
    assert at_once(world, [one], [WRONG] * 30) == {401: 3, 429: 27}
    assert at_once(world, [one], [RIGHT] * 3) == {429: 3}


def test_right_ones_among_wrong_ones_pass_as_long_as_there_is_anything_left(world: str) -> None:
    one = stack("memory://", "5/minute")
    found = at_once(world, [one], [RIGHT, RIGHT, WRONG, RIGHT, WRONG, RIGHT] * 2)
    assert found == {200: 8, 401: 4}
    assert at_once(world, [one], [RIGHT] * 10) == {200: 10}
    assert at_once(world, [one], [WRONG] * 10) == {401: 1, 429: 9}


@pytest.mark.parametrize("ask", [RIGHT, WRONG])
def test_on_a_shared_store_too(world: str, ask: Ask, valkey: RedisServer) -> None:
    store = RedisStore(
        f"redis://127.0.0.1:{valkey.port}", namespace=f"turns-{world}-{ask.headers[0][1]!s}", timeout=1.0
    )
    try:
        expected = {200: 12} if ask is RIGHT else {401: 3, 429: 9}
        assert at_once(world, [stack(store)], [ask] * 12) == expected
    finally:
        store.clear()
        store.close()


def test_what_another_process_holds_is_told_to_be_asked_for_again_in_a_second() -> None:
    """Two stacks on one store, of which neither hears of the other, as two processes do."""
    store = MemoryStore()

    async def story() -> None:
        going = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await going.wait()
            await asgi_app(scope, receive, send)

        one, other = stack(store).asgi(slow), stack(store).asgi(asgi_app)
        under_way = [asyncio.create_task(aask(one, RIGHT, lint=False)) for _ in range(3)]
        await asyncio.sleep(0)
        refused = await aask(other, RIGHT, lint=False)
        assert (refused.status, refused.get("retry-after")) == (429, "1")
        assert b"held by requests of yours" in refused.body
        assert refused.get("ratelimit").endswith("r=0;t=1")  # type: ignore[union-attr]
        going.set()
        assert [(await task).status for task in under_way] == [200] * 3
        assert (await aask(other, RIGHT, lint=False)).status == 200

    asyncio.run(story())


def test_nobody_waits_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.05)

    async def story() -> None:
        hangs = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await hangs.wait()
            await asgi_app(scope, receive, send)

        app = stack("memory://").asgi(slow)
        under_way = [asyncio.create_task(aask(app, RIGHT, lint=False)) for _ in range(3)]
        await asyncio.sleep(0)
        refused = await aask(app, RIGHT, lint=False)
        assert (refused.status, refused.get("retry-after")) == (429, "1")
        hangs.set()
        assert [(await task).status for task in under_way] == [200] * 3

    asyncio.run(story())


def test_those_who_leave_while_they_wait_take_nobody_s_turn() -> None:
    async def story() -> None:
        going = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await going.wait()
            await asgi_app(scope, receive, send)

        app = stack("memory://", "1/minute").asgi(slow)
        tasks = [asyncio.create_task(aask(app, RIGHT, lint=False)) for _ in range(6)]
        for _ in range(5):
            await asyncio.sleep(0)
        for task in tasks[1:4]:
            task.cancel()
        going.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(one, "status", None) for one in done] == [200, None, None, None, 200, 200]

    asyncio.run(story())


@pytest.mark.parametrize("leaving", [1, 3, 4, 10])
def test_those_who_wait_pass_if_all_who_stood_before_them_leave_at_once(leaving: int) -> None:
    async def story() -> None:
        app = stack("memory://").asgi(asgi_app)
        tasks = [asyncio.ensure_future(aask(app, RIGHT, lint=False)) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[:leaving]:
            task.cancel()
        await asyncio.wait(tasks[:leaving])
        found = await asyncio.gather(*tasks[leaving:])
        assert Counter(answer.status for answer in found) == {200: 20 - leaving}

    asyncio.run(story())


def test_a_unit_comes_back_when_its_process_is_no_more() -> None:
    """By the lease: its request is never heard of again."""
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    dead = Keyguard(RateLimit("1/hour", count="failures"), store=store, clock=clock)

    async def story() -> None:
        async def hanging(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(aask(dead.asgi(hanging), RIGHT, lint=False))
        await asyncio.sleep(0)
        alive = Keyguard(RateLimit("1/hour", count="failures"), store=store, clock=clock).asgi(asgi_app)
        assert (await aask(alive, RIGHT, lint=False)).status == 429
        clock.advance("1 minute")
        assert (await aask(alive, RIGHT, lint=False)).status == 200
        task.cancel()

    asyncio.run(story())
