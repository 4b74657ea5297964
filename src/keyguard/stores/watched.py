"""A store under watch: what fails is left alone for a moment, asked again, and told about.

Rules:
- A failure opens the circuit: until the store has answered again, calls fail at once instead of waiting.
- Every `PROBE` seconds one call, and one at a time, goes through as a probe. If one of a kind that failed is answered,
  all is as before. So the store is back in use within `PROBE` and a request of its return, without a restart.
- What a store decides without a trip (a lease) goes on, and says nothing about whether it answers.
- What concerns some keys only (one node of a cluster) does not open the circuit for the others. It is told about all
  the same, and over when nothing of the kind has been seen for `QUIET`.
- Each change is logged once, and told to whoever listens; requests are counted, not logged.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyguard.clock import Clock, monotonic, steady_clock
from keyguard.errors import StoreBusy, StoreError
from keyguard.logs import logger, plain
from keyguard.ops import Demand, Op, Read, Store, Take, Taken
from keyguard.rates import Limit
from keyguard.stores.fork import renew_after_fork
from keyguard.stores.memory import MemoryStore

log = logger("keyguard.stores")

PROBE = 0.25
"""Seconds between two probes of a store that failed."""

QUIET = 5.0
"""Seconds without a failure after which a part of the store counts as answering again."""

_PROBE_LASTS = 1.0
"""Seconds after which a probe is given up: whoever sent it may have ended, and its event loop too."""

_LOCAL_BYTES = 16 * 1024 * 1024
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How a stack's store does, as this process sees it."""

    ok: bool
    since: int | None
    """Since when it has been out of order, in microseconds since the Unix epoch; `None` where it is not."""
    failure: str
    """What failed last, in words for the operator."""
    failures: int
    """Operations that failed since the start; those that were not tried because it was known do not count."""
    outages: int
    """How often it went out of order since the start."""
    degraded: dict[str, int] = field(default_factory=dict)
    """What guards did without it since the start, by guard and action: `{"key refused": 3, "keys cached": 20}`."""
    partial: bool = False
    """Whether it is out of order for some keys only, such as those of one node of a cluster."""


class Watched:
    """A store with a circuit breaker, and what a process can decide without it.

    `workers` is the number of processes among which limits are shared out while the store is out of order. `alike`:
    any operation that is answered shows that the others would be.
    """

    def __init__(
        self,
        store: Store,
        *,
        workers: int,
        clock: Clock,
        notify: Callable[[StoreHealth], None] | None = None,
        alike: bool = False,
    ) -> None:
        self.store = store
        self._aexecute = getattr(store, "aexecute", None)
        self._here: Callable[[Sequence[Op[Any]]], list[Any] | None] | None = getattr(store, "here", None)
        self._workers = workers
        self._clock = clock
        self._notify = notify
        self._alike = alike
        self._since: int | None = None
        self._part_since: int | None = None
        self._part_failed = 0.0
        """When a part of the store failed last."""
        self._failure = ""
        self._failures = self._outages = 0
        self._next_probe = 0.0
        self._probe_ends = 0.0
        self._broken: set[type] = set()
        self._degraded: dict[str, int] = {}
        self._local: MemoryStore | None = None
        self._shares: dict[Limit, Limit] = {}
        self._lock = threading.Lock()
        self.timeout: float | None = getattr(store, "timeout", None)
        """Seconds that one operation may take; `None` for a store that never waits."""
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._probe_ends = 0.0

    @property
    def health(self) -> StoreHealth:
        """How the store does now."""
        since, part_since, degraded = self._since, self._part_since, dict(self._degraded)
        if part_since is not None and monotonic() >= self._part_failed + QUIET:
            part_since = None
        partial = since is None and part_since is not None
        since = part_since if since is None else since
        return StoreHealth(since is None, since, self._failure, self._failures, self._outages, degraded, partial)

    @property
    def failing(self) -> bool:
        """Whether the store, or a part of it, is out of order as far as is known."""
        return self._since is not None or self._part_since is not None

    # -- operations ---------------------------------------------------------------------------------------

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations, or raise `StoreError`: at once, where it is known that the store is out of order."""
        probe = False
        if self._since is not None:
            if self._here is not None and (found := self._here(ops)) is not None:
                return found
            probe = self._enter()
        try:
            results = self.store.execute(ops)
        except BaseException as error:
            self._failed(ops, error, probe)
            raise
        if probe:
            self._answered(ops)
        elif self._part_since is not None:
            self._part_answered()
        return results

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """The same for an event loop."""
        if self._aexecute is None:
            return self.execute(ops)
        probe = False
        if self._since is not None:
            if self._here is not None and (found := self._here(ops)) is not None:
                return found
            probe = self._enter()
        try:
            results: list[Any] | Awaitable[list[Any]] = self._aexecute(ops)
        except BaseException as error:
            self._failed(ops, error, probe)
            raise
        if not isinstance(results, list):
            return self._awaited(ops, results, probe)
        if probe:
            self._answered(ops)
        elif self._part_since is not None:
            self._part_answered()
        return results

    async def _awaited(self, ops: Sequence[Op[Any]], results: Awaitable[list[Any]], probe: bool) -> list[Any]:
        try:
            found = await results
        except BaseException as error:
            self._failed(ops, error, probe)
            raise
        if probe:
            self._answered(ops)
        elif self._part_since is not None:
            self._part_answered()
        return found

    # -- the circuit --------------------------------------------------------------------------------------

    def _enter(self) -> bool:
        """Go on as the probe, or raise."""
        with self._lock:
            if self._since is None:
                return False
            now = monotonic()
            if now >= self._next_probe and now >= self._probe_ends:
                self._probe_ends = now + _PROBE_LASTS
                return True
        error = StoreError(f"the store is out of order: {self._failure}")
        error.logged = True
        raise error

    def _failed(self, ops: Sequence[Op[Any]], error: BaseException, probe: bool) -> None:
        with self._lock:
            if probe:
                self._probe_ends = 0.0
            if not isinstance(error, StoreError) or isinstance(error, StoreBusy):
                return  # cancelled, a mistake in an operation, a process too busy: it says nothing about the store
            self._failures += 1
            self._failure = plain(error)
            if error.partial:
                first = self._since is None and self._part_since is None
                self._part_failed = monotonic()
                if first:
                    self._part_since = self._clock()
            else:
                self._broken |= {type(op) for op in ops}
                self._next_probe = monotonic() + PROBE
                first = self._since is None
                if first:
                    self._since, self._part_since = self._clock(), None
            self._outages += first
        error.logged = True
        if first:
            log.error("%s is out of order: %s", "a part of the store" if error.partial else "the store", plain(error))
            self._tell()

    def _part_answered(self) -> None:
        """Something was answered: it may have been another part."""
        with self._lock:
            since = self._part_since
            if since is None or monotonic() < self._part_failed + QUIET:
                return
            self._part_since = None
        log.warning("a part of the store has not failed for %d s, after %.1f s", QUIET, (self._clock() - since) / 1e6)
        self._tell()

    def _answered(self, ops: Sequence[Op[Any]]) -> None:
        """A probe came back. A store that only reads is still out of order for who writes; one that takes does both."""
        with self._lock:
            self._probe_ends = 0.0
            kinds = {type(op) for op in ops}
            known = self._alike or Take in kinds or not self._broken.isdisjoint(kinds)
            if self._since is None or not known:
                return
            since, self._since = self._since, None
            self._broken.clear()
        log.warning("the store answers again, after %.1f s", (self._clock() - since) / 1_000_000)
        self._tell()

    def _tell(self) -> None:
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
        """Take this process's share of the limits, counted in this process alone.

        The counts outlive the outage: a store that comes and goes would have them begin anew each time.
        """
        with self._lock:
            store = self._local = self._local or MemoryStore(_LOCAL_BYTES, clock=steady_clock())
        shared = []
        for demand in demands:
            limit = self._share(demand.limit)
            shared.append(Demand(demand.name, demand.key, limit, min(demand.cost, limit.most)))
        taken: Taken = store.execute([Take(shared)])[0]
        return taken

    def _share(self, limit: Limit) -> Limit:
        share = self._shares.get(limit)
        if share is None:
            if len(self._shares) > _KEPT:
                self._shares.clear()
            share = self._shares[limit] = limit.share(self._workers)
        return share


class WatchedAside:
    """A store under watch for what no decision hangs on: reading and writing under a circuit breaker each.

    A server that is full, or a replica, still reads. And what is written comes in turns, such as a lease before the
    entry: if each had to wait for one of its own kind, the first of them would use up all probes.
    """

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self.reading = Watched(store, workers=1, clock=clock, alike=True)
        self.writing = Watched(store, workers=1, clock=clock, alike=True)

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations, or raise `StoreError`."""
        return self._for(ops).execute(ops)

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """The same for an event loop."""
        return self._for(ops).aexecute(ops)

    def _for(self, ops: Sequence[Op[Any]]) -> Watched:
        return self.reading if all(isinstance(op, Read) for op in ops) else self.writing
