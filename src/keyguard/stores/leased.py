"""Two tiers: a worker takes units from a shared store in batches, and spends them by itself.

Rules:
- Never more than the limit: units are taken from the shared budget before they are spent. A window of more than 32
  units counts by slices of 1/32 of its period and does not tell moments within a slice apart, so what is spent in the
  slice it was taken in is counted exactly as if it had been taken there and then. A lease ends with its slice.
- A worker takes what it used in the slice before, and at most its part of what is left: near the limit, one by one.
- What was not spent goes back with the next trip, when the store is closed, or when the process ends; where a worker is
  killed, it comes back with its window.
- A refusal is remembered until the moment it named: who goes on asking costs the shared store nothing.
- Windows of up to 32 units and even pacing tell every moment apart: requests under such a limit make their trip.

What a caller is told is left is what the shared store said last, less what this worker has spent since.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from keyguard.clock import SECOND, Clock, steady_clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.ops import Demand, GiveBack, Op, Store, Take, Taken
from keyguard.rates import NEVER, Taking
from keyguard.rates.window import WindowSlices
from keyguard.stores import open_store
from keyguard.stores.fork import renew_after_fork

_KEPT = 10_000  # leases, and refusals
_RETURNED = 20  # leases that go back with one trip
_RETURNED_AT_END = 100
_HOPELESS = 60 * SECOND  # microseconds for which it is remembered that a request can never be admitted


class _Lease:
    """Units of one counter, taken and not yet spent."""

    __slots__ = (
        "at",
        "before",
        "began",
        "coming",
        "demand",
        "ends",
        "length",
        "remaining",
        "reset",
        "slice",
        "units",
        "used",
    )

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.before = 0
        """Units that this worker spent in the slice before."""
        self.slice = -1
        """Of the shared store's time, in which the units may be spent; -1 for none."""
        self.at = self.began = 0
        """When the last trip was: by the shared store's clock, and by this worker's when it began."""
        self.ends = 0
        """When the slice ends, by this worker's clock: rather too early."""
        self.units = 0
        self.coming = 0
        """Units that trips under way have asked for."""
        self.used = 0
        """Units spent in this slice."""
        self.remaining = 0
        """Units that were left in the shared store after the last trip."""
        self.reset = 0
        self.length = 0
        """The time to live that the shared store named."""


class _Spent(Taken):
    """A decision made here."""

    __slots__ = ("leases", "slices")
    leases: list[_Lease]
    slices: list[int]
    """In which slice each was spent: a lease goes on in the next one."""


class Leased:
    """`store`, a URL or a store, with leases in front of it.

    `workers` is the number of processes that share it, by default the environment's `WEB_CONCURRENCY`, else 4. Raises
    `ConfigurationError` for a setting that is wrong, and for a store that takes nothing back.
    """

    def __init__(self, store: str | Store, *, workers: int | None = None, clock: Clock | None = None) -> None:
        if workers is None:
            text = os.environ.get("WEB_CONCURRENCY", "")
            workers = int(text) if text.isascii() and text.isdigit() and int(text) else 4
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ConfigurationError(f"workers is the number of processes that share the store, not {workers!r}")
        self.store: Any = open_store(store)
        if hasattr(self.store, "limitations"):
            raise ConfigurationError(f"{self.store!r} takes nothing back: what is leased from it would be lost")
        self.timeout: float | None = getattr(self.store, "timeout", None)
        self._workers = workers
        self._clock = clock or steady_clock()
        self.trips = 0
        """Trips to the shared store since the start."""
        self._forget()
        renew_after_fork(self)
        _tiers.add(self)

    def __repr__(self) -> str:
        return f"<Leased {self.store!r}>"

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, int], _Lease] = {}
        """By counter and quota: what was taken under a wide limit is not spent under a narrow one."""
        self._refusals: dict[tuple[Any, ...], tuple[Taken, int, int]] = {}
        self._unspent: deque[Taken] = deque(maxlen=_KEPT)

    def after_fork(self) -> None:
        self._forget()  # the leases are the parent's

    # -- operations ---------------------------------------------------------------------------------------

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations: here where leases cover them, else in the shared store."""
        results = []
        for op in ops:
            found = self._here(op)
            while found is None:
                with self._trip(op) as (batch, began):
                    found = self._back(op, batch, self.store.execute(batch), began)
            results += found
        return results

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """The same for an event loop: the results at once, where no trip is needed."""
        found = self.here(ops)
        return self._atrips(ops) if found is None else found

    async def _atrips(self, ops: Sequence[Op[Any]]) -> list[Any]:
        results = []
        for op in ops:
            found = self._here(op)
            while found is None:
                with self._trip(op) as (batch, began):
                    answer = getattr(self.store, "aexecute", self.store.execute)(batch)
                    found = self._back(op, batch, answer if isinstance(answer, list) else await answer, began)
            results += found
        return results

    # -- without a trip -----------------------------------------------------------------------------------

    def here(self, ops: Sequence[Op[Any]]) -> list[Any] | None:
        """The results, where they need no trip: also while the shared store is out of order."""
        return self._here(ops[0]) if len(ops) == 1 else None

    def _here(self, op: Op[Any]) -> list[Any] | None:
        """The result in a list, or `None` where it needs a trip."""
        if isinstance(op, GiveBack) and isinstance(op.taken, _Spent):
            self._return(op.taken)
            return [None]
        if not isinstance(op, Take) or not op.demands:
            return None
        with self._lock:
            now = self._clock()
            known = self._refusals.get(_name(op))
            if known is not None:
                taken, since, until = known
                if now < until:
                    return [_later(taken, now - since)]
                del self._refusals[_name(op)]
            leases = []
            for demand in op.demands:
                lease = self._leases.get((demand.key, demand.limit.quota))
                if lease is None or now >= lease.ends or lease.units < demand.cost:
                    return None
                leases.append(lease)
            takings: list[Taking] = []
            for demand, lease in zip(op.demands, leases, strict=True):
                lease.units -= demand.cost
                lease.used += demand.cost
                reset = max(0, lease.reset - (now - lease.began))
                takings.append((None, lease.length, lease.remaining + lease.units, reset, 0))
            spent = _Spent(op.demands, takings, leases[0].at + now - leases[0].began, False)
            spent.leases = leases
            spent.slices = [lease.slice for lease in leases]
            return [spent]

    def _return(self, taken: _Spent) -> None:
        with self._lock:
            now = self._clock()
            for demand, lease, slice in zip(taken.demands, taken.leases, taken.slices, strict=True):
                if lease.slice == slice and now < lease.ends:
                    lease.units += demand.cost
                    lease.used -= demand.cost
                elif demand.cost:
                    # Not to be spent any more: in a later slice it would count as taken before it was.
                    self._unspent.append(_charge(demand, slice * _width(lease), lease.length))

    # -- trips --------------------------------------------------------------------------------------------

    @contextmanager
    def _trip(self, op: Op[Any]) -> Iterator[tuple[list[Op[Any]], int]]:
        """What goes to the shared store: unspent units, and the operation; a `Take` with more units than it needs.

        And when it began. What others are on their way for is not asked for again: with many requests in flight, one
        worker would take it all.
        """
        asked: list[tuple[_Lease, int]] = []
        with self._lock:
            self.trips += 1
            batch: list[Op[Any]] = [op]
            began = self._clock()
            if isinstance(op, Take) and _leasable(op):
                demands = [self._asked(demand, began, asked) for demand in op.demands]
                batch = [GiveBack(self._unspent.popleft()) for _ in range(min(_RETURNED, len(self._unspent)))]
                batch.append(Take(demands))
        try:
            yield batch, began
        finally:
            if asked:
                with self._lock:
                    for lease, extra in asked:
                        lease.coming -= extra

    def _asked(self, demand: Demand, now: int, asked: list[tuple[_Lease, int]]) -> Demand:
        lease = self._leases.get((demand.key, demand.limit.quota))
        if lease is None or not demand.cost:
            return demand
        if now < lease.ends:
            expected = round(lease.before * (lease.ends - now) / _width(lease))
            wanted = max(lease.used // 2, expected - lease.used, 1)
        else:
            self._end(lease, now)
            wanted = max(lease.before, 1)
        # Its part of what is left, and of that half, for others have taken since.
        fair = lease.remaining // (2 * self._workers)
        extra = max(0, min(wanted, fair) - lease.units - lease.coming)
        lease.coming += extra
        asked.append((lease, extra))
        return Demand(demand.name, demand.key, demand.limit, demand.cost + extra)

    def _end(self, lease: _Lease, now: int) -> None:
        """The slice is over: what was not spent goes back, what was spent is what the next one may need."""
        if lease.units:
            demand = lease.demand
            spare = Demand(demand.name, demand.key, demand.limit, lease.units)
            self._unspent.append(_charge(spare, lease.at, lease.length))
        if lease.slice >= 0:  # else it has ended already, and the trip for the next slice is under way
            lease.before = lease.used if now < lease.ends + _width(lease) else 0
        lease.units = lease.used = 0
        lease.slice = -1

    def _back(self, op: Op[Any], batch: list[Op[Any]], results: list[Any], began: int) -> list[Any] | None:
        """The result in a list; `None` where it must be asked again, for no more than it needs."""
        taken = results[-1]
        if not isinstance(op, Take) or not _leasable(op):
            return [taken]
        asked = batch[-1]
        assert isinstance(asked, Take)
        with self._lock:
            if taken.refused:
                if any(more.cost > demand.cost for more, demand in zip(asked.demands, op.demands, strict=True)):
                    for demand in op.demands:
                        lease = self._leases.get((demand.key, demand.limit.quota))
                        if lease is not None:
                            lease.remaining = 0
                    return None
                refused = Taken(op.demands, taken.takings, taken.at, True)
                self._remember(op, refused, began)
                return [refused]
            takings: list[Taking] = []
            for demand, more, taking in zip(op.demands, asked.demands, taken.takings, strict=True):
                lease = self._grant(demand, more.cost - demand.cost, taking, taken.at, began)
                takings.append((None, taking[1], taking[2] + lease.units, taking[3], taking[4]))
            return [Taken(op.demands, takings, taken.at, False)]

    def _grant(self, demand: Demand, extra: int, taking: Taking, at: int, began: int) -> _Lease:
        if len(self._leases) >= _KEPT:
            self._sweep()
        lease = self._leases.get((demand.key, demand.limit.quota))
        if lease is None:
            lease = self._leases[demand.key, demand.limit.quota] = _Lease(demand)
        lease.demand = demand
        slice = at // _width(lease)
        if lease.slice != slice:
            if lease.slice >= 0:
                self._end(lease, began)
            lease.slice = slice
            # The trip reached the store after it began, so the slice ends no earlier than this.
            lease.ends = began + (slice + 1) * _width(lease) - at
        lease.at, lease.began, lease.length = at, began, taking[1]
        lease.units += extra
        lease.used += demand.cost
        lease.remaining, lease.reset = taking[2], taking[3]
        return lease

    def _sweep(self) -> None:
        now = self._clock()
        for key in [key for key, lease in self._leases.items() if now >= lease.ends]:
            self._end(self._leases.pop(key), now)
        if len(self._leases) >= _KEPT:
            for key in list(self._leases)[: _KEPT // 2]:
                self._end(self._leases.pop(key), now)

    def _remember(self, op: Take, taken: Taken, began: int) -> None:
        if len(self._refusals) >= _KEPT:
            self._refusals.clear()
        wait = _HOPELESS if taken.wait == NEVER else taken.wait
        self._refusals[_name(op)] = (taken, began, began + wait)

    # -- the rest is the shared store's -------------------------------------------------------------------

    def scan(self, prefix: str) -> Any:
        """Every living key that starts with `prefix`; units that are leased count as spent."""
        return self.store.scan(prefix)

    def _all_unspent(self) -> list[list[Op[Any]]]:
        with self._lock:
            now = self._clock()
            for lease in self._leases.values():
                self._end(lease, now)
            self._leases.clear()
            unspent, self._unspent = [*self._unspent], deque(maxlen=_KEPT)
        return [
            [GiveBack(taken) for taken in unspent[start : start + _RETURNED_AT_END]]
            for start in range(0, len(unspent), _RETURNED_AT_END)
        ]

    def _give_back_all(self) -> None:
        for ops in self._all_unspent():
            try:
                self.store.execute(ops)
            except StoreError:
                break  # it comes back with its window

    def close(self) -> None:
        """Give back what is not spent, and close the shared store."""
        self._give_back_all()
        if hasattr(self.store, "close"):
            self.store.close()

    async def aclose(self) -> None:
        """The same under an event loop."""
        for ops in self._all_unspent():
            try:
                answer = getattr(self.store, "aexecute", self.store.execute)(ops)
                if not isinstance(answer, list):
                    await answer
            except StoreError:
                break
        if hasattr(self.store, "aclose"):
            await self.store.aclose()
        elif hasattr(self.store, "close"):
            self.store.close()


_tiers: weakref.WeakSet[Leased] = weakref.WeakSet()


@atexit.register
def _give_back_at_exit() -> None:
    # Under WSGI nobody says when a worker stops.
    for tier in list(_tiers):
        tier._give_back_all()


def _leasable(op: Take) -> bool:
    return bool(op.demands) and all(type(demand.limit) is WindowSlices for demand in op.demands)


def _charge(demand: Demand, at: int, length: int) -> Taken:
    """What was taken of one counter at a time, to be given back."""
    return Taken([demand], [(None, length, 0, 0, 0)], at, False)


def _width(lease: _Lease) -> int:
    limit = lease.demand.limit
    assert isinstance(limit, WindowSlices)
    return limit.width


def _name(op: Take) -> tuple[Any, ...]:
    return (op.keys, *[(demand.cost, demand.limit.quota) for demand in op.demands])


def _later(taken: Taken, passed: int) -> Taken:
    """A refusal, as it reads some microseconds later."""
    takings: list[Taking] = [
        (None, ttl, remaining, max(0, reset - passed), wait - passed if wait > passed else min(wait, 0))
        for _, ttl, remaining, reset, wait in taken.takings
    ]
    return Taken(taken.demands, takings, taken.at + passed, True)
