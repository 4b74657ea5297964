"""The forecast: whether, and when, a caller will have spent a quota before it begins anew.

A caller's day looks like its other days: busy at nine, quiet at night. So what is to come is the mean of each hour of
the day over the last seven days, times what today is in proportion to that. With less than three days of history it is
Holt's method on the hours of this period: their level and their trend, which is damped.

Pure: what was used, hour by hour, comes in, and an answer goes out. It says nothing in the first two hours of a period,
nor while less than a quarter is spent, when it would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from keyguard.clock import SECOND

HOUR = 3600 * SECOND
DAYS = 7
"""Days of history that make the profile."""

_LEAST_DAYS = 3
_SILENT = 2 * HOUR
_LEAST_SHARE = 0.25
_DOUBT = 0.1  # of the range, to either side
_LEVEL, _TREND = 0.5, 0.1  # weights of Holt's method, by hour
_DAMPED = 0.7  # of the trend, by hour: none goes on for ever


class Forecast(NamedTuple):
    """When a quota will be spent, in microseconds since the Unix epoch; `None` for not before it begins anew."""

    likely: int | None
    earliest: int | None
    latest: int | None
    method: str
    """`profile`, or `trend` while there are less than three days of history."""


def forecast(
    hours: Mapping[int, float], *, used: float, quota: float, begin: int, end: int, now: int
) -> Forecast | None:
    """Tell when a quota will be spent; `None` if nothing can be said yet, or nothing is left to say.

    `hours` are the units of each hour, by its number since the Unix epoch, also of the present one so far. `begin` and
    `end` are those of the period.
    """
    if now - begin < _SILENT or used < quota * _LEAST_SHARE or used >= quota or now >= end:
        return None
    return foreseen(hours, used=used, quota=quota, begin=begin, end=end, now=now)


def foreseen(
    hours: Mapping[int, float], *, used: float, quota: float, begin: int, end: int, now: int
) -> Forecast | None:
    """Tell the same at any moment, however little is known; `None` for nothing at all."""
    profile = profile_of(hours, max(begin, now - 24 * HOUR))
    if profile is None:
        return _by_trend(hours, used=used, quota=quota, begin=begin, end=end, now=now)
    # Of a day's period all that is used is of today, and the counter knows it best.
    since = max(begin, now - 24 * HOUR)
    today = used if since == begin else _spent(hours, since, now)
    day = _ratio(today, _expected(profile, since, now))
    last = _ratio(_spent(hours, now - HOUR, now), _expected(profile, now - HOUR, now)) if now - HOUR > begin else day
    if day is None:  # on no day was anything spent at these hours
        return _by_trend(hours, used=used, quota=quota, begin=begin, end=end, now=now)
    least, most = min(day, last if last is not None else day), max(day, last if last is not None else day)
    moments = [
        _reached(profile, scale, quota - used, now, end) for scale in (day, most * (1 + _DOUBT), least * (1 - _DOUBT))
    ]
    return Forecast(moments[0], moments[1], moments[2], "profile")


def profile_of(hours: Mapping[int, float], before: int) -> list[float] | None:
    """Return the mean of each hour of the day, in UTC, over the seven days before a moment; `None` if there are less
    than three of which anything is known."""
    last = before // HOUR
    known = [number for number, units in hours.items() if last - DAYS * 24 <= number < last and units]
    days = min(DAYS, -(-(last - min(known)) // 24)) if known else 0
    if days < _LEAST_DAYS or last - min(known) < _LEAST_DAYS * 24 - 12:
        return None
    sums = [0.0] * 24
    for number in range(last - days * 24, last):
        sums[number % 24] += hours.get(number, 0)
    return [units / days for units in sums]


def _ratio(one: float, other: float) -> float | None:
    return one / other if other > 0 else None


def _parts(begin: int, end: int) -> list[tuple[int, float]]:
    """Return the hours between two moments, each with the part of it that lies between them."""
    numbers = range(begin // HOUR, -(-end // HOUR))
    return [
        (number, (min(end, (number + 1) * HOUR) - max(begin, number * HOUR)) / HOUR)
        for number in numbers
        if min(end, (number + 1) * HOUR) > max(begin, number * HOUR)
    ]


def _expected(profile: list[float], begin: int, end: int) -> float:
    return sum(profile[number % 24] * part for number, part in _parts(begin, end))


def _spent(hours: Mapping[int, float], begin: int, now: int) -> float:
    """Return what was spent from a moment on. The present hour is known so far, and is no longer than that."""
    total = 0.0
    for number, part in _parts(begin, now):
        length = min(1.0, (now - number * HOUR) / HOUR)
        total += hours.get(number, 0) * min(1.0, part / length)
    return total


def _reached(profile: list[float], scale: float, left: float, now: int, end: int) -> int | None:
    """Return when so many units will be spent; `None` if not before the end."""
    for number, part in _parts(now, end):
        units = profile[number % 24] * scale * part
        if units >= left and units > 0:
            return int(max(now, number * HOUR) + left / units * part * HOUR)
        left -= units
    return None


def _by_trend(
    hours: Mapping[int, float], *, used: float, quota: float, begin: int, end: int, now: int
) -> Forecast | None:
    first = max(begin, now - 24 * HOUR) // HOUR
    full = [hours.get(number, 0.0) for number in range(first, now // HOUR)]
    if len(full) < 2:
        return None
    level, trend = full[0], full[1] - full[0]
    for units in full[1:]:
        before, level = level, _LEVEL * units + (1 - _LEVEL) * (level + trend)
        trend = _TREND * (level - before) + (1 - _TREND) * trend

    def reached(doubt: float) -> int | None:
        left = quota - used
        for ahead, (number, part) in enumerate(_parts(now, end), 1):
            units = max(0.0, level + trend * _DAMPED * (1 - _DAMPED**ahead) / (1 - _DAMPED)) * doubt * part
            if units >= left and units > 0:
                return int(max(now, number * HOUR) + left / units * part * HOUR)
            left -= units
        return None

    return Forecast(reached(1), reached(1 + 2 * _DOUBT), reached(1 - 2 * _DOUBT), "trend")
