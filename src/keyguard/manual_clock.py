"""Clocks that people give to stacks, stores and registries: for tests one that stands still, or a function of theirs.

Inside, a clock is a function that returns whole microseconds (`clock.py`); people see durations and moments.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar
from weakref import WeakSet

from keyguard.clock import Clock, wall_clock
from keyguard.errors import ConfigurationError
from keyguard.process.background import Job
from keyguard.units import Duration, as_datetime, in_microseconds, microseconds, moment

_AGES = timedelta(days=3_000_000)


class ManualClock:
    """A clock that goes only when it is told to. It starts in 2027.

    A stack and its store are given the same one:

        clock = ManualClock()
        guard = Keyguard(RateLimit("1/minute"), store=MemoryStore(clock=clock), clock=clock)
        clock.advance("1 minute")
    """

    def __init__(self, start: datetime = datetime(2027, 1, 15, 8, tzinfo=UTC)) -> None:
        self._now = moment("start", start)
        self._watchers: WeakSet[Job] = WeakSet()

    @classmethod
    def at_present(cls) -> ManualClock:
        """Return one that starts now."""
        return cls(as_datetime(wall_clock()))

    def __repr__(self) -> str:
        return f"<ManualClock {self.now.isoformat()}>"

    def __call__(self) -> int:
        """Return the time as stores count it, for a store of your own: what `Op.apply` is given."""
        return self._now

    @property
    def now(self) -> datetime:
        """Return the time, in UTC."""
        return as_datetime(self._now)

    def advance(self, duration: Duration) -> None:
        """Let time pass: seconds, a `timedelta` or a text such as `"1 minute"`. Less than nothing sets it back.

        What stacks do in the background and is due by then is done before this returns.
        """
        self._now += microseconds("duration", duration, min=-_AGES)
        for job in [*self._watchers]:
            job.run_due()

    def watch(self, watcher: Job) -> None:
        """Have a job run when the clock has been advanced beyond its time."""
        self._watchers.add(watcher)


GivenClock: TypeAlias = ManualClock | Callable[[], datetime]
"""A `ManualClock`, or a function that returns the time as a `datetime` with a time zone."""

Default = TypeVar("Default", Clock, None)


def clock_from(given: GivenClock | None, default: Default) -> Clock | Default:
    """Return what people give as a clock, as it is read inside, or the default if they give none.

    Raises `ConfigurationError` if it is not a clock.
    """
    if given is None:
        return default
    if isinstance(given, ManualClock):
        return given
    if not callable(given):
        raise ConfigurationError(f"clock is a function that returns a datetime, not {given!r:.80}")
    function = given
    moment("the time that clock returns", function())
    return lambda: in_microseconds(function())


def given_by(clock: Clock) -> GivenClock:
    """Return a clock that is read inside as people give one."""
    return clock if isinstance(clock, ManualClock) else lambda: as_datetime(clock())
