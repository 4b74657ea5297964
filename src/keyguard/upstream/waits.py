"""Times as providers write them, each as microseconds from now.

Providers tell when a key works again in numbers, in Go's durations, as instants and in sentences. Whatever text comes,
nothing here raises: what cannot be read, is negative or lies further ahead than `MOST` tells nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from keyguard.clock import SECOND
from keyguard.http.dates import parse_date

MOST = 31 * 86400 * SECOND
"""A wait that is longer is not believed. One that is cut to less would waste a call at its end."""

_LONGEST = 64  # characters of a text that may be a time; a sentence has its own bound
_LONGEST_SENTENCE = 4096

_NUMBER = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,30}))?")
_GO_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,30})?)(h|ms|m|us|µs|μs|ns|s)")  # both signs for micro
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,12}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)  # RFC 3339, section 5.6
_GO = r"(?:[0-9]{1,15}(?:\.[0-9]{1,30})?(?:h|ms|m|us|ns|s))+"
_IN = re.compile(
    rf"(?:try again|retry)(?: after| in)(?: about)? (?:(?P<go>{_GO})(?![a-z0-9])"
    r"|(?P<number>[0-9]{1,15}(?:\.[0-9]{1,30})?) ?(?P<unit>milliseconds?|seconds?|minutes?|hours?|days?))",
    re.IGNORECASE | re.ASCII,
)
_WORDS = {"millisecond": 1e-3, "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_ON = re.compile(
    r"(?:regain access on|resets? (?:at|on)|try again (?:at|on)) "
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:(?: at |T| )([0-9]{2}:[0-9]{2})(:[0-9]{2})?)?(?: ?(?:UTC|Z))?(?![0-9:+])",
    re.IGNORECASE | re.ASCII,
)


def believed(wait: int | None) -> int | None:
    """Return a wait, in microseconds; `None` for one that is negative, or longer than 31 days."""
    return wait if wait is not None and 0 <= wait <= MOST else None


def seconds(text: str) -> int | None:
    """Read a number of seconds, such as `20` or `0.5`: no sign, no exponent."""
    found = _NUMBER.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if found is None:
        return None
    return believed(int(found[1]) * SECOND + int((found[2] or "").ljust(6, "0")[:6]))


def milliseconds(text: str) -> int | None:
    """Read a number of milliseconds."""
    found = _NUMBER.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    return None if found is None else believed(int(found[1]) * 1000 + int((found[2] or "").ljust(3, "0")[:3]))


def duration(text: str) -> int | None:
    """Read a duration as Go writes them, such as `6m0s`, `2m59.56s` or `12ms`; a bare number means seconds."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    parts = _GO_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return seconds(text)
    return believed(round(sum(float(number) * _GO_UNITS[unit] for number, unit in parts) * SECOND))


def instant(text: str, now: int) -> int | None:
    """Read an instant (RFC 3339, or an HTTP date): microseconds from `now` on, 0 if it has passed."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    found = _INSTANT.fullmatch(text)
    if found is None:
        try:
            at = parse_date(text, now // SECOND)
        except (ValueError, OverflowError, OSError):  # of a `now` that no calendar has
            return None
        return None if at is None else _from_now(at * SECOND, now)
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups()
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), min(59, int(second)), tzinfo=UTC)
    except ValueError:
        return None
    away = (int(hours) * 60 + int(minutes)) * 60 * (-1 if sign == "-" else 1) if sign else 0
    whole = int(moment.timestamp()) - away
    return _from_now(whole * SECOND + int((fraction or "").ljust(6, "0")[:6]), now)


def moment(text: str, now: int) -> int | None:
    """Read a reset of which nobody says what it is: an instant, a duration, or a number.

    A number above 1e12 is milliseconds since the epoch, one above 1e9 seconds since the epoch, others are seconds from
    now on: `X-RateLimit-Reset` has all three meanings.
    """
    found = _NUMBER.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if found is None:
        told = instant(text, now)
        return duration(text) if told is None else told
    whole = int(found[1])
    if whole > 10**12:
        return _from_now(whole * 1000, now)
    return _from_now(whole * SECOND, now) if whole > 10**9 else duration(text)


def sentence(text: str, now: int) -> int | None:
    """Read the last time that stands in a sentence.

    Such as: `Please try again in 1m2.5s`, `Please retry after 37 seconds`, `regain access on 2026-09-01 at 00:00 UTC`.
    """
    text = text[-_LONGEST_SENTENCE:]
    told: int | None = None
    for found in _IN.finditer(text):
        unit = (found["unit"] or "").lower().removesuffix("s")
        told = duration(found["go"]) if found["go"] else believed(round(float(found["number"]) * _WORDS[unit] * SECOND))
    for found in _ON.finditer(text):
        told = instant(f"{found[1]}T{found[2] or '00:00'}{found[3] or ':00'}Z", now)
    return told


def _from_now(at: int, now: int) -> int | None:
    return believed(max(0, at - now))


READERS: dict[str, Callable[[str, int], int | None]] = {
    "seconds": lambda text, now: seconds(text),
    "milliseconds": lambda text, now: milliseconds(text),
    "duration": lambda text, now: duration(text),
    "instant": instant,
    "moment": moment,
    "sentence": sentence,
}
"""By name: what reads a time, so that a profile is data alone."""
