"""The clocks. No other module of keyguard reads one: they are handed in.

Time is an `int` of whole microseconds since the Unix epoch. Floats are not used: at today's dates a float
of seconds is too coarse to tell two requests apart, and rounding it has cost a caller a unit of quota.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import module_from_spec
from types import BuiltinFunctionType
from typing import Any, TypeAlias

Clock: TypeAlias = Callable[[], int]
"""A function without arguments: the time now, in microseconds since the Unix epoch."""

SECOND = 1_000_000
"""Microseconds in a second."""


def _untouched() -> Any:
    """Return the module `time` once more, which nothing knows that has time stand still for tests.

    freezegun replaces its functions in all modules, and what stands still never passes a deadline.
    """
    assert time.__spec__ is not None
    assert time.__spec__.loader is not None
    module = module_from_spec(time.__spec__)
    time.__spec__.loader.exec_module(module)
    return module


_own = _untouched()


def wall_clock() -> int:
    """Return the system's time. It is shared by all processes of a machine; it may be set back by its operator."""
    return time.time_ns() // 1000


def steady_clock() -> Clock:
    """Return a clock that starts at the system's time and never jumps, in this process.

    In a process that may run tests, it goes by the time that freezegun and time-machine have made, while there is one.
    """
    monotonic_ns: Callable[[], int] = _own.monotonic_ns
    start = monotonic_ns()
    offset = time.time_ns() - start
    if travelling():
        offset = _real_time_ns() - start

    def steady() -> int:
        return (monotonic_ns() + offset) // 1000

    def travelled() -> int:
        return wall_clock() if travelling() else steady()

    return steady if _TRAVELLERS.isdisjoint(sys.modules) else travelled


_TRAVELLERS = frozenset({"freezegun", "time_machine", "pytest", "unittest"})
"""Modules without which nobody makes another time."""


def travelling() -> str:
    """Return the name of the library that has made another time for a test; empty if none has."""
    if time.time_ns.__class__ is not BuiltinFunctionType:
        return "freezegun"
    machine: Any = sys.modules.get("time_machine")
    return "time-machine" if machine is not None and machine.escape_hatch.is_travelling() else ""


def _real_time_ns() -> int:
    machine: Any = sys.modules.get("time_machine")
    if machine is not None and machine.escape_hatch.is_travelling():
        return int(machine.escape_hatch.time.time_ns())
    return int(_own.time_ns())


def whole_seconds(microseconds: int) -> int:
    """Round a span up to the whole seconds that `Retry-After` can say (RFC 9110, section 10.2.3); at least 1."""
    return max(1, -(-microseconds // SECOND))


monotonic: Callable[[], float] = _own.monotonic
"""Seconds from no moment in particular, never set back: for measuring how long something takes."""


def pause(seconds: float) -> None:
    """Hold up this thread."""
    time.sleep(seconds)
