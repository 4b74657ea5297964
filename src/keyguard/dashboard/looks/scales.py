"""Scales of charts: which lines are drawn, and what is written beside them."""

from __future__ import annotations

from datetime import datetime
from math import floor, log10
from typing import NamedTuple

from keyguard.dashboard.looks.formats import day, hour, second

_NICE = (1, 2, 2.5, 5, 10)
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = tuple(
    [n * _MINUTE for n in (1, 2, 5, 10, 15, 30)]
    + [n * _HOUR for n in (1, 2, 3, 6, 12)]
    + [n * _DAY for n in (1, 2, 5, 10, 30, 60, 90, 180, 365)]
)
_MOST = 9
"""More ticks than these stand too close to each other at 800 pixels."""


class Tick(NamedTuple):
    """A place on the axis of time: 0 to 1, and its words."""

    place: float
    text: str


def steps_up_to(most: float) -> list[int]:
    """Return five whole numbers, from 0, with equal steps, of which the last is not below `most`."""
    wanted = max(most, 4) / 4
    power = 10 ** floor(log10(wanted))
    step = next(nice * power for nice in _NICE if nice * power >= wanted and float(nice * power).is_integer())
    return [int(step * number) for number in range(5)]


def short(number: int) -> str:
    """Return a number of an axis: `750`, `1k`, `2.5k`, `20M`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return str(number)


def ticks(begin: datetime, end: datetime) -> list[Tick]:
    """Return the moments to write on an axis of time: whole hours or days of UTC, or days from a first midnight."""
    span = (end - begin).total_seconds()
    step = next((step for step in _STEPS if span / step < _MOST), _STEPS[-1])
    first = begin.timestamp()
    at = first if step >= _DAY and first % _DAY == 0 else -(-first // step) * step
    found = []
    while at <= end.timestamp():
        found.append(Tick((at - first) / span, _words(second(at), step, begin, end)))
        at += step
    return found


def _words(at: datetime, step: int, begin: datetime, end: datetime) -> str:
    if step >= _DAY:
        return day(at, weekday=step == _DAY)
    if hour(at) != "00:00" or at == begin:
        return hour(at)
    return "24:00" if at == end else day(at)
