"""Periods of the calendar in a time zone: hours, days, weeks, months and years, as the zone's clocks show them.

- A day begins at the first moment at which clocks show its date: mostly at midnight, after a gap when the gap ends. A
  day has 23, 23.5, 24.5 or 25 hours if clocks are changed in it; it goes on if they are set back over midnight. A date
  that a zone leaves out has no period.
- Weeks, months and years consist of whole days.
- An hour begins whenever clocks show a full hour: an hour that comes twice is two of them. If clocks are changed by
  half an hour, one lasts for an hour and a half.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, TypeAlias

from keyguard.checks import is_whole
from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError

UNITS: Final = ("hour", "day", "week", "month", "year")
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
Anchor: TypeAlias = "int | str | None"

LONGEST: Final = {"hour": 2 * 3600, "day": 48 * 3600, "week": 8 * 86400, "month": 32 * 86400, "year": 367 * 86400}
"""Seconds that a period may last: clocks that are changed in it may add to its days."""

_HALF_MINUTE = 30
"""Offsets of zones were multiples of so many seconds ever since 1970."""


class Periods:
    """The periods of one unit in one zone. Immutable."""

    __slots__ = ("_anchor", "_zone", "anchor", "tz", "unit")

    def __init__(self, unit: str, tz: str = "UTC", anchor: Anchor = None) -> None:
        """Raise `ConfigurationError` for a zone or an anchor that does not exist."""
        self.unit = unit
        self.tz = tz
        self.anchor = anchor
        self._zone = _zone(tz)
        self._anchor = _ANCHORS[unit](unit, anchor)

    def around(self, now: int) -> tuple[int, int]:
        """Return the begin and the end of the present period, in microseconds."""
        second = now // SECOND
        start, end = self._hour(second) if self.unit == "hour" else self._days(second)
        return start * SECOND, end * SECOND

    def _hour(self, second: int) -> tuple[int, int]:
        start = second - self._past_hour(second)
        if self._past_hour(start):  # clocks were changed since
            start = second - second % _HALF_MINUTE
            while self._past_hour(start):
                start -= _HALF_MINUTE
        end = start + 3600
        while self._past_hour(end):
            end += _HALF_MINUTE
        return start, end

    def _past_hour(self, second: int) -> int:
        """Count the seconds that clocks show beyond a full hour."""
        local = datetime.fromtimestamp(second, self._zone)
        return local.minute * 60 + local.second

    def _days(self, second: int) -> tuple[int, int]:
        first = self._first_day(datetime.fromtimestamp(second, self._zone).date())
        start, first = self._begin(first), self._next(first)
        # Clocks that were set back over midnight show the date of the day before once more.
        while (end := self._begin(first)) <= second:
            start, first = end, self._next(first)
        return start, end

    def _begin(self, day: date) -> int:
        """Return the second at which clocks show a date for the first time, or a later one if it is left out."""
        midnight = datetime(day.year, day.month, day.day)
        usual, other = [int(midnight.replace(tzinfo=self._zone, fold=fold).timestamp()) for fold in (0, 1)]
        if usual <= other:  # else clocks skip midnight, somewhere between the two
            return usual

        def reached(second: int) -> bool:
            return datetime.fromtimestamp(second, self._zone).replace(tzinfo=None) >= midnight

        return other + bisect_left(range(other, usual), True, key=reached)

    def _first_day(self, day: date) -> date:
        """Return the first day of the period in which a day lies."""
        if self.unit == "day":
            return day
        if self.unit == "week":
            return day - timedelta((day.weekday() - self._anchor[1]) % 7)
        if self.unit == "month":
            first = _clamped(day.year, day.month, self._anchor[1])
            if first > day:
                first = _clamped(*_month_after(day.year, day.month, -1), self._anchor[1])
            return first
        first = _clamped(day.year, *self._anchor)
        return first if first <= day else _clamped(day.year - 1, *self._anchor)

    def _next(self, first: date) -> date:
        """Return the first day of the next period."""
        if self.unit in ("day", "week"):
            return first + timedelta(7 if self.unit == "week" else 1)
        if self.unit == "month":
            return _clamped(*_month_after(first.year, first.month, 1), self._anchor[1])
        return _clamped(first.year + 1, *self._anchor)


def _month_after(year: int, month: int, many: int) -> tuple[int, int]:
    years, month = divmod(month - 1 + many, 12)
    return year + years, month + 1


def _clamped(year: int, month: int, day: int) -> date:
    """Return a day of a month, or its last one."""
    return date(year, month, min(day, _days_of(year, month)))


def _days_of(year: int, month: int) -> int:
    return (date(*_month_after(year, month, 1), 1) - date(year, month, 1)).days


# -- settings ---------------------------------------------------------------------------------------------------------


def _zone(tz: object) -> tzinfo:
    if tz == "UTC":
        return UTC  # also if a system has no database of zones
    from zoneinfo import ZoneInfo, available_timezones  # for those who have a quota: it takes a while

    try:
        if isinstance(tz, str):
            return ZoneInfo(tz)
    except (KeyError, ValueError, OSError):  # not found, not a name, a folder
        pass
    known = available_timezones()
    if not known:
        raise ConfigurationError(f"tz={tz!r}: this system knows no time zones; install the package tzdata")
    from difflib import get_close_matches

    close = get_close_matches(str(tz), known, 1) or ["Europe/Berlin"]
    raise ConfigurationError(f"tz is the name of a time zone, such as {close[0]!r}, not {tz!r:.80}")


def _midnight(unit: str, anchor: Anchor) -> tuple[int, int]:
    if anchor is not None:
        begins = "at midnight" if unit == "day" else "at minute 0"
        raise ConfigurationError(f"a quota by {unit} has no anchor: each {unit} begins {begins}, not at {anchor!r:.80}")
    return 0, 0


def _weekday(unit: str, anchor: Anchor) -> tuple[int, int]:
    name = "monday" if anchor is None else anchor
    if not isinstance(name, str) or name.lower() not in WEEKDAYS:
        raise ConfigurationError(f"the anchor of a week is a weekday, such as 'monday', not {anchor!r:.80}")
    return 0, WEEKDAYS.index(name.lower())


def _day_of_month(unit: str, anchor: Anchor) -> tuple[int, int]:
    day = 1 if anchor is None else anchor
    if not is_whole(day) or not 1 <= day <= 31:
        raise ConfigurationError(
            f"the anchor of a month is a day from 1 to 31 (the last day in a month that is shorter), not {anchor!r:.80}"
        )
    return 0, day


def _day_of_year(unit: str, anchor: Anchor) -> tuple[int, int]:
    text = "01-01" if anchor is None else anchor
    if isinstance(text, str) and len(text) == 5 and text.isascii():
        month, _, day = text.partition("-")
        number = int(month) if month.isdigit() else 0
        if 1 <= number <= 12 and day.isdigit() and 1 <= int(day) <= _days_of(2000, number):
            return number, int(day)
    raise ConfigurationError(f"the anchor of a year is a month and a day, such as '04-06', not {anchor!r:.80}")


_ANCHORS = {"hour": _midnight, "day": _midnight, "week": _weekday, "month": _day_of_month, "year": _day_of_year}
