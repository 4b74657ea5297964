"""The part of a shared store's limits that a worker holds: units taken and not yet spent, and refusals.

Nothing here asks the store: `store.py` does, and tells what came back. All of it may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keyguard.clock import SECOND, Clock
from keyguard.flow import Signal
from keyguard.ops import REMEMBERED, Adjust, Demand, Op, Settle, Take, Taken
from keyguard.rates import NEVER, Taking
from keyguard.rates.window import WindowSlices

_KEPT = 10_000  # leases, and refusals
_RETURNED = 20  # leases that go back with one trip
_RETURNED_AT_END = 100
_AGAIN = REMEMBERED - 2 * SECOND
"""Microseconds for which what was sent may be sent again: later the shared store may not know that it has happened."""
_REFUSED = 5 * SECOND
"""Microseconds for which a refusal is remembered at most: an operator may have let the caller go on meanwhile."""


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
        "promised",
        "remaining",
        "reset",
        "slice",
        "trip",
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
        self.promised = 0
        """Units of those that somebody waits for."""
        self.trip: Signal | None = None
        """Moves when the latest trip that asked for more units than it needed is over."""
        self.used = 0
        """Units spent in this slice."""
        self.remaining = 0
        """Units that were left in the shared store after the last trip."""
        self.reset = 0
        self.length = 0
        """The time to live that the shared store named."""


class _Spent(Taken):
    """A decision made here."""

    __slots__ = ("leases", "settled", "slices")
    leases: list[_Lease]
    settled: set[bytes]
    """The tokens of what has been settled of it."""
    slices: list[int]
    """In which slice each was spent: a lease goes on in the next one."""


class Leases:
    """The leases of one process, one of `workers` that share a store."""

    def __init__(self, workers: int, clock: Clock) -> None:
        self._workers = workers
        self._clock = clock
        self.trips = 0
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, int], _Lease] = {}
        """By counter and quota: what was taken under a wide limit is not spent under a narrow one."""
        self._refusals: dict[tuple[Any, ...], tuple[Taken, int, int]] = {}
        self._unspent: deque[tuple[Settle, int]] = deque(maxlen=_KEPT)
        """Settlements for the shared store, and until when each may be sent again; 0 if it was not sent yet."""

    def here(self, op: Op[Any]) -> list[Any] | None:
        """Return the result in a list, or `None` if it needs a trip."""
        if isinstance(op, Settle) and isinstance(op.taken, _Spent):
            self._settle(op, op.taken)
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
            spent.leases, spent.settled = leases, set()
            spent.slices = [lease.slice for lease in leases]
            return [spent]

    def _settle(self, op: Settle, taken: _Spent) -> None:
        with self._lock:
            if op.token in taken.settled:
                return
            taken.settled.add(op.token)
            now = self._clock()
            for demand, cost, lease, slice in zip(taken.demands, op.costs, taken.leases, taken.slices, strict=True):
                back = demand.cost - cost
                if lease.slice == slice and now < lease.ends and lease.units + back >= 0:
                    lease.units += back
                    lease.used -= back
                elif back:
                    # Not to be spent any more: in a later slice it would count as taken before it was. And what costs
                    # more than is leased is charged in the shared store.
                    at = slice * _width(lease)
                    self._unspent.append((_settling(demand, max(0, back), max(0, -back), at, lease.length), 0))

    @contextmanager
    def promise(self, op: Op[Any]) -> Iterator[Signal | None]:
        """Yield the trip that brings what a request needs, if one is under way and others do not need all of it."""
        demands = op.demands if isinstance(op, Take) and _leasable(op) else ()
        leases: list[_Lease] = []
        trip = None
        with self._lock:
            now = self._clock()
            for demand in demands:
                lease = self._leases.get((demand.key, demand.limit.quota))
                here = lease.units if lease is not None and now < lease.ends else 0
                if lease is None or here + lease.coming - lease.promised < demand.cost:
                    trip = None
                    break
                leases.append(lease)
                if here < demand.cost:
                    trip = lease.trip
            if trip is not None:
                for demand, lease in zip(demands, leases, strict=True):
                    lease.promised += demand.cost
        try:
            yield trip
        finally:
            if trip is not None:
                with self._lock:
                    for demand, lease in zip(demands, leases, strict=True):
                        lease.promised -= demand.cost

    # -- trips --------------------------------------------------------------------------------------------

    @contextmanager
    def trip(self, op: Op[Any]) -> Iterator[tuple[list[Op[Any]], int]]:
        """Yield what goes to the shared store: unspent units, and the operation; a `Take` asks for more than it needs.

        And when it began. Units that others are fetching are not asked for again: with many requests in flight, one
        worker would take it all.
        """
        asked: list[tuple[_Lease, int]] = []
        unspent: list[tuple[Settle, int]] = []
        signal = Signal()
        with self._lock:
            self.trips += 1
            batch: list[Op[Any]] = [op]
            began = self._clock()
            if isinstance(op, Take) and _leasable(op):
                demands = [self._asked(demand, began, asked) for demand in op.demands]
                for lease, extra in asked:
                    if extra:
                        lease.trip = signal
                unspent = [self._unspent.popleft() for _ in range(min(_RETURNED, len(self._unspent)))]
                unspent = [(settle, until) for settle, until in unspent if not until or began < until]
                batch = [*[settle for settle, _ in unspent], Take(demands)]
        try:
            yield batch, began
        except BaseException:
            with self._lock:  # what is settled has a token: it may be sent again, whatever has become of it
                self._unspent.extend([(settle, until or began + _AGAIN) for settle, until in unspent])
            raise
        finally:
            if asked:
                with self._lock:
                    for lease, extra in asked:
                        lease.coming -= extra
                signal.move()

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
        """End a slice: what was not spent goes back, what was spent is what the next one may need."""
        if lease.units:
            self._unspent.append((_settling(lease.demand, lease.units, 0, lease.at, lease.length), 0))
        if lease.slice >= 0:  # else it has ended already, and the trip for the next slice is under way
            lease.before = lease.used if now < lease.ends + _width(lease) else 0
        lease.units = lease.used = 0
        lease.slice = -1

    def back(self, op: Op[Any], batch: list[Op[Any]], results: list[Any], began: int) -> list[Any] | None:
        """Return the result in a list; `None` if it must be asked again, for no more than it needs."""
        taken = results[-1]
        if isinstance(op, Adjust):
            with self._lock:
                for name in [name for name in self._refusals if not set(op.keys).isdisjoint(name[0])]:
                    del self._refusals[name]
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
        lease = self._leases.pop((demand.key, demand.limit.quota), None) or _Lease(demand)
        self._leases[demand.key, demand.limit.quota] = lease
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
            for key in list(self._leases)[: _KEPT // 8]:  # those that were last added to longest ago
                self._end(self._leases.pop(key), now)

    def _remember(self, op: Take, taken: Taken, began: int) -> None:
        name = _name(op)
        self._refusals.pop(name, None)  # a dict keeps the order in which its keys came
        if len(self._refusals) >= _KEPT:
            del self._refusals[next(iter(self._refusals))]
        wait = _REFUSED if taken.wait == NEVER else min(taken.wait, _REFUSED)
        self._refusals[name] = (taken, began, began + wait)

    # -- the end ------------------------------------------------------------------------------------------

    def all_unspent(self) -> list[list[Op[Any]]]:
        with self._lock:
            now = self._clock()
            for lease in self._leases.values():
                self._end(lease, now)
            self._leases.clear()
            unspent = [settle for settle, until in self._unspent if not until or now < until]
            self._unspent = deque(maxlen=_KEPT)
        return [[*unspent[start : start + _RETURNED_AT_END]] for start in range(0, len(unspent), _RETURNED_AT_END)]


def _leasable(op: Take) -> bool:
    # A kind that it does not know makes its trip: what a lease of it would mean is that kind's business. And only the
    # shared store knows how many units of a limit are held.
    return bool(op.demands) and all(
        demand.limit.script == WindowSlices.script and not demand.holds for demand in op.demands
    )


def _settling(demand: Demand, taken: int, cost: int, at: int, length: int) -> Settle:
    """Return the settlement of units of one counter, taken at a time."""
    asked = Demand(demand.name, demand.key, demand.limit, taken)
    return Settle(Taken([asked], [(None, length, 0, 0, 0)], at, False), [cost])


def _width(lease: _Lease) -> int:
    limit = lease.demand.limit
    assert isinstance(limit, WindowSlices)
    return limit.width


def _name(op: Take) -> tuple[Any, ...]:
    return (op.keys, *[(demand.cost, demand.limit.quota) for demand in op.demands])


def _later(taken: Taken, passed: int) -> Taken:
    """Return a refusal as it reads some microseconds later."""
    takings: list[Taking] = [
        (None, ttl, remaining, max(0, reset - passed), wait - passed if wait > passed else min(wait, 0))
        for _, ttl, remaining, reset, wait in taken.takings
    ]
    return Taken(taken.demands, takings, taken.at + passed, True)
