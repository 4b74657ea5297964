"""Quotas that are edited, in both directions and across the size at which the algorithm changes, on `apply` and in Lua.

What a caller is told after an edit is true: it is admitted at that moment, and not before. Nothing that was used is
forgotten by editing back and forth, and what costs nothing is never refused.
"""

from __future__ import annotations

import random
from contextlib import closing
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import Keyguard, RateLimit, smooth
from keyguard.clock import SECOND
from keyguard.ops import Demand, Settle, Take, Taken, run
from keyguard.rates import NEVER, Limit, window
from keyguard.stores.memory import MemoryStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, Reference, play
from tests.support.servers import RedisServer

START = 1_800_000_000 * SECOND
KEY = "rl:x:win|c"

Table = dict[str, tuple[bytes, int | None]]


def take(table: Table, limit: Limit, now: int, cost: int = 1) -> Taken:
    return run(Take([Demand("x", KEY, limit, cost)]), table, now)


def wait_of(taken: Taken) -> int:
    return taken.takings[0][4]


def is_told_the_truth(table: Table, limit: Limit, now: int, cost: int) -> None:
    """Check that who is alone, and waits as it was told, is admitted then, and not a microsecond before."""
    wait = wait_of(take(table, limit, now, cost))
    if wait > 0:
        assert wait_of(take(table.copy(), limit, now + wait - 1, cost)) == 1, "admitted too early, or told another wait"
        assert wait_of(take(table.copy(), limit, now + wait, cost)) == 0, "waited as told, and refused"


# -- every pair -----------------------------------------------------------------------------------------------------

QUOTAS = [1, 2, 3, 19, 20, 25, 31, 32, 33, 34, 40, 63, 64, 65, 100, 1000, 100_000]


def filled(limit: Limit, phase: int, used: int) -> tuple[Table, int]:
    """What stands in a store after so many units, and the moment: taken a few at a time, so that they lapse apart."""
    table: Table = {}
    now = START + phase % limit.period
    for place in range(min(used, 40)):
        units = used // 40 + (place < used % 40) if used > 40 else 1
        take(table, limit, now + place * limit.period // 100, units)
    return table, now + 41 * limit.period // 100


@pytest.mark.parametrize("before", QUOTAS)
def test_every_pair_of_quotas(before: int) -> None:
    phases = (0, 1, 840, 1234567, 2_600_000_000)
    for period, phase, used in product((SECOND, 86400 * SECOND), phases, {1, before, max(1, before - 1)}):
        kept, now = filled(window(before, period, f"{before} before"), phase, used)
        for after in QUOTAS:
            new = window(after, period, f"{after} after")
            for cost in {1, min(before, after), after} if used == before else {1}:
                table = kept.copy()
                is_told_the_truth(table, new, now, cost)
                for pause in (period // 3, period // 2, period):
                    is_told_the_truth(table.copy(), new, now + pause, cost)
                assert wait_of(take(table, new, now, 0)) == 0


def test_the_reported_one() -> None:
    """25 of 1000 a day, now 20 a day: told 86400 seconds, and refused for 840 more."""
    table: Table = {}
    wide, narrow = window(1000, 86400 * SECOND, "1000/day"), window(20, 86400 * SECOND, "20/day")
    for _ in range(25):
        take(table, wide, START)
    is_told_the_truth(table, narrow, START, 1)


@pytest.mark.parametrize(
    "rates", [("25/day", "20/day"), ("1000/day", "20/day"), ("20/day", "40/day"), ("30/day", "33/day")]
)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_in_a_whole_stack(rates: tuple[str, str], kind: str, tmp_path: Any) -> None:
    clock = ManualClock()
    store: Any = MemoryStore(clock=clock) if kind == "memory" else SQLiteStore(tmp_path / "k.db", clock=clock)
    answers = []
    for rate in rates:
        guard = Keyguard(RateLimit(rate), store=store, clock=clock)
        answers = [play(guard) for _ in range(1 + max(25, int(rate.partition("/")[0])))]
        del guard
        clock.advance(1000)
    clock.advance(-1000)
    assert answers[-1].status == 429
    guard = Keyguard(RateLimit(rates[-1]), store=store, clock=clock)
    clock.advance(int(answers[-1].header("Retry-After") or 0) - 1)
    assert play(guard).status == 429
    clock.advance(1)
    assert play(guard).status == 200


# -- edits in any order -----------------------------------------------------------------------------------------------

STEPS = st.tuples(
    st.one_of(st.just(0), st.integers(0, SECOND // 50), st.integers(0, SECOND // 3), st.integers(0, 2 * SECOND)),
    st.sampled_from([1, 1, 1, 2, 5, 30, 0]),
    st.sampled_from([None, None, None, 1, 5, 20, 31, 32, 33, 34, 50, 100]),
)


@settings(max_examples=400)
@given(st.integers(0, SECOND), st.lists(STEPS, max_size=60))
def test_edits_back_and_forth_forget_nothing_and_tell_the_truth(
    phase: int, steps: list[tuple[int, int, int | None]]
) -> None:
    table: Table = {}
    now, limit = START + phase, window(40, SECOND, "40/second")
    admitted: list[tuple[int, int]] = []
    for pause, cost, quota in steps:
        now += pause
        if quota is not None:
            limit = window(quota, SECOND, f"{quota}/second")
        if cost <= limit.quota:
            is_told_the_truth(table.copy(), limit, now, cost)
        taken = take(table, limit, now, cost)
        wait, remaining = wait_of(taken), taken.takings[0][2]
        used = sum(units for at, units in admitted if now - SECOND < at <= now)
        if cost == 0:
            assert wait == 0
        elif wait == 0:
            assert used + cost <= limit.quota, "more than the limit in a window"
            admitted.append((now, cost))
            used += cost
        else:
            assert wait != NEVER or cost > limit.quota
        assert remaining <= max(0, limit.quota - used)


@settings(max_examples=150)
@given(
    st.lists(STEPS, min_size=1, max_size=30),
    st.lists(STEPS, min_size=1, max_size=30),
    st.sampled_from([5, 32, 33, 100]),
)
def test_callers_folded_together_after_edits_are_forgiven_nothing(
    one: list[tuple[int, int, int | None]], other: list[tuple[int, int, int | None]], quota: int
) -> None:
    states, end = [], START
    for steps in (one, other):
        table: Table = {}
        now, limit = START, window(40, SECOND, "40/second")
        for pause, cost, edited in steps:
            now += pause % (SECOND // 20)
            limit = limit if edited is None else window(edited, SECOND, "edited")
            take(table, limit, now, cost)
        states.append(table[KEY][0] if KEY in table else None)
        end = max(end, now)
    first, second = states
    if first is None or second is None:
        return
    limit = window(quota, SECOND, "last")
    merged = limit.merge(first, second)
    for later in (quota, 100):
        asked = window(later, SECOND, "asked")
        for state in (first, second):
            assert asked.take(merged, end, 0)[2] <= asked.take(state, end, 0)[2]


@pytest.mark.parametrize("before", ["5/second", "700000/second", "3/minute"])
@pytest.mark.parametrize("after", ["1/second", "400000/second", "999999/second", "1000/second", "3/minute"])
def test_even_paces_are_edited_too(before: str, after: str) -> None:
    for bursts in product((1, 4, 30), (1, 3)):
        old, new = smooth(before, bursts[0]), smooth(after, bursts[1])
        for used, pause in product((1, bursts[0]), (0, 1, 7, 1000, SECOND)):
            table: Table = {}
            take(table, old, START, used)
            for cost in (0, 1, bursts[1]):
                is_told_the_truth(table.copy(), new, START + pause, cost)
            assert wait_of(take(table, new, START + pause, 0)) == 0


# -- in Lua -----------------------------------------------------------------------------------------------------------

LIMITS: list[Limit] = [
    *[window(quota, 60 * SECOND, f"{quota}/minute") for quota in (1, 5, 20, 31, 32, 33, 34, 50, 100, 5000)],
]
PACED: list[Limit] = [
    *[smooth(f"{rate}/second", burst) for rate in (3, 700_000, 999_983, 2_500_000) for burst in (1, 3, 1000)],
    smooth("1/7000 days", burst=1),
    smooth("1/3650 days", burst=2),
]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["windows", "paces"])
def test_lua_means_the_same(kind: str, seed: int, valkey: RedisServer) -> None:
    """Edits at random, with takes that are given back: the same figures, and the same states that are left."""
    chance, clock = random.Random(seed), ManualClock()
    store, reference = RedisStore(valkey.url).scratch(clock), Reference(clock)
    limits, unit = (LIMITS, SECOND) if kind == "windows" else (PACED, 2)
    taken: list[tuple[Taken, Taken]] = []
    with closing(store) as opened:
        for step in range(800):
            span = chance.choice([0, 0, 1, unit, chance.randrange(20 * unit), chance.randrange(70 * unit)])
            back = chance.random() < 0.01
            clock.advance(timedelta(microseconds=-span if back else span))
            key = f"{KEY}{chance.choice('ab')}"
            if taken and chance.random() < 0.2:
                one, other = taken.pop(chance.randrange(len(taken)))
                reference.execute([Settle(one)])
                opened.execute([Settle(other)])
                continue
            limit = chance.choice(limits)
            cost = chance.choice([0, 1, 1, 1, 2, 5, min(limit.max_cost, 40), limit.max_cost + 1])
            ops = [Take([Demand("x", key, limit, cost)])]
            ((one,), (other,)) = reference.execute(ops), opened.execute(ops)
            expected, got = one.takings[0][1:], other.takings[0][1:]
            assert got == expected, f"step {step}: {limit!r}, cost {cost}"
            assert other.refused == one.refused
            taken = [*taken[-20:], (one, other)]
            if step % 100 == 0:
                assert opened.scan("rl:x:") == reference.scan("rl:x:")
