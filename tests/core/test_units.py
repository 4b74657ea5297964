"""Durations and moments: one reader for all of them, and what it does not take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import Cause, ConfigurationError, KeyRegistry, Request, Response, ResponseCache, cache_control, refuse
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from keyguard.units import as_datetime, in_words, microseconds, moment, moment_from, rfc3339, seconds

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, 0),
        (1, SECOND),
        (0.25, SECOND // 4),
        (timedelta(minutes=10, microseconds=1), 600 * SECOND + 1),
        ("90s", 90 * SECOND),
        ("1 second", SECOND),
        ("1h", 3600 * SECOND),
        ("10 minutes", 600 * SECOND),
        ("15 min", 900 * SECOND),
        ("2 days", 172_800 * SECOND),
        ("2w", 14 * 86400 * SECOND),
        ("100 ms", SECOND // 10),
        ("1.5h", 5400 * SECOND),
        ("1h 30m", 5400 * SECOND),
        ("1h30m", 5400 * SECOND),
        (" 3 hours ", 3 * 3600 * SECOND),
    ],
)
def test_what_a_duration_may_be(duration: Any, expected: int) -> None:
    assert microseconds("ttl", duration) == expected


@pytest.mark.parametrize(
    "duration",
    [
        None, True, "", "10", "h", "1 hs", "1 fortnight", "-1h", "1h-", "1  h", "1H", "١h", "1.h", "1e3s",
        float("nan"), float("inf"), -1,
        timedelta(seconds=-1), [1], "9" * 13 + "s", "1h, 2m", "999999999999w", 10**18,
    ],
)  # fmt: skip
def test_what_it_may_not_be(duration: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^ttl is "):
        microseconds("ttl", duration)


def test_bounds_are_named_as_they_were_given() -> None:
    with pytest.raises(ConfigurationError, match=r"^ttl is a duration from 1 second to 365 days, not '2ms'$"):
        microseconds("ttl", "2ms", min=1, max="365 days")
    with pytest.raises(ConfigurationError, match=r"^ttl is a whole number of seconds, not 1\.5$"):
        seconds("ttl", 1.5)
    assert seconds("ttl", "2 minutes") == 120


@given(st.integers(0, 10**15))
def test_a_timedelta_loses_nothing(number: int) -> None:
    assert microseconds("ttl", timedelta(microseconds=number)) == number


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])))
def test_a_moment_and_back(when: datetime) -> None:
    assert as_datetime(moment("at", when)) == when


@pytest.mark.parametrize("when", [0, 1.5, None, "2027-01-31", datetime(2027, 1, 31)])
def test_what_is_no_moment(when: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^at is a datetime with a time zone"):
        moment("at", when)


def test_a_moment_may_be_a_duration_from_now() -> None:
    assert moment_from("expires", "1h", 5) == 3600 * SECOND + 5
    assert moment_from("expires", timedelta(1), 5) == 86400 * SECOND + 5
    assert moment_from("expires", datetime(1970, 1, 2, tzinfo=UTC), 5) == 86400 * SECOND
    for number in (3600, 1.8e9):
        with pytest.raises(ConfigurationError, match="a duration from now, such as"):
            moment_from("expires", number, 5)
    with pytest.raises(ConfigurationError, match="behind the year 9999"):
        moment_from("expires", "418000 w", 1_800_000_000 * SECOND)
    assert rfc3339(1_800_000_000) == "2027-01-15T08:00:00Z"


@given(st.datetimes(datetime(1900, 1, 1), datetime(9999, 12, 31)))
def test_moments_are_written_as_the_standard_library_writes_them(when: datetime) -> None:
    second = moment("when", when.replace(tzinfo=UTC)) // SECOND
    assert rfc3339(second) == f"{when:%Y-%m-%dT%H:%M:%SZ}"


# -- where they are read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", [600, 600.0, timedelta(minutes=10), "10 minutes"])
def test_a_refusal_says_when_to_come_again(retry_after: Any) -> None:
    def closed(request: Request) -> Response:
        response = refuse(request, Cause.FAULT, "Later.", reason="closed", retry_after=retry_after)
        assert response.refusal is not None
        assert response.refusal.recovers_at == datetime(2027, 1, 15, 8, 10, tzinfo=UTC)
        return response

    answer = play(closed, clock=ManualClock())
    assert answer.header("retry-after") == "600"
    assert b'"recovers_at": "2027-01-15T08:10:00Z"' in answer.body


def test_a_refusal_counts_from_a_moment_that_it_is_given() -> None:
    def closed(request: Request) -> Response:
        at = datetime(2030, 1, 1, tzinfo=UTC)
        return refuse(request, Cause.FAULT, "Later.", reason="closed", retry_after="1h", at=at)

    assert b'"recovers_at": "2030-01-01T01:00:00Z"' in play(closed).body


def test_a_guard_that_names_no_duration_refuses_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def closed(request: Request) -> Response:
        return refuse(request, Cause.OVERLOAD, "Later.", reason="closed", retry_after="soon")

    assert play(closed).status == 503
    assert "retry_after is a duration: seconds, a timedelta, or a text" in caplog.text


def test_settings_and_arguments_take_them() -> None:
    cache = ResponseCache(ttl="1 minute", coalesce=timedelta(seconds=2), local_ttl="500 ms", stale_on_error="1h")
    assert (cache.reader.settings.ttl, cache.coalesce) == (60, 2)
    assert cache.reader.settings.stale_on_error == 3600
    assert cache_control(max_age="1h", swr=timedelta(minutes=1)).control == "max-age=3600, stale-while-revalidate=60"
    for wrong in ("soon", 0, "2 years", 1.5):
        with pytest.raises(ConfigurationError, match=r"^ResponseCache: ttl is a"):
            ResponseCache(ttl=wrong)
    clock = ManualClock()
    keys = KeyRegistry(MemoryStore(clock=clock), clock=clock)
    old = keys.issue("ada", not_before="1h", expires="30 days").record
    start = as_datetime(clock())
    assert (old.created, old.not_before, old.expires) == (start, start + timedelta(hours=1), start + timedelta(days=30))
    clock.advance(7200)
    keys.rotate(old.id, overlap="90 s")
    assert keys.get(old.id).retires == start + timedelta(hours=2, seconds=90)
    assert keys.get(old.id).status(start + timedelta(hours=3)) == "replaced"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 second"),
        (60, "60 seconds"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (3599, "59 minutes 59 seconds"),
        (3600, "1 hour"),
        (3601, "1 hour 1 minute"),
        (7199, "2 hours"),
        (86_399, "24 hours"),
        (86_400, "1 day"),
        (2_113_199, "24 days 11 hours"),
        (2_113_201, "24 days 12 hours"),
    ],
)
def test_a_wait_is_said_in_words_and_never_too_short(seconds: int, words: str) -> None:
    assert in_words(seconds) == words
