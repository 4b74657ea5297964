"""What an answer means: a table of recorded answers, and all that may come instead."""

from __future__ import annotations

import pytest

from keyguard.upstream.judge import judge, judge_event
from keyguard.upstream.profiles import PROFILES
from tests.upstream.answers import NOW, expected, rows

ANSWERS, EVENTS = rows("answer"), rows("event")


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    profile, row = ANSWERS[name]
    body = row.get("body", "").encode()
    assert judge(PROFILES[profile], row["status"], row.get("headers", {}), body, NOW) == expected(row)


@pytest.mark.parametrize("name", EVENTS)
def test_events(name: str) -> None:
    profile, row = EVENTS[name]
    for data in (row["data"], row["data"].encode()):
        assert judge_event(PROFILES[profile], row["event"], data, NOW) == expected(row)
