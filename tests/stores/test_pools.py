"""Pools of the memory store: the fast path of `Take.apply` gives the same answers, and counts in the same counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.ops import Demand, Settle, Take, Taken
from keyguard.rates import Limit, smooth, window
from keyguard.stores.memory import MemoryStore, Pool, core
from keyguard.testing import ManualClock, Reference

MIB = 1024 * 1024
MINUTE = 60 * SECOND


class Rule(NamedTuple):
    prefix: str
    limit: Limit


def rules_of(*limits: Limit, name: str = "a") -> list[Rule]:
    return [Rule(f"rl:{name}:{limit.code}|", limit) for limit in limits]


def take_of(rules: Sequence[Rule], bucket: str, cost: int = 1) -> Take:
    return Take([Demand("limit", rule.prefix + bucket, rule.limit, cost) for rule in rules])


def pool_of(store: MemoryStore, rules: Sequence[Rule], among: Sequence[Rule] = ()) -> Pool:
    pool = store.pool(rules, among)
    assert pool is not None
    return pool


def told(taken: Taken) -> tuple[Any, ...]:
    return taken.at, taken.refused, [taking[1:] for taking in taken.takings]


class Twins:
    """A memory store whose limits are taken through pools, and what operations on plain bytes say of the same."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.reference = Reference(self.clock)
        self.taken: list[tuple[Taken, Taken]] = []
        self.pools: dict[tuple[Any, ...], Pool] = {}

    def pool(self, rules: Sequence[Rule]) -> Pool:
        """The pool of these rules, the same one each time: it remembers in which slices it counts."""
        known = tuple((rule.prefix, rule.limit.max_cost) for rule in rules)
        if known not in self.pools:
            self.pools[known] = pool_of(self.store, rules)
        return self.pools[known]

    def take(self, rules: Sequence[Rule], bucket: str, cost: int) -> None:
        take = take_of(rules, bucket, cost)
        answer = self.pool(rules).take(bucket, cost)
        (should,) = self.reference.execute([take])
        assert (answer is None) == (should.refused or not cost)
        if answer is None:
            (taken,) = self.store.execute([take])
        else:
            taken = self.pool(rules).taken(take.demands, answer)
        assert told(taken) == told(should)
        self.taken.append((taken, should))

    def take_together(self, asked: Sequence[tuple[Sequence[Rule], str, int]]) -> None:
        take = Take([demand for rules, bucket, cost in asked for demand in take_of(rules, bucket, cost).demands])
        answers = self.store.take_together([(self.pool(rules), bucket, cost) for rules, bucket, cost in asked])
        (should,) = self.reference.execute([take])
        if answers is None:
            (taken,) = self.store.execute([take])
            assert told(taken) == told(should)
        else:
            assert not should.refused
            takings = []
            for (rules, bucket, cost), answer in zip(asked, answers, strict=True):
                demands = take_of(rules, bucket, cost).demands
                takings += self.pool(rules).taken(demands, answer).takings
            assert [taking[1:] for taking in takings] == [taking[1:] for taking in should.takings]

    def settle(self, number: int, cost: int) -> None:
        if self.taken:
            mine, should = self.taken[number % len(self.taken)]
            costs = [cost] * len(mine.demands)
            self.store.execute([Settle(mine, costs)])
            self.reference.execute([Settle(should, costs)])

    def stand_alike(self, limits: dict[str, Limit]) -> None:
        mine, should = [dict(store.scan("rl:")) for store in (self.store, self.reference)]
        for key, state in should.items():
            if key not in mine and not key.startswith(
                "rl:settled"
            ):  # slices of which all was given back are let go a little earlier
                limit = limits[key.partition("|")[0] + "|"]
                assert limit.take(state, self.clock(), 0)[2:] == limit.take(None, self.clock(), 0)[2:]
        for key in mine:
            assert mine[key] == should[key] or key.startswith("rl:settled")


QUOTAS = st.sampled_from([1, 2, 3, 31, 32, 33, 34, 40, 1000])
STEPS = st.sampled_from([0, 1, 31_250, 31_249, SECOND, SECOND // 3, 1_875_000, 17 * SECOND, MINUTE, 2 * MINUTE])
EVERY = [window(1, SECOND, ""), window(1, MINUTE, ""), smooth("10/second"), smooth("18000000/minute")]


@st.composite
def limits(draw: st.DrawFn) -> list[Limit]:
    """Draw a few limits of different periods and kinds, so that guards meet in counters with other quotas."""
    made: list[Limit] = [window(draw(QUOTAS), period, str(period)) for period in (SECOND, MINUTE)]
    made += [smooth("10/second", burst=draw(QUOTAS)), smooth("18000000/minute", burst=draw(QUOTAS))]
    picked = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 3]), min_size=1, max_size=3, unique=True))
    return [made[place] for place in picked]


GUARDS = st.lists(limits(), min_size=1, max_size=3)
COSTS = st.sampled_from([1, 1, 1, 1, 0, 2, 7, 16, 33])
BUCKETS = st.sampled_from(["x", "x", "y"])
NUMBERS = st.integers(0, 10)
ACTIONS = st.one_of(
    st.tuples(st.just("take"), NUMBERS, BUCKETS, COSTS, st.integers(1, 12)),
    st.tuples(st.just("together"), NUMBERS, NUMBERS, BUCKETS, COSTS),
    st.tuples(st.just("execute"), NUMBERS, BUCKETS, COSTS),
    st.tuples(st.just("settle"), NUMBERS, COSTS),
    st.tuples(st.just("step"), STEPS),
    st.tuples(st.just("step"), STEPS),
    st.tuples(st.just("set back"), STEPS),
)


@given(GUARDS, st.lists(ACTIONS, max_size=40))
@example([[window(33, SECOND, "")]], [("take", 0, "x", 33, 1), ("step", SECOND // 32), ("take", 0, "x", 1, 1)])
def test_pools_answer_as_operations_do(guards: list[list[Limit]], play: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # What has lapsed when it is met stays away if time is set back; the reference never lets anything go.
        patch.setattr(core, "_SWEEP_EVERY", 2**62)
        twins = Twins()
        twins.store._core.next_sweep = 2**61
        every, others = rules_of(*EVERY), rules_of(*EVERY, name="b")
        for rules in (every, others):
            pool_of(twins.store, rules[:1], rules)

        def rules_no(number: int, name: str = "a") -> list[Rule]:
            return rules_of(*guards[number % len(guards)], name=name)

        for what, *given in play:
            if what == "take":
                number, bucket, cost, times = given
                for _ in range(times):
                    twins.take(rules_no(number), bucket, cost)
            elif what == "together":
                here, there, bucket, cost = given
                twins.take_together([(rules_no(here), bucket, cost), (rules_no(there, "b"), bucket, 1)])
            elif what == "execute":
                number, bucket, cost = given
                take = take_of(rules_no(number), bucket, cost)
                assert told(twins.store.execute([take])[0]) == told(twins.reference.execute([take])[0])
            elif what == "settle":
                twins.settle(*given)
            else:
                twins.clock.advance(microseconds=given[0] if what == "step" else -given[0])
            twins.stand_alike({rule.prefix: rule.limit for rule in every + others})
