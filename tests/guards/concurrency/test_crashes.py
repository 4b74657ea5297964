"""A process that dies at any moment of a request leaves no slot behind for longer than its lease, on a shared store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import Concurrency, Keyguard, RateLimit
from keyguard.guards.concurrency import guard as of_slots
from keyguard.ops import Demand, Op, Renew, Settle, Take, Taken
from keyguard.rates import Slots
from keyguard.testing import ManualClock, Reference
from tests.support.harness import Ask

LEASE = 10


class World:
    """Where one step is taken at a time: whatever is awaited waits for its turn, and what has died has none."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Distant(self)
        self.turns: list[tuple[Process, asyncio.Future[None]]] = []
        self.trips: set[asyncio.Future[None]] = set()
        """Those of the turns in which somebody waits for the store."""
        self.tasks: list[tuple[Process, asyncio.Task[None]]] = []
        self.over = False

    async def step(self, *, trip: bool = False) -> None:
        if not self.over:
            turn = asyncio.get_running_loop().create_future()
            if trip:
                self.trips.add(turn)
            self.turns.append((_process.get(), turn))
            await turn

    async def go_on(self, place: int = 0) -> bool:
        """Take a step, of all that can be taken the one at this place. Returns whether there was one."""
        turns = [(process, turn) for process, turn in self.turns if not process.dead and not turn.done()]
        if not turns:
            return False
        turn = turns[place % len(turns)]
        self.turns.remove(turn)
        turn[1].set_result(None)
        await self.settle_down()
        return True

    async def arrive(self) -> None:
        """Let all trips to the store end: no store lets anybody wait for as long as a lease lasts."""
        while waiting := [(process, turn) for process, turn in self.turns if turn in self.trips and not process.dead]:
            for one in waiting:
                self.turns.remove(one)
                if not one[1].done():
                    one[1].set_result(None)
            await self.settle_down()

    async def settle_down(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    async def begin(self, process: Process) -> asyncio.Task[None]:
        _process.set(process)
        task = asyncio.create_task(process.request())
        self.tasks.append((process, task))
        await self.settle_down()
        return task

    async def end(self) -> None:
        """Let even what has died come to its end, once all is looked at: a test leaves no task behind."""
        self.over = True
        for _, turn in self.turns:
            if not turn.done():
                turn.set_result(None)
        for _, task in self.tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.settle_down()

    @property
    def held(self) -> int:
        demand = Demand("", "rl:slots:slots|198.51.100.1", Slots(9), 0, holds=True)
        return int(self.store.execute([Take([demand])])[0].held[0])


class Distant(Reference):
    """A shared store that is a trip away: what is asked of it happens between two steps."""

    timeout = 1.0
    needs_asyncio = False

    def __init__(self, world: World) -> None:
        super().__init__(world.clock)
        self.world = world

    async def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        await self.world.step(trip=True)
        results = self.execute(ops)
        try:
            await self.world.step(trip=True)
        except asyncio.CancelledError:  # as stores do: who has left gets nothing
            self.execute([Settle(result) for result in results if isinstance(result, Taken) and not result.refused])
            raise
        return results


class Process:
    """A process with requests to an app."""

    def __init__(self, world: World, slots: int, between: Sequence[Any] = ()) -> None:
        self.world = world
        self.dead = False
        self.kept: list[Kept] = []
        self.serving = 0
        """How many requests the app has in its hands."""
        self.app: Any = Keyguard(
            RateLimit("1000/hour", name="outer"),
            *between,
            Concurrency(slots, lease=LEASE, name="slots"),
            *between,
            RateLimit("1000/hour", name="inner"),
            store=world.store,
            clock=world.clock,
        ).asgi(self._app)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.serving += 1
        try:
            await self.world.step()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await self.world.step()
        finally:
            self.serving -= 1
        await send({"type": "http.response.body", "body": b"two"})

    async def request(self) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            await self.world.step()

        await self.app(Ask().scope(), receive, send)

    def pulse(self) -> None:
        """Renew what is held, as its thread does."""
        for kept in list(self.kept):
            if not self.world.store.execute([Renew(kept.taken)])[0]:
                kept.let_go()


class Kept:
    """What a process renews as long as it lives."""

    def __init__(self, process: Process, taken: Taken) -> None:
        self.process, self.taken = process, taken
        process.kept.append(self)

    def let_go(self) -> None:
        if self in self.process.kept:
            self.process.kept.remove(self)


_process: ContextVar[Process] = ContextVar("process")


@pytest.fixture(autouse=True)
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of these tests die without ending, and so would their thread not."""
    monkeypatch.setattr(of_slots, "keep", lambda store, taken, max_age: Kept(_process.get(), taken))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("fate", ["killed", "cancelled"])
def test_whenever_a_request_is_cut_off_its_slot_is_free_after_the_lease(fate: str, together: bool) -> None:
    """Whether limits and slots are asked in one operation, or guards between them have them asked in turn."""

    async def story(steps: int) -> bool:
        world = World()
        process = Process(world, 1, () if together else [lambda request: None])
        task = await world.begin(process)
        for _ in range(steps):
            await world.go_on()
        over = task.done()
        if fate == "killed":
            process.dead = True
            world.clock.advance(LEASE)
        else:  # and it is free at once, when what it asks of its store then is done
            task.cancel()
            await world.settle_down()
            while await world.go_on():
                pass
        assert world.held == 0, f"cut off after {steps} steps"
        await world.end()
        return over

    steps = 0
    while not asyncio.run(story(steps)):
        steps += 1
    assert steps > (8 if together else 12)


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_no_more_than_the_slots_are_served_at_once_whoever_dies_or_leaves(seed: int, slots: int) -> None:
    """Requests of several processes, in any order of their steps: one that goes on keeps its slot however long."""

    async def story() -> None:
        source, world = random.Random(seed), World()
        processes = [Process(world, slots) for _ in range(3)]
        died: list[tuple[Process, int]] = []
        served = 0
        try:
            for _ in range(100):
                what = source.random()
                running = [(process, task) for process, task in world.tasks if not process.dead and not task.done()]
                if what < 0.2:
                    await world.begin(source.choice(processes))
                elif what < 0.8:
                    await world.go_on(source.randrange(100))
                elif what < 0.83 and running:
                    process, _ = source.choice(running)
                    process.dead = True
                    died.append((process, world.clock() + LEASE * 1_000_000))
                    processes[processes.index(process)] = Process(world, slots)
                elif what < 0.88 and running:
                    source.choice(running)[1].cancel()
                    await world.settle_down()
                else:
                    await world.arrive()
                    world.clock.advance(source.choice([0.001, 1, 3]))
                    for process in processes:
                        process.pulse()
                under_way = sum(process.serving for process in processes)
                under_way += sum(process.serving for process, end in died if end > world.clock())
                served = max(served, under_way)
                assert under_way <= slots
                assert world.held <= slots
            for process in processes:
                process.dead = True
            world.clock.advance(LEASE)
            assert world.held == 0
        finally:  # also if it fails: the event loop would wait for who has died
            await world.end()

    asyncio.run(story())
