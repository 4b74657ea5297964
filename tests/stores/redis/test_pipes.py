"""The connection that the tasks of an event loop share: whose reply is whose, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from keyguard.errors import StoreError
from keyguard.ops import Demand, Put, Read, Take
from keyguard.rates import window
from keyguard.stores.redis import RedisStore
from keyguard.stores.redis.node import Line
from tests.support.servers import Proxy, RedisServer

HOUR = window(1000, 3_600_000_000, "1000/hour")


def take(caller: str) -> Take:
    return Take([Demand("d", f"rl:pipes|{caller}", HOUR)])


def story(server: RedisServer, namespace: str, tell: Callable[[RedisStore], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        store = RedisStore(server.url, namespace=namespace, timeout=1)
        try:
            return await tell(store)
        finally:
            await store.aclose()

    return asyncio.run(whole())


async def remaining(store: RedisStore, caller: str) -> int:
    (taken,) = await store.aexecute([take(caller)])
    return int(taken.takings[0][2])


def test_each_task_gets_its_own_reply(valkey: RedisServer) -> None:
    async def tell(store: RedisStore) -> list[int]:
        async def caller(number: int) -> int:
            for _ in range(number):
                await remaining(store, f"c{number}")
            return await remaining(store, f"c{number}")

        return list(await asyncio.gather(*[caller(number) for number in range(50)]))

    assert story(valkey, "own", tell) == [999 - number for number in range(50)]


def test_a_call_that_nobody_waits_for_any_more_keeps_its_place_and_is_undone(valkey: RedisServer) -> None:
    async def tell(store: RedisStore) -> list[int]:
        await remaining(store, "first")
        tasks = [asyncio.ensure_future(remaining(store, f"c{number}")) for number in range(9)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found[::2]] == [asyncio.CancelledError] * 5
        assert found[1::2] == [999] * 4
        await asyncio.gather(*store._held)
        return [await remaining(store, f"c{number}") for number in range(9)]

    assert story(valkey, "cancelled", tell) == [999, 998] * 4 + [999]


def test_a_connection_that_is_given_up_answers_what_is_under_way_on_it(valkey: RedisServer) -> None:
    async def tell(store: RedisStore) -> list[int]:
        await remaining(store, "x")
        assert isinstance(store._line, Line)
        tasks = [asyncio.ensure_future(remaining(store, "x")) for _ in range(5)]
        await asyncio.sleep(0)
        store._line.drop_idle()
        return [*await asyncio.gather(*tasks), await remaining(store, "x")]

    before = valkey.ask("INFO", "stats")["total_connections_received"]
    assert story(valkey, "retired", tell) == [998, 997, 996, 995, 994, 993]
    after = valkey.ask("INFO", "stats")["total_connections_received"]
    assert after - before in (2, 3)  # and that which asked


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_values_have_a_connection_of_their_own(valkey: RedisServer, size: int) -> None:
    async def tell(store: RedisStore) -> None:
        assert await store.aexecute([Put("k|large", bytes(size))]) == [True]
        reading = asyncio.ensure_future(store.aexecute([Read("k|large")]))
        assert await remaining(store, "x") == 999
        ((value,),) = await reading
        assert value == bytes(size)

    story(valkey, f"values{size}", tell)


def test_a_connection_that_takes_long_to_open_is_there_for_those_who_come_later(valkey: RedisServer) -> None:
    """Whoever waits for it is told in time; it is not begun again and again, as long as each of them may wait."""
    with Proxy(valkey.port) as proxy:
        proxy.mode, proxy.delay = "delay", 0.15

        async def tell() -> tuple[list[str], int]:
            store = RedisStore(
                f"redis://127.0.0.1:{proxy.port}/1", namespace="slow", timeout=0.1
            )  # SELECT takes a trip
            failures = []
            began = time.monotonic()
            for _ in range(20):
                try:
                    left = await remaining(store, "x")
                    break
                except StoreError as failure:
                    failures.append(str(failure))
                    assert time.monotonic() - began < 0.15 * len(failures) + 0.1
                proxy.mode = ""
            await store.aclose()
            return failures, left

        failures, left = asyncio.run(tell())
        assert failures
        assert set(failures) == {"Redis: no connection in time"}
        assert left == 999
        assert proxy.accepted == 1
