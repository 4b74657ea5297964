"""The tab of one request: what its handlers charge and hold, settled when it is over.

Rules:
- Whatever handlers charge is booked by one operation at the end, after the last byte. What comes later, from a
  background task say, is booked when the app has returned. It is booked at once if nobody is told of an end, under WSGI
  if the app's body went to the server as it is; and on a websocket, whose end may be far away.
- What is still held when the app has returned is released: a stream that was cut leaves its generator to the garbage
  collector, and nobody else ends its hold.
- A request that is answered with a refusal costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple, TypeAlias

from keyguard.flow import Flow
from keyguard.guards.rate_limit.outcomes import book
from keyguard.guards.rate_limit.rules import Rule, RuleDemands
from keyguard.ops import Demand, Settle, Taken
from keyguard.process.event_loops import in_loop
from keyguard.rates import Taking
from keyguard.request import SHARED_ASGI, CarriedRequest

Counter: TypeAlias = tuple[Rule, str]
"""A limit, and the caller's name there."""

_numbers = count(1)
_lock = threading.Lock()  # of all requests: it is held for a moment, and only if handlers charge


def counters_of(name: str, request: CarriedRequest) -> list[Counter]:
    """Return the counters of a request's caller on the limits of this name that have let the request pass."""
    found = []
    for decided in request.state.decided:
        taken = decided if isinstance(decided, Taken) else decided.taken
        demands = taken.demands
        if isinstance(demands, RuleDemands):
            pairs = zip(demands.rules, demands, strict=True)
            found += [(rule, demand.key.removeprefix(rule.prefix)) for rule, demand in pairs if rule.guard == name]
    return found


class Hold:
    """Units that a handler holds."""

    __slots__ = ("cost", "over", "taken")

    def __init__(self, taken: Taken | None) -> None:
        self.taken = taken
        """`None` if the limit lets callers pass while its store is out of order."""
        self.cost: int | None = None
        """The units that are charged in the end; `None` as long as that is open."""
        self.over = False


class Tab:
    """All that the handlers of one request charge and hold."""

    __slots__ = ("_due", "_holds", "_request", "_units", "_watched", "number")

    def __init__(self, request: CarriedRequest) -> None:
        self.number = next(_numbers)
        """Of the requests of this process that handlers charge."""
        self._request = request
        self._units: dict[str, tuple[Rule, int]] = {}
        self._holds: list[Hold] = []
        self._due = False
        """Whether it is known when it will be settled."""
        self._watched = False

    def charge(self, counters: Sequence[Counter], cost: int) -> None:
        """Charge so many units to each of these."""
        if not cost:
            return
        with _lock:
            for rule, bucket in counters:
                key = rule.prefix + bucket
                self._units[key] = rule, self._units.get(key, (rule, 0))[1] + cost
        self._fall_due()

    def keep(self, hold: Hold) -> None:
        """Note what is held, until it is closed or the app has returned."""
        with _lock:
            self._holds.append(hold)
            watched, self._watched = self._watched, True
        if not watched:
            self._request.after_app(self._returned)

    def close(self, hold: Hold, cost: int) -> None:
        """Have the hold settled, at this cost."""
        hold.cost, hold.over = cost, True
        self._fall_due()

    def _returned(self) -> Flow[None] | None:
        for hold in self._holds:
            if not hold.over:
                hold.cost, hold.over = hold.cost or 0, True
        return self.settle()

    def _fall_due(self) -> None:
        with _lock:
            due, self._due = self._due, True
        if due:
            return
        request = self._request
        at_once = request.websocket and in_loop() if request.shared == SHARED_ASGI else request.late is not None
        if at_once and request.settings.late is not None:
            request.settings.late(self.settle)
        elif request.late is None:
            request.at_end(self.settle)
        else:
            request.after_app(self.settle)

    def settle(self) -> Flow[None] | None:
        """Settle all that is known by now: called when the request is over."""
        with _lock:
            self._due = False
            units, self._units = self._units, {}
            over = [hold for hold in self._holds if hold.over]
            self._holds = [hold for hold in self._holds if not hold.over]
        refused = self._request.state.refusal is not None
        if refused:
            units = {}
        settled = []
        for hold in over:
            if hold.taken is not None:
                cost = 0 if refused else hold.cost or 0
                for demand, taking in zip(hold.taken.demands, hold.taken.takings, strict=True):
                    # What was charged to the same counter is charged with it.
                    _, more = units.pop(demand.key, (None, 0))
                    settled.append(_Settled(demand, (None, hold.taken.at + taking[1], 0, 0, 0), cost + more))
        for key, (rule, cost) in units.items():
            settled.append(_Settled(Demand(rule.name, key, rule.limit, 0, holds=rule.holds), _NOTHING, cost))
        return _book(settled) if settled else None


class _Settled(NamedTuple):
    """What one demand costs in the end. Its taking is as if it had been made at the beginning of time."""

    demand: Demand
    taking: Taking
    cost: int


_NOTHING: Taking = (None, 0, 0, 0, 0)


async def _book(settled: list[_Settled]) -> None:
    """Book all by one operation, and by further ones what concerns the same counters."""
    while settled:
        once: dict[str, _Settled] = {}
        again = []
        for one in settled:
            if one.demand.key in once:
                again.append(one)
            else:
                once[one.demand.key] = one
        demands, takings, costs = zip(*once.values(), strict=True)
        await book(Settle(Taken(demands, takings, 0, False), costs))
        settled = again
