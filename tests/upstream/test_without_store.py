"""A store that is down, slow, and back: each process goes on with its share, and what it learnt is shared later."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.learnt import Dimension, Report, Seen, dimension_of
from keyguard.ops.upstream import Acquire, Learn
from keyguard.ops.values import ReadWithTime
from keyguard.upstream.answers import Asked
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.keys import Key
from keyguard.upstream.parts import no_grant
from keyguard.upstream.snapshot import names_of, snapshot_of
from tests.support.virtual_upstream import DEAD, DRY, OK, POOR, World, keys

NO_WAIT = Asked(max_wait=0)
TWO = [Key("a", "sk-a"), Key("b", "sk-b", rank=1)]


def answered(world: World, times: int) -> int:
    return sum(world.ask(NO_WAIT).outcome.cause == UpstreamCause.OK for _ in range(times))


@pytest.mark.parametrize(("workers", "share"), [(1, 12), (4, 3), (100, 1)])
def test_a_process_has_its_share_of_a_limit(workers: int, share: int) -> None:
    world = World(keys("a"), limits={"a": {"rpm": 12}}, workers=workers)
    world.store.down = True
    assert answered(world, 20) == share
    world.clock.advance("1 minute")
    assert answered(world, 20) == share


@pytest.mark.parametrize("error", [StoreError("down"), OSError("reset")])
def test_however_the_store_fails(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(keys("a"), limits={"a": {"rpm": 12}}, workers=4)

    def failing(ops: Any) -> Any:
        raise error

    monkeypatch.setattr(world.store, "execute", failing)
    assert answered(world, 5) == 3


def test_limits_that_answers_told_are_shared_out_as_well() -> None:
    world = World(keys("a"), workers=4)
    world.seen = (Seen(dimension_of("rpm"), 20),)
    world.ask(NO_WAIT)
    world.store.down = True
    assert answered(world, 30) == 5, "those that are told meanwhile too"


def test_a_provider_that_tells_of_ever_new_limits_fills_no_memory() -> None:
    world = World(keys("a"))
    for seconds in range(1, 101):
        world.seen = (Seen(Dimension("requests", seconds * SECOND), 1000 + seconds),)
        world.ask(NO_WAIT)
        world.clock.advance("1 second")
    pool = world.pool
    known = pool.without_store.limits(pool.candidate("*", pool.groups[0], pool.groups[0].keys))
    assert len(known) == 8, "as many as its state in the store counts"
    world.seen = (Seen(Dimension("requests", SECOND), 7),)
    world.ask(NO_WAIT)
    known = pool.without_store.limits(pool.candidate("*", pool.groups[0], pool.groups[0].keys))
    assert known[Dimension("requests", SECOND)] == 7, "what is known still changes"


def test_it_waits_for_its_share() -> None:
    world = World(keys("a"), limits={"a": {"rpm": 12}}, workers=4)
    world.store.down = True
    tasks = [world.begin(Asked(max_wait=120)) for _ in range(6)]
    world.run()
    assert [task.result.outcome.cause for task in tasks] == [UpstreamCause.OK] * 6
    assert world.now > 40


@pytest.mark.parametrize("said", [DRY, DEAD, POOR])
def test_what_was_learnt_meanwhile_is_shared_when_the_store_is_back(said: Any) -> None:
    world = World(TWO, lambda key, number: said if key == "a" else OK)
    world.store.down = True
    world.ask(NO_WAIT)
    world.ask(NO_WAIT)
    assert [key for _, key in world.hits] == ["a", "b", "b"], "this process knows"
    world.store.down = False
    world.flush()
    assert other_process(world).ask(NO_WAIT).outcome.key == "b", "and so does another"


@pytest.mark.parametrize("said", [DRY, DEAD, POOR])
def test_an_outage_begins_with_what_this_process_knows(said: Any) -> None:
    world = World(TWO, lambda key, number: said if key == "a" else OK)
    world.ask(NO_WAIT)
    world.store.down = True
    world.ask(NO_WAIT)
    assert [key for _, key in world.hits] == ["a", "b", "b"]


def test_a_key_that_works_again_does_so_without_the_store_too() -> None:
    world = World(TWO, lambda key, number: DEAD if key == "a" and number == 1 else OK)
    world.ask(NO_WAIT)
    world.clock.advance("61 minutes")
    assert world.ask(NO_WAIT).outcome.key == "a", "the hourly probe"
    world.store.down = True
    assert world.ask(NO_WAIT).outcome.key == "a"


def other_process(world: World) -> World:
    other = World(TWO)
    other.store, other.place, other.clock = world.store, world.place, world.clock
    return other


def test_what_others_have_found_to_work_is_not_dead_in_an_outage() -> None:
    world = World(TWO, lambda key, number: DEAD if key == "a" and number <= 2 else OK)
    for _ in range(2):
        world.ask(NO_WAIT)
        world.clock.advance("61 minutes")
    world.flush()
    (group, *_) = world.pool.groups
    candidate = world.pool.candidate("*", group, group.keys)
    world.place.execute(Learn([Report(candidate, no_grant(candidate.keys[0]), cause="enable")]))
    assert world.ask(NO_WAIT).outcome.key == "a"
    world.store.down = True
    assert world.ask(NO_WAIT).outcome.key == "a"


def test_a_key_that_was_found_to_work_in_an_outage_is_known_to_work_afterwards() -> None:
    world = World(TWO, lambda key, number: DEAD if key == "a" and number == 1 else OK)
    world.ask(NO_WAIT)
    world.flush()
    world.store.down = True
    world.clock.advance("61 minutes")
    assert world.ask(NO_WAIT).outcome.key == "a"
    world.store.down = False
    world.flush()
    now, values = world.place.execute(ReadWithTime(*names_of(world.pool)))
    shot = snapshot_of(world.pool, now, values)
    assert {key.state for group in shot.groups for key in group.keys} == {"ok"}


def test_a_wait_is_shortened_by_the_time_that_has_passed() -> None:
    world = World(TWO, lambda key, number: DRY if key == "a" and number == 1 else OK)
    world.store.down = True
    world.ask(NO_WAIT)
    world.clock.advance("15 seconds")
    world.store.down = False
    world.flush()
    world.clock.advance("10 seconds")
    assert world.ask(NO_WAIT).outcome.key == "a"


def test_reports_that_could_not_be_sent_are_kept_and_sent_once() -> None:
    world = World(keys("a"))
    world.ask(NO_WAIT)
    assert len(world.outbox) == 1
    world.store.down = True
    world.ask(NO_WAIT)
    assert len(world.outbox) == 1
    world.store.down = False
    world.ask(NO_WAIT)
    acquired = [op for op in world.ops if isinstance(op, Acquire)]
    assert [len(op.reports) for op in acquired] == [0, 1, 1]


def test_they_are_bounded_and_blocks_are_kept() -> None:
    world = World(keys("a"))
    candidate = world.pool.candidate("*", world.pool.groups[0], world.pool.groups[0].keys)
    block = Verdict(UpstreamCause.INVALID, Scope.KEY)
    world.outbox.add(Report(candidate, no_grant("k"), cause=str(block.cause), scope=str(block.scope)))
    for _ in range(2000):
        world.outbox.add(Report(candidate, no_grant("k")))
    assert len(world.outbox) == 512
    assert world.outbox.take()[0].report.cause == "invalid"


def test_what_fields_told_long_ago_is_left_out() -> None:
    world = World(keys("a"))
    candidate = world.pool.candidate("*", world.pool.groups[0], world.pool.groups[0].keys)
    world.outbox.add(Report(candidate, no_grant("k"), wait=100, seen=[Seen(dimension_of("rpm"), 20, 20, None)]))
    world.clock.advance("2 minutes")
    (report,) = world.outbox.reports(world.outbox.take())
    assert (report.seen, report.wait) == ((), 1)
