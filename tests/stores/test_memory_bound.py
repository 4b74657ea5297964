"""The memory store at its bound: it stays within it, says so, and forgives nobody."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from keyguard import Keyguard, RateLimit, ResponseCache
from keyguard.ops import CompareAndSet, Demand, Read, Take
from keyguard.rates import Limit, smooth, window
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStats, MemoryStore, Pool
from keyguard.testing import ManualClock, play

MIB = 1024 * 1024
HOUR = 3600 * 1_000_000
LIMITS = [window(5, HOUR, "5/hour"), window(100, HOUR, "100/hour"), smooth("100/hour", burst=5)]


class Rule(NamedTuple):
    prefix: str
    limit: Limit


@pytest.fixture(params=["by themselves", "in pools"])
def pools(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How counters stand in the store."""
    monkeypatch.setattr(sys.modules[__name__], "POOLS", {} if request.param == "in pools" else None)


both = pytest.mark.usefixtures("pools")
POOLS: dict[tuple[MemoryStore, Limit], Pool | None] | None = None


def take(store: MemoryStore, limit: Limit, caller: str, cost: int = 1) -> bool:
    if POOLS is not None:
        pool = POOLS.get((store, limit))
        if pool is None:
            pool = POOLS[store, limit] = store.pool([Rule(f"rl:{limit.code}|", limit)])
            assert pool is not None
        if (answer := pool.take(caller, cost)) is not None:
            return isinstance(answer, list)
    return not store.execute((Take([Demand("limit", f"rl:{limit.code}|{caller}", limit, cost)]),))[0].refused


def left(store: MemoryStore, limit: Limit, caller: str) -> int:
    asked = store.execute((Take([Demand("limit", f"rl:{limit.code}|{caller}", limit, 0)]),))[0]
    return int(asked.takings[0][2])


def attack(store: MemoryStore, limit: Limit, count: int) -> None:
    for number in range(count):
        take(store, limit, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.text)
@both
def test_a_caller_over_its_limit_is_not_forgiven_whatever_comes(limit: Limit) -> None:
    clock = ManualClock()
    store = MemoryStore(MIB, clock=clock)
    culprits = [f"culprit-{number}" for number in range(20)]
    for culprit in culprits:
        while take(store, limit, culprit):
            pass
    attack(store, limit, 15_000)
    stats = store.stats()
    assert stats.at_bound
    assert stats.bytes <= MIB
    assert stats.forgotten > 5_000
    assert not any(take(store, limit, culprit) for culprit in culprits)
    clock.advance(3600 * 1.2)
    assert all(take(store, limit, culprit) for culprit in culprits), "and they are let in again when it is over"


@both
def test_a_newcomer_is_hardly_hurt_by_callers_who_came_once() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    limit = LIMITS[1]
    attack(store, limit, 25_000)
    newcomers = [f"newcomer-{number}" for number in range(50)]
    assert all(take(store, limit, newcomer, 99) for newcomer in newcomers)


@both
def test_who_has_spent_half_is_held_to_n_whatever_comes() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    limit = LIMITS[1]
    admitted = sum(take(store, limit, "steady") for _ in range(50))
    for round in range(20):
        admitted += sum(take(store, limit, "steady") for _ in range(5))
        for number in range(3000):
            take(store, limit, f"{round}.{number}")
    assert store.stats().forgotten > 50_000
    assert admitted == 100


@both
def test_where_all_have_spent_much_they_are_folded_and_none_is_forgiven() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    limit = LIMITS[0]
    admitted = 0
    for number in range(6_000):
        admitted += sum(take(store, limit, f"caller-{number}") for _ in range(6))
    stats = store.stats()
    assert stats.folded > 1000
    assert stats.bytes <= MIB
    assert not any(take(store, limit, f"caller-{number}") for number in range(6_000))


@both
def test_a_caller_who_is_there_is_not_forgotten_by_its_own_request() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    limit = LIMITS[1]
    for number in range(12_000):
        assert take(store, limit, f"caller-{number}", 10)
        assert left(store, limit, f"caller-{number}") == 90


@both
def test_nor_where_all_others_are_kept() -> None:
    """It was forgotten where the generations turned in the middle of making room for it: those looked at were newer."""
    store = MemoryStore(MIB, clock=ManualClock())
    limit = LIMITS[0]
    admitted = 0
    for number in range(8_000):
        take(store, limit, f"spent-{number}", 5)
        if take(store, limit, f"new-{number}"):
            assert left(store, limit, f"new-{number}") <= 4
            admitted += 1
    assert store.stats().folded > 1000
    assert admitted > 1000


@both
def test_one_value_larger_than_the_store_is_kept() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    store.execute((CompareAndSet({"key|large": None}, {"key|large": bytes(2 * MIB)}),))
    assert take(store, LIMITS[0], "somebody")
    assert store.execute((Read("key|large"),))[0] == (bytes(2 * MIB),)


@both
def test_api_keys_are_never_let_go() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    names = [f"key|{number}" for number in range(500)]
    for name in names:
        store.execute((CompareAndSet({name: None}, {name: b"record"}),))
    attack(store, LIMITS[0], 15_000)
    assert store.execute((Read(*names),))[0] == (b"record",) * 500
    assert [key for key, _ in store.scan("key|")] == sorted(names)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What stores have said, and not what other work of this process has."""
    return [record.getMessage() for record in caplog.records if record.name == "keyguard.stores"]


@both
def test_it_says_once_that_it_is_at_its_bound(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    told: list[MemoryStats] = []
    store = MemoryStore(MIB, clock=clock, on_bound=told.append)
    with caplog.at_level(logging.WARNING, "keyguard.stores"):
        attack(store, LIMITS[0], 10_000)
        assert [stats.at_bound for stats in told] == [True]
        assert len(said(caplog)) == 1
        clock.advance(2 * 3600)
        for _ in range(2000):
            clock.advance(0.02)
            take(store, LIMITS[0], "somebody")
        assert not store.stats().at_bound
        attack(store, LIMITS[0], 10_000)
    assert len(told) == len(said(caplog)) == 2


@both
def test_what_has_lapsed_leaves_though_nobody_asks_for_it() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    attack(store, LIMITS[1], 20_000)
    assert store.stats().entries == 20_000
    clock.advance(2 * 3600)
    for _ in range(2000):
        clock.advance(0.02)
        take(store, LIMITS[1], "somebody")
    assert store.stats().entries == 1
    assert store.stats().bytes < 1000


def test_a_stack_at_its_bound_still_answers() -> None:
    clock = ManualClock()
    store = MemoryStore(MIB, clock=clock)
    guard = Keyguard(RateLimit("5/hour; 100/day"), store=store, clock=clock)
    for _ in range(6):
        last = play(guard, client="192.0.2.1")
    assert last.status == 429
    for number in range(5000):
        assert play(guard, client=f"10.0.{number >> 8}.{number & 255}").status == 200
    assert play(guard, client="192.0.2.1").status == 429


@pytest.mark.slow
def test_100_000_attackers_stay_within_the_bound_as_the_system_counts_it() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "memory_bound.py"
    done = subprocess.run([sys.executable, str(script), "100000", "6"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "within the bound" in done.stdout


def test_cached_responses_take_no_room_of_the_store_also_behind_leases() -> None:
    """They were kept there for ever, and the counters of callers were folded to make room for them."""
    memory = MemoryStore(MIB)
    stack = Keyguard(RateLimit("1000000/hour", by="ip"), ResponseCache(ttl=600), store=Leased(memory, workers=1))
    for number in range(300):
        assert play(stack, f"/{number}", client="203.0.113.7").status == 200
    assert memory.scan("rc:") == []
    assert memory.stats().entries <= 3
    assert (play(stack, "/299", client="203.0.113.7").header("cache-status") or "").startswith("keyguard; hit")
