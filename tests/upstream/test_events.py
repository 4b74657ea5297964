"""What a pool tells of: each thing once, until it has changed."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from keyguard.upstream.answers import Asked
from keyguard.upstream.causes import Scope, UpstreamCause
from keyguard.upstream.events import Telling, UpstreamEvent
from keyguard.upstream.keys import Key
from tests.support.virtual_upstream import DEAD, DRY, OK, POOR, World, keys

TWO = [Key("a", "sk-a", group="g"), Key("b", "sk-b", rank=1)]
NO_WAIT = Asked(max_wait=0)


def told(world: World) -> list[tuple[Any, ...]]:
    return [(event.kind, event.key, event.group, event.cause) for event in world.events]


def test_a_key_runs_dry_and_recovers() -> None:
    world = World(TWO, lambda key, number: DRY if key == "a" and number <= 2 else OK)
    for _ in range(3):
        world.ask(NO_WAIT)
    assert told(world) == [("key.exhausted", "a", "g", "exhausted")]
    assert world.events[0].until is not None
    assert world.events[0].pool == "test"
    world.clock.advance("25 seconds")
    world.ask(NO_WAIT)  # refused again: nothing new
    world.clock.advance("25 seconds")
    world.ask(NO_WAIT)
    assert told(world) == [("key.exhausted", "a", "g", "exhausted"), ("key.recovered", "a", "g", "ok")]


@pytest.mark.parametrize(("said", "kind"), [(DEAD, "key.invalid"), (POOR, "group.billing")])
def test_what_only_people_can_help_with_is_told_once(said: Any, kind: str) -> None:
    world = World(TWO, lambda key, number: said if key == "a" else OK)
    for _ in range(4):
        world.ask(NO_WAIT)
        world.clock.advance("50 minutes")
    assert [event[:3] for event in told(world)] == [(kind, "a", "g")]
    assert [key for _, key in world.hits].count("a") > 1, "it was found out more than once"


def test_a_pool_is_exhausted_and_then_works() -> None:
    world = World(keys("a"), lambda key, number: DRY if number in (1, 3) else OK)
    kinds = []
    for _ in range(2):
        for _ in range(3):
            world.ask(NO_WAIT)
        kinds += [event.kind for event in world.events]
        world.events.clear()
        world.clock.advance("25 seconds")
        world.ask(NO_WAIT)
        kinds += [event.kind for event in world.events]
        world.events.clear()
        world.clock.advance("10 minutes")
    assert kinds == ["key.exhausted", "pool.exhausted", "key.recovered"] * 2


def test_a_group_that_has_no_room_for_long_is_told_of_though_no_answer_says_so() -> None:
    world = World(keys("a"), limits={"a": {"rpd": 2}})
    for _ in range(4):
        world.ask(NO_WAIT)
    kinds = [event.kind for event in world.events]
    assert kinds.count("key.exhausted") == 1
    assert world.events[0].until is not None


def test_answers_that_are_not_known_are_told_of_once_a_kind() -> None:
    world = World(keys("a"), lambda key, number: (UpstreamCause.REQUEST, Scope.REQUEST, None))
    world.known = False
    world.ask()
    world.ask()
    assert [(event.kind, event.detail) for event in world.events] == [
        ("classify.unknown", "400 strange, taken for request")
    ]


def test_the_kinds_of_unknown_answers_are_bounded() -> None:
    events: list[UpstreamEvent] = []
    telling = Telling("test", events.append)
    for number in range(1000):
        telling.unknown(f"kind {number}", "a", "g")
    assert len(events) == 100


def test_a_store_that_fails_is_told_of_once_an_outage() -> None:
    world = World(keys("a"))
    for _ in range(2):
        world.store.down = True
        world.ask()
        world.ask()
        world.store.down = False
        world.ask()
    assert [event.kind for event in world.events] == ["store.failed"] * 2


def test_a_function_that_fails_breaks_no_request(caplog: pytest.LogCaptureFixture) -> None:
    world = World(TWO, lambda key, number: DRY if key == "a" else OK)

    def broken(event: UpstreamEvent) -> None:
        raise RuntimeError(event.kind + " in the words of an exception")

    world.pool.telling = Telling("test", broken)
    assert world.ask().outcome.key == "b"
    assert "on_event raised RuntimeError" in caplog.text
    assert "in the words" not in caplog.text.replace('" in the words', "")


def test_each_event_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "keyguard.upstream")
    Telling("p", None).begins("key.exhausted", "x", key="a", group="g", cause=UpstreamCause.QUOTA, detail="two words")
    assert [record.getMessage() for record in caplog.records] == [
        "key.exhausted pool=p key=a group=g cause=quota detail='two words'"
    ]
