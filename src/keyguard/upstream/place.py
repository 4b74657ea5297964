"""The store of a pool, with a circuit breaker: whoever must choose a key does not wait for one that is out of order."""

from __future__ import annotations

from typing import Any, TypeVar

from keyguard.clock import Clock
from keyguard.ops import Op, Store, traits_of
from keyguard.process.event_loops import in_thread, in_trio
from keyguard.stores.circuit_breaker import CircuitBreaker

R = TypeVar("R")


class StorePlace:
    """The store of one pool."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self.store = store
        self._breaker = CircuitBreaker(store, workers=1, clock=clock, of="upstream", alike=True)

    @property
    def failing(self) -> bool:
        """Whether the store is out of order, as far as is known."""
        return self._breaker.failing

    def execute(self, op: Op[R]) -> R:
        """Run an operation, or raise `StoreError`: at once, if it is known that the store is out of order."""
        result: R = self._breaker.execute((op,))[0]
        return result

    async def aexecute(self, op: Op[R]) -> R:
        """Do the same without holding up the event loop, if the store can do that."""
        traits = traits_of(self.store)
        aexecute: Any = self._breaker.execute if traits.aexecute is None else self._breaker.aexecute
        if in_trio() and traits.needs_asyncio is not False and not traits.near:
            results: Any = in_thread(self._breaker.execute, (op,))
        else:
            results = aexecute((op,))
        found: list[R] = results if isinstance(results, list) else await results
        return found[0]
