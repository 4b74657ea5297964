"""Pools that share a store: what one process learns, the others know, on every kind of store."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from keyguard import Key, KeyPool, StoreError, UpstreamCause, UpstreamExhausted
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.every_store import KINDS, on_a_clock

DEAD = (401, b'{"error": {"code": "invalid_api_key"}}')
DRY = (429, b'{"error": {"code": "rate_limit_exceeded", "message": "Please try again in 20s."}}')
POOR = (429, b'{"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}')


def pool_of(store: Any, clock: ManualClock | None = None, **settings: Any) -> KeyPool:
    keys = [Key("a", "sk-a"), Key("b", "sk-b", rank=1)]
    return KeyPool.openai(keys, store=store, clock=clock, max_wait=0, **settings)


def call(pool: KeyPool, status: int = 200, body: bytes = b"") -> str:
    with pool.acquire() as grant:
        grant.report(status, {}, body)
        return grant.key.id


async def acall(pool: KeyPool) -> str:
    async with pool.aacquire() as grant:
        grant.report(200)
        return grant.key.id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", [DEAD, DRY, POOR])
def test_what_one_learns_the_others_know(kind: str, answer: Any, request: pytest.FixtureRequest) -> None:
    clock = ManualClock()
    store = on_a_clock(kind, request, clock)
    one, other = pool_of(store, clock), pool_of(store, clock)
    assert call(one, *answer) == "a"
    assert call(one) == "b", "the report goes along with the next trip"
    assert call(other) == "b"
    assert asyncio.run(acall(other)) == "b"
    group = other.snapshot().groups[0]
    assert (group.cause, [key.state for key in group.keys]) != (UpstreamCause.OK, ["ok"])
    other.enable("a")
    assert call(one) == "a"


@pytest.mark.parametrize("kind", KINDS)
def test_they_share_a_limit(kind: str, request: pytest.FixtureRequest) -> None:
    clock = ManualClock()
    store = on_a_clock(kind, request, clock)
    pools = [pool_of(store, clock, limits={"a": {"rpm": 4}, "b": {"rpm": 2}}) for _ in range(3)]
    used = [call(pools[number % 3]) for number in range(6)]
    assert used == ["a"] * 4 + ["b"] * 2
    for pool in pools:
        with pytest.raises(UpstreamExhausted) as raised:
            call(pool)
        assert raised.value.outcome.cause == UpstreamCause.EXHAUSTED


class Distant(MemoryStore):
    """A store that somebody waits for, and that counts how often it was asked in vain."""

    of_one_process = False
    timeout = 0.1
    asked = 0

    def execute(self, ops: Any) -> list[Any]:
        self.asked += 1
        raise StoreError("no answer in time")


def test_nobody_waits_for_a_store_that_is_known_to_be_out_of_order() -> None:
    store = Distant()
    pool = pool_of(store)
    assert [call(pool) for _ in range(50)] == ["a"] * 50
    assert store.asked < 25, "but for a probe now and then"


def in_child(pool: KeyPool, results: Any) -> None:
    results.put((len(pool.parts.outbox), call(pool), os.getpid()))
    pool.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_the_process_goes_on_by_itself(tmp_path: Path) -> None:
    pool = pool_of(f"sqlite:///{tmp_path}/pool.db?timeout=5")
    assert call(pool, *DEAD) == "a"
    assert call(pool) == "b"
    waiting = len(pool.parts.outbox)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    child = fork.Process(target=in_child, args=(pool, results))
    child.start()
    found = results.get(timeout=60)
    child.join(60)
    assert found == (0, "b", child.pid), "the child reports nothing of its parent's, and knows what the store does"
    assert len(pool.parts.outbox) <= waiting
    pool.close()
