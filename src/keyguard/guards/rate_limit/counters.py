"""The counters of a request's caller, as far as its handlers use them: what is charged to them, and what is held.

If the store has pools, and the limit was taken from one, handlers hold units there, and what they cost is settled
there, with no operation: fast path of `reserve_units` and of `Settle`, same answers. What a pool leaves undone is asked
as an operation, as on every other store. `tests/guards/rate_limit/test_handlers_in_pools.py` plays the same requests
both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from keyguard.guards.rate_limit.at_once import PoolCharge
from keyguard.guards.rate_limit.rules import Rule, RuleDemands
from keyguard.ops import Demand, Taken
from keyguard.request import CarriedRequest

Counter: TypeAlias = tuple[Rule, Demand]
"""A limit, and a demand of no units of it for the caller."""


class Counters:
    """The counters of a caller on the limits of one guard."""

    __slots__ = ("_pairs", "charged")

    def __init__(self, pairs: Sequence[Counter] = ()) -> None:
        self._pairs = pairs
        self.charged = 0
        """The units that handlers have charged to each of them, and that are not booked yet."""

    @property
    def pairs(self) -> Sequence[Counter]:
        """Return each limit with its demand."""
        return self._pairs

    def settled(self, cost: int) -> bool:
        """Charge units to each in the end, if that needs no operation. Return whether it was done."""
        return False

    def hold(self, units: int, lease: int) -> Hold | None:
        """Hold units of each, if that needs no operation; `None` if it does, or if there is no room."""
        return None


class PooledCounters(Counters):
    """Counters that stand in a pool."""

    __slots__ = ("bucket", "charge", "pool")

    def __init__(self, charge: PoolCharge) -> None:
        super().__init__()
        self.charge = charge
        self.bucket = charge.bucket
        self.pool: Any = charge.counters.pool

    @property
    def pairs(self) -> Sequence[Counter]:
        terms = self.charge.counters.terms
        return [*zip(terms.rules, terms.take(self.bucket, 0).demands, strict=True)]

    def settled(self, cost: int) -> bool:
        return bool(self.pool.settle(self.bucket, cost))

    def hold(self, units: int, lease: int) -> Hold | None:
        if not units or not self.charge.counters.terms.holds:
            return None
        numbers = self.pool.hold(self.bucket, units, lease)
        return None if numbers is None else PooledHold(self, numbers, units, lease)


class Hold:
    """Units that a handler holds."""

    __slots__ = ("_taken", "cost", "over")

    def __init__(self, taken: Taken | None) -> None:
        self._taken = taken
        self.cost: int | None = None
        """The units that are charged in the end; `None` as long as that is open."""
        self.over = False

    @property
    def taken(self) -> Taken | None:
        """Return what is held; `None` if the limit lets callers pass while its store is out of order."""
        return self._taken

    def settled(self, cost: int) -> bool:
        """Settle it at this cost, if that needs no operation. Return whether it was done."""
        return False


class PooledHold(Hold):
    """Units that are held in a pool."""

    __slots__ = ("_counters", "_lease", "_numbers", "_units")

    def __init__(self, counters: PooledCounters, numbers: Sequence[int], units: int, lease: int) -> None:
        super().__init__(None)
        self._counters = counters
        self._numbers = numbers
        self._units = units
        self._lease = lease

    @property
    def taken(self) -> Taken:
        lease = self._lease
        demands = [Demand(one.name, one.key, one.limit, self._units, lease) for _, one in self._counters.pairs]
        # As if it had been taken at the beginning of time: `Settle` finds a hold by the end of its first lease.
        return Taken(demands, [(None, number + lease, 0, 0, 0) for number in self._numbers], 0, False)

    def settled(self, cost: int) -> bool:
        return bool(self._counters.pool.release(self._counters.bucket, self._numbers, cost))


def counters_of(number: int, request: CarriedRequest) -> Counters | None:
    """Return the counters of a request's caller on the limits of the guard of this number; `None` if it had no say."""
    concerned = [decided for decided in request.state.decided if _concerns(decided, number)]
    if len(concerned) == 1 and concerned[0].__class__ is PoolCharge:  # of several, each is of another stack
        charge: Any = concerned[0]
        if charge.counters.store is getattr(request.settings, "store", None):
            return PooledCounters(charge)
    found: dict[str, Counter] = {}
    for decided in concerned:
        taken = decided if isinstance(decided, Taken) else decided.taken
        demands = taken.demands
        assert isinstance(demands, RuleDemands)
        for rule, demand in zip(demands.rules, demands, strict=True):
            if rule.number == number:
                if demand.cost:
                    demand = Demand(demand.name, demand.key, demand.limit, 0, holds=demand.holds)
                found[demand.key] = rule, demand
    return Counters([*found.values()]) if found else None


def _concerns(decided: Any, number: int) -> bool:
    """Tell whether a guard has had a say in what was decided."""
    if decided.__class__ is PoolCharge:  # a pool is of one guard
        return bool(decided.counters.terms.rules[0].number == number)
    demands = (decided if isinstance(decided, Taken) else decided.taken).demands
    return isinstance(demands, RuleDemands) and any(rule.number == number for rule in demands.rules)
