"""Many requests at a time on one event loop, in every order: each turn of the loop is a chance to leave or to fail.

A simulation, and so repeatable: time goes on where nobody has anything left to do, the store answers after so many
turns of the loop, clients go away at a turn of theirs. What must hold does not depend on any of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import APIKeys, Keyguard, RateLimit, ResponseCache
from keyguard.clock import Clock
from keyguard.drivers import interpreter as engine
from keyguard.errors import StoreError
from keyguard.ops import Op, Settle, Taken
from keyguard.stores import circuit as watched
from keyguard.stores.memory import MemoryStore
from keyguard.units import as_datetime
from tests.support.harness import Answer, Ask, aask

QUOTA = 6
PATIENCE = 0.1
"""Seconds of the simulation in which everything has come to its end: some looks for what another process asks for."""
START = 1_800_000_000


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is its own: it stands still while there is something to do, and then leaps."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]

    def clock(self) -> int:
        """Microseconds since the epoch."""
        return round((START + self.now) * 1_000_000)


class Distant:
    """A store whose answers take turns of the loop, and that fails when it is told to, before or after it decided."""

    timeout = 0.1

    def __init__(self, clock: Clock, delays: Sequence[tuple[int, int]], faults: dict[int, str]) -> None:
        self.memory = MemoryStore(clock=lambda: as_datetime(clock()))
        self.delays = delays
        self.faults = faults
        self.calls = 0
        self.failed = 0

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        return self.memory.execute(ops)

    async def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        call, self.calls = self.calls, self.calls + 1
        before, after = self.delays[call % len(self.delays)] if self.delays else (1, 1)
        fault = self.faults.get(call)
        await turns(before)
        if fault == "before":
            self.failed += 1
            raise StoreError("as told")
        results = self.memory.execute(ops)
        try:
            await turns(after)
            if fault == "after":
                self.failed += 1
                raise StoreError("as told, and it had decided")
        except BaseException:
            # As every store must: what was decided for nobody is undone.
            self.memory.execute([Settle(result) for result in results if isinstance(result, Taken)])
            raise
        return results

    def scan(self, prefix: str) -> Any:
        return self.memory.scan(prefix)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class App:
    """Answers after some turns of the loop; what it says of caching, or that it fails, depends on the path."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        """Which requests reached it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, kind, wait = scope["path"].split("/")
        self.asked.append(int(dict(scope["headers"])[b"x-number"]))
        await turns(int(wait))
        if kind == "fails":
            raise RuntimeError("the app failed")
        caching = b"public, max-age=60" if kind == "stored" else b"no-store"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", caching)]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await turns(1)
        await send({"type": "http.response.body", "body": b" and half"})


class World:
    """A stack of everything, and what became of the requests that were sent to it."""

    def __init__(self, delays: Sequence[tuple[int, int]], faults: dict[int, str]) -> None:
        self.loop = SimulatedLoop()
        self.store = Distant(self.loop.clock, delays, faults)
        self.app = App()
        self.guard = Keyguard(
            RateLimit(f"{QUOTA}/hour", by="ip"),
            APIKeys(),
            RateLimit(f"{QUOTA}/day", by="key"),
            ResponseCache(),
            store=self.store,
            clock=lambda: as_datetime(self.loop.clock()),
        )
        self.key = self.guard.keys.issue("acme").key.reveal()
        self.asgi = self.guard.asgi(self.app)
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        for module in (engine, watched):
            self.patch.setattr(module, "monotonic", self.loop.time)
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()
        self.loop.close()

    async def ask(self, number: int, path: str) -> Answer:
        return await aask(self.asgi, Ask(path, (("X-API-Key", self.key), ("X-Number", str(number)))))

    def play(self, plan: Sequence[tuple[str, int, int | None]], patience: float = PATIENCE) -> list[Any]:
        """Send each `(path, turn it comes at, turns until it leaves)`; their answers, or what was raised."""

        async def client(number: int, path: str, comes: int, leaves: int | None) -> Answer:
            await turns(comes)
            asking = asyncio.create_task(self.ask(number, path))
            if leaves is not None:
                await turns(leaves)
                asking.cancel()
            return await asking

        async def story() -> list[Any]:
            answers = await asyncio.gather(
                *[client(number, *each) for number, each in enumerate(plan)], return_exceptions=True
            )
            mine = asyncio.current_task()
            left = [task for task in asyncio.all_tasks() if task is not mine]
            await asyncio.gather(*left, return_exceptions=True)  # what is done for those who have left
            return answers

        answers: list[Any] = self.loop.run_until_complete(story())
        assert self.loop.now < patience, "somebody waited for nothing"
        return answers

    def used(self) -> list[int]:
        """Units taken of each limit, as it stands in the store."""
        rules = [rule for guard in self.guard.guards if isinstance(guard, RateLimit) for rule in guard.rules]
        counts = []
        for rule in rules:
            states = [state for _, state in self.store.scan(rule.prefix)]
            counts.append(sum(QUOTA - rule.limit.take(state, self.loop.clock(), 0)[2] for state in states))
        return counts


paths = st.builds("/{}/{}".format, st.sampled_from(["stored", "stored", "fresh", "fails"]), st.integers(0, 4))
plans = st.lists(st.tuples(paths, st.integers(0, 12), st.none() | st.integers(0, 40)), min_size=1, max_size=10)
speeds = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=7)
quick = settings(max_examples=120)


def check_raised(error: BaseException, path: str, leaves: int | None) -> None:
    """Nobody got an error but who left, and whose app failed."""
    if isinstance(error, asyncio.CancelledError):
        assert leaves is not None
    else:
        assert (str(error), path[:7]) == ("the app failed", "/fails/")


@quick
@given(plans, speeds)
def test_whoever_leaves_whenever(plan: Any, delays: Any) -> None:
    """Everybody else is answered; charged is what reached the app or was answered; and nothing is left over."""
    with World(delays, {}) as world:
        answers = world.play(plan)
        used = world.used()
    reached = set(world.app.asked)
    served = set()
    for number, ((path, _, leaves), answer) in enumerate(zip(plan, answers, strict=True)):
        if isinstance(answer, Answer):
            assert answer.status in (200, 429), answer
            if answer.status == 200:
                served.add(number)
                assert answer.body == b"half and half"
        else:
            check_raised(answer, path, leaves)
    assert used == [len(reached | served)] * 2
    assert len(reached) <= QUOTA
    assert world.guard.cache.flights._open == {}


faults = st.dictionaries(st.integers(0, 30), st.sampled_from(["before", "after"]), min_size=1, max_size=8)


@quick
@given(plans, speeds, faults)
def test_whoever_leaves_whenever_and_the_store_fails_in_between(plan: Any, delays: Any, faults: Any) -> None:
    """A fault is called a fault; nobody hangs, and nobody is charged twice; afterwards all is as before."""
    with World(delays, faults) as world:
        # A lease that could not be given back lapses after half of what others wait for it.
        answers = world.play(plan, world.guard.cache.coalesce)
        for (path, _, leaves), answer in zip(plan, answers, strict=True):
            if isinstance(answer, Answer):
                says = {200: b"half and half", 429: b'"cause": "usage"', 503: b'"cause": "fault"'}[answer.status]
                assert says in answer.body
                assert answer.status != 503 or world.store.failed
            else:
                check_raised(answer, path, leaves)
        # A refund may be lost with the store, and no request is charged twice.
        assert all(units <= len(plan) for units in world.used())
        # Counted here while the store is out of order: at most as much again.
        assert len(world.app.asked) <= 2 * QUOTA
        assert world.guard.cache.flights._open == {}
        world.store.faults = {}
        world.loop.now += 24 * 3600
        for _ in range(3):
            world.loop.now += watched.PROBE
            after = world.loop.run_until_complete(world.ask(99, "/fresh/0"))
        assert after.status == 200
        assert world.guard.health.ok
