"""Who has spent so much of a limit that people want to know: told once, of the highest threshold."""

from __future__ import annotations

import logging

import pytest

from keyguard import Alerts, ConfigurationError, Keyguard, RateLimit, credits, quota
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.alerts.stories import Story


def by_subject(limit: object, **settings: object) -> RateLimit:
    return RateLimit(limit, by="subject", **settings)  # type: ignore[arg-type]


def test_each_threshold_is_told_once() -> None:
    story = Story(by_subject(quota("10/day")))
    for _ in range(12):
        story.calls("acme")
    assert [(one.level, one.severity) for one in story.told] == [
        *((50, "warning"), (80, "warning"), (90, "warning")),
        (100, "critical"),
    ]
    assert story.titles[1] == "acme has used 80 % of subject:10/day"
    assert story.told[3].text.startswith("10 of 10 units are spent, and none is left. More come at ")
    assert {one.subject for one in story.told} == {"acme"}
    assert len({one.id for one in story.told}) == 4


def test_a_jump_tells_of_the_highest_alone() -> None:
    story = Story(by_subject(quota("10/day"), cost=9))
    story.calls("acme")
    assert [one.level for one in story.told] == [90]


def test_callers_are_told_of_one_by_one() -> None:
    story = Story(by_subject(quota("4/day")))
    story.calls("acme", 2)
    story.calls("globex", 2)
    assert story.titles == [f"{name} has used 50 % of subject:4/day" for name in ("acme", "globex")]


def test_a_new_period_is_told_of_anew() -> None:
    story = Story(by_subject(quota("4/day")))
    story.calls("acme", 4)
    story.rest("1 day")
    assert [one.type for one in story.told] == ["keyguard.limit.threshold", "keyguard.limit.threshold.resolved"]
    story.calls("acme", 4)
    assert [one.level for one in story.told] == [100, 100, 100]
    assert [alert.open for alert in story.guard.alerts.list()] == [True, False]
    assert len({one.id for one in story.told}) == 3


def test_an_edited_quota_is_told_of_anew() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    before = Story(by_subject(quota("10/day")), store=store, clock=clock)
    before.calls("acme", 9)
    assert [one.level for one in before.told] == [90]
    keys = before.keys
    before.guard.close()
    del before
    after = Story(by_subject(quota("18/day")), store=store, clock=clock)
    after.keys = keys
    after.calls("acme")
    assert after.titles == ["acme has used 55 % of subject:18/day"]
    after.calls("acme", 5)
    assert [one.level for one in after.told] == [50, 80]


def test_use_that_falls_far_below_is_a_recovery() -> None:
    story = Story(by_subject(quota("10/day")))
    story.calls("acme", 9)
    story.guard.limits.grant("acme", 3, actor="ops")
    story.calls("acme")
    assert len(story.told) == 1  # 70 %: not below the lowest threshold
    story.guard.limits.set("acme", 2, actor="ops")
    story.calls("acme")
    assert [one.severity for one in story.told] == ["warning", "resolved"]
    story.calls("acme", 7)
    assert [one.level for one in story.told] == [90, 90, 100]


def test_a_window_has_episodes() -> None:
    story = Story(by_subject("10/hour"))
    story.calls("acme", 8)
    story.rest("30 minutes")
    story.calls("acme", 1)
    assert [one.level for one in story.told] == [80, 90]
    story.rest("35 minutes")  # the first eight are forgotten by the limit
    story.calls("acme", 1)
    assert [one.severity for one in story.told] == ["warning", "warning", "resolved"]
    story.calls("acme", 4)
    assert [one.level for one in story.told] == [80, 90, 90, 50]


def test_an_episode_of_which_nothing_more_is_heard_is_over_when_the_limit_has_forgotten() -> None:
    story = Story(by_subject("10/hour"))
    story.calls("acme", 10)
    story.rest("59 minutes")
    assert [one.severity for one in story.told] == ["critical"]
    story.rest("2 minutes")
    assert [one.severity for one in story.told] == ["critical", "resolved"]


def test_an_episode_that_goes_on_stays_one() -> None:
    story = Story(by_subject("10/hour"))
    for _ in range(60):  # six hours, of which each hour has up to ten
        story.calls("acme")
        story.rest("6 minutes")
    assert [one.level for one in story.told] == [50, 80, 90, 100]


def test_two_keys_of_one_holder_are_told_apart() -> None:
    story = Story(RateLimit(quota("2/day"), by="key"))
    story.calls("acme", 2)
    story.keys.clear()
    story.calls("acme", 2)
    ids = [record.id for record in story.guard.keys.list(owner="acme")]
    assert sorted(story.titles) == sorted(f"acme (key {id}) has used up key:2/day" for id in ids)
    assert {message.facts["key"] for message in story.told} == set(ids)


def test_a_balance_is_told_of_until_it_is_filled() -> None:
    story = Story(by_subject(credits(10)))
    story.calls("acme", 10)
    story.rest("2 days")
    assert [one.level for one in story.told] == [100]
    story.guard.limits.grant("acme", 10, actor="ops")
    story.calls("acme")
    assert [one.severity for one in story.told] == ["critical", "resolved"]


@pytest.mark.parametrize(
    ("guard", "limits", "told"),
    [
        (by_subject("10/minute"), None, False),  # that it is reached is what it is there for
        (by_subject("10/minute"), ["subject:10/minute"], True),
        (by_subject("10/minute", name="burst"), ["burst"], True),
        (by_subject(quota("10/day")), ["burst"], False),
        (RateLimit("10/day", by="ip"), None, False),  # addresses are anybody's
        (RateLimit("10/day", by="key"), None, True),
    ],
)
def test_which_limits_are_looked_at(guard: RateLimit, limits: list[str] | None, told: bool) -> None:
    story = Story(guard, limits=limits)
    story.calls("acme", 10)
    assert bool(story.told) is told


def test_a_limit_in_shadow_mode_is_not_told_of() -> None:
    from keyguard.policies import shadow

    story = Story(shadow(by_subject(quota("4/day"))))
    assert story.calls("acme", 6) == 200
    assert story.told == []


def test_each_alert_is_a_line_in_the_log_and_a_record_in_the_audit_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    guard = Keyguard(
        RateLimit(quota("2/day"), by=lambda request: "line\nbreak", name="all"),
        store="memory://",
        clock=clock,
        alerts=Alerts(),
    )
    from tests.support.harness import Ask, ask_wsgi, wsgi_app

    with caplog.at_level(logging.WARNING, "keyguard.alerts"):
        for _ in range(2):
            ask_wsgi(guard.wsgi(wsgi_app), Ask())
        clock.advance("2 seconds")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "keyguard.alerts"]
    assert line.startswith("alert: 198.51.100.1 has used up all:2/day.")
    assert "\n" not in line
    (record,) = guard.audit.list(action="alerts")
    assert (record.actor, record.action, record.after["level"]) == ("keyguard", "alerts.fire", 100)
    assert dict(guard.alerts.counts) == {"keyguard.limit.threshold": 1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"at": []}, "whole numbers from 1 to 100"),
        ({"at": [0]}, "whole numbers from 1 to 100"),
        ({"at": [80.5]}, "whole numbers from 1 to 100"),
        ({"at": 80}, "whole numbers from 1 to 100"),
        ({"at": "80"}, "whole numbers from 1 to 100"),
        ({"limits": "burst"}, r"list of names, such as \['burst'\]"),
        ({"quiet": "22-7"}, "22:00-07:00 Europe/Berlin"),
        ({"quiet": "22:00-07:00 Mars/Base"}, "name of a time zone"),
        ({"to": "https://example.com"}, "list of receivers"),
        ({"to": [7]}, "a receiver is a Webhook"),
        ({"forecast": 1}, "True or False"),
    ],
)
def test_settings_that_are_wrong_do_not_start(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Alerts(**settings)  # type: ignore[arg-type]
