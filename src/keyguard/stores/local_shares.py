"""The part of a limit that a process admits by itself while the store it shares with others is out of order."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from keyguard.manual_clock import GivenClock
from keyguard.ops import Demand, Settle, Take, Taken
from keyguard.process.fork import renew_after_fork
from keyguard.rates import Limit
from keyguard.stores.memory import MemoryStore

_BYTES = 16 * 1024 * 1024
_KEPT = 4096


class Shares:
    """This process's parts of the limits, counted here alone.

    The counts outlive an outage: a store that comes and goes would have them begin anew each time.
    """

    def __init__(self, clock: GivenClock | None = None) -> None:
        self._clock = clock
        self._store: MemoryStore | None = None
        self._parts: dict[tuple[Limit, int], Limit] = {}
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def take(self, demands: Sequence[Demand], workers: int) -> Taken:
        """Take from this process's parts, one of `workers`. A request that costs more than a part takes the whole part.

        One that costs more than the limit ever admits is refused here as well.
        """
        with self._lock:
            store = self._store = self._store or MemoryStore(_BYTES, clock=self._clock)
        parts = []
        for demand in demands:
            part, cost = self._part(demand.limit, workers), demand.cost
            if cost <= demand.limit.max_cost:
                cost = min(cost, part.max_cost)
            parts.append(Demand(demand.name, demand.key, part, cost, demand.lease, holds=demand.holds))
        taken: Taken = store.execute([Take(parts)])[0]
        return taken

    def release(self, taken: Taken) -> None:
        """Release what was held here."""
        if self._store is not None:
            self._store.execute([Settle(taken)])

    def _part(self, limit: Limit, workers: int) -> Limit:
        part = self._parts.get((limit, workers))
        if part is None:
            if len(self._parts) > _KEPT:
                self._parts.clear()
            part = self._parts[limit, workers] = limit.share(workers)
        return part
