"""Counting as a provider does: one limit, as a bucket that fills or as a window, and the limits of one group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

from keyguard.clock import SECOND
from keyguard.learnt import Dimension, spent_of

Kind: TypeAlias = Literal["bucket", "window"]


class Meter:
    """One limit. Windows begin at whole multiples of their length since the epoch."""

    __slots__ = ("_at", "_begun", "_first", "_level", "dimension", "kind", "limit")

    def __init__(self, dimension: Dimension, limit: int, kind: Kind) -> None:
        self.dimension = dimension
        self.limit = limit
        """The units in a period; a bucket holds as many."""
        self.kind = kind
        self._level = limit * dimension.period  # of a bucket: what is left, times the period; all is exact that way
        self._at = 0
        self._begun = 0
        self._first = self._level

    def remaining(self, now: int) -> int:
        """Return the units that are left."""
        self._forward(now)
        return max(0, self._level // self.dimension.period)

    def reset(self, now: int) -> int:
        """Return the microseconds until all units are there again."""
        self._forward(now)
        missing = self.limit * self.dimension.period - self._level
        if self.kind == "window":
            return self._at + self.dimension.period - now
        return -(-missing // self.limit)

    def wait(self, now: int, units: int) -> int:
        """Return the microseconds until so many units are there; 0 if they are. At most `limit` can ever be."""
        self._forward(now)
        missing = units * self.dimension.period - self._level
        if missing <= 0:
            return 0
        return self.reset(now) if self.kind == "window" else -(-missing // self.limit)

    def take(self, now: int, units: int) -> None:
        """Take units that are there."""
        self._forward(now)
        self._level -= units * self.dimension.period

    def spend(self, now: int, units: int) -> None:
        """Take units for others, at most those that are there."""
        units = min(units, self.remaining(now))
        self.take(now, units)
        self._first -= units * self.dimension.period

    def mark(self, now: int) -> None:
        """Let `possible` count from now."""
        self._forward(now)
        self._begun, self._first = now, self._level

    def possible(self, now: int) -> int:
        """Return the units that it could have given since it was marked."""
        period = self.dimension.period
        if self.kind == "window":
            return self._first // period + self.limit * (now // period - self._begun // period)
        return (self._first + (now - self._begun) * self.limit) // period

    def _forward(self, now: int) -> None:
        period = self.dimension.period
        full = self.limit * period
        if self.kind == "window":
            begin = now // period * period
            if begin != self._at:
                self._at, self._level = begin, full
            return
        self._level = min(full, self._level + max(0, now - self._at) * self.limit)
        self._at = now


class Missing(NamedTuple):
    """The limit for which a group has no room."""

    meter: Meter | None
    """The limit that is used up; `None` for the hidden one, of which no field tells."""
    units: int
    """The units that were asked of it."""
    wait: int | None
    """Microseconds until there is room; `None` if there never is."""


class Group:
    """The limits that some keys share."""

    def __init__(self, limits: Mapping[Dimension, int], kind: Kind, hidden_burst: tuple[int, float] | None) -> None:
        self.meters = tuple(Meter(dimension, limit, kind) for dimension, limit in limits.items())
        self.hidden: Meter | None = None
        if hidden_burst is not None:
            most, seconds = hidden_burst
            self.hidden = Meter(Dimension("requests", round(seconds * SECOND)), most, "window")
        self.begun: int | None = None
        """The time of the first request, in microseconds."""

    def take(self, now: int, cost: Mapping[str, int]) -> Missing | None:
        """Take what a request costs of all limits, or nothing: then return what is missing the longest."""
        if self.begun is None:
            self.begun = now
            for meter in self._all():
                meter.mark(now)
        missing = [found for meter in self._all() if (found := self._missing(meter, now, cost))]
        if missing:
            return max(missing, key=lambda each: float("inf") if each.wait is None else each.wait)
        for meter in self._all():
            meter.take(now, spent_of(cost, meter.dimension.unit))
        return None

    def spend(self, now: int, units: Mapping[str, int]) -> None:
        """Take units of the limits that fields tell of for others, at most those that are there."""
        for meter in self.meters:
            meter.spend(now, units.get(meter.dimension.unit, 0))

    def possible(self, now: int, cost: Mapping[str, int]) -> int | None:
        """Return how many such requests could have been served since the first one; `None` if there is no limit."""
        if self.begun is None:
            return 0
        found = [
            max(0, meter.possible(now)) // units
            for meter in self._all()
            if (units := spent_of(cost, meter.dimension.unit))
        ]
        return min(found, default=None)

    def _all(self) -> Iterable[Meter]:
        return self.meters if self.hidden is None else (*self.meters, self.hidden)

    def _missing(self, meter: Meter, now: int, cost: Mapping[str, int]) -> Missing | None:
        units = spent_of(cost, meter.dimension.unit)
        told = None if meter is self.hidden else meter
        if units > meter.limit:
            return Missing(told, units, None)
        wait = meter.wait(now, units)
        return Missing(told, units, wait) if wait else None
