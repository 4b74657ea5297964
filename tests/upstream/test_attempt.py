"""The flow of one request: what it does with each answer, in stories on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard.upstream.causes import UpstreamCause
from keyguard.upstream.keys import Key
from tests.support.virtual_upstream import (
    DEAD,
    DRY,
    NOT_THIS,
    OK,
    POOR,
    World,
)

TWO = [Key("a", "sk-a"), Key("b", "sk-b", rank=1)]


def by_key(**said: Any) -> Any:
    """A script that says the same of a key each time, OK of those that are not named."""
    return lambda key, number: said.get(key, OK)


def hit(world: World) -> list[str]:
    return [key for _, key in world.hits]


def test_a_request_is_sent_with_the_first_key() -> None:
    world = World(TWO)
    result = world.ask()
    assert result.answer is not None
    assert result.answer.native == "answer 1 by a"
    assert result.outcome[:5] == ("a", "a", 1, 0.0, UpstreamCause.OK)
    assert (result.fields, result.synthetic) == ((), None)


@pytest.mark.parametrize("said", [DRY, DEAD, POOR, NOT_THIS])
def test_a_key_that_does_not_work_is_left_for_another(said: Any) -> None:
    world = World(TWO, by_key(a=said))
    result = world.ask()
    assert hit(world) == ["a", "b"]
    assert result.outcome[:5] == ("b", "b", 2, 0.0, UpstreamCause.OK)
    assert len(world.ops) == 2, "a rotation is one trip"


def test_the_next_request_does_not_try_it() -> None:
    world = World(TWO, by_key(a=DRY))
    world.ask()
    world.ask()
    assert hit(world) == ["a", "b", "b"]
