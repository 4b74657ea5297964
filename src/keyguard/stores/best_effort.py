"""A store under watch for what no decision hangs on: the cached responses."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from keyguard.clock import Clock
from keyguard.ops import Op, Read, Store, traits_of
from keyguard.stores.circuit_breaker import CircuitBreaker


class BestEffortStore:
    """A store under watch for what no decision hangs on: reading and writing under a circuit breaker each.

    A server that is full, or a replica, still reads. And what is written comes in turns, such as a lease before the
    entry: if each had to wait for one of its own kind, the first of them would use up all probes.
    """

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self.store = store
        self.timeout: float | None = traits_of(store).timeout
        """Seconds that one operation may take; `None` for a store that never waits."""
        self.reading = CircuitBreaker(store, workers=1, clock=clock, of="reading", alike=True)
        self.writing = CircuitBreaker(store, workers=1, clock=clock, of="writing", alike=True)

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations, or raise `StoreError`."""
        return self._for(ops).execute(ops)

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """Do the same for an event loop."""
        return self._for(ops).aexecute(ops)

    def _for(self, ops: Sequence[Op[Any]]) -> CircuitBreaker:
        return self.reading if all(isinstance(op, Read) for op in ops) else self.writing
