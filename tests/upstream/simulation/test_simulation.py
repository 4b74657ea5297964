"""How much of what is possible a pool uses, and what it wastes, beside models of what people use today.

The pool's own flow and operations run for twenty minutes of a simulated clock, in four workers, on groups of 240, 120
and 60 requests a minute, and tokens to match. `good` is the share of the requests that one would have served who knows
all limits, `waste` the share of those sent that were refused, `trips` operations on the store for each request that was
sent. Others who use a fifth of the limits take what is there: if it is used up they have less, so `good` may be more
than all.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from keyguard.clock import SECOND
from keyguard.upstream.affinity import preferred
from tests.upstream.simulation.provider import Group, best_possible
from tests.upstream.simulation.routers import CooldownModel, PoolWorker, RetryModel, Store, Worker, run
from tests.upstream.simulation.world import PATIENCE, World, arrivals

_SIZES = {"a": 240, "b": 120, "c": 60}


class Scene(NamedTuple):
    load: float
    kind: str = "bucket"
    fields: bool = True
    burst: tuple[int, int] | None = None
    others: float = 0
    """The share of the limits that others use."""
    conversations: int = 0

    def groups(self) -> list[Group]:
        return [Group(name, rpm, self.kind, self.fields, burst=self.burst) for name, rpm in _SIZES.items()]


class Figures(NamedTuple):
    good: float
    waste: float
    trips: float
    same: float
    """The share of the requests that went where their affinity would have them."""


def played(scene: Scene, who: str) -> Figures:
    groups = scene.groups()
    world, requests = World(groups), arrivals(groups, scene.load, conversations=scene.conversations)
    if scene.others:
        world.others(scene.others)
    store = Store(world)
    workers: dict[str, list[Worker]] = {
        "pool": [PoolWorker(world, store) for _ in range(4)] if who == "pool" else [],
        "plain retries (a model)": [RetryModel(world)],
        "cooldown router (a model)": [CooldownModel(world)],
    }
    run(world, requests, workers[who])
    left = [Group(group.name, round(group.rpm * (1 - scene.others)), scene.kind) for group in scene.groups()]
    best = best_possible(left, [(request.at, request.cost) for request in requests], PATIENCE)
    same = [
        request.told == preferred(_SIZES, request.affinity, lambda name: name, lambda name: _SIZES[name])[:1]
        for request in world.served
        if scene.conversations
    ]
    served, sent = len(world.served), world.sent
    figures = Figures(
        100 * served / best, 100 * world.refused / sent, world.operations / sent, 100 * sum(same) / served
    )
    print(f"{who}: good {figures.good:.2f} %, waste {figures.waste:.2f} %, trips {figures.trips:.2f}", end=" ")
    return figures


SCENES = {
    "A: fields, load 0.9": (Scene(0.9), 99.5, 0.1),
    "C: fields, load 2": (Scene(2.0), 99.5, 0.1),
    "F: windows, load 1": (Scene(1.0, "window"), 99.5, 0.1),
    "F: windows, load 1.3": (Scene(1.3, "window"), 99, 0.5),
    "H: others use a fifth": (Scene(1.0, others=0.2), 98, 2),
    "A: no fields, load 0.9": (Scene(0.9, fields=False), 99, 1),
    "B: no fields, load 1.3": (Scene(1.3, fields=False), 96, 1.5),
    "a burst that is told nowhere, load 1.3": (Scene(1.3, burst=(10, SECOND)), 99, 0.5),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_pool_uses_what_there_is_and_wastes_next_to_nothing(name: str) -> None:
    scene, good, waste = SCENES[name]
    figures = played(scene, "pool")
    assert figures.good >= good
    assert figures.waste <= waste
    assert figures.trips <= 2.5


@pytest.mark.parametrize("who", ["plain retries (a model)", "cooldown router (a model)"])
@pytest.mark.parametrize("name", ["F: windows, load 1.3", "B: no fields, load 1.3"])
def test_models_of_what_people_use_waste_much_more(name: str, who: str) -> None:
    assert played(SCENES[name][0], who).waste > 10


def test_conversations_stay_with_their_key_while_there_is_room() -> None:
    assert played(Scene(0.9, conversations=300), "pool").same >= 99
