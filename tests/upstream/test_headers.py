"""What the header fields of an answer tell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.learnt import dimension_of
from keyguard.upstream import headers
from keyguard.upstream.profiles import PROFILES
from tests.upstream.answers import NOW
from tests.upstream.answers import seen as told

WAITS: list[tuple[dict[str, str], float | None]] = [
    ({}, None),
    ({"retry-after": "20"}, 20),
    ({"retry-after": " 20 "}, 20),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after": "0"}, 0),
    ({"retry-after": "7999"}, 7999),
    ({"retry-after": "2678400"}, 2678400),
    ({"retry-after": "2678401"}, None),
    ({"retry-after": "4294967295"}, None),
    ({"retry-after": "-1"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": "1e400"}, None),
    ({"retry-after": "NaN"}, None),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "5, 9"}, 9),  # two lines of it: the longer one is right for both
    ({"retry-after": "Sat, 15 Aug 2026 12:02:00 GMT"}, 120),
    ({"retry-after": "Sat, 15 Aug 2026 11:00:00 GMT"}, None),
    ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, None),
    ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
    ({"retry-after": "2026-08-15T12:00:30Z"}, 30),
    ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    ({"retry-after-ms": "1500.5"}, 1.5005),
    ({"retry-after-ms": "", "retry-after": "2"}, 2),
    ({"retry-after-ms": "-3", "retry-after": "2"}, 2),
    ({"retry-after-ms": "x", "retry-after": "2"}, 2),
]


@pytest.mark.parametrize(("fields", "seconds"), WAITS)
def test_retry_after(fields: dict[str, str], seconds: float | None) -> None:
    assert headers.retry_after(fields, NOW) == (None if seconds is None else round(seconds * SECOND))


OPENAI = "x-ratelimit-{}-requests"
LIMITS: list[tuple[str, dict[str, str], list[str]]] = [
    ("openai", {"limit": "500", "remaining": "499", "reset": "120ms"}, ["rpm 500 499 0.12"]),
    ("openai", {"limit": "500"}, ["rpm 500 - -"]),
    ("openai", {"remaining": "3"}, ["rpm - 3 -"]),
    ("openai", {"reset": "1s"}, []),
    ("openai", {"limit": "-1", "remaining": "-1", "reset": "0"}, []),
    ("openai", {"limit": "0", "remaining": "0", "reset": "1s"}, []),
    ("openai", {"limit": "", "remaining": "7"}, []),
    ("openai", {"limit": "1e400", "remaining": "7"}, []),
    ("openai", {"limit": "NaN", "remaining": "7"}, []),
    ("openai", {"limit": "10", "remaining": "-1"}, ["rpm 10 - -"]),
    ("openai", {"limit": "10", "remaining": "12"}, ["rpm 10 10 -"]),
    ("openai", {"limit": "10.0", "remaining": "9.5"}, ["rpm 10 9 -"]),
    ("openai", {"limit": "10, 10", "remaining": "4, 4"}, ["rpm 10 4 -"]),
    ("openai", {"limit": "10, 20", "remaining": "4"}, []),
    ("openai", {"limit": "10", "remaining": "4", "reset": "9999h"}, ["rpm 10 4 -"]),
    ("openai", {"limit": "9" * 400, "remaining": "4"}, []),
    # One request of 10000 comes back in 8.64 s: that is a day's limit.
    ("openai", {"limit": "10000", "remaining": "9999", "reset": "8.64s"}, ["rpd 10000 9999 8.64"]),
    ("openai", {"limit": "200", "remaining": "0", "reset": "24h0m0s"}, ["rpd 200 0 86400"]),
    ("openai", {"limit": "3", "remaining": "2", "reset": "20s"}, ["rpm 3 2 20"]),
    ("openai", {"limit": "10000", "remaining": "10000", "reset": "0s"}, ["rpm 10000 10000 0"]),
    ("groq", {"limit": "1000", "remaining": "999", "reset": "1m26.4s"}, ["rpd 1000 999 86.4"]),
    ("azure", {"limit": "60", "remaining": "0", "reset": "4"}, ["rpm 60 0 4"]),
    ("stripe", {"limit": "60", "remaining": "0", "reset": "4"}, []),
]


@pytest.mark.parametrize(("profile", "fields", "expected"), LIMITS)
def test_limits(profile: str, fields: dict[str, str], expected: list[str]) -> None:
    named = {OPENAI.format(name): value for name, value in fields.items()}
    assert list(headers.seen(PROFILES[profile], named, NOW)) == [told(text) for text in expected]


ANY_API: list[tuple[dict[str, str], list[str]]] = [
    ({"ratelimit": '"default";r=50;t=30'}, ["rpm - 50 30"]),
    ({"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'}, ["rpm 100 50 30"]),
    ({"ratelimit": '"a";r=50;t=30', "ratelimit-policy": '"b";q=100;w=10'}, ["rpm - 50 30"]),
    ({"ratelimit": '"a";r=50;t=30, "b";r=2;t=8', "ratelimit-policy": '"a";q=100;w=60, "b";q=5;w=60'}, ["rpm 5 2 8"]),
    ({"ratelimit": '"a";r=0', "ratelimit-policy": '"a";q=10;w=3600'}, ["rph 10 0 -"]),
    ({"ratelimit": '"a";r=-1;t=5', "ratelimit-policy": '"a";q=10;w=60'}, []),
    ({"ratelimit": '"a";r=1;t=5', "ratelimit-policy": '"a";q=0;w=60'}, []),
    ({"ratelimit": '"a";r=1;t=5', "ratelimit-policy": '"a";q=10;w=0'}, ["rpm 10 1 5"]),
    ({"ratelimit": '"a";r=1.5;t=5'}, []),
    ({"ratelimit": '"a";r=?1;t=5'}, []),
    ({"ratelimit": '"a'}, []),
    ({"ratelimit": "limit=10, remaining=3, reset=7200"}, ["rpd 10 3 7200"]),
    ({"ratelimit-limit": "100", "ratelimit-remaining": "5", "ratelimit-reset": "50"}, ["rpm 100 5 50"]),
    ({"ratelimit-limit": "100;w=10", "ratelimit-remaining": "5"}, []),
    ({"ratelimit-limit": "9, 9;w=10", "ratelimit-remaining": "5", "ratelimit-reset": "5"}, ["requests/10s 9 5 5"]),
    ({"ratelimit-limit": "9", "ratelimit-remaining": "5", "ratelimit-policy": "9;w=3600"}, ["rph 9 5 -"]),
    ({"x-rate-limit-limit": "9", "x-rate-limit-remaining": "5", "x-rate-limit-reset": "1786795230"}, ["rpm 9 5 30"]),
    ({"x-ratelimit-limit": "-1", "x-ratelimit-remaining": "-1", "x-ratelimit-reset": "0"}, []),
]


@pytest.mark.parametrize(("fields", "expected"), ANY_API)
def test_fields_that_are_no_providers_own(fields: dict[str, str], expected: list[str]) -> None:
    assert list(headers.seen(PROFILES["generic"], fields, NOW)) == [told(text) for text in expected]


def test_the_limit_that_is_used_up_is_the_one_that_lasts_longest() -> None:
    generic = PROFILES["generic"]
    limits = [told("rpm 60 0 30"), told("rpd 1000 0 4000"), told("tpm 10 5 9")]
    assert headers.used_up(generic, limits) == limits[1]
    assert headers.used_up(generic, limits[2:]) is None
    assert headers.is_full_reset(PROFILES["openai"], dimension_of("rpd"))
    assert not headers.is_full_reset(PROFILES["azure"], dimension_of("rpm"))


DATES = {
    "Sat, 15 Aug 2026 13:00:00 GMT": 3600,
    "Sat, 15 Aug 2026 11:00:00 GMT": -3600,
    "Sat, 15 Aug 2026 12:00:01 GMT": 0,  # a date has whole seconds, and an answer takes its time
    "Mon, 17 Aug 2026 12:00:00 GMT": 0,  # an answer out of a cache, or the clock of a test
    "Sat, 15 Aug 2026 13:00:00": 0,
    "": 0,
}


@pytest.mark.parametrize("date", DATES)
def test_the_providers_clock(date: str) -> None:
    assert headers.now_there({"date": date}, NOW) == NOW + DATES[date] * SECOND


class Odd:
    """Fields of a library that hands out what it likes."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def get(self, name: str, /) -> Any:
        return self.value


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(PROFILES.values())),
    st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.lists(st.text())),
    st.integers(-(10**20), 10**20),
)
@example(PROFILES["generic"], "(" * 5000, NOW)
@example(PROFILES["generic"], '"a";' * 2000, NOW)
@example(PROFILES["generic"], ":" + "A" * 2000 + ":", NOW)
@example(PROFILES["generic"], "\ud800", NOW)
def test_whatever_comes(profile: Any, value: Any, now: int) -> None:
    fields = Odd(value)
    for one in headers.seen(profile, fields, now):
        assert one.limit is None or one.limit > 0
    assert isinstance(headers.now_there(fields, now), int)
    assert (headers.retry_after(fields, now) or 0) >= 0
