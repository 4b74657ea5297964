"""Four workers that ask all the time, a limit that the provider hides, and one worker that is killed half-way.

Three groups of 300 requests a minute, which come back evenly. Others have used the same keys before: each group has ten
left when it begins. At most eight in half a second are let in, of which nothing tells. Each worker has three tasks that
ask again as soon as they are answered. What the killed one was granted is never sent; what it was answered, never told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from keyguard.clock import SECOND
from tests.upstream.simulation.provider import Group, Reply
from tests.upstream.simulation.routers import PoolWorker, RetryModel, Store
from tests.upstream.simulation.world import Request, World

RPM = 300
LEFT = 10
BURST = (8, SECOND // 2)
SECONDS = 30
TASKS = 3
COST = {"requests": 1, "tokens": 10}


class Tasks(World):
    """A world in which each request that is served is followed by the next one, until it is over."""

    def __init__(self, seed: int, work: tuple[int, int]) -> None:
        super().__init__([Group(name, RPM, burst=BURST) for name in "abc"], seed, work=work)
        for group in self.groups:
            group.counters[0].take(RPM - LEFT)
        self._of: dict[int, PoolWorker | RetryModel] = {}

    def begin(self, worker: PoolWorker | RetryModel) -> None:
        for _ in range(TASKS):
            self.later(self.chance.randrange(SECOND // 10), lambda: self._ask(worker))

    def send(self, request: Request, group: Group, answered: Callable[[Reply], None]) -> None:
        def go_on(reply: Reply) -> None:
            answered(reply)
            if reply.admitted:
                self._ask(self._of[request.number])

        if not self._is_over():
            super().send(request, group, go_on)

    def _ask(self, worker: PoolWorker | RetryModel) -> None:
        if not self._is_over():
            request = Request(self.now, COST, f"{len(self._of)}", len(self._of))
            self._of[request.number] = worker
            worker.take(request)

    def _is_over(self) -> bool:
        return self.now >= SECONDS * SECOND


class Figures(NamedTuple):
    """Percent of what was possible, and of what was sent."""

    served: float
    refused: float


def played(who: str, seed: int, work: tuple[int, int]) -> Figures:
    world = Tasks(seed, work)
    store = Store(world)
    for number in range(4):
        worker = PoolWorker(world, store) if who == "pool" else RetryModel(world)
        world.begin(worker)
        if not number:
            world.later(SECONDS * SECOND // 2, lambda worker=worker: kill(worker))
    world.run()
    possible = len(world.groups) * (LEFT + RPM * SECONDS // 60)
    served = sum(group.admitted for group in world.groups)
    refused = sum(group.refused for group in world.groups)
    figures = Figures(100 * served / possible, 100 * refused / (served + refused))
    print(f"{who}: {figures.served:.1f} % of what was possible, {figures.refused:.1f} % refused")
    return figures


def kill(worker: PoolWorker | RetryModel) -> None:
    if isinstance(worker, PoolWorker):
        worker.killed = True


WORK = {"answers at once": (1_000, 5_000), "in 20 ms": (15_000, 25_000), "in 300 ms": (200_000, 400_000)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("work", WORK)
def test_a_pool_finds_a_hidden_limit_and_uses_what_is_left(work: str, seed: int) -> None:
    figures = played("pool", seed, WORK[work])
    assert figures.served >= 95
    assert figures.refused <= 2


def test_a_model_of_plain_retries_is_refused_many_times_more() -> None:
    assert played("plain retries (a model)", 0, WORK["in 20 ms"]).refused > 20
