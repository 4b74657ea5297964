"""How a quota was spent since it began anew, and how it goes on if the caller's day is as its other days are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from keyguard.alerts.forecast import HOUR, forecast, profile_of
from keyguard.dashboard.pages.usage import calendar, utc
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import Forecast, Guess, Limit, Point, Quota
from keyguard.units import as_datetime, in_microseconds
from keyguard.usage import UsageReport
from keyguard.why import LimitReport

_POINTS = 96
_GUESSES = 24
_HISTORY = timedelta(days=8)
_FORECAST_FROM = timedelta(hours=23)


def quota_of(reading: Reading, subject: str, limits: tuple[LimitReport, ...]) -> Quota | None:
    """Return the curve of the quota that decides, else of the longest one; `None` if there is none, or no ledger."""
    quotas = [one for one in limits if one.kind == "quota"]
    if not quotas:
        return None
    one = quotas[0] if quotas[0].exhausted else max(quotas, key=lambda each: each.period or timedelta(0))
    begins, ends = one.begins, one.ends
    if begins is None or ends is None:
        return None
    minutes = max(1, int((ends - begins).total_seconds()) // _POINTS // 60)
    report = reading.ledger(lambda usage: usage.of(subject, begins, bucket=minutes * 60))
    if report is None:
        return None
    return Quota(
        limit=limit_of(one),
        begins=utc(begins),
        ends=utc(ends),
        points=_points(report, one, reading.now),
        used=one.spent,
        used_up_at=None if one.used_up_at is None else utc(one.used_up_at),
        forecast=_forecast(reading, subject, one, begins, ends),
    )


def limit_of(one: LimitReport) -> Limit:
    """Return a limit, as pages show it."""
    at_once = one.kind == "slots"
    renewed_at = one.ends or one.more_at
    return Limit(
        name=one.name,
        kind="at-once" if at_once else "quota" if one.kind == "quota" else "window",
        limit=one.limit,
        period=None if at_once else calendar(one.unit) or one.period,
        used=one.held if at_once else one.spent + one.held,
        renewed_at=None if renewed_at is None else utc(renewed_at),
        back_at=None if one.works_at is None else utc(one.works_at),
    )


def _points(report: UsageReport, one: LimitReport, now: datetime) -> tuple[Point, ...]:
    """Return what was spent by when. The counter knows better than the ledger what it is by now."""
    points, total = [Point(utc(report.since), 0)], 0
    for bucket in report.buckets:
        total += bucket.units.get(one.prefix, 0)
        end = bucket.at + timedelta(seconds=bucket.seconds)
        if end >= now:
            break
        points.append(Point(utc(end), min(total, max(0, one.spent))))
    return (*points, Point(now, max(0, one.spent)))


def _forecast(reading: Reading, subject: str, one: LimitReport, begins: datetime, ends: datetime) -> Forecast | None:
    """Return how it goes on; `None` if nothing can be said."""
    if ends - begins < _FORECAST_FROM or one.exhausted:
        return None
    begin, end, now = [in_microseconds(moment) for moment in (begins, ends, reading.now)]
    since = min(begins, reading.now) - _HISTORY
    report = reading.ledger(lambda usage: usage.of(subject, since, bucket=3600))
    if report is None:
        return None
    hours = {in_microseconds(each.at) // HOUR: float(each.units.get(one.prefix, 0)) for each in report.buckets}
    found = forecast(hours, used=one.spent, quota=one.limit, begin=begin, end=end, now=now)
    if found is None:
        return None
    profile = profile_of(hours, max(begin, now - 24 * HOUR))
    weight = _weight(profile, now)
    left = one.limit - one.spent
    so_far = one.spent / max(1, now - begin) * HOUR

    def pace(moment: int | None, otherwise: float) -> float:
        """Return how many times the weight is spent, if the limit is reached at that moment."""
        return otherwise if moment is None or weight(moment) <= 0 else left / weight(moment)

    usual = so_far if profile is None else one.spent / max(1e-9, _between(profile, begin, now))
    end_pace = left / weight(end) if weight(end) > 0 else 0.0
    likely = pace(found.likely, min(usual, end_pace))
    high = max(likely, pace(found.earliest, likely))
    low = min(likely, pace(found.latest, likely * 0.9))
    moments = [now + (end - now) * step // _GUESSES for step in range(_GUESSES + 1)]
    guesses = [
        Guess(as_datetime(at), *[int(one.spent + each * weight(at)) for each in (low, likely, high)]) for at in moments
    ]
    reached = [None if each is None else as_datetime(each) for each in (found.earliest, found.likely, found.latest)]
    return Forecast(tuple(guesses), *reached)


def _weight(profile: list[float] | None, now: int) -> Callable[[int], float]:
    """Return a function that tells how much of the caller's usual day lies between now and a moment, in units; without
    a profile each hour weighs the same."""
    return lambda moment: (moment - now) / HOUR if profile is None else _between(profile, now, moment)


def _between(profile: list[float], begin: int, end: int) -> float:
    total, at = 0.0, begin
    while at < end:
        number = at // HOUR
        until = min(end, (number + 1) * HOUR)
        total += profile[number % 24] * (until - at) / HOUR
        at = until
    return total
