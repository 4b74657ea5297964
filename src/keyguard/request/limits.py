"""The answers of limits to one request, told when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from keyguard.ops import Demand, Taken
from keyguard.rates import NEVER, Taking
from keyguard.units import as_datetime


class HasTaken(Protocol):
    """The mark of a limit, which knows what was taken once it is asked."""

    @property
    def taken(self) -> Taken: ...


Decided: TypeAlias = Taken | HasTaken
"""A decision of limits: what was taken, or refused."""


@dataclass(frozen=True, slots=True)
class LimitState:
    """The answer of one limit to a request.

    All limits of a request take, or none does: a request that one of them refused has not been charged to the others.
    """

    name: str
    """The limit's public name, as in header fields and refusals: `subject:100/minute`."""
    rate: str
    """The rate in words: `100/minute`."""
    quota: int
    """The units that it ever admits at once."""
    cost: int
    """The units that the request asked for."""
    admitted: bool
    """Whether it had so many left."""
    remaining: int
    """The units left, after the request was charged; if one of its limits refused it, without a charge."""
    back_at: datetime | None
    """The moment at which more units come back, by the store's clock; `None` if none are spent."""
    admits_at: datetime | None
    """The moment from which it would admit the same request, if nothing else is taken meanwhile: that of the decision
    if it was admitted, and of slots the next moment that is worth a try. `None` if no waiting helps: the cost is above
    all that it ever admits, or a balance is spent."""

    @property
    def missing(self) -> int:
        """The units that a request which was refused lacks: with so many more it would have been admitted."""
        return 0 if self.admitted else max(1, self.cost - self.remaining)

    @property
    def spent(self) -> float:
        """The share of the quota that is spent, from 0.0 to 1.0."""
        return min(1.0, max(0.0, 1 - self.remaining / self.quota)) if self.quota else 1.0


def limit_states(decided: Decided) -> Iterator[LimitState]:
    """Yield the state of each limit that took part in a decision."""
    taken = decided if isinstance(decided, Taken) else decided.taken
    for demand, taking in zip(taken.demands, taken.takings, strict=True):
        yield _state_of(demand, taking, taken.at)


def _state_of(demand: Demand, taking: Taking, at: int) -> LimitState:
    _, _, remaining, reset, wait = taking
    limit = demand.limit
    return LimitState(
        name=demand.name,
        rate=limit.text,
        quota=limit.max_cost,
        cost=demand.cost,
        admitted=not wait,
        remaining=remaining,
        back_at=as_datetime(at + reset) if reset else None,
        admits_at=None if wait == NEVER else as_datetime(at + wait),
    )
