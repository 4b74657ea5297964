"""A simulated provider: limit groups of buckets or windows, with fields or none, others who use them, hidden bursts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from keyguard.clock import SECOND
from keyguard.learnt import Dimension, Seen, dimension_of, spent_of

Cost = Mapping[str, int]


class Reply(NamedTuple):
    """What the provider answers."""

    admitted: bool
    seen: tuple[Seen, ...]
    wait: int | None
    """Microseconds of its `retry-after`."""


class Bucket:
    """Units that come back evenly."""

    def __init__(self, dimension: Dimension, limit: int) -> None:
        self.dimension, self.limit = dimension, limit
        self._level, self._at = float(limit), 0

    def pass_time(self, now: int) -> None:
        self._level = min(self.limit, self._level + (now - self._at) * self.limit / self.dimension.period)
        self._at = now

    def wait(self, units: int, now: int) -> int:
        """Return after how long there is room; 0 for now."""
        self.pass_time(now)
        lacking = units - self._level
        return 0 if lacking <= 1e-9 else round(lacking * self.dimension.period / self.limit) + 1

    def take(self, units: int) -> None:
        self._level -= units

    def seen(self, now: int) -> Seen:
        reset = round((self.limit - self._level) * self.dimension.period / self.limit)
        return Seen(self.dimension, self.limit, int(max(0.0, self._level + 1e-9)), reset)

    def unused(self, now: int) -> int:
        """Return after how long some of it is lost if nobody uses it."""
        self.pass_time(now)
        return self.seen(now).reset or 0


class Window:
    """Units that all come back at once."""

    def __init__(self, dimension: Dimension, limit: int, phase: int) -> None:
        self.dimension, self.limit = dimension, limit
        self._end, self._used = phase, 0

    def pass_time(self, now: int) -> None:
        while now >= self._end:
            self._end += self.dimension.period
            self._used = 0

    def wait(self, units: int, now: int) -> int:
        self.pass_time(now)
        return 0 if self._used + units <= self.limit else self._end - now

    def take(self, units: int) -> None:
        self._used += units

    def seen(self, now: int) -> Seen:
        return Seen(self.dimension, self.limit, self.limit - self._used, self._end - now)

    def unused(self, now: int) -> int:
        self.pass_time(now)
        return self._end - now


@dataclass
class Group:
    """A limit group of the provider."""

    name: str
    rpm: int
    kind: str = "bucket"
    fields: bool = True
    """Whether its answers tell of limits, and for how long to wait."""
    tokens: int = 1200
    """Tokens a minute for each request a minute."""
    burst: tuple[int, int] | None = None
    """Requests in so many microseconds, which is told nowhere."""
    counters: list[Bucket | Window] = field(default_factory=list)
    admitted: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        phase = (7 * self.rpm) % 60 * SECOND + 1
        for word, limit in (("rpm", self.rpm), ("tpm", self.rpm * self.tokens)):
            dimension = dimension_of(word)
            self.counters.append(Bucket(dimension, limit) if self.kind == "bucket" else Window(dimension, limit, phase))
        every = [*self.counters]
        if self.burst is not None:
            every.append(Window(Dimension("requests", self.burst[1]), self.burst[0], 1))
        self._every = [(counter, counter.dimension.unit) for counter in every]

    def wait(self, cost: Cost, now: int) -> int:
        return max([counter.wait(spent_of(cost, unit), now) for counter, unit in self._every])

    def take(self, cost: Cost) -> None:
        for counter, unit in self._every:
            counter.take(spent_of(cost, unit))

    def ask(self, cost: Cost, now: int) -> Reply:
        wait = self.wait(cost, now)
        if wait:
            self.refused += 1
        else:
            self.admitted += 1
            self.take(cost)
        seen = tuple([counter.seen(now) for counter in self.counters]) if self.fields else ()
        told = -(-wait // SECOND) * SECOND if wait and self.fields else None
        return Reply(not wait, seen, told)


def best_possible(groups: Sequence[Group], arrivals: Sequence[tuple[int, Cost]], patience: int) -> int:
    """Return how many requests are served if one who knows all limits sends each as soon as there is room.

    First come, first served; of several groups with room, the one that would lose units first. `groups` are used up.
    """
    served, free_at = 0, 0
    for at, cost in arrivals:
        now = max(at, free_at)
        while now <= at + patience:
            waits = [group.wait(cost, now) for group in groups]
            free = [group for group, wait in zip(groups, waits, strict=True) if not wait]
            if free:
                least = min(free, key=lambda group: max(counter.unused(now) for counter in group.counters))
                least.take(cost)
                served += 1
                break
            now += min(waits)
        free_at = min(now, at + patience) if now > at else free_at
    return served
