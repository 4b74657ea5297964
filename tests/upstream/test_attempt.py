"""The flow of one request: what it does with each answer, in stories on a virtual clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from keyguard.clock import SECOND
from keyguard.upstream.answers import Asked
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.keys import Key
from keyguard.upstream.told import find
from tests.support.virtual_upstream import (
    BAD,
    BROKEN,
    BUSY,
    DEAD,
    DRY,
    LOST,
    NOT_THIS,
    OK,
    POOR,
    TOO_LARGE,
    UNREACHABLE,
    World,
    keys,
)

TWO = [Key("a", "sk-a"), Key("b", "sk-b", rank=1)]
NO_WAIT = Asked(max_wait=0)


def by_key(**said: Any) -> Any:
    """A script that says the same of a key each time, OK of those that are not named."""
    return lambda key, number: said.get(key, OK)


def at_first(*said: Any) -> Any:
    """A script that says this of each key's first hits, and OK afterwards."""
    return lambda key, number: said[number - 1] if number <= len(said) else OK


def hit(world: World) -> list[str]:
    return [key for _, key in world.hits]


def exhaustion_of(fields: Any) -> Any:
    return find(dict(fields)["x-keyguard-exhaustion"])


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


@pytest.mark.parametrize("said", [DRY, DEAD, POOR, NOT_THIS])
def test_the_next_request_does_not_try_it(said: Any) -> None:
    world = World(TWO, by_key(a=said))
    world.ask(Asked(model="m"))
    world.ask(Asked(model="m"))
    assert hit(world) == ["a", "b", "b"]


def test_refusals_that_nobody_will_see_are_closed() -> None:
    world = World([Key("a", "sk-a"), Key("b", "sk-b", rank=1), Key("c", "sk-c", rank=2)], by_key(a=DRY, b=DEAD))
    waiting: list[Any] = []
    answer = world.answer_of

    def noted(key: Key) -> Any:
        waiting.append([*world.closed])
        return answer(key)

    world.answer_of = noted
    world.ask()
    assert waiting == [[], [], ["answer 1 by a"]], "one at most is kept while it goes on"
    assert world.closed == ["answer 1 by a", "answer 2 by b"]


def test_a_group_without_money_has_none_for_its_other_keys() -> None:
    world = World(
        [Key("a", "sk-a", group="g"), Key("b", "sk-b", group="g"), Key("c", "sk-c", rank=1)], by_key(a=POOR, b=POOR)
    )
    world.ask()
    assert len(hit(world)) == 2
    assert hit(world)[-1] == "c"


def test_a_dead_key_leaves_those_of_its_group_alive() -> None:
    world = World(
        [Key("a", "sk-a", group="g"), Key("b", "sk-b", group="g", rank=1), Key("c", "sk-c", rank=2)], by_key(a=DEAD)
    )
    world.ask()
    assert hit(world) == ["a", "b"]


def test_a_dead_key_is_dead_for_all_models() -> None:
    world = World(TWO, by_key(a=DEAD), models=["m*"])
    world.ask(Asked(model="m1"))
    world.ask(Asked(model="other"))
    assert hit(world) == ["a", "b", "b"]


def test_a_key_that_may_not_use_a_model_is_used_for_others_and_tried_again_after_ten_minutes() -> None:
    world = World(TWO, at_first(NOT_THIS))
    world.script = lambda key, number: NOT_THIS if key == "a" and number == 1 else OK
    world.ask(Asked(model="m"))
    world.ask(Asked(model="n"))
    assert hit(world) == ["a", "b", "a"]
    world.clock.advance("10 minutes")
    world.ask(Asked(model="m"))
    assert hit(world) == ["a", "b", "a", "a"]


def test_the_second_key_that_may_not_use_a_model_is_the_last() -> None:
    world = World(keys("a", "b", "c"), by_key(a=NOT_THIS, b=NOT_THIS, c=NOT_THIS))
    result = world.ask(Asked(model="m"))
    assert len(world.hits) == 2
    assert result.answer is not None
    assert result.answer.status == 404


def test_a_model_that_no_key_may_use_gets_the_providers_own_answer_each_time() -> None:
    world = World(TWO, by_key(a=NOT_THIS, b=NOT_THIS))
    for _ in range(3):
        result = world.ask(Asked(model="nonsense"))
        assert result.answer is not None
        assert (result.answer.status, result.fields) == (404, ())
    assert [event.kind for event in world.events] == []


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_it_waits_for_the_only_key_as_long_as_the_answer_says() -> None:
    world = World(keys("a"), at_first((UpstreamCause.EXHAUSTED, Scope.MODEL, 7)))
    result = world.ask()
    assert [key for _, key in world.hits] == ["a", "a"]
    assert world.hits[1][0] >= 7
    assert result.outcome.cause == UpstreamCause.OK
    assert 7 <= result.outcome.waited < 9
    assert world.pool.waiting == 0


def test_it_gives_up_at_once_if_there_is_no_time_and_the_answer_says_when() -> None:
    world = World(keys("a"), by_key(a=DRY))
    result = world.ask(Asked(max_wait=5))
    assert world.hits == [(0, "a")]
    assert world.now == 0
    assert result.answer is not None
    assert result.answer.native == "answer 1 by a"
    fields = dict(result.fields)
    assert fields["x-should-retry"] == "false"
    assert 20 <= int(fields["retry-after"]) <= 23
    assert result.outcome.cause == UpstreamCause.EXHAUSTED
    assert result.outcome.until is not None
    assert timedelta(seconds=20) <= result.outcome.until - world.clock.now <= timedelta(seconds=23)
    told = exhaustion_of(result.fields)
    assert (told.pool, told.cause, told.attempts) == ("test", UpstreamCause.EXHAUSTED, 1)
    assert told.recovers_at == result.outcome.until


def test_a_request_that_nothing_was_sent_for_gets_an_answer_of_the_pools_own() -> None:
    world = World(keys("a"), by_key(a=DRY))
    world.ask(NO_WAIT)
    result = world.ask(NO_WAIT)
    assert world.hits == [(0, "a")]
    assert result.answer is None
    assert result.synthetic is not None
    fields = dict(result.synthetic.fields)
    assert result.synthetic.status == 429
    assert fields["x-should-retry"] == "false"
    assert 20 <= int(fields["retry-after"]) <= 23
    assert fields["content-length"] == str(len(result.synthetic.body))
    assert exhaustion_of(fields).cause == UpstreamCause.EXHAUSTED
    assert b'"code": "exhausted"' in result.synthetic.body
    assert (result.outcome.key, result.outcome.attempts) == (None, 0)


@pytest.mark.parametrize(("said", "status"), [(POOR, 402), (DEAD, 401)])
def test_nobody_waits_where_only_people_can_help(said: Any, status: int) -> None:
    world = World(TWO, by_key(a=said, b=said))
    result = world.ask()
    assert hit(world) == ["a", "b"]
    assert result.answer is not None
    assert result.answer.status == status
    assert "retry-after" not in dict(result.fields)
    assert exhaustion_of(result.fields).recovers_at is None
    again = world.ask()
    assert again.synthetic is not None
    assert again.outcome.cause == said[0]
    assert "retry-after" not in dict(again.synthetic.fields)
    assert world.now == 0


def test_nobody_is_told_to_wait_for_money_though_it_is_known_when_it_comes() -> None:
    world = World(keys("a"), by_key(a=(UpstreamCause.BILLING, Scope.GROUP, 3600)))
    result = world.ask(Asked(max_wait=100))
    assert "retry-after" not in dict(result.fields)
    assert result.outcome.until is not None


def test_nobody_waits_for_the_next_probe_of_what_is_not_paid_for() -> None:
    world = World(keys("a"), by_key(a=POOR))
    world.ask(Asked(max_wait=3600))
    world.ask(Asked(max_wait=3600))
    assert (world.now, hit(world)) == (0, ["a"])


def test_the_answer_of_a_dead_key_is_not_that_of_a_pool_that_is_used_up() -> None:
    world = World(TWO, by_key(a=DRY, b=DEAD))
    result = world.ask(NO_WAIT)
    assert hit(world) == ["a", "b"]
    assert result.outcome.cause == UpstreamCause.EXHAUSTED
    assert result.synthetic is not None
    assert "answer 2 by b" in world.closed


def test_who_cannot_wait_is_not_booked_ahead() -> None:
    world = World(keys("a"), limits=rate(60))
    results = [world.ask(NO_WAIT) for _ in range(100)]
    assert {result.outcome.cause for result in results} == {UpstreamCause.OK, UpstreamCause.EXHAUSTED}
    assert world.now == 0


def test_milliseconds_that_the_provider_told_are_those_of_the_pool_too() -> None:
    world = World(keys("a"), by_key(a=DRY))
    world.fields = {"retry-after-ms": "90"}
    fields = dict(world.ask(NO_WAIT).fields)
    assert int(fields["retry-after-ms"]) == int(fields["retry-after"]) * 1000


def test_it_is_sent_so_often_and_no_more() -> None:
    soon = (UpstreamCause.EXHAUSTED, Scope.MODEL, 1)
    world = World(keys("a"), by_key(a=soon), max_attempts=3)
    result = world.ask(Asked(max_wait=3600))
    assert len(world.hits) == 3
    assert result.answer is not None
    assert result.outcome.attempts == 3


# -- what may have run, and what is nobody's fault ---------------------------------------------------------------------


@pytest.mark.parametrize("said", [BAD, BROKEN])
def test_answers_that_are_returned_untouched(said: Any) -> None:
    world = World(TWO, by_key(a=said))
    result = world.ask()
    assert hit(world) == ["a"]
    assert result.answer is not None
    assert (result.answer.native, result.fields) == ("answer 1 by a", ())
    assert result.outcome.cause == said[0]
    assert [event.kind for event in world.events] == []


def test_a_5xx_is_sent_once_more_if_that_was_asked_for() -> None:
    world = World(TWO, by_key(a=BROKEN, b=BROKEN), replay=True)
    result = world.ask()
    assert hit(world) == ["a", "b"]
    assert result.answer is not None
    assert result.answer.status == 500


def test_a_connection_that_fails_before_is_tried_again() -> None:
    world = World(keys("a"), at_first(UNREACHABLE, UNREACHABLE))
    result = world.ask()
    assert hit(world) == ["a", "a", "a"]
    assert result.outcome[2:5] == (3, pytest.approx(world.now), UpstreamCause.OK)


def test_not_for_ever() -> None:
    world = World(TWO, by_key(a=UNREACHABLE, b=UNREACHABLE))
    result = world.ask()
    assert len(world.hits) == 3
    assert result.answer is not None
    assert result.answer.error is not None
    assert result.outcome.cause == UpstreamCause.UNREACHABLE


def test_it_does_not_pause_if_there_is_no_time() -> None:
    world = World(TWO, by_key(a=UNREACHABLE, b=UNREACHABLE))
    assert world.ask(NO_WAIT).outcome.cause == UpstreamCause.UNREACHABLE
    assert (len(world.hits), world.now) == (1, 0)


@pytest.mark.parametrize("replay", [False, True])
def test_one_that_fails_afterwards_is_not_sent_again(replay: bool) -> None:
    world = World(TWO, by_key(a=LOST), replay=replay)
    result = world.ask()
    assert hit(world) == ["a"]
    assert result.answer is not None
    assert result.answer.error is not None
    assert str(result.answer.error.exception) == LOST


def test_a_body_that_is_made_while_it_is_sent_is_not_sent_again() -> None:
    world = World(TWO, by_key(a=DRY))
    result = world.ask(Asked(replayable=False))
    assert hit(world) == ["a"]
    assert result.answer is not None
    assert [name for name, _ in result.fields] == ["x-keyguard-exhaustion"]
    assert world.ask(Asked(replayable=False)).outcome.key == "b"


def test_an_overloaded_provider_is_tried_three_times_with_two_keys_at_most_and_none_is_blamed() -> None:
    world = World(keys("a", "b", "c"), by_key(a=BUSY, b=BUSY, c=BUSY))
    result = world.ask()
    assert len(world.hits) == 3
    assert len(set(hit(world))) == 2
    assert 0 < world.now < 2
    assert result.answer is not None
    assert result.answer.status == 529
    assert dict(result.fields)["x-should-retry"] == "false"
    world.script = by_key()
    asked = [Asked(affinity=f"user {number}", max_wait=0) for number in range(40)]
    assert {world.ask(each).outcome.key for each in asked} == {"a", "b", "c"}
    assert [event.kind for event in world.events] == []


def test_an_error_that_came_as_the_first_event_is_a_refusal() -> None:
    world = World(TWO)
    first = iter([("error", b"{}"), None, None])
    answer = world.answer_of
    world.answer_of = lambda key: answer(key)._replace(event=next(first))
    result = world.ask()
    assert len(world.hits) == 2
    assert result.outcome.cause == UpstreamCause.OK


def test_a_request_that_is_too_large_is_tried_where_a_larger_limit_is_known() -> None:
    limits = {"a": {"tpm": 1000}, "b": {"tpm": 500}, "c": {"tpm": 9000}}
    world = World([*TWO, Key("c", "sk-c", rank=2)], by_key(a=TOO_LARGE), limits=limits)
    assert world.ask().outcome.key == "c"
    assert hit(world) == ["a", "c"]


def test_else_the_caller_is_told_and_not_to_try_again() -> None:
    world = World(TWO, by_key(a=TOO_LARGE), limits={"a": {"tpm": 1000}, "b": {"tpm": 500}})
    result = world.ask()
    assert hit(world) == ["a"]
    assert result.fields == (("x-should-retry", "false"),)


# -- in line -----------------------------------------------------------------------------------------------------------


def rate(per_minute: int) -> dict[str, dict[str, int]]:
    return {"a": {"rpm": per_minute}}


def test_first_come_first_served() -> None:
    world = World(keys("a"), limits=rate(6))
    tasks = [world.begin(Asked(max_wait=300), at=number / 10) for number in range(20)]
    world.run()
    ends = [task.ended or 0 for task in tasks]
    assert ends == sorted(ends)
    assert len(world.hits) == 20
    assert len(world.ops) < 2.5 * 20, "only the first in line asks"


def test_a_pool_under_twice_its_load_asks_little() -> None:
    world = World(keys("a", "b"), limits={"a": {"rpm": 60}, "b": {"rpm": 60}}, latency=0.3)
    tasks = [world.begin(Asked(max_wait=10), at=number / 4) for number in range(240)]
    world.run()
    sent = [task for task in tasks if task.result.outcome.cause == UpstreamCause.OK]
    assert len(sent) == len(world.hits)
    assert len(sent) >= 0.95 * (2 * 60 + 2 * world.now)
    assert len(world.ops) <= 2.5 * len(sent)


def test_what_comes_beyond_the_bound_is_told_at_once_how_long_it_would_have_to_wait() -> None:
    world = World(keys("a"), by_key(a=DRY), max_waiting=2)
    world.ask(NO_WAIT)
    waiting = [world.begin(Asked(max_wait=60)) for _ in range(2)]
    world.run(until=1)
    assert world.pool.waiting == 2
    more = world.begin(Asked(max_wait=60))
    world.run(until=2)
    assert more.ended is not None
    assert more.result.synthetic is not None
    assert 15 <= int(dict(more.result.synthetic.fields)["retry-after"]) <= 23
    world.script = by_key()
    world.run()
    assert [task.result.outcome.cause for task in waiting] == [UpstreamCause.OK] * 2


def test_room_that_was_booked_ahead_is_given_back_if_others_are_refused_meanwhile() -> None:
    """A hidden limit: what was booked before its first refusal is not sent into it one by one."""
    world = World(keys("a"), limits=rate(300))
    world.ask()
    world.script = lambda key, number: (UpstreamCause.EXHAUSTED, Scope.MODEL, 5) if world.now < 5 else OK
    world.latency = 0.05
    tasks = [world.begin(Asked(max_wait=600)) for _ in range(310)]
    world.run(until=0)
    sent = len(world.hits)
    assert sent > 200
    world.run(until=4)
    assert len(world.hits) == sent
    world.run()
    assert {task.result.outcome.cause for task in tasks} == {UpstreamCause.OK}


def test_a_line_of_no_places_has_nobody_wait() -> None:
    world = World(keys("a"), by_key(a=DRY), max_waiting=0)
    assert world.ask(Asked(max_wait=60)).outcome.cause == UpstreamCause.EXHAUSTED
    assert world.ask(Asked(max_wait=60)).synthetic is not None
    assert world.now == 0


def test_nobody_waits_for_room_that_there_never_is() -> None:
    world = World(TWO, limits={"a": {"tpm": 100}, "b": {"tpm": 200}})
    result = world.ask(Asked(cost={"tokens": 1000}))
    assert (world.hits, world.now) == ([], 0)
    assert result.outcome.cause == UpstreamCause.TOO_LARGE
    assert result.synthetic is not None
    assert dict(result.synthetic.fields)["x-should-retry"] == "false"
    assert world.ask(Asked(cost={"tokens": 150})).outcome.key == "b"


def test_nobody_stands_in_line_who_has_no_time_for_it() -> None:
    world = World(keys("a"), by_key(a=DRY))
    world.ask(NO_WAIT)
    world.begin(Asked(max_wait=60))
    world.run(until=1)
    asked = len(world.ops)
    hasty = world.begin(Asked(max_wait=2))
    world.run(until=1)
    assert hasty.ended == 1
    assert len(world.ops) == asked, "the first in line knows"


def test_each_gives_up_at_its_own_deadline() -> None:
    world = World(keys("a"), by_key(a=DRY))
    world.ask(NO_WAIT)
    world.begin(Asked(max_wait=60))
    second = world.begin(Asked(max_wait=30))
    third = world.begin(Asked(max_wait=25))
    world.script = lambda key, number: (UpstreamCause.EXHAUSTED, Scope.MODEL, 3600) if number > 1 else DRY
    world.run()
    assert third.ended is not None
    assert third.ended <= 25
    assert second.ended is not None
    assert second.ended <= 30
    assert world.pool.waiting == 0
    for task in (second, third):
        told = dict(task.result.fields or task.result.synthetic.fields)
        assert int(told["retry-after"]) >= 1, "where waiting helps, it is said"


# -- whatever ends it --------------------------------------------------------------------------------------------------


def story_of_all_awaits(world: World) -> Any:
    """One request that waits in line, is rotated, backs off and is answered."""
    said = iter([DRY, BUSY, OK])
    world.script = lambda key, number: next(said, OK)
    return world.begin(Asked(max_wait=100))


@pytest.mark.parametrize("step", range(1, 9))
def test_cancelled_at_any_await_it_leaves_nothing_behind(step: int) -> None:
    world = World(keys("a", "b"), limits={"a": {"rpm": 60}, "b": {"rpm": 60}}, latency=0.5)
    task = story_of_all_awaits(world)
    world.run(stop=lambda: task.steps >= step)
    assert task.ended is None, "the story has that many steps"
    world.cancel(task)
    assert world.pool.waiting == 0
    assert all(not len(queue) for queue in world.pool.queues.values())
    world.flush()
    assert len(world.outbox) == 0
    world.clock.advance("1 hour")
    world.script = by_key()
    after = [world.begin(Asked(max_wait=1)) for _ in range(40)]
    world.run()
    assert [one.result.outcome.cause for one in after] == [UpstreamCause.OK] * 40, "no unit is lost for good"


def test_the_story_has_as_many_awaits_as_are_tested() -> None:
    world = World(keys("a", "b"), limits={"a": {"rpm": 60}, "b": {"rpm": 60}}, latency=0.5)
    task = story_of_all_awaits(world)
    world.run()
    assert task.result.outcome.cause == UpstreamCause.OK
    assert task.steps >= 9


@pytest.mark.parametrize("which", [0, 1, 2])
def test_cancelled_in_line_it_makes_room_for_the_next(which: int) -> None:
    world = World(keys("a"), by_key(a=DRY))
    world.ask(NO_WAIT)
    world.script = by_key()
    tasks = [world.begin(Asked(max_wait=60)) for _ in range(3)]
    world.run(until=5)
    assert world.pool.waiting == 3
    world.cancel(tasks[which])
    world.run()
    others = [task for task in tasks if task is not tasks[which]]
    assert [task.result.outcome.cause for task in others] == [UpstreamCause.OK] * 2
    assert world.pool.waiting == 0


def test_cancelled_before_it_may_be_sent_it_gives_back_what_it_booked() -> None:
    world = World(keys("a"), limits=rate(60))
    world.ask()
    world.script = by_key()
    while world.ask(NO_WAIT).outcome.cause == UpstreamCause.OK:
        pass
    world.flush()
    sent = len(world.hits)
    booked = world.begin(Asked(max_wait=60))
    world.run(stop=lambda: booked.steps >= 2)
    world.cancel(booked)
    assert len(world.hits) == sent
    assert [each.report.cause for each in world.outbox.take()] == ["unsent"]


def test_the_end_of_a_body_tells_once_what_was_spent_and_what_went_wrong() -> None:
    world = World(keys("a"))
    result = world.ask()
    assert result.settle is not None
    result.settle({"tokens": 7}, Verdict(UpstreamCause.EXHAUSTED, Scope.MODEL, SECOND * 20))
    result.settle({"tokens": 7}, None)
    told = [(each.report.cause, each.report.spent) for each in world.outbox.take()]
    assert told == [("ok", None), ("settled", {"tokens": 7}), ("exhausted", None)]


def test_a_unit_that_was_not_sent_comes_back() -> None:
    world = World(keys("a"), limits=rate(1))
    task = world.begin()
    world.run(stop=lambda: bool(world.hits))
    world.cancel(task)
    world.ask(NO_WAIT)
    assert len(world.hits) == 1, "what was sent is spent"
    other = World(keys("a"), by_key(a=UNREACHABLE), limits=rate(1))
    other.ask(NO_WAIT)
    other.script = by_key()
    assert other.ask(NO_WAIT).outcome.cause == UpstreamCause.OK, "what was not is not"


def test_a_worker_that_is_killed_with_a_grant_costs_its_unit_alone() -> None:
    world = World(keys("a"), limits=rate(6))
    for number in range(3):
        killed = world.begin()
        world.run(stop=lambda: len(world.hits) > number)  # noqa: B023 - it is called at once
        world.forget(killed)
    world.clock.advance("1 minute")
    assert [world.ask(NO_WAIT).outcome.cause for _ in range(6)] == [UpstreamCause.OK] * 6


def test_a_fault_of_the_transport_leaves_nothing_behind() -> None:
    world = World(keys("a"))

    def broken(key: Key) -> Any:
        raise RuntimeError("a bug")

    world.answer_of = broken
    task = world.begin()
    world.run()
    assert str(task.failure) == "a bug"
    assert world.pool.waiting == 0
    assert [each.report.cause for each in world.outbox.take()] == ["system"]
