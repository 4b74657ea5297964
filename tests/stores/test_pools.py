"""Pools of the memory store: the fast path of `Take.apply` gives the same answers, and counts in the same counters."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.ops import CompareAndSet, Demand, Put, Read, Settle, Take, Taken
from keyguard.rates import Limit, Slots, Taking, credits, quota, smooth, window
from keyguard.rates.window import WindowLog
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


def outcome(store: Any, op: Any) -> Any:
    """Return the result, or the class of the error that it raises."""
    try:
        return store.execute([op])[0]
    except Exception as error:
        return type(error)


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
        known = tuple((rule.prefix, rule.limit.text, rule.limit.max_cost) for rule in rules)
        if known not in self.pools:
            self.pools[known] = pool_of(self.store, rules)
        return self.pools[known]

    def take(self, rules: Sequence[Rule], bucket: str, cost: int) -> None:
        take = take_of(rules, bucket, cost)
        answer = self.pool(rules).take(bucket, cost)
        should = outcome(self.reference, take)
        if answer is None:
            taken = outcome(self.store, take)
            assert not cost or isinstance(should, type)  # such as struct.error: the state cannot be read
        else:
            taken = self.pool(rules).taken(take.demands, answer)
        if isinstance(should, type):
            assert taken is should
            return
        assert told(taken) == told(should)
        if taken.refused:
            assert taken.takings == should.takings
        self.taken.append((taken, should))

    def take_together(self, asked: Sequence[tuple[Sequence[Rule], str, int]]) -> None:
        take = Take([demand for rules, bucket, cost in asked for demand in take_of(rules, bucket, cost).demands])
        answers = self.store.take_together([(self.pool(rules), bucket, cost) for rules, bucket, cost in asked])
        should = outcome(self.reference, take)
        if answers is None:
            taken = outcome(self.store, take)
            assert taken is should if isinstance(should, type) else told(taken) == told(should)
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
            assert outcome(self.store, Settle(mine, costs)) == outcome(self.reference, Settle(should, costs))

    def damage(self, rule: Rule, bucket: str, state: bytes) -> None:
        for store in (self.store, self.reference):
            store.execute([Put(rule.prefix + bucket, state, MINUTE)])

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
PACES = st.sampled_from(["10/second", "10/second", "3/second", "100000/second"])
STEPS = st.sampled_from(
    [0, 1, 31_250, 31_249, 100_000, SECOND, SECOND // 3, 1_875_000, 17 * SECOND, MINUTE, 2 * MINUTE, 60 * MINUTE]
)
EVERY = [window(1, SECOND, ""), window(1, MINUTE, ""), smooth("10/second"), smooth("18000000/minute")]
EVERY += [quota("1/hour"), credits(1)]


@st.composite
def limits(draw: st.DrawFn) -> list[Limit]:
    """Draw a few limits of different periods and kinds, so that guards meet in counters with other quotas."""
    made: list[Limit] = [window(draw(QUOTAS), period, str(period)) for period in (SECOND, MINUTE)]
    made += [smooth(draw(PACES), burst=draw(QUOTAS)), smooth("18000000/minute", burst=draw(QUOTAS))]
    made.append(quota(f"{draw(QUOTAS)}/hour", tz="Asia/Kolkata"))
    made.append(credits(40, refill=quota(f"{min(40, draw(QUOTAS))}/hour")))
    picked = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 4, 4, 5]), min_size=1, max_size=3, unique=True))
    return [made[place] for place in picked]


GUARDS = st.lists(limits(), min_size=1, max_size=3)
COSTS = st.sampled_from([1, 1, 1, 1, 0, 2, 7, 16, 33])
BUCKETS = st.sampled_from(["x", "x", "y"])
NUMBERS = st.integers(0, 10)
DAMAGED = [b"", b"?", b"S" * 8, b"S" * 21, b"S" * 25, bytes(16), b"\xff" * 33]
ACTIONS = st.one_of(
    st.tuples(st.just("take"), NUMBERS, BUCKETS, COSTS, st.integers(1, 12)),
    st.tuples(st.just("together"), NUMBERS, NUMBERS, BUCKETS, COSTS),
    st.tuples(st.just("execute"), NUMBERS, BUCKETS, COSTS),
    st.tuples(st.just("settle"), NUMBERS, COSTS),
    st.tuples(st.just("damage"), NUMBERS, BUCKETS, st.sampled_from(DAMAGED)),
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
                done, should = [outcome(store, take) for store in (twins.store, twins.reference)]
                assert done is should if isinstance(should, type) else told(done) == told(should)
            elif what == "settle":
                twins.settle(*given)
            elif what == "damage":
                number, bucket, state = given
                twins.damage(every[number % len(every)], bucket, state)
            else:
                twins.clock.advance(timedelta(microseconds=given[0] if what == "step" else -given[0]))
            twins.stand_alike({rule.prefix: rule.limit for rule in every + others})


@pytest.mark.parametrize(
    "limits",
    [
        [window(1, SECOND, "1")],
        [window(4, SECOND, "4")],
        [window(4, SECOND, "4"), window(6, SECOND, "6")],
        [window(4, SECOND, "4"), window(40, SECOND, "40")],
        [window(40, SECOND, "40"), window(50, SECOND, "50")],
        [smooth("4/second", burst=3)],
        [quota("4/hour"), quota("9/hour"), quota("8/hour", tz="Asia/Kolkata")],
        [credits(4, refill=quota("4/hour")), credits(9)],
        [smooth("4/second", burst=5), smooth("3/second"), smooth("70000/second", burst=3)],
    ],
)
@pytest.mark.parametrize("beside", [[], [window(40, 60 * SECOND, "")]])
def test_a_caller_at_the_edge_of_limits_is_answered_as_operations_answer(
    limits: list[Limit], beside: list[Limit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The play above meets everything now and then; in this one the edges of one limit are met all the time."""
    monkeypatch.setattr(core, "_SWEEP_EVERY", 2**62)
    rng = Random(1)
    for _ in range(20):
        twins = Twins()
        twins.store._core.next_sweep = 2**61
        for _ in range(120):
            rules = rules_of(rng.choice(limits), *beside)
            what = rng.random()
            if what < 0.8:
                twins.take(rules, "x", rng.choice([1, 1, 1, 2, 3, rules[0].limit.max_cost, 41]))
            elif what < 0.85:
                twins.settle(rng.randrange(9), rng.choice([0, 0, 1, 3]))
            elif what < 0.9:
                twins.clock.advance(timedelta(microseconds=-rng.choice([1, SECOND // 8, SECOND // 3, 2 * SECOND])))
            step = rng.choice([0, 0, 0, 1, 1, 1, 2, 3, 8]) * SECOND // 8  # so some come just when a unit comes back
            twins.clock.advance(timedelta(microseconds=step + rng.choice([0, 0, 0, 0, 1])))
            twins.stand_alike({rule.prefix: rule.limit for rule in rules})


@pytest.mark.parametrize("limit", [window(4, SECOND, ""), window(40, SECOND, ""), smooth("4/second", burst=4)])
def test_more_than_a_limit_ever_admits_is_refused_also_after_a_refund_of_all(limit: Limit) -> None:
    twins, rules = Twins(), rules_of(limit)
    twins.take(rules, "x", 3)
    twins.settle(0, 0)
    twins.take(rules, "x", limit.max_cost + 1)
    assert twins.taken[-1][0].refused


class Doubled(WindowLog):
    """Each unit costs two: it inherits all but the meaning of `take`."""

    __slots__ = ()

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        return super().take(state, now, 2 * cost)


class Uncounted(Limit):
    """Never writes anything."""

    __slots__ = ()

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        return None, self.period, self.quota, 0, 0


@pytest.mark.parametrize("limit", [Doubled(7, SECOND, ""), Uncounted(7, SECOND, "", "uncounted")])
def test_a_kind_without_a_quicker_text_is_asked_by_its_take(limit: Limit) -> None:
    twins = Twins()
    for rules in (rules_of(limit), rules_of(limit, window(100, MINUTE, "")), rules_of(window(5, MINUTE, ""), limit)):
        for _ in range(12):
            twins.take(rules, "x", 1)
            twins.clock.advance(timedelta(milliseconds=200))
    assert any(taken.refused for taken, _ in twins.taken)


@pytest.mark.parametrize("limit", [window(10, SECOND, ""), smooth("10/second", burst=3)])
def test_a_bound_counts_what_a_quick_way_has_written(limit: Limit) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    pool = pool_of(store, rules_of(limit))
    for step in (0, 10, 10, 300, 10, 700, 10, 5000):
        clock.advance(timedelta(milliseconds=step))
        assert pool.take("x")
        (entry,) = pool.table.young.values()
        assert store.stats().bytes == pool.table.size("x", entry)


def test_a_caller_who_was_not_here_for_a_while_is_young_again() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    pool = pool_of(store, rules_of(window(10, MINUTE, "")))
    assert pool.take("x")
    pool.table.turn()
    assert pool.take("x") == [clock(), 8, clock() + MINUTE, clock() + MINUTE, 8]
    assert (store.stats().entries, len(pool.table.young), len(pool.table.old)) == (1, 1, 0)


def refuses(pool: Pool, bucket: str, cost: int = 1) -> bool:
    """Take, and tell whether a limit refuses."""
    answer = pool.take(bucket, cost)
    assert answer is not None
    return pool.taken([], answer).refused


# -- where counters stand -------------------------------------------------------------------------------------------


def left(store: MemoryStore, rule: Rule, bucket: str) -> int:
    return int(store.execute([take_of([rule], bucket, 0)])[0].takings[0][2])


def test_what_was_counted_before_there_was_a_pool_counts_in_it_and_so_does_what_a_cell_holds() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    (rule,) = rules_of(window(5, MINUTE, ""))
    for number in range(8_000):
        for _ in range(6):
            store.execute([take_of([rule], f"caller-{number}")])
    before = store.stats()
    assert before.folded > 1000
    pool = pool_of(store, [rule])
    assert all(refuses(pool, f"caller-{number}") for number in range(8_000))
    assert store.stats().cells == before.cells
    assert store.stats().entries == before.entries


def test_a_table_gets_the_rules_of_another_plan() -> None:
    store = MemoryStore(clock=ManualClock())
    free, day = rules_of(window(5, MINUTE, ""), window(100, 1440 * MINUTE, ""))
    (pro,) = rules_of(window(50, MINUTE, ""))
    first = pool_of(store, [free])
    assert first.take("a", 4)
    both = pool_of(store, [day, pro])
    assert both.take("a", 40)
    assert refuses(first, "a")
    assert (left(store, free, "a"), left(store, pro, "a"), left(store, day, "a")) == (0, 6, 60)
    assert store.stats().entries == 1


def test_counters_that_stand_in_two_tables_are_left_to_operations() -> None:
    store = MemoryStore(clock=ManualClock())
    minute, second = rules_of(window(5, MINUTE, ""), window(2, SECOND, ""))
    pool_of(store, [minute])
    pool_of(store, [second])
    assert store.pool([minute, second]) is None
    assert not store.execute([take_of([minute, second], "a")])[0].refused
    assert (left(store, minute, "a"), left(store, second, "a")) == (4, 1)
    assert store.pool([minute, minute]) is None
    assert store.pool([]) is None
    assert store.pool([Rule("rl:a|b|", minute.limit)]) is None


def test_a_clock_may_begin_at_nought() -> None:
    store = MemoryStore(clock=ManualClock(datetime(1970, 1, 1, tzinfo=UTC)))
    assert pool_of(store, rules_of(window(100, MINUTE, ""))).take("a") == [0, 99, 33 * 1_875_000]


def test_a_subclass_with_an_execute_of_its_own_is_asked() -> None:
    class Asked(MemoryStore):
        def execute(self, ops: Any) -> list[Any]:
            return super().execute(ops)

    class Named(MemoryStore):
        pass

    rules = rules_of(window(5, MINUTE, ""))
    assert Asked().pool(rules) is None
    assert Named().pool(rules) is not None


def test_a_caller_who_comes_twice_in_one_decision_is_left_to_operations() -> None:
    store = MemoryStore(clock=ManualClock())
    pool = pool_of(store, rules_of(window(5, MINUTE, "")))
    assert store.take_together([(pool, "a", 1), (pool, "a", 1)]) is None
    answers = store.take_together([(pool, "a", 1), (pool, "b", 1)])
    assert answers is not None
    assert [answer[1] for answer in answers] == [4, 4]


def test_a_refusal_takes_no_room() -> None:
    store = MemoryStore(clock=ManualClock())
    one, other = (pool_of(store, rules_of(window(5, MINUTE, ""), name=name)) for name in "ab")
    assert refuses(one, "stranger", 6)
    assert store.take_together([(one, "stranger", 1), (other, "stranger", 6)]) is None
    assert (store.stats().entries, store.stats().bytes) == (0, 0)


@pytest.mark.parametrize("limit", [window(5, MINUTE, ""), window(100, MINUTE, ""), smooth("5/minute", burst=5)])
def test_operations_write_what_pools_count(limit: Limit) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    (rule,) = rules_of(limit)
    pool = pool_of(store, [rule])
    assert pool.take("a", 5)
    key = rule.prefix + "a"
    (state,) = store.execute([Read(key)])[0]
    store.execute([Put(key, None)])
    assert store.execute([Read(key)])[0] == (None,)
    assert left(store, rule, "a") == limit.max_cost
    store.execute([Put(key, state, 3 * SECOND)])
    assert left(store, rule, "a") == limit.max_cost - 5
    clock.advance(3)
    assert left(store, rule, "a") == limit.max_cost, "it lapses when it was told to"
    assert store.stats().entries == 1


def test_a_state_that_cannot_be_read_charges_nothing_and_concerns_its_caller_alone() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    good, bad = rules_of(window(5, MINUTE, ""), window(100, 2 * MINUTE, ""))
    pool = pool_of(store, [good, bad])
    store.execute([Put(bad.prefix + "a", b"???", 60 * MINUTE)])
    assert pool.take("a") is None
    with pytest.raises(Exception, match="unpack"):
        store.execute([take_of([good, bad], "a")])
    assert left(store, good, "a") == 5
    for number in range(10_000):
        assert pool.take(f"b{number}")
    assert store.stats().forgotten > 0
    assert store.execute([Read(bad.prefix + "a")])[0] == (b"???",)


@pytest.mark.parametrize("limit", [window(100, MINUTE, ""), window(5, MINUTE, ""), smooth("5/minute", burst=5)])
def test_a_refusal_beside_a_state_that_cannot_be_read_is_left_to_the_operation(limit: Limit) -> None:
    store = MemoryStore(clock=ManualClock())
    rules = rules_of(limit, window(100, 60 * MINUTE, ""))
    pool = pool_of(store, rules)
    assert pool.take("a", 5)
    store.execute([Put(rules[1].prefix + "a", b"???", 60 * MINUTE)])
    assert pool.take("a", 99) is None
    assert left(store, rules[0], "a") == limit.max_cost - 5


def test_callers_of_several_rules_are_folded_together_and_none_is_forgiven() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    rules = rules_of(window(2, MINUTE, ""), window(100, 60 * MINUTE, ""), smooth("3/minute", burst=50))
    pool = pool_of(store, rules)
    for number in range(6_000):
        while not refuses(pool, f"caller-{number}"):
            pass
    stats = store.stats()
    assert stats.folded > 1000
    assert stats.bytes <= MIB
    assert all(refuses(pool, f"caller-{number}") for number in range(6_000))


def test_room_is_made_where_most_of_it_is_taken() -> None:
    store = MemoryStore(MIB, clock=ManualClock())
    few, many = (pool_of(store, rules_of(window(100, 60 * MINUTE, ""), name=name)) for name in "ab")
    for number in range(100):
        assert few.take(f"caller-{number}")
    for number in range(20_000):
        assert many.take(f"10.0.{number >> 8}.{number & 255}")
    assert store.stats().forgotten > 10_000
    answers = [few.take(f"caller-{number}") for number in range(100)]
    assert all(isinstance(answer, list) and answer[1] == 98 for answer in answers)


def test_threads_take_no_more_than_there_is() -> None:
    store = MemoryStore()
    pools = [pool_of(store, rules_of(window(500, 60 * MINUTE, ""), window(1000, 600 * MINUTE, ""))) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: pools[number % 2].take("a"), range(2000)))
    assert sum(isinstance(answer, list) for answer in answers) == 500
    assert left(store, rules_of(window(1000, 600 * MINUTE, ""))[0], "a") == 500


def test_a_value_is_the_same_object_until_it_is_written() -> None:
    store = MemoryStore(clock=ManualClock())
    record = b"record" * 10
    store.execute([CompareAndSet({"key|a": None}, {"key|a": record})])
    assert store.values["key|a"] is record
    assert store.execute([Read("key|a")])[0][0] is record
    store.execute([Put("key|a", b"other", SECOND)])
    assert "key|a" not in store.values
    assert store.execute([Read("key|a")])[0] == (b"other",)
    store.execute([Put("key|a", record)])
    assert dict(store.scan("key|")) == {"key|a": record}
    store.execute([Put("key|a", None)])
    assert (store.stats().entries, store.stats().bytes) == (0, 0)


# -- slots -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["take", "free", "free", "op", "pass"]), st.integers(0, 30)), max_size=40))
def test_slots_of_a_pool_are_those_of_the_operations(steps: list[tuple[str, int]]) -> None:
    clock = ManualClock()
    store, reference = MemoryStore(clock=clock), Reference(clock)
    lease, limit = 10 * SECOND, Slots(3)
    pool = store.slots("rl:x:slots|", limit, lease)
    assert pool is not None
    taken: list[tuple[Taken, tuple[int, int]]] = []
    ends: list[int] = []
    for what, number in steps:
        bucket = "ab"[number % 2]
        take = Take([Demand("", f"rl:x:slots|{bucket}", limit, 1, lease)])
        if what == "pass":
            span = [0, 0.000001, 1, 9, 10, -5][number % 6]
            now = clock()
            if span < 0 and any(now - 5 * SECOND <= end <= now for end in ends):
                continue  # a lease that has lapsed may be forgotten: it does not come back with an earlier clock
            clock.advance(span)
        elif what == "free" and taken:
            one, (given, _) = taken[number % len(taken)]
            reference.execute([Settle(one)])
            pool.free(one.demands[0].key.partition("|")[2], given)
        elif what == "op":  # of another way to the same slots
            ends.append(clock() + lease)
            (one,), (other,) = reference.execute([take]), store.execute([take])
            assert (one.takings, one.held, one.refused) == (other.takings, other.held, other.refused)
        elif what == "take":
            ends.append(clock() + lease)
            (one,) = reference.execute([take])
            answer = pool.take(bucket)
            assert (answer is None) is one.refused
            if answer is None:  # then the operation is asked, which tells how many are in use
                assert store.execute([take])[0].held == one.held
            else:
                assert answer == (one.at + one.takings[0][1] - lease, one.takings[0][2])
                taken.append((one, answer))
        assert store.scan("rl:") == [pair for pair in reference.scan("rl:") if not pair[0].startswith("rl:settled|")]
    clock.advance(20 + 5 * len(steps))  # as far as it was set back, and beyond the last lease
    assert store.scan("rl:") == []


def test_slots_take_the_room_that_is_accounted_for_and_leave_none_behind() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    pool = store.slots("rl:x:slots|", Slots(3), 3600 * SECOND)
    assert pool is not None
    before = store.stats().bytes
    for round in range(3):
        given = [(bucket, pool.take(bucket)) for bucket in map(str, range(100)) for _ in range(2)]
        assert store.stats().bytes > before
        clock.advance(round)
        for bucket, answer in given:
            assert answer is not None
            pool.free(bucket, answer[0])
        clock.advance(1)
    store.execute([Take([Demand("", "rl:x|y", window(1, SECOND, "1/second"), 0)])])
    clock.advance(30)
    for _ in range(20):
        clock.advance(1)
        store.execute([Take([Demand("", "rl:x|y", window(1, SECOND, "1/second"), 0)])])
    assert store.stats().bytes == before


def test_a_subclass_of_the_store_is_asked_for_slots() -> None:
    class Own(MemoryStore):
        def execute(self, ops: Any) -> list[Any]:
            return super().execute(ops)

    assert Own().slots("rl:x:slots|", Slots(1), SECOND) is None
