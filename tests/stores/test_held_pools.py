"""Pools of limits of which units may be held: the fast path of `Take` and `Settle`, which give the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.ops import Demand, Put, Settle, Take, Taken
from keyguard.ops.holds import MAX_HOLDS, held_key
from keyguard.rates import Limit, credits, quota, smooth, window
from keyguard.stores.memory import MemoryStore, core
from keyguard.stores.memory.held import HeldPool
from keyguard.testing import ManualClock, Reference
from tests.stores.test_pools import Rule, outcome, rules_of, told

LEASE = 10 * SECOND
NOTHING = (None, 0, 0, 0, 0)


def held_pool(store: MemoryStore, rules: Sequence[Rule]) -> HeldPool:
    pool = store.pool(rules, holds=True)
    assert isinstance(pool, HeldPool)
    return pool


class Twins:
    """A memory store that is asked through a pool, and what operations on plain bytes say of the same."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.reference = Reference(self.clock)
        self.rules = rules_of(*limits)
        self.pool = held_pool(self.store, self.rules)
        self.held: list[tuple[str, Taken, tuple[int, ...] | Taken]] = []
        self.quick = 0
        """How often the pool has decided."""

    def demands(self, bucket: str, cost: int, lease: int = 0) -> list[Demand]:
        return [Demand("", rule.prefix + bucket, rule.limit, cost, lease, holds=True) for rule in self.rules]

    def take(self, bucket: str, cost: int) -> None:
        take = Take(self.demands(bucket, cost))
        answer = self.pool.take(bucket, cost)
        should = outcome(self.reference, take)
        self.quick += answer is not None
        taken = outcome(self.store, take) if answer is None else self.pool.taken(take.demands, answer)
        assert taken is should if isinstance(should, type) else told(taken) == told(should)

    def hold(self, bucket: str, units: int, *, quickly: bool) -> None:
        take = Take(self.demands(bucket, units, LEASE))
        should = outcome(self.reference, take)
        numbers = self.pool.hold(bucket, units, LEASE) if quickly and units else None
        self.quick += numbers is not None
        if numbers is None:
            taken = outcome(self.store, take)
            assert taken is should if isinstance(should, type) else told(taken) == told(should)
            if not isinstance(should, type) and not should.refused:
                self.held.append((bucket, should, taken))
        else:
            assert not should.refused
            assert list(numbers) == [should.at + taking[1] - LEASE for taking in should.takings]
            self.held.append((bucket, should, numbers))

    def settle(self, number: int, cost: int) -> None:
        if not self.held:
            return
        bucket, should, mine = self.held.pop(number % len(self.held))
        costs = [cost] * len(self.rules)
        if isinstance(mine, Taken) or not self.pool.release(bucket, mine, cost):
            assert outcome(self.store, Settle(should, costs)) == outcome(self.reference, Settle(should, costs))
        else:
            self.quick += 1
            assert outcome(self.reference, Settle(should, costs)) is None

    def book(self, bucket: str, cost: int) -> None:
        taken = Taken(self.demands(bucket, 0), [NOTHING] * len(self.rules), 0, False)
        settle = Settle(taken, [cost] * len(self.rules))
        should = outcome(self.reference, settle)
        if self.pool.settle(bucket, cost):
            assert should is None
            self.quick += 1
        else:
            assert outcome(self.store, settle) is should

    def damage(self, place: int, bucket: str, state: bytes, *, held: bool) -> None:
        key = self.rules[place % len(self.rules)].prefix + bucket
        for store in (self.store, self.reference):
            store.execute([Put(held_key(key) if held else key, state, 60 * SECOND)])

    def stand_alike(self) -> None:
        mine, should = [dict(store.scan("rl:")) for store in (self.store, self.reference)]
        for store in (mine, should):
            for key in [key for key in store if key.startswith("rl:settled|")]:
                del store[key]
        assert mine == should


LIMITS = [
    [window(40, SECOND, "40")],
    [window(40, 60 * SECOND, "40")],
    [window(7, SECOND, "7"), window(40, 60 * SECOND, "40")],
    [smooth("40/minute", burst=9)],
    [quota("40/hour")],
    [credits(40, refill=quota("9/hour"))],
    [window(9, SECOND, "9"), quota("40/hour", tz="Asia/Kolkata"), credits(90)],
]
BUCKETS = st.sampled_from(["x", "x", "x", "y"])
UNITS = st.sampled_from([0, 1, 1, 2, 3, 7, 16, 41])
PLAYS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), BUCKETS, UNITS),
        st.tuples(st.just("hold"), BUCKETS, UNITS, st.booleans()),
        st.tuples(st.just("hold"), BUCKETS, UNITS, st.just(True)),
        st.tuples(st.just("settle"), st.integers(0, 9), UNITS),
        st.tuples(st.just("settle"), st.integers(0, 9), UNITS),
        st.tuples(st.just("book"), BUCKETS, UNITS.filter(bool)),
        st.tuples(st.just("damage"), st.integers(0, 2), BUCKETS, st.sampled_from([b"?", b"S" * 21]), st.booleans()),
        st.tuples(st.just("pass"), st.sampled_from([0, 1, 31_250, SECOND // 3, SECOND, LEASE, LEASE * 9, -1, -SECOND])),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(st.sampled_from(LIMITS), PLAYS)
@example(LIMITS[0], [("hold", "x", 1, True), ("pass", -SECOND), ("take", "x", 0)])
def test_what_is_taken_held_and_settled_in_a_pool_is_what_operations_say(limits: list[Limit], play: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # What has lapsed when it is met stays away if time is set back; the reference never lets anything go.
        patch.setattr(core, "_SWEEP_EVERY", 2**62)
        twins = Twins(limits)
        twins.store._core.next_sweep = 2**61
        for what, *given in play:
            if what == "take":
                twins.take(*given)
            elif what == "hold":
                twins.hold(given[0], given[1], quickly=given[2])
            elif what == "settle":
                twins.settle(*given)
            elif what == "book":
                twins.book(*given)
            elif what == "damage":
                place, bucket, state, held = given
                twins.damage(place, bucket, state, held=held)
            else:
                twins.clock.advance(timedelta(microseconds=given[0]))
            twins.stand_alike()


@pytest.mark.parametrize("limits", [limits for limits in LIMITS if all(limit.max_cost >= 7 for limit in limits)])
def test_a_pool_decides_all_of_it_by_itself(limits: list[Limit]) -> None:
    twins = Twins(limits)
    twins.take("x", 0)
    twins.hold("x", 1, quickly=True)
    twins.settle(0, 0)  # at the same moment
    twins.hold("x", 3, quickly=True)
    twins.take("x", 1)  # beside what is held
    twins.hold("x", 2, quickly=True)
    twins.clock.advance(0.001)
    twins.settle(0, 2)
    twins.settle(0, 0)
    twins.book("x", 1)
    twins.stand_alike()
    assert twins.quick == 9


def test_there_are_no_more_holds_in_a_pool_than_may_stand_at_once() -> None:
    store = MemoryStore(clock=ManualClock())
    pool = held_pool(store, rules_of(window(10**6, SECOND, "a million")))
    numbers = [pool.hold("x", 1, LEASE) for _ in range(MAX_HOLDS)]
    assert len({number for number in numbers if number}) == MAX_HOLDS
    assert pool.hold("x", 1, LEASE) is None
    assert pool.hold("y", 1, LEASE) is not None
    assert numbers[0] is not None
    assert pool.release("x", numbers[0], 0)
    assert pool.hold("x", 1, LEASE) is not None


def test_threads_hold_and_charge_no_more_than_there_is() -> None:
    store = MemoryStore(clock=ManualClock())
    rules = rules_of(window(100, SECOND, "100"))
    pool = held_pool(store, rules)

    def work(_: int) -> int:
        numbers = pool.hold("x", 7, LEASE)
        if numbers is None:
            return 0
        assert pool.release("x", numbers, 5)
        return 5

    with ThreadPoolExecutor(8) as threads:
        charged = sum(threads.map(work, range(200)))
    assert 90 < charged <= 100
    answer = pool.take("x", 0)
    assert isinstance(answer, list)
    assert answer[1] == 100 - charged
