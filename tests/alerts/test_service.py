"""What is wrong with the service itself: a store that is out of order, and overload. They are told at night, too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from limits.storage import MemoryStorage

from keyguard import AlertBook, AlertMessage, Alerts, Cause, Decision, Keyguard, RateLimit, StoreError, quota
from keyguard.alerts.receivers import Gone
from keyguard.ops import DecideAlerts, Op, Take
from keyguard.stores.limits import LimitsStore
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.alerts.stories import Story
from tests.support.harness import Ask, ask_wsgi, wsgi_app


def quota_of(rate: str) -> RateLimit:
    return RateLimit(quota(rate), by="subject")


class Failing(MemoryStore):
    """A store that answers or does not."""

    failing: type[StoreError] | None = None
    of: type[Op[Any]] = Op

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        if self.failing is not None and any(isinstance(op, self.of) for op in ops):
            raise self.failing("it is away at redis://user:***@example.com")
        return super().execute(ops)


def failing_story(**settings: Any) -> tuple[Story, Failing]:
    clock = ManualClock()
    store = Failing(clock=clock)
    story = Story(quota_of("1000/day"), store=store, clock=clock, quiet="00:00-23:59 UTC", **settings)
    story.calls("acme")
    return story, store


def kinds(story: Story) -> list[str]:
    return [message.type for message in story.told]


def test_a_store_that_is_out_of_order_is_told_though_it_is_night_and_when_it_answers_again() -> None:
    story, store = failing_story()
    store.failing = StoreError
    story.calls("acme")
    assert kinds(story) == []  # it may be that it is started anew
    for _ in range(5):
        story.calls("acme")
    assert kinds(story) == ["keyguard.store.degraded"]
    (message,) = story.told
    assert message.title == "The store of shop is out of order"
    assert "it is away" in message.text
    (alert,) = story.guard.alerts.list()  # what this process knows alone
    assert alert.open
    for _ in range(60):
        story.calls("acme")
    assert kinds(story) == ["keyguard.store.degraded"]
    store.failing = None
    for _ in range(4):
        story.calls("acme")
    assert kinds(story) == ["keyguard.store.degraded", "keyguard.store.degraded.resolved"]
    (written,) = AlertBook(store).list()  # and what all know afterwards
    assert (written.type, written.open) == ("keyguard.store.degraded", False)
    assert written.until is not None
    assert written.until - written.since > timedelta(seconds=50)  # as long as the outage, though written at its end
    assert [record.action for record in story.guard.audit.list(action="alerts")] == ["alerts.fire", "alerts.resolve"]
    assert story.guard.alerts.counts["keyguard.store.degraded"] == 1


def test_a_store_that_is_started_anew_wakes_nobody() -> None:
    story, store = failing_story()
    store.failing = StoreError
    ask_wsgi(story.app, Ask(headers=(("X-API-Key", story.key("acme")),)), lint=False)
    story.clock.advance("3 seconds")
    store.failing = None
    for _ in range(5):
        story.calls("acme")
    assert story.told == []


def test_processes_that_notice_it_together_tell_under_one_id() -> None:
    (one, first), (other, second) = failing_story(), failing_story()
    for story, store in ((one, first), (other, second)):
        store.failing = StoreError
        for _ in range(4):
            story.calls("acme")
    assert one.told[0].id == other.told[0].id


def test_a_store_that_only_takes_no_decisions_lets_processes_decide_together() -> None:
    story, store = failing_story()
    store.failing, store.of = StoreError, Take
    for _ in range(5):
        story.calls("acme")
    assert kinds(story) == ["keyguard.store.degraded"]
    (alert,) = AlertBook(store).list()
    assert alert.open
    store.failing = None
    for _ in range(4):
        story.calls("acme")
    assert [alert.open for alert in AlertBook(store).list()] == [False]
    assert kinds(story) == ["keyguard.store.degraded", "keyguard.store.degraded.resolved"]


def test_what_a_process_admits_of_its_own_share_is_no_use_of_a_quota() -> None:
    """While the store is out of order a limit of 1000 counts in each process, by its share: that is another number."""
    story, store = failing_story(at=[1], limits=None)
    store.failing = StoreError
    for _ in range(12):
        story.calls("acme", 2)
    assert "keyguard.limit.threshold" not in kinds(story)


def test_alerts_that_cannot_be_written_down_are_decided_later() -> None:
    clock = ManualClock()
    store = Failing(clock=clock)
    story = Story(quota_of("10/day"), store=store, clock=clock)
    story.key("acme")
    store.of, store.failing = DecideAlerts, StoreError
    story.calls("acme", 9)
    assert story.told == []
    store.failing = None
    story.rest("5 seconds")
    assert [message.level for message in story.told] == [90]


def refused(clock: ManualClock, cause: Cause | None) -> Decision:
    outcome = "served" if cause is None else "refused"
    told = ("id", "", "acme", "", "", "GET", "/", outcome, cause, "", 503, (), (), 0.1)
    return Decision(clock(), *told)  # type: ignore[arg-type]


def test_overload_is_told_until_three_minutes_without_it() -> None:
    story = Story(quiet="00:00-23:59 UTC")
    hear = story.alerts._watches[0].sink()
    for _ in range(9):
        hear(refused(story.clock, Cause.OVERLOAD))
    for _ in range(100):
        hear(refused(story.clock, None))
        hear(refused(story.clock, Cause.USAGE))
    story.rest()
    assert kinds(story) == []
    for _ in range(5):
        for _ in range(30):
            hear(refused(story.clock, Cause.OVERLOAD))
        story.rest("58 seconds")
    assert kinds(story) == ["keyguard.overload"]
    assert story.told[0].title == "shop is overloaded"
    story.rest("4 minutes")
    assert kinds(story) == ["keyguard.overload", "keyguard.overload.resolved"]


def test_a_request_asks_the_store_for_nothing_more() -> None:
    clock = ManualClock()
    store = Failing(clock=clock)
    asked: list[str] = []

    class Counting(Failing):
        def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
            asked.extend(key for op in ops for key in op.keys)
            return super().execute(ops)

    store = Counting(clock=clock)
    story = Story(quota_of("10/day"), store=store, clock=clock)
    key = story.key("acme")
    clock.advance("20 seconds")
    asked.clear()
    for _ in range(10):
        ask_wsgi(story.app, Ask(headers=(("X-API-Key", key),)), lint=False)
    assert [key for key in asked if key.startswith(("alert", "audit"))] == []
    story.rest()
    assert [message.level for message in story.told] == [100]


def test_a_stack_without_alerts_reads_those_of_others() -> None:
    story = Story(quota_of("2/day"))
    story.calls("acme", 2)
    other = Keyguard(store=story.guard.store, clock=story.clock)
    assert [alert.level for alert in other.alerts.list()] == [100]
    assert dict(other.alerts.counts) == {}


def test_a_store_of_limits_alone_keeps_alerts_in_each_process() -> None:
    told: list[int] = []
    storage = MemoryStorage()
    alerts = Alerts(to=[lambda message: told.append(message.level)], limits=["all"])
    guard = Keyguard(RateLimit("10/day", by="ip", name="all"), store=LimitsStore(storage), alerts=alerts)
    for _ in range(9):
        ask_wsgi(guard.wsgi(wsgi_app), Ask())
    guard.close()
    assert told == [90]


def test_an_alert_is_closed_by_hand_and_a_receiver_turned_on_again() -> None:
    story = Story(quota_of("2/day"))
    story.calls("acme", 2)
    (alert,) = story.guard.alerts.list()
    assert story.guard.alerts.resolve(alert.id, actor="ann") is True
    assert story.guard.alerts.resolve(alert.id, actor="ann") is False
    story.rest("15 seconds")
    assert [message.severity for message in story.told] == ["critical", "resolved"]
    story.calls("acme", 2)  # who still has nothing left, as is known
    story.rest("1 day")
    story.calls("acme", 2)
    assert [message.severity for message in story.told] == ["critical", "resolved", "critical"]
    assert story.guard.alerts.resolve(alert.id, actor="ann") is True
    record = story.guard.audit.list(actor="ann")[-1]
    assert (record.action, record.caller) == ("alerts.resolve", "acme")
    assert story.guard.alerts.enable("function hear", actor="ann") is False
    with pytest.raises(ValueError, match="actor"):
        story.guard.alerts.resolve(alert.id, actor="")
    assert [alert.open for alert in asyncio.run(story.guard.alerts.alist())] == [False, False]


def test_who_answers_410_is_left_alone_until_an_operator_says_otherwise() -> None:
    answers: list[Exception | None] = [Gone("it answers 410"), None]

    def page(message: AlertMessage) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    story = Story(quota_of("10/day"), receivers=[page])
    story.calls("acme", 5)
    story.calls("acme", 3)
    (alert,) = story.guard.alerts.list()
    assert [str(one) for notice in alert.notices for one in notice.deliveries] == ["function page disabled"] * 2
    assert story.guard.alerts.enable("function page", actor="ann") is True
    story.calls("acme")
    assert answers == []
