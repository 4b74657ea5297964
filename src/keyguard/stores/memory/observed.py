"""A memory store for tests: it tells what limits are asked, can be broken, and can be set back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any

from keyguard.errors import StoreError
from keyguard.manual_clock import ManualClock
from keyguard.ops import Adjust, Adjustment, Demand, Op, Take
from keyguard.ops.adjusting import keeps_count
from keyguard.rates.strikes import Strikes
from keyguard.stores.memory.store import MemoryStore

BROKEN = "a test has broken the store"


class ObservedStore(MemoryStore):
    """A memory store that calls `told` with each `Take` before it is done."""

    def __init__(self, clock: ManualClock, told: Callable[[ObservedStore, Take], None]) -> None:
        self.broken = False
        self._told = told
        self._manual = clock
        self._at: int | None = None
        """The moment at which something is done that is past; `None` for now."""
        self._turn = RLock()
        super().__init__(clock=clock)
        self._core.clock = self._now

    def _now(self) -> int:
        return self._manual() if self._at is None else self._at

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations, one thread after the other. Raises `StoreError` while it is broken."""
        with self._turn:
            for op in ops:
                if isinstance(op, Take):
                    self._told(self, op)
            if self.broken:
                raise StoreError(BROKEN)
            return super().execute(ops)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        if self.broken:
            raise StoreError(BROKEN)
        return super().scan(prefix)

    def empty(self, demands: Sequence[Demand], at: int) -> None:
        """Have all that limits admit be taken, as of a moment. A ban is not such a limit."""
        with self._turn:
            self._at = at
            try:
                for demand in demands:
                    if not isinstance(demand.limit, Strikes):
                        self._empty(demand)
            finally:
                self._at = None

    def _empty(self, demand: Demand) -> None:
        name, key, limit = demand.name, demand.key, demand.limit
        if keeps_count(limit):
            super().execute([Adjust([Adjustment(key, limit, "set", limit.max_cost)])])
            return
        # Places are held for as long as a request may hold one; of other kinds, all that is left is taken.
        (seen,) = super().execute([Take([Demand(name, key, limit, 0, demand.lease)])])
        super().execute([Take([Demand(name, key, limit, seen.takings[0][2], demand.lease)])])

    def forget(self) -> None:
        """Forget all that has an end: counters, bans, the audit log. Keys stay, and what else is kept for good."""
        with self._turn:
            kept = [*self.values.items()]
            super().__init__(clock=self._manual)
            self._core.clock = self._now
            for key, value in kept:
                self._core.put_value(key, value, self._now())
            self.broken = False
