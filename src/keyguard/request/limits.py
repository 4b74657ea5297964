"""The answers of limits to one request, told when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, TypeAlias

from keyguard.ops import Demand, Taken
from keyguard.rates import Taking
from keyguard.units import as_datetime


class HasTaken(Protocol):
    """The mark of a limit, which knows what was taken once it is asked."""

    @property
    def taken(self) -> Taken: ...


class Shadowed:
    """The decision of a limit in shadow mode."""

    __slots__ = ("_decided",)

    def __init__(self, decided: Taken | HasTaken) -> None:
        self._decided = decided

    @property
    def taken(self) -> Taken:
        """Return what was taken."""
        return self._decided if isinstance(self._decided, Taken) else self._decided.taken


Decided: TypeAlias = Taken | HasTaken
"""A decision of limits: what was taken, or refused."""


def unmarked(decided: tuple[Decided, ...]) -> tuple[Decided, ...]:
    """Return decisions without the marks that know of them, which may hold their request."""
    return tuple(
        [
            one if isinstance(one, Taken) else Shadowed(one.taken) if isinstance(one, Shadowed) else one.taken
            for one in decided
        ]
    )


@dataclass(frozen=True, slots=True)
class LimitState:
    """The answer of one limit to a request.

    All limits of a request take, or none does: a request that one of them refused has not been charged to the others.
    """

    name: str
    """The limit's public name, as in header fields and refusals: `subject:100/minute`."""
    rate: str
    """The rate in words: `100/minute`."""
    limit: int
    """The units that it admits at most."""
    cost: int
    """The units that the request asked for."""
    admitted: bool
    """Whether it had so many left."""
    remaining: int
    """The units left, after the request was charged; if one of its limits refused it, without a charge."""
    more_at: datetime | None
    """When more units come back, by the store's clock; `None` if none are spent, or none do by themselves."""
    works_at: datetime | None
    """When the same request is admitted, if nothing else is taken until then; of slots, when it is worth another try.
    `None` if it was admitted, or if waiting does not help: the cost is above the limit, or a balance is spent."""
    shadow: bool = False
    """Whether it is in shadow mode: then its caller was not refused, whatever it answered."""

    @property
    def missing(self) -> int:
        """The units that were missing for the request: with so many more left it would have been admitted."""
        return 0 if self.admitted else max(1, self.cost - self.remaining)

    @property
    def pressure(self) -> float:
        """The share of the limit that is spent, from 0.0 (nothing) to 1.0 (all of it)."""
        return min(1.0, max(0.0, (self.limit - self.remaining) / self.limit)) if self.limit else 1.0


class Settled(NamedTuple):
    """The units that a request has cost more, or less, than its record says: handlers have charged them, or it was
    known late. A function that is told of records is told of this as well, if it has an attribute `settled`."""

    at: int
    """When that was known, in microseconds of the Unix epoch, by the clock of the stack."""
    subject: str
    key_id: str
    method: str
    route: str
    units: tuple[tuple[str, int], ...]
    """The units by the key of the counter."""


def limit_states(decided: Decided) -> Iterator[LimitState]:
    """Yield the state of each limit that took part in a decision."""
    taken = decided if isinstance(decided, Taken) else decided.taken
    for demand, taking in zip(taken.demands, taken.takings, strict=True):
        yield _state_of(demand, taking, taken.at, isinstance(decided, Shadowed))


def _state_of(demand: Demand, taking: Taking, at: int, shadow: bool) -> LimitState:
    _, _, remaining, reset, wait = taking
    limit = demand.limit
    return LimitState(
        name=demand.name,
        rate=limit.text,
        limit=limit.max_cost,
        cost=demand.cost,
        admitted=not wait,
        remaining=remaining,
        more_at=as_datetime(at + reset) if reset > 0 else None,
        works_at=as_datetime(at + wait) if wait > 0 else None,
        shadow=shadow,
    )
