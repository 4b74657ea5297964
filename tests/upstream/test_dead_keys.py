"""Keys that do not work: how often all workers of an app try them, by the provider's own record."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard.testing.provider import Answer
from tests.support.virtual_workers import Workers, most_in

HOUR = 3600.0


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_group_without_money_is_tried_ten_times_an_hour_at_most(dialect: Any) -> None:
    keys = {"sk-poor-1": "poor", "sk-poor-2": "poor", "sk-rich": "rich"}
    world = Workers(keys, dialect, credits={"poor": 0})
    world.busy(2.5 * HOUR, every=60)
    tried = tried_of(world, "sk-poor-1", "sk-poor-2")
    assert 3 <= most_in(tried, HOUR) <= 10
    assert most_in([when for when in tried if when > HOUR], HOUR) <= 2, "the longer it lasts the less"
    assert world.answered() == 1.0
    world.provider.credits["poor"] = 1_000_000
    world.busy(1.2 * HOUR, every=60)
    paid = [when for when in tried_of(world, "sk-poor-1", "sk-poor-2") if when > 2.5 * HOUR]
    assert len(paid) > 20, "it is used again once it can pay, and nobody had to say so"


@pytest.mark.parametrize("group", ["another", "same"])
def test_an_invalid_key_is_tried_twice(group: str) -> None:
    world = Workers({"sk-good": "same"}, unknown={"sk-bad": group})
    world.busy(4 * HOUR, every=60)
    assert len(world.hits_of("sk-bad")) == 2
    assert world.answered() == 1.0


def test_a_long_wait_is_believed() -> None:
    world = Workers({"sk-a": "one", "sk-b": "two"})
    world.provider.script("sk-a", [Answer(429, {"retry-after": "7999"})] * 100)
    world.busy(7990, every=60)
    assert 1 <= len(world.hits_of("sk-a")) <= 3
    assert world.answered() == 1.0


def test_a_worker_that_dies_with_a_probe_holds_nobody_up_for_longer_than_its_lease() -> None:
    world = Workers({"sk-poor": "poor", "sk-rich": "rich"}, credits={"poor": 0})
    world.busy(60, every=10)
    before = world.provider.hits["sk-poor"]
    while world.provider.hits["sk-poor"] == before:
        probe = world.begin_one()
        world.run(world.now + 0.1)
        if world.provider.hits["sk-poor"] == before:
            world.run(world.now + 1)
    world.kill(probe)
    killed = world.now
    world.provider.credits["poor"] = 1_000_000
    world.busy(180, every=10)
    again = [when for when in world.hits_of("sk-poor") if when > killed]
    assert 59 <= again[0] - killed <= 90
    assert len(again) > 10, "and it worked: so it is used"


@pytest.mark.parametrize("others", [{"unknown": {"sk-bad": "bad"}}, {"credits": {"bad": 0}}])
def test_what_all_workers_do_at_one_moment_is_four_times_at_most(others: Any) -> None:
    """Nobody can know of the first answer before it has come; until then four go at a time."""
    keys = {"sk-good": "good", **({"sk-bad": "bad"} if "credits" in others else {})}
    world = Workers(keys, workers=12, **others)
    world.busy(60, every=20, at_once=True)
    assert len([when for when in world.hits_of("sk-bad") if when < 20]) <= 4
    assert len(world.hits_of("sk-bad")) <= 5
    assert world.answered() == 1.0


def test_rotation_reaches_all_of_twenty_keys() -> None:
    keys = {f"sk-{number}": f"group-{number}" for number in range(20)}
    world = Workers(keys, limits={group: {"rpm": 1} for group in keys.values()}, max_wait=0)
    world.busy(10, every=1)
    assert world.provider.served.total() == 20
    assert set(world.provider.hits) == set(keys)


def test_the_last_of_twenty_keys_is_found_though_all_others_are_dead() -> None:
    keys = {f"sk-{number}": f"group-{number}" for number in range(20)}
    world = Workers(keys, credits={group: 0 for group in keys.values() if group != "group-7"})
    world.busy(55, every=5)
    assert world.provider.hits["sk-7"] > 30
    assert [task.result.outcome.cause for task in world.tasks[-20:]] == ["ok"] * 20


def tried_of(world: Workers, *keys: str) -> list[float]:
    return sorted(when for key in keys for when in world.hits_of(key))
