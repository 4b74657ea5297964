"""Settlements that a store cannot be told of while it is out of order are made when it answers again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keyguard import StoreError
from keyguard.ops import Demand, Settle, Take
from keyguard.rates import window
from keyguard.stores import owed
from keyguard.stores.circuit_breaker import CircuitBreaker
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock

LIMIT = window(1000, 3_600_000_000, "1000/hour")


class Failing(MemoryStore):
    """A store that can be out of order: before it does anything, or after."""

    timeout = 0.1
    broken = ""
    asked = 0

    def execute(self, ops: Any) -> list[Any]:
        self.asked += 1
        if self.broken == "before":
            raise StoreError("down")
        found = super().execute(ops)
        if self.broken:
            raise StoreError("the reply was lost")
        return found


class Awaited(Failing):
    def aexecute(self, ops: Any) -> Any:
        async def later() -> list[Any]:
            return self.execute(ops)

        return later()


def take(cost: int) -> Take:
    return Take([Demand("", f"rl:owed:{LIMIT.code}|x", LIMIT, cost)])


def ask(breaker: Any, op: Any) -> Any:
    if isinstance(breaker.store, Awaited):

        async def story() -> Any:
            return (await breaker.aexecute([op]))[0]

        return asyncio.run(story())
    return breaker.execute([op])[0]


@pytest.fixture(params=[Failing, Awaited])
def breaker(request: pytest.FixtureRequest) -> Any:
    clock = ManualClock()
    return CircuitBreaker(request.param(clock=clock), workers=1, clock=lambda: 1_000_000)


def used(breaker: Any) -> int:
    return 1000 - int(ask(breaker, take(0)).takings[0][2])


@pytest.mark.parametrize("when", ["before", "after"])
def test_they_are_made_once(breaker: Any, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [ask(breaker, take(5)) for _ in range(4)]
    breaker.store.broken = when
    for one in taken:  # the first is sent and fails; of the others nothing is sent, as the circuit is open
        with pytest.raises(StoreError):
            ask(breaker, Settle(one, [7]))
    assert breaker.store.asked == 5
    breaker.store.broken = ""
    now = owed.monotonic()
    monkeypatch.setattr("keyguard.stores.circuit.monotonic", lambda: now + 1)
    used(breaker)
    assert used(breaker) == 28
    assert used(breaker) == 28


def test_what_may_have_been_made_long_ago_is_not_made_again(breaker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [ask(breaker, take(5)) for _ in range(2)]
    breaker.store.broken = "after"
    for one in taken:
        with pytest.raises(StoreError):
            ask(breaker, Settle(one, [7]))
    breaker.store.broken = ""
    now = owed.monotonic()
    monkeypatch.setattr("keyguard.stores.circuit.monotonic", lambda: now + 9)
    monkeypatch.setattr(owed, "monotonic", lambda: now + 9)
    used(breaker)
    assert used(breaker) == 14
    assert breaker.health.degraded == {"a charge kept": 1}


def test_so_many_are_kept_and_no_more(breaker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "MOST", 2)
    taken = [ask(breaker, take(5)) for _ in range(5)]
    breaker.store.broken = "before"
    for one in taken:
        with pytest.raises(StoreError):
            ask(breaker, Settle(one))
    assert len(breaker._owed.waiting) == 2
