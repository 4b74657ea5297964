"""What is held of a limit: it counts as if it were spent, until it is settled or its lease has ended."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyguard.ops import HELD_WAIT, MAX_HOLDS, REMEMBERED, Demand, Renew, Settle, Take, Taken
from keyguard.rates import Limit, Slots, smooth, window
from keyguard.rates.limit import NEVER
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, Reference
from tests.support.every_store import KINDS, on_a_clock

SECOND = 1_000_000
LEASE = 10 * SECOND
LOG = window(10, 60 * SECOND, "10/minute")
WIDE = window(100, 3600 * SECOND, "100/hour")


class Limited:
    """A caller of one limit, on a store with a clock of its own."""

    def __init__(self, store: Any, clock: ManualClock, limit: Limit = LOG, bucket: str = "x") -> None:
        self.store, self.clock, self.limit, self.bucket = store, clock, limit, bucket

    def take(self, cost: int = 1, lease: int = 0) -> Taken:
        demand = Demand("", f"rl:held:{self.limit.code}|{self.bucket}", self.limit, cost, lease, holds=True)
        taken: Taken = self.store.execute([Take([demand])])[0]
        return taken

    def hold(self, cost: int = 1, lease: int = LEASE) -> Taken:
        return self.take(cost, lease)

    def settle(self, taken: Taken, cost: int = 0) -> None:
        self.store.execute([Settle(taken, [cost])])

    def renew(self, taken: Taken) -> bool:
        found: bool = self.store.execute([Renew(taken)])[0]
        return found

    @property
    def left(self) -> int:
        return self.take(0).takings[0][2]

    @property
    def held(self) -> int:
        return self.take(0).held[0]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest) -> Any:
    """A store of each kind, empty, with a manual clock."""
    clock = ManualClock()
    return on_a_clock(request.param, request, clock), clock


@pytest.fixture
def caller() -> Limited:
    clock = ManualClock()
    return Limited(Reference(clock), clock)


def test_held_units_count_as_spent_until_they_are_settled_for_what_it_cost(opened: Any) -> None:
    caller = Limited(*opened)
    first, second = caller.hold(6), caller.hold(3)
    assert [first.takings[0][2], second.takings[0][2]] == [4, 1]
    assert [first.held, second.held] == [(0,), (6,)]
    assert caller.take(2).refused
    caller.settle(first, 4)
    assert (caller.left, caller.held) == (3, 3)
    caller.settle(second)
    assert (caller.left, caller.held) == (6, 0)


def test_a_hold_ends_with_its_lease_and_is_charged_all_the_same_but_once(opened: Any) -> None:
    caller = Limited(*opened)
    hold = caller.hold(6)
    caller.clock.advance(10)
    assert (caller.left, caller.held) == (10, 0)
    settle = Settle(hold, [5])
    for _ in range(3):
        caller.store.execute([settle])
        assert caller.left == 5


def test_a_lease_that_is_renewed_goes_on_and_what_has_ended_stays_so(opened: Any) -> None:
    caller = Limited(*opened)
    kept, released, lapsed = caller.hold(), caller.hold(), caller.hold()
    caller.settle(released)
    caller.clock.advance(6)
    assert [caller.renew(kept), caller.renew(released)] == [True, False]
    caller.clock.advance(6)
    assert [caller.renew(kept), caller.renew(lapsed)] == [True, False]
    caller.clock.advance(9)
    assert caller.held == 1
    caller.settle(kept)  # long after its first lease
    assert (caller.left, caller.held) == (10, 0)


@pytest.mark.parametrize("limit", [LOG, WIDE, smooth("10/minute", burst=10), Slots(10)])
def test_what_only_holds_stand_in_the_way_of_may_be_tried_again_in_a_second(caller: Limited, limit: Limit) -> None:
    caller.limit = limit
    hold = caller.hold(limit.max_cost - 1)
    refused = caller.take(2)
    assert refused.refused
    assert refused.wait == HELD_WAIT
    assert [demand.cost for demand in refused.in_use] == [2]
    assert caller.take(limit.max_cost + 1).wait == NEVER
    assert not caller.take(1).refused
    caller.settle(hold)
    assert not caller.take(2).refused


def test_what_is_spent_is_waited_for_as_ever_whatever_is_held(caller: Limited) -> None:
    caller.take(10)
    caller.clock.advance(20)
    refused = caller.take(1)
    assert refused.wait == 40 * SECOND
    caller.settle(caller.hold(0), 3)  # a debt
    caller.clock.advance(40)
    caller.hold(3)
    refused = caller.take(8)
    assert (refused.wait, refused.in_use) == (20 * SECOND, [])


def test_a_request_that_takes_nothing_is_not_refused_also_if_more_is_held_than_there_is(caller: Limited) -> None:
    caller.hold(8)
    caller.settle(caller.hold(0), 9)
    asked = caller.take(0)
    assert (asked.refused, asked.takings[0][2], asked.held) == (False, 0, (8,))


def test_holds_of_one_moment_are_told_apart(opened: Any) -> None:
    caller = Limited(*opened)
    first, second = caller.hold(2), caller.hold(2)
    caller.settle(first)
    third = caller.hold(2)
    caller.settle(first)
    assert caller.held == 4
    caller.settle(second)
    caller.settle(third)
    first = caller.hold(3)
    assert caller.held == 3
    caller.settle(third)
    assert caller.held == 3


def test_a_clock_that_is_set_back_makes_no_lease_longer(opened: Any) -> None:
    caller = Limited(*opened)
    caller.hold(6)
    caller.clock.advance(-3600)
    assert caller.take(5).refused  # which notes that time was set back
    caller.clock.advance(9)
    assert caller.take(5).refused
    caller.clock.advance(1)
    assert caller.left == 10


def test_who_asked_to_hold_nothing_neither_ends_nor_renews_what_others_hold(opened: Any) -> None:
    """Even if theirs began when the limit would be free again, less the lease."""
    caller = Limited(*opened)
    nothing = caller.take(0, SECOND)
    caller.clock.advance(caller.limit.period // SECOND - 1)
    for number in range(3):
        caller.hold()
        assert not caller.renew(nothing)
        caller.settle(nothing)
        assert caller.held == number + 1


def test_so_many_holds_stand_at_once_and_no_more(caller: Limited) -> None:
    caller.limit = window(10 * MAX_HOLDS, 3600 * SECOND, "many")
    holds = [caller.hold() for _ in range(MAX_HOLDS)]
    refused = caller.hold()
    assert (refused.refused, refused.wait) == (True, HELD_WAIT)
    assert not caller.take(1).refused  # what is taken needs no room
    caller.settle(holds[5])
    assert not caller.hold().refused


def test_a_refusal_by_one_limit_holds_nothing_of_another(opened: Any) -> None:
    store, clock = opened
    wide, narrow = Limited(store, clock, WIDE), Limited(store, clock, LOG)
    narrow.take(10)
    demands = [Demand("", f"rl:held:{limit.code}|x", limit, 1, LEASE) for limit in (WIDE, LOG)]
    assert store.execute([Take(demands)])[0].refused
    assert (wide.held, wide.left) == (0, 100)


def test_what_is_taken_and_held_in_one_decision_is_settled_in_one(opened: Any) -> None:
    store, clock = opened
    demands = [Demand("", f"rl:held:{WIDE.code}|x", WIDE, 2), Demand("", "rl:slots:slots|x", Slots(1), 1, LEASE)]
    both = store.execute([Take(demands)])[0]
    again = store.execute([Take(demands)])[0]
    assert [demand.key for demand in again.in_use] == ["rl:slots:slots|x"]
    assert Limited(store, clock, WIDE).left == 98
    settle = Settle(both, [1, 0])
    store.execute([settle])
    store.execute([settle])
    assert Limited(store, clock, WIDE).left == 99
    assert not store.execute([Take(demands)])[0].refused


# -- against a model ------------------------------------------------------------------------------------------


class Model:
    """What is spent of `LOG` and what is held, in a list and a dict."""

    def __init__(self) -> None:
        self.now = 0
        self.spent: list[int] = []
        self.ends: dict[int, tuple[int, int]] = {}

    def advance(self, span: int) -> None:
        self.now += span
        self.spent = [at for at in self.spent if at + LOG.period > self.now]
        self.ends = {name: held for name, held in self.ends.items() if held[1] > self.now}

    @property
    def held(self) -> int:
        return sum(units for units, _ in self.ends.values())

    @property
    def left(self) -> int:
        return max(0, LOG.quota - len(self.spent) - self.held)

    def admits(self, cost: int) -> bool:
        return not cost or len(self.spent) + self.held + cost <= LOG.quota

    def charge(self, cost: int) -> None:
        self.spent = [*self.spent, *[self.now] * cost][-LOG.quota :]


_STEPS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 11), st.sampled_from([0, 0, SECOND, LEASE])),
    st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 12)),
    st.tuples(st.just("renew"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("advance"), st.sampled_from([1, SECOND - 1, SECOND, 4 * SECOND, 59 * SECOND]), st.just(0)),
)
_NUMBERS = count()


def play_against_the_model(store: Any, clock: ManualClock, steps: list[tuple[str, int, int]]) -> None:
    caller, model = Limited(store, clock, bucket=f"m{next(_NUMBERS)}"), Model()
    holds: list[tuple[Taken, Settle | None]] = []
    settled_at: dict[int, int] = {}
    for what, number, more in steps:
        if what == "advance":
            clock.advance(number / SECOND)
            model.advance(number)
        elif what == "take":
            taken = caller.take(number, more)
            assert taken.refused is not model.admits(number)
            assert taken.held == (model.held,)
            if not taken.refused and more:
                if number:
                    model.ends[len(holds)] = number, model.now + more
                holds.append((taken, None))
            elif not taken.refused:
                model.charge(number)
        elif holds:
            place = number % len(holds)
            taken, settled = holds[place]
            if what == "renew":
                assert caller.renew(taken) is (place in model.ends)
                if place in model.ends:
                    model.ends[place] = model.ends[place][0], model.now + taken.demands[0].lease
            else:
                if model.now >= settled_at.get(place, model.now) + REMEMBERED:
                    continue
                settle = settled or Settle(taken, [more])
                store.execute([settle])
                if settled is None:
                    settled_at[place] = model.now
                    model.ends.pop(place, None)
                    model.charge(more)
                    holds[place] = taken, settle
        assert (caller.left, caller.held) == (model.left, model.held)


@settings(max_examples=150)
@given(st.lists(_STEPS, max_size=25))
def test_left_and_spent_and_held_are_the_limit_at_every_step(steps: list[tuple[str, int, int]]) -> None:
    clock = ManualClock()
    play_against_the_model(MemoryStore(clock=clock), clock, steps)


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(_STEPS, min_size=20, max_size=25))
def test_so_they_are_on_every_store(opened: Any, steps: list[tuple[str, int, int]]) -> None:
    play_against_the_model(*opened, steps)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_there_are_never_more_in_use_than_slots_whoever_dies_or_lingers(seed: int, slots: int) -> None:
    source, clock = random.Random(seed), ManualClock()
    caller = Limited(MemoryStore(clock=clock), clock, Slots(slots))
    alive: dict[int, tuple[Taken, int]] = {}  # and until when each is covered by its lease
    for number in range(60):
        taken = caller.hold()
        covered = [end for _, end in alive.values() if end > clock()]
        assert taken.refused is (len(covered) >= slots)
        if not taken.refused:
            alive[number] = taken, clock() + LEASE
        clock.advance(source.random() * 3)
        for name in list(alive):
            taken, end = alive[name]
            fate = source.random()
            if fate < 0.2:
                caller.settle(taken)
                del alive[name]
            elif fate < 0.5 and caller.renew(taken):
                assert end > clock()
                alive[name] = taken, clock() + LEASE
            elif fate < 0.6:  # its process dies: nobody renews it
                alive[name] = taken, end
    clock.advance(LEASE / SECOND)
    assert caller.held == 0
    assert [caller.hold().refused for _ in range(slots + 1)] == [False] * slots + [True]
