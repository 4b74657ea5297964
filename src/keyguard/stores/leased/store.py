"""Two tiers: a worker takes units from a shared store in batches, and spends them by itself.

Rules:
- Never more than the limit: units are taken from the shared budget before they are spent. A window of more than 32
  units counts by slices of 1/32 of its period and does not tell moments within a slice apart, so what is spent in the
  slice it was taken in is counted exactly as if it had been taken there and then. A lease ends with its slice.
- A worker takes what it used in the slice before, and at most its part of what is left: near the limit, one by one.
- Units that were not spent go back with the next trip, when the store is closed, or when the process ends; if a worker
  is killed, they come back with their window.
- A request whose units are being fetched waits for that trip, once, and makes none: many at a time cost few trips.
- A refusal is remembered until the moment it named, for 5 seconds at most: a caller who goes on asking costs the shared
  store next to nothing, and is let go on soon if an operator gives it more (`guard.limits`).
- Windows of up to 32 units and even pacing tell every moment apart: requests under such a limit make their trip.

Callers are told that as much is left as the shared store said last, less what this worker has spent since.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Awaitable, Sequence
from typing import Any

from keyguard.clock import steady_clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.flow import Wait
from keyguard.manual_clock import GivenClock, clock_from
from keyguard.ops import Op, Store, asked_in_loop, close_in_loop, traits_of
from keyguard.process import exits as exits  # before what is registered below: stores are closed after it has run
from keyguard.process.fork import check_process, renew_after_fork
from keyguard.process.workers import checked_workers
from keyguard.stores import open_store
from keyguard.stores.leased.leases import Leases
from keyguard.stores.places import place_of

_WORKERS = 4
"""How many processes share a store if nothing tells it: leases are for several, and more would take less at a time."""


class Leased:
    """`store`, a URL or a store, with leases in front of it.

    `workers` is the number of processes that share it; by default what the environment's `WEB_CONCURRENCY` or the
    server tells, else 4. Raises `ConfigurationError` for a setting that is wrong, and for a store that takes nothing
    back.
    """

    def __init__(self, store: str | Store, *, workers: int | None = None, clock: GivenClock | None = None) -> None:
        self.store: Any = open_store(store)
        if traits_of(self.store).limitations is not None:
            raise ConfigurationError(f"{self.store!r} takes nothing back: what is leased from it would be lost")
        self.timeout: float | None = traits_of(self.store).timeout
        self._patience = self.timeout or 0.1
        self._leases = Leases(checked_workers(workers, _WORKERS), clock_from(clock, steady_clock()))
        renew_after_fork(self)
        _tiers.add(self)

    @property
    def place(self) -> object:
        """Where what it leases is counted: stores with equal places are one."""
        return place_of(self.store)

    def __repr__(self) -> str:
        return f"<Leased {self.store!r}>"

    @property
    def trips(self) -> int:
        """Trips to the shared store since the start."""
        return self._leases.trips

    def after_fork(self) -> None:
        self._leases.forget()  # the leases are the parent's

    # -- operations ---------------------------------------------------------------------------------------

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations: here if leases cover them, else in the shared store."""
        check_process()
        results = []
        for op in ops:
            found = self._leases.here(op)
            if found is None:
                with self._leases.promise(op) as trip:
                    if trip is not None:
                        Wait(trip, 0, self._patience).block()
                        found = self._leases.here(op)
            while found is None:
                with self._leases.trip(op) as (batch, began):
                    found = self._leases.back(op, batch, self.store.execute(batch), began)
            results += found
        return results

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """Do the same for an event loop: return the results at once if no trip is needed."""
        found = self.here(ops)
        return self._atrips(ops) if found is None else found

    async def _atrips(self, ops: Sequence[Op[Any]]) -> list[Any]:
        results = []
        for op in ops:
            found = self._leases.here(op)
            if found is None:
                with self._leases.promise(op) as trip:
                    if trip is not None:
                        await Wait(trip, 0, self._patience).in_loop()
                        found = self._leases.here(op)
            while found is None:
                with self._leases.trip(op) as (batch, began):
                    found = self._leases.back(op, batch, await asked_in_loop(self.store, batch), began)
            results += found
        return results

    # -- without a trip -----------------------------------------------------------------------------------

    def here(self, ops: Sequence[Op[Any]]) -> list[Any] | None:
        """Return the results if they need no trip, also while the shared store is out of order."""
        check_process()
        return self._leases.here(ops[0]) if len(ops) == 1 else None

    # -- the rest is the shared store's -------------------------------------------------------------------

    def scan(self, prefix: str) -> Any:
        """Return every living key that starts with `prefix`; units that are leased count as spent."""
        return self.store.scan(prefix)

    @property
    def some(self) -> Any:
        """Return what lists some of its keys, if the shared store has such a method."""
        return traits_of(self.store).some

    def _give_back_all(self) -> None:
        for ops in self._leases.all_unspent():
            try:
                self.store.execute(ops)
            except StoreError:
                break  # it comes back with its window

    def close(self) -> None:
        """Give back what is not spent, and close the shared store."""
        check_process()
        self._give_back_all()
        close = traits_of(self.store).close
        if close is not None:
            close()

    async def aclose(self) -> None:
        """Do the same under an event loop."""
        check_process()
        for ops in self._leases.all_unspent():
            try:
                await asked_in_loop(self.store, ops)
            except StoreError:
                break
        await close_in_loop(self.store)


_tiers: weakref.WeakSet[Leased] = weakref.WeakSet()


@atexit.register
def _give_back_at_exit() -> None:
    # Under WSGI nobody says when a worker stops. Units that a child has not asked for are its parent's.
    check_process()
    for tier in list(_tiers):
        tier._give_back_all()
