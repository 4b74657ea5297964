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
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, repeat

from keyguard.flow import Flow
from keyguard.guards.rate_limit.costs import tell_of_costs
from keyguard.guards.rate_limit.counters import Counters, Hold, counters_of
from keyguard.guards.rate_limit.outcomes import book
from keyguard.ops import Demand, Settle, Taken
from keyguard.process.event_loops import in_loop
from keyguard.rates import Taking
from keyguard.request import SHARED_ASGI, CarriedRequest

_numbers = count(1)
_lock = threading.Lock()  # of all requests: it is held for a moment, and only if handlers charge


class Tab:
    """All that the handlers of one request charge and hold."""

    __slots__ = ("_charged", "_counters", "_due", "_holds", "_request", "_watched", "number")

    def __init__(self, request: CarriedRequest) -> None:
        self.number = next(_numbers)
        """Of the requests of this process that handlers charge."""
        self._request = request
        self._counters: dict[int, Counters | None] = {}
        """By the numbers of guards."""
        self._charged: list[Counters] = []
        """Those to which units are charged that are not booked yet."""
        self._holds: list[Hold] = []
        self._due = False
        """Whether it is known when it will be settled."""
        self._watched = False

    def counters(self, number: int) -> Counters | None:
        """Return the counters of the caller on the limits of the guard of this number, if it let the request pass."""
        found = self._counters.get(number)
        if found is None:
            found = self._counters[number] = counters_of(number, self._request)
        return found

    def charge(self, counters: Counters, cost: int) -> None:
        """Charge so many units to each of these."""
        if not cost:
            return
        with _lock:
            if not counters.charged:
                self._charged.append(counters)
            counters.charged += cost
            due, self._due = self._due, True
        if not due:
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
        with _lock:
            due, self._due = self._due, True
        if not due:
            self._fall_due()

    def _returned(self) -> Flow[None] | None:
        for hold in self._holds:
            if not hold.over:
                hold.cost, hold.over = hold.cost or 0, True
        return self.settle()

    def _fall_due(self) -> None:
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
            if not self._charged and not self._holds:
                return None
            charged: list[tuple[Counters, int]] = []
            if self._charged:
                charged = [(counters, counters.charged) for counters in self._charged]
                for counters in self._charged:
                    counters.charged = 0
                self._charged = []
            over = self._holds
            if over:
                over = [hold for hold in over if hold.over]
                self._holds = [hold for hold in self._holds if not hold.over]
        if not charged and not over:
            return None
        refused = self._request.state.refusal is not None
        if refused:
            charged = []
        elif self._request.settings.sinks:
            tell_of_costs(self._request, [*_costs_of_charges(charged), *_costs_of(over)])
        # What stands in pools is settled there, at once. What is held comes first: it may give units back.
        if over:
            over = [hold for hold in over if not hold.settled(0 if refused else hold.cost or 0)]
        if charged and not over:
            charged = [(counters, units) for counters, units in charged if not counters.settled(units)]
        return self._by_operations(charged, over, refused=refused) if charged or over else None

    def _by_operations(
        self, charged: Sequence[tuple[Counters, int]], over: Sequence[Hold], *, refused: bool
    ) -> Flow[None] | None:
        """Settle what the store must be asked for: by one operation, as far as that can be."""
        units: dict[str, tuple[Demand, int]] = {}
        """By counter: a demand of none, and how many are charged."""
        for demand, cost in _costs_of_charges(charged):
            units[demand.key] = demand, cost + units.get(demand.key, (None, 0))[1]
        apart: list[Settle] = []
        demands: list[Demand] = []
        takings: list[Taking] = []
        costs: list[int] = []
        for hold in over:
            taken = hold.taken
            if taken is not None:
                cost = 0 if refused else hold.cost or 0
                if not taken.demands[0].lease:  # the units were taken, and what is too much is given back
                    if cost != taken.demands[0].cost:
                        apart.append(Settle(taken, (cost,) * len(taken.demands)))
                    continue
                told = zip(taken.demands, taken.takings, taken.moments or repeat(taken.at), strict=False)
                for demand, taking, at in told:
                    # What was charged to the same counter is charged with it.
                    _, more = units.pop(demand.key, (None, 0))
                    demands.append(demand)
                    takings.append((None, at + taking[1], 0, 0, 0))
                    costs.append(cost + more)
        for demand, cost in units.values():
            demands.append(demand)
            takings.append(_NOTHING)
            costs.append(cost)
        if len(over) > 1 and demands:
            return _book_apart(demands, takings, costs, apart)
        if demands:  # as if all of it had been taken at the beginning of time
            apart.append(Settle(Taken(demands, takings, 0, False), costs))
        if not apart:
            return None
        return book(apart[0]) if len(apart) == 1 else _book_each(apart)


_NOTHING: Taking = (None, 0, 0, 0, 0)


def _costs_of_charges(charged: Iterable[tuple[Counters, int]]) -> Iterator[tuple[Demand, int]]:
    """Yield what was charged to each counter."""
    for counters, units in charged:
        for _, demand in counters.pairs:
            yield demand, units


def _costs_of(over: Iterable[Hold]) -> Iterator[tuple[Demand, int]]:
    """Yield what holds have cost that are over."""
    for hold in over:
        for demand in () if hold.taken is None else hold.taken.demands:
            yield demand, hold.cost or 0


async def _book_each(settled: Sequence[Settle]) -> None:
    for one in settled:
        await book(one)


async def _book_apart(
    demands: Sequence[Demand], takings: Sequence[Taking], costs: Sequence[int], apart: Sequence[Settle]
) -> None:
    """Book by one operation, and by further ones what concerns the same counters; and book what stands apart."""
    await _book_each(apart)
    left = [*zip(demands, takings, costs, strict=True)]
    while left:
        once: dict[str, tuple[Demand, Taking, int]] = {}
        again = []
        for one in left:
            if once.setdefault(one[0].key, one) is not one:
                again.append(one)
        some, theirs, due = zip(*once.values(), strict=True)
        await book(Settle(Taken(some, theirs, 0, False), due))
        left = again
