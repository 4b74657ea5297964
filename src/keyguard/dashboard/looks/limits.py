"""Limits in words: what they are, how much is left, and when it is back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from keyguard.dashboard.looks.formats import moment, number, span
from keyguard.dashboard.looks.words import Tone
from keyguard.dashboard.views import Limit

NOTCHES = (50, 80, 90)
"""Per cent of a quota at which people want to hear of it."""
_WARNS_AT = 0.8
_ADVERB: Mapping[str, str] = {
    "minute": "minutely",
    "hour": "hourly",
    "day": "daily",
    "week": "weekly",
    "month": "monthly",
    "year": "yearly",
}
_WORDS = {
    timedelta(seconds=1): "second",
    timedelta(minutes=1): "minute",
    timedelta(hours=1): "hour",
    timedelta(days=1): "day",
    timedelta(days=7): "week",
}


def title(limit: Limit) -> str:
    """Return a limit as meters name it: `16 000 a day`, `20 a second`, `5 in 10 s`, `4 at once`.

    If its period is not known, its public name says what it is.
    """
    if limit.kind == "at-once":
        return f"{number(limit.limit)} at once"
    if limit.period is None:
        return limit.name
    word = _word(limit)
    if word:
        return f"{number(limit.limit)} {'an' if word == 'hour' else 'a'} {word}"
    return f"{number(limit.limit)} in {_span(limit)}"


def short(limit: Limit) -> str:
    """Return a limit in short: `16 000/day`."""
    if limit.kind == "at-once" or limit.period is None:
        return title(limit)
    return f"{number(limit.limit)}/{_word(limit) or _span(limit)}"


def named(limit: Limit | None) -> str:
    """Return a limit as the subject of a sentence: `The daily quota of 16 000`."""
    if limit is None:
        return "A limit"
    if limit.kind == "quota":
        word = _word(limit)
        return (
            f"The {_ADVERB[word]} quota of {number(limit.limit)}" if word in _ADVERB else f"The quota of {title(limit)}"
        )
    return f"The limit of {title(limit)}"


def heading(limit: Limit) -> str:
    """Return the title of a limit's curve: `Daily quota`."""
    word = _word(limit)
    if limit.kind == "quota" and word in _ADVERB:
        return f"{_ADVERB[word].capitalize()} quota"
    return title(limit)


def renewed(limit: Limit, now: datetime) -> str:
    """Return when a limit is whole again, for the head of its curve."""
    if limit.kind == "quota" and limit.renewed_at:
        return f"renewed at {moment(limit.renewed_at, now)} UTC"
    return f"each request counts for {_span(limit)}" if limit.period else ""


class Metered(NamedTuple):
    """The frame around a meter."""

    title: str
    used: int | None
    """As it is shown: not below 0, though more may have been granted than was spent."""
    part: float
    left: str
    note: str
    tone: Tone
    notches: tuple[int, ...]


def metered(limit: Limit, now: datetime) -> Metered:
    """Return the words around the meter of a limit."""
    used = None if limit.used is None else max(0, limit.used)
    part = 0.0 if used is None else min(1.0, used / limit.limit) if limit.limit else 1.0
    left = max(0, limit.limit - (limit.used or 0))
    return Metered(
        title(limit),
        used,
        part,
        "not known" if used is None else f"{number(left)} {'free' if limit.kind == 'at-once' else 'left'}",
        _note(limit, now),
        "bad" if part >= 1 else "warn" if part >= _WARNS_AT else "quiet",
        NOTCHES if limit.kind == "quota" else (),
    )


def fullest_first(rows: Iterable[Limit]) -> list[Limit]:
    """Return limits in the order in which people have to look at them."""
    return sorted(rows, key=lambda one: (one.used or 0) / max(1, one.limit), reverse=True)


def _note(limit: Limit, now: datetime) -> str:
    if limit.kind == "quota":
        return f"renewed {moment(limit.renewed_at, now)}" if limit.renewed_at else ""
    if limit.back_at and limit.back_at > now:
        return f"again in {span(limit.back_at - now)}"
    if limit.peak is not None:
        most = "most today" if limit.kind == "at-once" else "peak today"
        return f"{most} {number(limit.peak)}" if limit.peak else "no requests yet"
    return ""


def _word(limit: Limit) -> str:
    if isinstance(limit.period, str):
        return limit.period
    return _WORDS.get(limit.period, "") if limit.period else ""


def _span(limit: Limit) -> str:
    if isinstance(limit.period, timedelta):
        return span(limit.period)
    return f"a {limit.period}"
