"""The drivers of the flow, one that blocks and one that awaits: they do the same, and close what nobody sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio

from keyguard import Key, KeyPool, UpstreamCause
from keyguard.errors import GuardError
from keyguard.flow import Step
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from keyguard.upstream.answers import Answer, Asked, Fault, Result
from keyguard.upstream.keys import PLACEHOLDER
from keyguard.upstream.transports import driving
from keyguard.upstream.transports.driving import adrive, afollow, drive, follow

DRY = b'{"error": {"code": "rate_limit_exceeded", "type": "requests", "message": "Please try again in 20s."}}'


class Provider:
    """Answers by key: a status and a body, or an exception; and what was done with each answer."""

    def __init__(self, **said: Any) -> None:
        self.said = said
        self.done: list[str] = []

    def send(self, key: Key, number: int) -> Answer:
        assert key.reveal() != PLACEHOLDER
        self.done.append(f"{number} {key.id}")
        said = self.said.get(key.id, 200)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, Fault):
            return Answer(0, {}, error=said)
        return Answer(said, {}, native=key.id)

    def read(self, answer: Answer, most: int) -> bytes:
        self.done.append(f"read {answer.native}")
        return DRY

    def discard(self, answer: Answer) -> None:
        self.done.append(f"close {answer.native}")


class AsyncProvider:
    """The same for event loops."""

    def __init__(self, provider: Provider, checkpoint: Callable[[], Any]) -> None:
        self._provider = provider
        self._checkpoint = checkpoint

    async def send(self, key: Key, number: int) -> Answer:
        await self._checkpoint()
        return self._provider.send(key, number)

    async def read(self, answer: Answer, most: int) -> bytes:
        await self._checkpoint()
        return self._provider.read(answer, most)

    async def discard(self, answer: Answer) -> None:
        self._provider.discard(answer)
        await self._checkpoint()


def in_thread(pool: KeyPool, asked: Asked, provider: Provider) -> Result:
    return drive(pool, asked, provider)


def in_asyncio(pool: KeyPool, asked: Asked, provider: Provider) -> Result:
    return asyncio.run(adrive(pool, asked, AsyncProvider(provider, lambda: asyncio.sleep(0))))


def in_trio(pool: KeyPool, asked: Asked, provider: Provider) -> Result:
    return trio.run(adrive, pool, asked, AsyncProvider(provider, trio.lowlevel.checkpoint))


WAYS = [in_thread, in_asyncio, in_trio]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """A clock by which the drivers pause."""
    clock = ManualClock()

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    monkeypatch.setattr(driving, "pause", clock.advance)
    monkeypatch.setattr(driving, "_sleep", sleep)
    return clock


def pool_of(clock: ManualClock, *names: str, **settings: Any) -> KeyPool:
    keys = [Key(name, f"sk-{name}", rank=place) for place, name in enumerate(names)]
    return KeyPool.openai(keys, store=MemoryStore(clock=clock), clock=clock, **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_rotation(way: Any, clock: ManualClock) -> None:
    provider = Provider(a=429)
    result = way(pool_of(clock, "a", "b"), Asked(), provider)
    assert result.answer.native == "b"
    assert result.outcome.attempts == 2
    assert provider.done == ["1 a", "read a", "2 b", "close a"]


@pytest.mark.parametrize("way", WAYS)
def test_a_wait_and_what_is_given_up(way: Any, clock: ManualClock) -> None:
    provider = Provider(a=429)
    pool = pool_of(clock, "a", max_attempts=2)
    result = way(pool, Asked(max_wait=100), provider)
    assert result.answer.native == "a"
    assert result.outcome.waited >= 20
    assert provider.done == ["1 a", "read a", "2 a", "read a", "close a"], (
        "the first of them is closed, the last is not"
    )
    assert way(pool, Asked(max_wait=0), provider).synthetic.status == 429


@pytest.mark.parametrize("way", WAYS)
def test_a_fault_of_the_connection_is_given_back(way: Any, clock: ManualClock) -> None:
    fault = Fault(OSError("reset"), sent=True)
    result = way(pool_of(clock, "a"), Asked(), Provider(a=fault))
    assert result.answer.error is fault
    assert result.outcome.cause == UpstreamCause.SYSTEM


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_of_the_hands_passes_and_answers_are_closed(way: Any, clock: ManualClock) -> None:
    provider = Provider(a=429, b=RuntimeError("a bug"))
    pool = pool_of(clock, "a", "b")
    with pytest.raises(RuntimeError, match="a bug"):
        way(pool, Asked(), provider)
    assert provider.done == ["1 a", "read a", "2 b", "close a"]
    assert pool.parts.waiting == 0


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("run", ["asyncio", "trio"])
def test_a_cancelled_request_closes_its_answers(run: str, at: int, clock: ManualClock) -> None:
    provider = Provider(a=429)
    pool = pool_of(clock, "a", "b")
    count = iter(range(1, 100))

    async def in_asyncio() -> None:
        task = asyncio.current_task()
        assert task is not None

        async def checkpoint() -> None:
            if next(count) == at:
                task.cancel()
            await asyncio.sleep(0)

        await adrive(pool, Asked(), AsyncProvider(provider, checkpoint))

    async def in_trio() -> None:
        with trio.CancelScope() as scope:

            async def checkpoint() -> None:
                if next(count) == at:
                    scope.cancel()
                await trio.lowlevel.checkpoint()

            await adrive(pool, Asked(), AsyncProvider(provider, checkpoint))
            await trio.lowlevel.checkpoint()

    if run == "trio":
        trio.run(in_trio)
    else:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(in_asyncio())
    opened = [done for done in provider.done if done[0].isdigit()]
    closed = [done for done in provider.done if done.startswith("close")]
    assert len(closed) == len(set(closed)) == len(opened)
    assert pool.parts.waiting == 0


class Unheard(Step[None]):
    """A step that no driver knows."""


def test_a_step_that_is_not_known_is_refused(clock: ManualClock) -> None:
    pool = pool_of(clock, "a")

    async def flow() -> None:
        await Unheard()

    with pytest.raises(GuardError, match="Unheard"):
        follow(pool.place, flow())
    with pytest.raises(GuardError, match="Unheard"):
        asyncio.run(afollow(pool.place, flow()))
