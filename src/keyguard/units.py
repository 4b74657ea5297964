"""Durations and moments: how people give them, and what keyguard makes of them.

    30, 0.5, 86400                                  seconds
    timedelta(minutes=10)
    "90s", "10 minutes", "2 days", "1h 30m"         numbers with their units

A moment is a `datetime` with a time zone. Both are read here, wherever they come from: a setting, an argument, a
command line. Inside keyguard they are whole microseconds (see `clock.py`).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import TypeAlias

from keyguard.checks import is_number
from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError

Duration: TypeAlias = "float | timedelta | str"
"""Seconds, a `timedelta`, or a text such as `"1h"`, `"10 minutes"` or `"2 days"`."""

_UNITS = {
    "ms": SECOND // 1000,
    "millisecond": SECOND // 1000,
    "s": SECOND,
    "sec": SECOND,
    "second": SECOND,
    "m": 60 * SECOND,
    "min": 60 * SECOND,
    "minute": 60 * SECOND,
    "h": 3600 * SECOND,
    "hour": 3600 * SECOND,
    "d": 86400 * SECOND,
    "day": 86400 * SECOND,
    "w": 7 * 86400 * SECOND,
    "week": 7 * 86400 * SECOND,
}
# The plural is for words: "hs" is a slip of the finger.
_UNITS |= {unit + "s": size for unit, size in _UNITS.items() if len(unit) > 2}
_PART = r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([a-z]+)"
_TEXT = re.compile(rf"{_PART}(?: ?{_PART})*")
_EXAMPLES = "seconds, a timedelta, or a text such as '1h', '10 minutes' or '2 days'"
_END = 253_402_300_800 * SECOND
"""The end of the year 9999: what comes later can be written down nowhere."""
_LONGEST = _END
"""No duration reaches farther than from the epoch to there."""


def microseconds(name: str, duration: object, *, min: Duration = 0, max: Duration | None = None) -> int:
    """Return a duration in microseconds.

    Raise `ConfigurationError`, by the name of the setting, if it is none or out of bounds.
    """
    found = _read(duration)
    if found is None:
        raise ConfigurationError(f"{name} is a duration: {_EXAMPLES}, not {duration!r:.80}")
    if max is None and not (_read(min) or 0) <= found <= _LONGEST:
        what = "is longer than can be said" if found > _LONGEST else f"is at least {_said(min)}"
        raise ConfigurationError(f"{name} {what}, not {duration!r:.80}")
    if max is not None and not (_read(min) or 0) <= found <= (_read(max) or 0):
        raise ConfigurationError(f"{name} is a duration from {_said(min)} to {_said(max)}, not {duration!r:.80}")
    return found


def seconds(name: str, duration: object, *, min: Duration = 0, max: Duration | None = None) -> int:
    """Return a duration in whole seconds. Raise `ConfigurationError` if it has a fraction, too."""
    whole, rest = divmod(microseconds(name, duration, min=min, max=max), SECOND)
    if rest:
        raise ConfigurationError(f"{name} is a whole number of seconds, not {duration!r:.80}")
    return whole


def _read(duration: object) -> int | None:
    """Return a duration in microseconds, or `None` if it is not one."""
    if isinstance(duration, timedelta):
        return duration // timedelta(microseconds=1)
    if isinstance(duration, str):
        return _read_text(duration.strip())
    if not is_number(duration) or not isfinite(duration):
        return None
    return round(duration * SECOND)


def _read_text(text: str) -> int | None:
    if not _TEXT.fullmatch(text):
        return None
    total = 0
    for number, unit in re.findall(_PART, text):
        size = _UNITS.get(unit)
        if size is None:
            return None
        whole, _, fraction = number.partition(".")
        total += int(whole) * size + int(fraction or 0) * size // 10 ** len(fraction)
    return total


def _said(duration: Duration) -> str:
    if isinstance(duration, str):
        return duration
    number = (_read(duration) or 0) / SECOND
    return f"{number:g} second{'' if number == 1 else 's'}"


def moment(name: str, when: object) -> int:
    """Return a moment in microseconds since the Unix epoch.

    Raise `ConfigurationError` if it is not a `datetime` with a time zone.
    """
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise ConfigurationError(f"{name} is a datetime with a time zone, not {when!r:.80}")
    return in_microseconds(when)


def in_microseconds(when: datetime) -> int:
    """Return a moment in microseconds since the Unix epoch."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def moment_from(name: str, when: object, now: int) -> int:
    """Return a moment that may be given as a duration from now as well. A number is neither: it could be either."""
    span = _read(when) if isinstance(when, (timedelta, str)) else None
    if span is not None:
        if span < 0:
            raise ConfigurationError(f"{name} is a duration from now, not one before it")
        if now + span >= _END:
            raise ConfigurationError(f"{name} lies behind the year 9999")
        return now + span
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise ConfigurationError(
            f"{name} is a duration from now, such as timedelta(days=30) or '30 days', or a datetime with a time zone, "
            f"not {when!r:.80}"
        )
    return moment(name, when)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def as_datetime(moment: int) -> datetime:
    """Return a moment in microseconds since the Unix epoch as a `datetime` in UTC."""
    return _EPOCH + timedelta(microseconds=moment)


@lru_cache(maxsize=64)  # many callers are told the same moment
def second_of(second: int) -> datetime:
    """Return a moment in whole seconds since the Unix epoch as a `datetime` in UTC."""
    return _EPOCH + timedelta(seconds=second)


@lru_cache(maxsize=64)
def rfc3339(second: int) -> str:
    """Return a moment in whole seconds since the Unix epoch as RFC 3339 text, in UTC."""
    # By hand: `strftime` takes five times as long, and a crowd may be told as many moments as it has callers.
    two = _TWO_DIGITS
    return f"{_date(second // 86400)}T{two[second // 3600 % 24]}:{two[second // 60 % 60]}:{two[second % 60]}Z"


def in_words(seconds: int) -> str:
    """Return a duration as people say it, such as `90 seconds` or `24 days 11 hours`, rounded up from an hour on."""
    if seconds < 120:
        return _counted(seconds, "second")
    (large, unit), (small, part) = next(pair for pair in _PAIRS if seconds >= pair[0][0])
    wholes, rest = divmod(-(-seconds // small) * small, large)
    return f"{_counted(wholes, unit)} {_counted(rest // small, part)}" if rest else _counted(wholes, unit)


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


_PAIRS = (((86400, "day"), (3600, "hour")), ((3600, "hour"), (60, "minute")), ((60, "minute"), (1, "second")))

_TWO_DIGITS = [f"{number:02}" for number in range(60)]


@lru_cache(maxsize=64)
def _date(days: int) -> str:
    return (_EPOCH + timedelta(days)).strftime("%Y-%m-%d")
