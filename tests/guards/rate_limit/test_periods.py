"""Periods of the calendar, held to a model that walks through the days of a zone; and hours, and odd days."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from keyguard import ConfigurationError, quota
from keyguard.clock import SECOND
from keyguard.rates.periods import Periods

HOUR = 3600
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # until 2011 clocks were set back at 00:01, so a day of a date came twice
    "America/Sao_Paulo",  # midnight was skipped
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # December 30, 2011 was left out
    "Asia/Beirut",
    "Africa/Casablanca",  # four changes a year
    "Asia/Kathmandu",
)
YEARS = (2006, 2016)


@cache
def begins_of(zone: str) -> dict[date, int]:
    """Walk through ten years: at which second clocks show a date, or a later one, for the first time."""
    info = ZoneInfo(zone)
    at, end = [int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in YEARS]

    begins: dict[date, int] = {}
    before = datetime.fromtimestamp(at, info)
    latest = before.date()
    while at < end:
        after = datetime.fromtimestamp(at + HOUR, info)
        if after.date() != before.date() or after.utcoffset() != before.utcoffset():
            for second in range(at, at + HOUR + 60, 60):
                while latest < datetime.fromtimestamp(second, info).date():
                    latest += timedelta(1)
                    begins[latest] = second
        at, before = at + HOUR, after
    return begins


def last_of_month(day: date) -> bool:
    return (day + timedelta(1)).day == 1


def begins_month(anchor: int) -> Callable[[date], bool]:
    return lambda day: day.day == anchor or (anchor > day.day and last_of_month(day))


KINDS: list[tuple[str, int | str | None, Callable[[date], bool]]] = [
    ("day", None, lambda day: True),
    ("week", None, lambda day: day.weekday() == 0),
    ("week", "Sunday", lambda day: day.weekday() == 6),
    ("month", None, begins_month(1)),
    ("month", 15, begins_month(15)),
    ("month", 30, begins_month(30)),
    ("month", 31, begins_month(31)),
    ("year", None, lambda day: (day.month, day.day) == (1, 1)),
    ("year", "04-06", lambda day: (day.month, day.day) == (4, 6)),
    ("year", "02-29", lambda day: day.month == 2 and last_of_month(day)),
]


@pytest.mark.parametrize("zone", ZONES)
def test_periods_are_those_of_a_walk_through_the_days(zone: str) -> None:
    for unit, anchor, starts in KINDS:
        periods = Periods(unit, zone, anchor)
        bounds = sorted({second for day, second in begins_of(zone).items() if starts(day)})
        for place, (begin, end) in enumerate(pairwise(bounds)):
            if unit == "day" and end - begin == 24 * HOUR and place % 5:
                continue  # of the usual days not all are needed
            told = (begin * SECOND, end * SECOND)
            for now in (begin * SECOND, (begin + end) * SECOND // 2, end * SECOND - 1):
                assert periods.around(now) == told, (unit, anchor, datetime.fromtimestamp(begin, ZoneInfo(zone)))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_hours_begin_when_clocks_show_a_full_hour(zone: str) -> None:
    info, periods = ZoneInfo(zone), Periods("hour", zone)
    at = int(datetime(2007, 1, 1, tzinfo=UTC).timestamp())
    begin, end = periods.around(at * SECOND)
    lengths = set()
    while end < (at + 400 * 86400) * SECOND:
        begin, end = periods.around(end)
        local = datetime.fromtimestamp(begin // SECOND, info)
        assert (local.minute, local.second) == (0, 0)
        assert periods.around(end - 1) == (begin, end)
        lengths.add((end - begin) // SECOND)
    assert lengths <= {HOUR, HOUR + 1800}
    assert (HOUR + 1800 in lengths) == (zone == "Australia/Lord_Howe")


def hours(zone: str, day: date) -> float:
    noon = int(datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone)).timestamp())
    begin, end = Periods("day", zone).around(noon * SECOND)
    return (end - begin) / SECOND / HOUR


@pytest.mark.parametrize(
    ("zone", "day", "long"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("Europe/Berlin", date(2026, 10, 26), 24),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        ("Pacific/Apia", date(2011, 12, 29), 24),
        ("Pacific/Apia", date(2011, 12, 31), 24),
    ],
)
def test_days_on_which_clocks_are_changed(zone: str, day: date, long: float) -> None:
    assert hours(zone, day) == long


def test_an_hour_that_comes_twice_is_two_hours() -> None:
    first = int(datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=0).timestamp())
    periods = Periods("hour", "Europe/Berlin")
    one, other = periods.around(first * SECOND), periods.around((first + HOUR) * SECOND)
    assert one[1] == other[0]
    assert {one[1] - one[0], other[1] - other[0]} == {HOUR * SECOND}


def test_no_period_is_longer_than_it_says() -> None:
    for unit, anchor, _ in [("hour", None, None), *KINDS]:
        limit = quota(f"5/{unit}", tz="Australia/Lord_Howe", anchor=anchor)
        begin, end = limit.present(int(datetime(2026, 4, 5, tzinfo=UTC).timestamp()) * SECOND)
        assert end - begin <= limit.period


@pytest.mark.parametrize(
    ("rate", "settings", "right"),
    [
        ("5/month", {"tz": "Europe/Berlyn"}, "'Europe/Berlin'"),
        ("5/month", {"tz": "europe"}, "name of a time zone"),
        ("5/month", {"tz": "../etc/passwd"}, "name of a time zone"),
        ("5/month", {"tz": None}, "name of a time zone"),
        ("5/month", {"tz": 3600}, "name of a time zone"),
        ("5/month", {"anchor": 32}, "from 1 to 31"),
        ("5/month", {"anchor": 0}, "from 1 to 31"),
        ("5/month", {"anchor": True}, "from 1 to 31"),
        ("5/month", {"anchor": "monday"}, "from 1 to 31"),
        ("5/week", {"anchor": 1}, "'monday'"),
        ("5/week", {"anchor": "lundi"}, "'monday'"),
        ("5/year", {"anchor": 1}, "'04-06'"),
        ("5/year", {"anchor": "02-30"}, "'04-06'"),
        ("5/year", {"anchor": "13-01"}, "'04-06'"),
        ("5/year", {"anchor": "0a-01"}, "'04-06'"),
        ("5/day", {"anchor": 6}, "begins at midnight"),
        ("5/hour", {"anchor": 30}, "begins at minute 0"),
        ("5/month; 10/day", {}, "one rate"),
        ("5/month, 10/day", {}, "one rate"),
        ("5/2 weeks", {}, "'5/14 days'"),
        ("5 per 3 months", {}, "take one month"),
        ("5/minute", {}, "plain rate"),
        ("5/second", {}, "plain rate"),
        ("5/fortnight", {}, "not a period"),
        ("0/month", {}, "from 1 to"),
        ("9999999999999999/month", {}, "from 1 to"),
        ("-5/month", {}, "cannot read"),
        ("five/month", {}, "cannot read"),
        ("1_000/month", {}, "cannot read"),
        ("", {}, "cannot read"),
        (5, {}, "is a text"),
    ],
)
def test_what_is_wrong_says_what_would_be_right(rate: str, settings: dict[str, object], right: str) -> None:
    with pytest.raises(ConfigurationError, match=right):
        quota(rate, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", ["5/month", "5 / month", "5 per month", "5 per 1 month", "5/1 months", "5/MONTH"])
def test_how_a_quota_may_be_written(rate: str) -> None:
    assert quota(rate).text == "5/month"


def test_a_system_without_a_database_of_zones_still_has_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(key: str) -> ZoneInfo:
        raise KeyError(key)

    monkeypatch.setattr("zoneinfo.ZoneInfo", unknown)
    monkeypatch.setattr("zoneinfo.available_timezones", set)
    assert quota("5/month").text == "5/month"
    with pytest.raises(ConfigurationError, match="tzdata"):
        quota("5/month", tz="Europe/Vaduz")  # not met before
