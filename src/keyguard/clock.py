"""The clocks. No other module of keyguard reads one: they are handed in.

Time is an `int` of whole microseconds since the Unix epoch. Floats are not used: at today's dates a float
of seconds is too coarse to tell two requests apart, and rounding it has cost a caller a unit of quota.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]
"""A function without arguments: the time now, in microseconds since the Unix epoch."""

SECOND = 1_000_000
"""Microseconds in a second."""


def wall_clock() -> int:
    """Return the system's time. It is shared by all processes of a machine; it may be set back by its operator."""
    return time.time_ns() // 1000


def steady_clock() -> Clock:
    """Return a clock that starts at the system's time and never jumps, in this process."""
    offset = time.time_ns() - time.monotonic_ns()

    def steady() -> int:
        return (time.monotonic_ns() + offset) // 1000

    return steady


def whole_seconds(microseconds: int) -> int:
    """Round a span up to the whole seconds that `Retry-After` can say (RFC 9110, section 10.2.3); at least 1."""
    return max(1, -(-microseconds // SECOND))


monotonic = time.monotonic
"""Seconds from no moment in particular, never set back: for measuring how long something takes."""


def pause(seconds: float) -> None:
    """Hold up this thread."""
    time.sleep(seconds)
