"""Times as providers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.upstream import waits
from tests.upstream.answers import NOW

DAY = 86400

DURATIONS = {
    "6m0s": 360,
    "12ms": 0.012,
    "1s": 1,
    "2m59.56s": 179.56,
    "7m12s": 432,
    "8.64s": 8.64,
    "1h2m3.5s": 3723.5,
    "24h0m0s": DAY,
    "36.429760048s": 36.42976,
    "1m2.5s": 62.5,
    "250us": 0.00025,
    "250µs": 0.00025,
    "250μs": 0.00025,
    "1500ns": 0.000002,
    "0s": 0,
    "37": 37,
    "0.5": 0.5,
    " 20s ": 20,
    "744h": 31 * DAY,
    "745h": None,
    "-1s": None,
    "1d": None,
    "s": None,
    "": None,
    "1e3s": None,
    "NaN": None,
    "1s1": None,
    "٣s": None,
    "9" * 400 + "s": None,
}


@pytest.mark.parametrize("text", DURATIONS)
def test_durations(text: str) -> None:
    seconds = DURATIONS[text]
    assert waits.duration(text) == (None if seconds is None else round(seconds * SECOND))


SECONDS = {
    "0": 0,
    "20": 20,
    "0.25": 0.25,
    "59.999999999": 59.999999,
    "2678400": 31 * DAY,
    "2678401": None,
    "-1": None,
    "+1": None,
    "1e400": None,
    "1e2": None,
    "inf": None,
    "NaN": None,
    ".5": None,
    "5.": None,
    "1_0": None,
    "0x10": None,
    "٣": None,
    "": None,
    "1 2": None,
}


@pytest.mark.parametrize("text", SECONDS)
def test_seconds(text: str) -> None:
    seconds = SECONDS[text]
    assert waits.seconds(text) == (None if seconds is None else round(seconds * SECOND))


INSTANTS = {
    "2026-08-15T12:00:30Z": 30,
    "2026-08-15T12:00:30.5Z": 30.5,
    "2026-08-15t12:00:30z": 30,
    "2026-08-15 12:00:30Z": 30,
    "2026-08-15T14:00:30+02:00": 30,
    "2026-08-15T08:30:30-03:30": 30,
    "2026-09-01T00:00:00Z": 1425600,
    "2026-09-15T12:00:00Z": 31 * DAY,
    "2026-09-15T12:00:01Z": None,
    "2026-08-15T11:59:59Z": 0,
    "1970-01-01T00:00:00Z": 0,
    "9999-12-31T23:59:59Z": None,
    "0000-01-01T00:00:00Z": None,
    "2026-02-30T00:00:00Z": None,
    "2026-08-15T12:00:60Z": 59,
    "2026-08-15T12:00:30": None,
    "Sat, 15 Aug 2026 12:02:00 GMT": 120,
    "Saturday, 15-Aug-26 12:02:00 GMT": 120,
    "Sat Aug 15 12:02:00 2026": 120,
    "Sat, 15 Aug 2026 11:00:00 GMT": 0,
    "Fri, 31 Dec 9999 23:59:59 GMT": None,
    "tomorrow": None,
    "": None,
}


@pytest.mark.parametrize("text", INSTANTS)
def test_instants(text: str) -> None:
    seconds = INSTANTS[text]
    assert waits.instant(text, NOW) == (None if seconds is None else round(seconds * SECOND))


MOMENTS = {
    "30": 30,
    "0.5": 0.5,
    "1786795230": 30,
    "1786795230.9": 30,
    "1786795230000": 30,
    "1786795230123": 30.123,
    "1786795100": 0,
    "1000000000": None,  # neither a time since the epoch nor a wait that is believed
    "6m0s": 360,
    "2026-08-15T12:00:45Z": 45,
    "Sat, 15 Aug 2026 12:02:00 GMT": 120,
    "9" * 15: None,
    "-1": None,
    "soon": None,
}


@pytest.mark.parametrize("text", MOMENTS)
def test_moments(text: str) -> None:
    seconds = MOMENTS[text]
    assert waits.moment(text, NOW) == (None if seconds is None else round(seconds * SECOND))


SENTENCES = {
    "Limit 30000, Used 29800, Requested 10200. Please try again in 20s. Visit https://example.com": 20,
    "Please try again in 1m2.5s.": 62.5,
    "Please try again in 174ms. Visit": 0.174,
    "Please try again in 9m38.016s. Need more tokens?": 578.016,
    "Please retry after 37 seconds. Please go here: https://aka.ms/oai/quotaincrease": 37,
    "Please retry after 1 second.": 1,
    "Please retry after 86400 seconds.": DAY,
    "Please retry in 36.429760048s.": 36.42976,
    "Rate limit is exceeded. Try again in 30 seconds.": 30,
    "Try again in about 2 minutes": 120,
    "Try again in 3 hours.": 10800,
    "You will regain access on 2026-09-01 at 00:00 UTC": 1425600,
    "You will regain access on 2026-08-16 at 06:30 UTC.": 66600,
    "You will regain access on 2026-09-01.": 1425600,
    "try again in 5s, that is: try again in 7s": 7,
    "You will regain access on 2030-01-01 at 00:00 UTC": None,
    "You will regain access on 2026-13-01 at 00:00 UTC": None,
    "Please try again in 20sheep": None,
    "Please try again in -5s": None,
    "Please try again later.": None,
    "Please try again in 40 days.": None,
    "20s": None,
    "": None,
}


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences(text: str) -> None:
    seconds = SENTENCES[text]
    assert waits.sentence(text, NOW) == (None if seconds is None else round(seconds * SECOND))


def test_a_long_text_is_read_at_its_end() -> None:
    assert waits.sentence("try again in " * 100_000 + "try again in 3s", NOW) == 3 * SECOND
    assert waits.sentence("try again in 3s" + "." * 100_000, NOW) is None


@given(
    st.sampled_from(sorted(waits.READERS)),
    st.one_of(st.text(), st.from_regex(r"[0-9.TZ:+smh -]{0,30}"), st.floats().map(str), st.integers().map(str)),
    st.integers(),
)
def test_whatever_comes(reader: str, text: str, now: int) -> None:
    told = waits.READERS[reader](text, now)
    assert told is None or 0 <= told <= waits.MOST
