"""A store that has too much to do: it is asked again, less and less often, and nothing is decided without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from keyguard import Key, KeyPool, UpstreamExhausted
from keyguard.errors import StoreBusy, StoreError
from keyguard.ops.upstream import Acquire, Learn
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from keyguard.upstream.answers import Asked
from keyguard.upstream.causes import Scope, UpstreamCause
from keyguard.upstream.told import behind, find
from keyguard.upstream.transports import driving
from tests.support.virtual_upstream import DRY, OK, Task, World, keys

NO_WAIT = Asked(max_wait=0)
LIMIT = {"a": {"rpm": 12}}


class BusyStore(MemoryStore):
    """A store that has too much to do as long as a test says so."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.busy: Callable[[], bool] = lambda: False
        self.down = False
        self.asked: list[int] = []
        """When it was asked for a key, or told of one, in vain."""
        self._now = clock

    def execute(self, ops: Any) -> list[Any]:
        if self.down:
            raise StoreError("it is down")
        if self.busy() and isinstance(ops[0], (Acquire, Learn)):
            self.asked.append(self._now())
            raise StoreBusy("others are first")
        return super().execute(ops)


class BusyWorld(World):
    """A world whose store is busy until a second of it."""

    def __init__(self, *args: Any, busy_until: float = 0.0, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.busy_until = busy_until
        self.busy_store = BusyStore(self.clock)
        self.busy_store.busy = lambda: self.now < self.busy_until
        self.place = type(self.place)(self.busy_store, clock=self.clock)

    @property
    def asked(self) -> list[float]:
        """When the store was asked in vain."""
        return [(at - self.began) / 1_000_000 for at in self.busy_store.asked]


def causes(tasks: list[Task]) -> list[UpstreamCause]:
    return [task.result.outcome.cause for task in tasks]


def test_a_request_waits_until_the_store_has_time() -> None:
    world = BusyWorld(keys("a"), limits=LIMIT, busy_until=5)
    result = world.ask()
    assert result.outcome.cause == UpstreamCause.OK
    assert 5 <= world.now <= 8
    assert result.outcome.waited == pytest.approx(world.now)
    assert world.events == [], "no outage is told of"


def test_the_pauses_grow_and_are_bounded() -> None:
    world = BusyWorld(keys("a"), busy_until=100)
    world.ask(Asked(max_wait=60))
    pauses = [later - earlier for earlier, later in pairwise(world.asked)]
    assert min(pauses) >= 0.05
    assert max(pauses) <= 2.1
    assert sum(pauses[:3]) < sum(pauses[-3:])
    assert len(world.asked) < 90


def test_the_pauses_are_drawn() -> None:
    drawn = set()
    world = BusyWorld(keys("a"), busy_until=1000)
    for _ in range(10):
        before = len(world.asked)
        world.ask(Asked(max_wait=1))
        first, second = world.asked[before : before + 2]
        drawn.add(round(second - first, 4))
    assert len(drawn) >= 9, "or processes that were told so at once ask again at once"


def test_a_request_that_comes_to_its_end_is_told_of_the_store_and_not_of_the_keys() -> None:
    world = BusyWorld(keys("a"), limits=LIMIT, busy_until=100)
    result = world.ask(Asked(max_wait=10))
    assert world.hits == [], "nothing is sent"
    assert 7 <= world.now <= 10, "within its own time"
    assert result.outcome.cause == UpstreamCause.BUSY
    assert result.outcome.until is not None
    assert result.synthetic is not None
    fields = dict(result.synthetic.fields)
    assert 1 <= int(fields["retry-after"]) <= 3
    assert fields["x-should-retry"] == "false"
    assert b"The store of the pool has too much to do. Try again in" in result.synthetic.body
    told = find(fields["x-keyguard-exhaustion"])
    assert told is not None
    assert told.cause == UpstreamCause.BUSY
    assert world.events == [], "no key and no pool is told to be used up"


def test_who_cannot_wait_is_told_at_once() -> None:
    world = BusyWorld(keys("a"), busy_until=100)
    assert world.ask(NO_WAIT).outcome.cause == UpstreamCause.BUSY
    assert (world.now, len(world.asked)) == (0, 1)


@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_comes_on_top_of_what_the_store_counts(workers: int) -> None:
    """Each second request is told that the store is busy: all together are no more than the limit."""
    world = BusyWorld(keys("a"), limits=LIMIT, workers=workers)
    turns = iter(range(10_000))
    world.busy_store.busy = lambda: next(turns) % 2 == 0
    tasks = [world.begin(Asked(max_wait=wait)) for wait in (0, 1, 2, 3, 5) * 10]
    world.run(until=4)
    assert len(world.hits) == 12
    world.run()
    assert causes(tasks).count(UpstreamCause.OK) == len(world.hits) <= 13


def test_one_of_a_process_asks_for_all() -> None:
    world = BusyWorld(keys("a"), busy_until=8)
    tasks = [world.begin(Asked(max_wait=20)) for _ in range(200)]
    later = [world.begin(Asked(max_wait=20), at=3) for _ in range(200)]
    world.run()
    assert len(world.asked) < 30, "the first in line"
    assert causes(tasks + later) == [UpstreamCause.OK] * 400
    assert max(task.ended or 0.0 for task in tasks + later) < 11


def test_the_line_keeps_its_order_and_each_its_own_patience() -> None:
    world = BusyWorld(keys("a"), busy_until=6)
    tasks = [world.begin(Asked(max_wait=wait), at=number / 10) for number, wait in enumerate((20, 3, 20, 4, 20))]
    world.run()
    ok, busy = UpstreamCause.OK, UpstreamCause.BUSY
    assert causes(tasks) == [ok, busy, ok, busy, ok]
    ends = [task.ended or 0.0 for task in tasks]
    assert ends[0] <= ends[2] <= ends[4]
    assert ends[1] <= 3.1
    assert ends[3] <= 4.3
    assert world.pool.waiting == 0


def test_a_line_without_places_has_nobody_wait() -> None:
    world = BusyWorld(keys("a"), busy_until=100, max_waiting=0)
    assert world.ask().outcome.cause == UpstreamCause.BUSY
    assert world.now == 0


def test_what_one_was_told_who_has_left_an_empty_line_holds_for_nobody() -> None:
    world = BusyWorld(keys("a"), lambda key, number: (UpstreamCause.EXHAUSTED, Scope.MODEL, 3600))
    world.ask(NO_WAIT)
    world.script = lambda key, number: OK
    world.pool.queues["*"].tell(world.clock() + 3600 * 1_000_000, UpstreamCause.EXHAUSTED)
    place = world.pool.queues["*"].join(0)
    assert place is not None
    world.pool.queues["*"].leave(place, in_vain=True)
    world.busy_until = world.now + 5
    assert world.ask(Asked(max_wait=4)).outcome.cause == UpstreamCause.BUSY
    assert world.now > 2, "it has waited"


def test_a_busy_store_that_finds_no_room_is_believed() -> None:
    world = BusyWorld(keys("a"), lambda key, number: DRY, busy_until=0)
    world.ask(NO_WAIT)
    world.busy_until = 3
    result = world.ask(Asked(max_wait=10))
    assert result.outcome.cause == UpstreamCause.EXHAUSTED
    assert 3 <= world.now <= 6


def test_a_store_that_fails_is_gone_on_without_and_one_that_is_busy_again_is_not() -> None:
    world = BusyWorld(keys("a"), limits=LIMIT, workers=4)
    world.busy_store.down = True
    assert [world.ask(NO_WAIT).outcome.cause for _ in range(3)] == [UpstreamCause.OK] * 3
    assert [event.kind for event in world.events] == ["store.failed"]
    world.busy_store.down = False
    world.busy_until = 100
    world.clock.advance("10 seconds")
    assert world.ask(NO_WAIT).outcome.cause == UpstreamCause.BUSY
    assert [event.kind for event in world.events] == ["store.failed"], "it is not told to be over, nor told anew"


# -- what is learnt ----------------------------------------------------------------------------------------------------


def test_reports_are_kept_and_sent_once_with_the_next_trip() -> None:
    world = BusyWorld(keys("a", "b"), lambda key, number: DRY if key == "a" and number == 1 else OK)
    world.busy_until = 0
    world.ask()
    kept = len(world.outbox)
    assert kept >= 1
    world.busy_until = world.now + 3
    task = world.begin(Asked(max_wait=20))
    world.run(until=world.now + 2)
    assert task.ended is None
    assert len(world.outbox) == kept, "while it pauses"
    world.run()
    assert task.result.outcome.cause == UpstreamCause.OK
    *vain, last = [op for op in world.ops if isinstance(op, Acquire)][-len(world.asked) - 1 :]
    assert [len(op.reports) for op in (*vain, last)] == [kept] * (len(vain) + 1)
    assert [each.report.cause for each in world.outbox.take()] == ["ok"], "its own"


def pool_of(clock: ManualClock, **settings: Any) -> tuple[KeyPool, BusyStore]:
    store = BusyStore(clock)
    return KeyPool.openai([Key("a", "sk-a")], store=store, clock=clock, **settings), store


def test_what_is_learnt_waits_for_the_store_in_the_background_too() -> None:
    clock = ManualClock()
    pool, store = pool_of(clock)
    with pool.acquire() as grant:
        grant.report(401, {}, b'{"error": {"code": "invalid_api_key"}}')
    store.busy = lambda: True
    for _ in range(5):
        clock.advance("1 second")
    assert len(pool.parts.outbox) == 1
    assert 1 <= len(store.asked) <= 6, "a trip a second at most"
    pool.close()
    assert len(pool.parts.outbox) == 1, "nor does an end drop it: the pool can be used again"
    store.busy = lambda: False
    clock.advance("1 second")
    assert len(pool.parts.outbox) == 0
    assert [key.state for key in pool.snapshot().groups[0].keys] == ["invalid"]


# -- whatever ends it, and both worlds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_cancelled_while_it_pauses_it_leaves_nothing_behind(step: int) -> None:
    world = BusyWorld(keys("a"), limits={"a": {"rpd": 12}}, busy_until=3)
    task = world.begin(Asked(max_wait=20))
    behind_it = world.begin(Asked(max_wait=20))
    world.run(stop=lambda: task.steps >= step)
    world.cancel(task)
    world.run()
    assert behind_it.result.outcome.cause == UpstreamCause.OK
    assert len(world.hits) == 1
    assert world.pool.waiting == 0
    after = [world.ask(NO_WAIT).outcome.cause for _ in range(12)]
    assert after.count(UpstreamCause.OK) == 11, "it has booked nothing"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """A clock by which the drivers pause."""
    clock = ManualClock()

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    monkeypatch.setattr(driving, "pause", clock.advance)
    monkeypatch.setattr(driving, "_sleep", sleep)
    return clock


def in_thread(pool: KeyPool) -> str:
    with pool.acquire() as grant:
        grant.report(200)
        return grant.key.id


async def awaited(pool: KeyPool) -> str:
    async with pool.aacquire() as grant:
        grant.report(200)
        return grant.key.id


WAYS: dict[str, Callable[[KeyPool], str]] = {
    "thread": in_thread,
    "asyncio": lambda pool: asyncio.run(awaited(pool)),
    "trio": lambda pool: trio.run(awaited, pool),
}


@pytest.mark.parametrize("way", WAYS)
def test_by_hand(way: str, clock: ManualClock) -> None:
    pool, store = pool_of(clock, limits={"a": {"rpm": 2}}, max_wait=10)
    began = clock()
    store.busy = lambda: clock() < began + 3_000_000
    assert WAYS[way](pool) == "a"
    assert 3_000_000 <= clock() - began <= 6_000_000
    store.busy = lambda: True
    asked = clock()
    with pytest.raises(UpstreamExhausted, match="nobody knows whether a key has room: busy") as raised:
        WAYS[way](pool)
    assert clock() - asked <= 10_000_000
    assert raised.value.outcome.cause == UpstreamCause.BUSY
    assert 1 <= int(raised.value.headers["retry-after"]) <= 3
    told = behind(raised.value)
    assert told is not None
    assert told.cause == UpstreamCause.BUSY
    store.busy = lambda: False
    assert WAYS[way](pool) == "a", "nothing was booked in vain"
    assert pool.parts.waiting == 0


@pytest.mark.parametrize("run", ["asyncio", "trio"])
def test_by_hand_and_cancelled_while_it_pauses(run: str) -> None:
    clock = ManualClock()
    pool, store = pool_of(clock, limits={"a": {"rpm": 1}}, max_wait=3600)
    store.busy = lambda: True

    async def in_asyncio() -> None:
        task = asyncio.create_task(awaited(pool))
        await asyncio.sleep(0)
        assert pool.parts.waiting == 1, "it has asked in vain"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def in_trio() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(awaited, pool)
            await trio.testing.wait_all_tasks_blocked()
            assert pool.parts.waiting == 1, "it has asked in vain"
            nursery.cancel_scope.cancel()

    if run == "trio":
        trio.run(in_trio)
    else:
        asyncio.run(in_asyncio())
    assert pool.parts.waiting == 0
    store.busy = lambda: False
    assert in_thread(pool) == "a"
