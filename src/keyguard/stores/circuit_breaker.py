"""A store with a circuit breaker. `circuit` says when it is open."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from keyguard.clock import Clock
from keyguard.errors import StoreError
from keyguard.logs import logger
from keyguard.ops import Demand, Op, Store, Taken, traits_of
from keyguard.process.fork import renew_after_fork
from keyguard.stores.circuit import circuit_of
from keyguard.stores.health import StoreHealth as StoreHealth
from keyguard.stores.owed import Owed
from keyguard.stores.timing import timed, timed_async
from keyguard.units import as_datetime

log = logger("keyguard.stores")


class CircuitBreaker:
    """A store with a circuit breaker, and what a process can decide without it.

    `workers` is the number of processes among which limits are shared out while the store is out of order. Those who
    watch a store for the same use, `of`, share its circuit. `alike`: any operation that is answered shows that the
    others would be.
    """

    def __init__(
        self,
        store: Store,
        *,
        workers: int,
        clock: Clock,
        notify: Callable[[StoreHealth], None] | None = None,
        of: str = "decisions",
        alike: bool = False,
    ) -> None:
        self.store = store
        self._timed: Callable[[Sequence[Op[Any]]], list[Any]] | None = None
        """Executes operations with a stopwatch, if anybody wants to know."""
        self._aexecute = traits_of(store).aexecute
        self._here = traits_of(store).here
        self._workers = workers
        self._notify = notify
        self._degraded: dict[str, int] = {}
        self._owed = Owed()
        self._lock = threading.Lock()
        self._circuit = circuit_of(store, of, clock, alike)
        self._circuit.listeners.add(self)
        self.timeout: float | None = traits_of(store).timeout
        """Seconds that one operation may take; `None` for a store that never waits."""
        renew_after_fork(self)

    def time(self, took: Callable[[float], None]) -> None:
        """Tell from now on how many seconds each operation of the store has taken, or has failed in."""
        self._timed = timed(self._timed or (lambda ops: self.store.execute(ops)), took)
        if self._aexecute is not None:
            self._aexecute = timed_async(self._aexecute, took)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._owed.after_fork()

    @property
    def health(self) -> StoreHealth:
        """How the store does now."""
        circuit, degraded = self._circuit, dict(self._degraded)
        since = None if circuit.settled else circuit.since
        part_since = None if circuit.part_quiet else circuit.part_since
        partial = since is None and part_since is not None
        since = part_since if since is None else since
        return StoreHealth(
            since is None,
            None if since is None else as_datetime(since),
            circuit.failure,
            circuit.failures,
            circuit.outages,
            degraded,
            partial,
        )

    @property
    def failing(self) -> bool:
        """Whether the store, or a part of it, is out of order as far as is known."""
        circuit = self._circuit
        return (circuit.since is not None and not circuit.settled) or circuit.part_since is not None

    # -- operations ---------------------------------------------------------------------------------------

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations, or raise `StoreError`: at once, if it is known that the store is out of order."""
        circuit = self._circuit
        if circuit.since is None:
            number = circuit.begin()
        else:
            if self._here is not None and (found := self._here(ops)) is not None:
                return found
            try:
                number = circuit.enter(ops)
            except StoreError:
                self._owed.keep(ops)
                raise
        try:
            results = (self._timed or self.store.execute)(ops)
        except BaseException as error:
            self._failed(ops, error, number)
            raise
        if circuit.since is not None or circuit.part_since is not None:
            circuit.answered(ops, number)
        if self._owed.waiting and not self.failing:
            self._pay()
        return results

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """Do the same for an event loop."""
        if self._aexecute is None:
            return self.execute(ops)
        circuit = self._circuit
        if circuit.since is None:
            number = circuit.begin()
        else:
            if self._here is not None and (found := self._here(ops)) is not None:
                return found
            try:
                number = circuit.enter(ops)
            except StoreError:
                self._owed.keep(ops)
                raise
        try:
            results: list[Any] | Awaitable[list[Any]] = self._aexecute(ops)
        except BaseException as error:
            self._failed(ops, error, number)
            raise
        if not isinstance(results, list):
            return self._awaited(ops, results, number)
        if circuit.since is not None or circuit.part_since is not None:
            circuit.answered(ops, number)
        if self._owed.waiting and not self.failing:
            self._pay()
        return results

    def _pay(self) -> None:
        """Make the settlements that wait, now that the store answers."""
        while due := self._owed.due(self._dropped):
            try:
                (self._timed or self.store.execute)([settle for settle, _ in due])
            except StoreError:
                self._owed.failed(due)
                return

    def _dropped(self) -> None:
        self.count("a charge kept")

    async def _apay(self) -> None:
        assert self._aexecute is not None
        while due := self._owed.due(self._dropped):
            try:
                found = self._aexecute([settle for settle, _ in due])
                if not isinstance(found, list):
                    await found
            except StoreError:
                self._owed.failed(due)
                return

    async def _awaited(self, ops: Sequence[Op[Any]], results: Awaitable[list[Any]], number: int) -> list[Any]:
        circuit = self._circuit
        try:
            found = await results
        except BaseException as error:
            self._failed(ops, error, number)
            raise
        if circuit.since is not None or circuit.part_since is not None:
            circuit.answered(ops, number)
        if self._owed.waiting and not self.failing:
            await self._apay()
        return found

    def _failed(self, ops: Sequence[Op[Any]], error: BaseException, number: int) -> None:
        if not isinstance(error, Exception):  # cancelled, or the process ends: it says nothing about the store
            self._circuit.gave_up(number)
            return
        failure = self._circuit.failed(ops, error, number)
        if isinstance(failure, StoreError):
            self._owed.keep(ops, sent=True)
        if failure is not error:
            try:
                raise failure from error
            finally:
                del failure  # it holds this frame

    def tell(self) -> None:
        """Tell whoever listens how the store does."""
        if self._notify is not None:
            try:
                self._notify(self.health)
            except Exception:
                log.exception("on_health failed")

    # -- without the store --------------------------------------------------------------------------------

    def count(self, what: str) -> None:
        """Note that a guard decided without the store."""
        with self._lock:
            self._degraded[what] = self._degraded.get(what, 0) + 1

    def take_here(self, demands: Sequence[Demand]) -> Taken:
        """Take this process's share of the limits, counted in this process alone."""
        return self._circuit.shares.take(demands, self._workers)

    def settle_here(self, taken: Taken) -> None:
        """Release what was held of these shares."""
        self._circuit.shares.release(taken)
