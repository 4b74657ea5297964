"""Keys by hand, in threads and event loops, on a real store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio

from keyguard import ConfigurationError, Key, KeyPool, UpstreamCause, UpstreamExhausted
from keyguard.testing import ManualClock
from keyguard.upstream.pairs import Pairs
from keyguard.upstream.told import behind

LIMIT = b'{"error": {"code": "rate_limit_exceeded", "type": "requests", "message": "Please try again in 20s."}}'


def pool_of(*names: str, **settings: Any) -> tuple[KeyPool, ManualClock]:
    clock = ManualClock()
    keys = [Key(name, f"sk-{name}", rank=place) for place, name in enumerate(names)]
    return KeyPool.openai(keys, clock=clock, max_wait=0, **settings), clock


def in_thread(pool: KeyPool, status: int, body: bytes = b"", **asked: Any) -> str:
    with pool.acquire(**asked) as grant:
        grant.report(status, {"Content-Type": "application/json"}, body)
        return grant.key.id


def by(run: Any) -> Callable[..., str]:
    async def one(pool: KeyPool, status: int, body: bytes, asked: dict[str, Any]) -> str:
        async with pool.aacquire(**asked) as grant:
            grant.report(status, {"Content-Type": "application/json"}, body)
            return grant.key.id

    def called(pool: KeyPool, status: int, body: bytes = b"", **asked: Any) -> str:
        async def whole() -> str:
            return await one(pool, status, body, asked)

        found: str = run(whole)
        return found

    return called


WAYS = {"thread": in_thread, "asyncio": by(lambda whole: asyncio.run(whole())), "trio": by(trio.run)}


@pytest.mark.parametrize("way", WAYS)
def test_the_story_of_two_keys(way: str) -> None:
    pool, clock = pool_of("a", "b")
    call = WAYS[way]
    assert call(pool, 200) == "a"
    assert call(pool, 429, LIMIT) == "a"
    assert call(pool, 200) == "b"
    assert call(pool, 401, b'{"error": {"code": "invalid_api_key"}}') == "b"
    with pytest.raises(UpstreamExhausted) as raised:
        call(pool, 200)
    assert raised.value.outcome.cause == UpstreamCause.EXHAUSTED
    assert 20 <= int(raised.value.headers["retry-after"]) <= 23
    exhaustion = behind(raised.value)
    assert exhaustion is not None
    assert exhaustion.recovers_at == raised.value.outcome.until
    clock.advance("25 seconds")
    assert call(pool, 200) == "a"


def test_units_of_a_block_that_sent_nothing_come_back() -> None:
    pool, _ = pool_of("a", limits={"a": {"rpm": 1}})
    for _ in range(3):
        with pool.acquire() as grant:
            grant.give_back()
    assert in_thread(pool, 200) == "a"
    with pytest.raises(UpstreamExhausted):
        in_thread(pool, 200)


def test_a_block_that_fails_has_spent_its_unit_and_nothing_else() -> None:
    pool, _ = pool_of("a", limits={"a": {"rpm": 2}})
    with pytest.raises(RuntimeError), pool.acquire():
        raise RuntimeError("reset")
    assert in_thread(pool, 200) == "a"
    with pytest.raises(UpstreamExhausted):
        in_thread(pool, 200)


def test_units_are_those_that_are_asked_for() -> None:
    pool, _ = pool_of("a", limits={"a": {"tpm": 1000}})
    assert in_thread(pool, 200, cost={"tokens": 900}) == "a"
    with pytest.raises(UpstreamExhausted):
        in_thread(pool, 200, cost={"tokens": 900})
    assert in_thread(pool, 200, cost={"tokens": 100}) == "a"


@pytest.mark.parametrize("asked", [{"cost": {"token": 1}}, {"max_wait": -1}, {"model": 5}, {"affinity": None}])
def test_what_cannot_be_asked_for(asked: dict[str, Any]) -> None:
    pool, _ = pool_of("a")
    with pytest.raises(ConfigurationError):
        pool.acquire(**asked)


def test_a_key_that_may_not_use_a_model_is_left_for_another() -> None:
    pool, _ = pool_of("a", "b")
    body = b'{"error": {"code": "model_not_found", "type": "invalid_request_error"}}'
    assert [in_thread(pool, 404, body, model="m"), in_thread(pool, 200, model="m")] == ["a", "b"]
    assert in_thread(pool, 200, model="n") == "a"


def test_the_verdict_is_returned_and_the_first_report_counts() -> None:
    pool, _ = pool_of("a")
    with pool.acquire() as grant:
        assert grant.report(429, {}, LIMIT).cause == UpstreamCause.EXHAUSTED
        grant.report(200)
    with pytest.raises(UpstreamExhausted):
        in_thread(pool, 200)


def test_a_block_that_is_cancelled_leaves_nothing_behind() -> None:
    pool, clock = pool_of("a", limits={"a": {"rpm": 1}})
    in_thread(pool, 200)

    async def impatient() -> None:
        async with asyncio.timeout(0.05), pool.aacquire(max_wait=3600):
            pass

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert pool.parts.waiting == 0
    clock.advance("1 minute")
    assert in_thread(pool, 200) == "a"


def test_a_refusal_is_told_to_others_at_once() -> None:
    pool, clock = pool_of("a")
    in_thread(pool, 200)
    clock.advance(0)
    assert len(pool.parts.outbox) == 1, "a success has time"
    in_thread(pool, 429, LIMIT)
    clock.advance(0)
    assert len(pool.parts.outbox) == 0


def test_a_key_that_is_enabled_is_tried_for_all_models() -> None:
    pool, _ = pool_of("a", "b")
    in_thread(pool, 404, b'{"error": {"code": "model_not_found"}}', model="m")
    assert in_thread(pool, 200, model="m") == "b"
    pool.enable("a")
    assert in_thread(pool, 200, model="m") == "a"


def test_pairs_of_keys_and_models_are_bounded() -> None:
    clock = ManualClock()
    pairs = Pairs(clock)
    for number in range(3000):
        pairs.remember("a", f"model {number}" + "x" * 1000)
    assert len(pairs) <= 1000
    assert not pairs.fit("a", "model 2999" + "x" * 1000)
    assert pairs.fit("a", "model 1" + "x" * 1000)


def test_what_is_learnt_is_sent_within_a_second_and_at_the_end() -> None:
    pool, clock = pool_of("a")
    in_thread(pool, 200)
    assert len(pool.parts.outbox) == 1
    clock.advance("1 second")
    assert len(pool.parts.outbox) == 0
    in_thread(pool, 200)
    pool.close()
    assert len(pool.parts.outbox) == 0
    in_thread(pool, 200)
    asyncio.run(pool.aclose())
    assert len(pool.parts.outbox) == 0
