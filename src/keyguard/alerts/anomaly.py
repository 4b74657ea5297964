"""The anomaly: a minute with far more requests than this caller's minutes have.

The usual is a mean that forgets (EWMA). How far minutes stray from it is at least what chance alone makes of them: of
`n` requests that come independently of each other the square root of `n` (Poisson). So a caller with three requests a
minute is not told of at eight, and one with 3,000 is told of at 4,000.

Pure: the minutes come in, and an answer goes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

LEAST = 10
"""Requests of a minute, below which no minute is told of."""
MINUTES = 120
"""Minutes that are looked at."""

_WEIGHT, _SLOWLY = 0.1, 0.02  # of a minute, and of a strange one
_FAR = 6.0  # deviations from the usual that are an anomaly
_NEAR = 3.0  # and those within which a minute is usual again
_TWICE = 2.0
_LEARNT = 30  # minutes, before which nothing is usual


class Pace(NamedTuple):
    """The last minute, beside the usual."""

    requests: int
    usual: float
    strange: bool
    calm: bool
    """Whether it is as usual: an anomaly is over then. A minute may be neither."""


def pace_of(minutes: Sequence[int]) -> Pace | None:
    """Judge the last of these minutes, oldest first, by those before it; `None` if too few are known."""
    first = next((place for place, requests in enumerate(minutes) if requests), len(minutes))
    known = minutes[first:]
    if len(known) <= _LEARNT:
        return None
    mean, variance = sum(known[:_LEARNT]) / _LEARNT, 0.0
    variance = sum((requests - mean) ** 2 for requests in known[:_LEARNT]) / _LEARNT
    for requests in known[_LEARNT:-1]:
        far = requests - mean
        if far > _FAR * _deviation(mean, variance) and requests >= LEAST:
            mean += _SLOWLY * far  # it is not what is usual from now on, unless it lasts
            continue
        mean += _WEIGHT * far
        variance = (1 - _WEIGHT) * (variance + _WEIGHT * far * far)
    last, deviation = known[-1], _deviation(mean, variance)
    strange = last >= LEAST and last > mean + _FAR * deviation and last >= _TWICE * mean
    return Pace(last, mean, strange, last <= mean + _NEAR * deviation or last < LEAST)


def _deviation(mean: float, variance: float) -> float:
    return max(sqrt(max(0.0, variance)), sqrt(max(0.0, mean)), 1.0)
