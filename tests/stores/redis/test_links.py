"""Connections to Redis: how they are opened, kept and let go."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import redis

from keyguard import Keyguard, RateLimit
from keyguard.errors import StoreError
from keyguard.keys import KeyRegistry
from keyguard.ops import Demand, Put, Take
from keyguard.rates import window
from keyguard.stores.redis import RedisStore
from keyguard.stores.redis.node import Line
from tests.support.harness import Ask, aask, asgi_app, ask_wsgi, wsgi_app
from tests.support.servers import RedisServer, wait_until

HOUR = window(1000, 3_600_000_000, "1000/hour")


def take(caller: str) -> Take:
    return Take([Demand("d", f"rl:links|{caller}", HOUR)])


class Opening:
    """Stands before the opening of each connection, until it is let through."""

    def __init__(self, store: RedisStore) -> None:
        assert isinstance(store._line, Line)
        self.link = store._line._threads
        self.connect = self.link._connect
        self.link._connect = self
        self.through = threading.Event()
        self.begun = 0

    def __call__(self) -> Any:
        self.begun += 1
        assert self.through.wait(20)
        return self.connect()


def test_a_name_that_is_looked_up_for_long_keeps_no_request_waiting(valkey: RedisServer) -> None:
    store = RedisStore(valkey.url, namespace="names", timeout=0.5)
    opening = Opening(store)
    began = time.monotonic()
    with pytest.raises(StoreError, match="no connection in time"):
        store.execute([take("x")])
    assert time.monotonic() - began < 10, "half of what the look-up may take"
    opening.through.set()
    wait_until(lambda: not opening.link._openings, "the connections to be there")
    assert store.execute([take("x")])[0].takings[0][2] == 999
    assert opening.begun == 1, "the connection that came late is the one that is used"
    store.close()


def test_no_more_than_a_few_connections_are_on_their_way_for_nobody(valkey: RedisServer) -> None:
    store = RedisStore(valkey.url, namespace="few", timeout=0.02)
    opening = Opening(store)
    for _ in range(20):
        with pytest.raises(StoreError, match="no connection in time"):
            store.execute([take("x")])
    assert opening.begun <= 4
    opening.through.set()
    wait_until(lambda: not opening.link._openings, "the connections to be there")
    store.close()


def test_event_loops_that_have_ended_leave_no_connections_behind(valkey: RedisServer) -> None:
    store = RedisStore(valkey.url, namespace="loops", timeout=1)
    with redis.Redis.from_url(valkey.url) as client:
        before = client.info("clients")["connected_clients"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nobody closed them: that is the point
            for _ in range(20):
                asyncio.run(ask(store))
            gc.collect()
            left = client.info("clients")["connected_clients"] - before
            store.close()
            del store
            gc.collect()
    assert left <= 2, "those of the last loop"


async def ask(store: RedisStore) -> None:
    await store.aexecute([take("x")])


def test_keys_are_listed_without_a_walk_through_all_callers(valkey: RedisServer) -> None:
    store = RedisStore(valkey.url, namespace="walk", timeout=1)
    registry = KeyRegistry(store)
    registry.issue("acme")
    store.execute([take(f"caller-{number}") for number in range(500)])
    with redis.Redis.from_url(valkey.url) as client:
        client.config_resetstat()
        assert [record.subject for record in registry.list()] == ["acme"]
        commands = client.info("commandstats")
    assert "cmdstat_hgetall" not in commands
    assert commands["cmdstat_get"]["calls"] < 10
    assert len(store.scan("rl:links|")) == 500
    store.close()


def test_a_damaged_record_is_named_when_keys_are_listed(tmp_path: Path) -> None:
    guard = Keyguard(store=f"sqlite:///{tmp_path}/k.db")
    registry = KeyRegistry(guard.store)
    registry.issue("acme")
    guard.store.execute([Put("key|damaged", b"nonsense")])
    with pytest.raises(StoreError, match="damaged: damaged"):
        registry.list()


def test_many_event_loops_at_once_are_each_other_s_affair(valkey: RedisServer) -> None:
    """Each in a thread of its own, begun and ended all the time: what one adds, another was just going through."""
    store = RedisStore(valkey.url, namespace="many", timeout=1)
    wrong: list[BaseException] = []

    def live() -> None:
        try:
            for _ in range(15):
                asyncio.run(ask(store))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=live) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.close()


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_what_nobody_expected_is_a_failure_of_the_store(world: str, valkey: RedisServer) -> None:
    """So guards do without it as they were told to; and nobody waits for what will not come."""
    store = RedisStore(valkey.url, namespace="odd", timeout=1)
    guard = Keyguard(RateLimit("5/hour", by="ip", if_store_fails="allow"), store=store)
    assert isinstance(store._line, Line)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("Set changed size during iteration")

    async def story() -> int:
        answer = await aask(guard.asgi(asgi_app), Ask("/"), lint=False)
        await store.aclose()
        return answer.status

    for name, owner in (("_carry", store._line._threads), ("_packed", store._line), ("_link", store._line)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, broken)
            if world == "loop":
                assert asyncio.run(story()) == 200
            else:
                assert ask_wsgi(guard.wsgi(wsgi_app), Ask("/"), lint=False).status == 200
    store.close()
