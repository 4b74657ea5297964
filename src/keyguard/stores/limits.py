"""Storages of the `limits` library as a store: memcached, MongoDB, and whatever else it has. Best effort.

What a `limits` storage cannot do, this store cannot:
- Several limits are asked one after the other, and then charged one after the other. Between that, others may come: a
  request may be refused by one limit and still be charged by another, and nothing is ever given back.
- It keeps no keys: authentication needs another store, in a layer of its own.
- It cannot be called off: what takes longer than `timeout` is given up, and may still be charged.
- How exact a limit is depends on the storage: a moving window where it has one, else two fixed windows weighed (up to
  twice the limit in bad cases), else a fixed window (twice the limit).

A stack on it says so in the log when it starts. Use one of keyguard's own stores where that matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from limits import RateLimitItemPerSecond
from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from keyguard.clock import SECOND, Clock, wall_clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.ops import Demand, GiveBack, Op, Take, Taken
from keyguard.rates import NEVER, Limit, Taking
from keyguard.rates.gcra import Smooth
from keyguard.stores.fork import renew_after_fork
from keyguard.stores.patience import check_patience

_THREADS = 16


class LimitsStore:
    """Counters in `storage`, an object such as `limits.storage.MemcachedStorage("memcached://localhost:11211")`.

    `timeout` is how many seconds a request waits for it, whatever time-outs the storage has of its own; 0.01 to 1.
    Raises `ConfigurationError` for a setting that is wrong.
    """

    holds_values = False
    """Limits alone: neither keys nor cached responses."""

    def __init__(self, storage: Storage, *, timeout: float = 0.075, clock: Clock = wall_clock) -> None:
        if not isinstance(storage, Storage):
            raise ConfigurationError(f"a storage is an object of limits.storage, not {type(storage).__name__}")
        check_patience(timeout, _THREADS)
        self.storage = storage
        self.timeout = float(timeout)
        self._clock = clock
        failures = storage.base_exceptions
        self._failures: tuple[type[Exception], ...] = (
            OSError,
            *(failures if isinstance(failures, tuple) else (failures,)),
        )
        self._limiter: RateLimiter
        if isinstance(storage, MovingWindowSupport):
            self._limiter = MovingWindowRateLimiter(storage)
        elif isinstance(storage, SlidingWindowCounterSupport):
            self._limiter = SlidingWindowCounterRateLimiter(storage)
        else:
            self._limiter = FixedWindowRateLimiter(storage)
        self.after_fork()
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<LimitsStore {type(self.storage).__name__}, {type(self._limiter).__name__}>"

    def limitations(self, limits: Sequence[Limit], *, keys: bool) -> str:
        """What a stack should know that has these limits and may take several at once; empty for nothing.

        Raises `ConfigurationError` for what cannot be done at all.
        """
        if keys:
            raise ConfigurationError(
                f"{self!r} keeps no keys: add APIKeys as a layer of its own, with another store=, outside of this one"
            )
        for limit in limits:
            if isinstance(limit, Smooth):
                raise ConfigurationError(f"{self!r} cannot pace evenly: write {limit.text.split(' ')[0]!r} instead")
        if len(limits) < 2:
            return ""
        return (
            f"{self!r} is best effort: {len(limits)} limits are not taken all or nothing, and a refused request may "
            "still be charged by some of them. Use memory://, sqlite://, redis:// or postgresql:// to have it exact"
        )

    def after_fork(self) -> None:
        self._pool = _Threads()

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Take from limits, one after the other; giving back does nothing. Raises `StoreError` for other operations."""
        work = self._pool.submit(lambda: self._execute(ops))
        try:
            return work.result(self.timeout)
        except TimeoutError as error:
            work.cancel()  # where it has not begun
            raise StoreError(f"{type(self.storage).__name__} did not answer in time") from error

    async def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """The same for an event loop."""
        work = asyncio.wrap_future(self._pool.submit(lambda: self._execute(ops)))
        try:
            return await asyncio.wait_for(work, self.timeout)
        except TimeoutError as error:
            raise StoreError(f"{type(self.storage).__name__} did not answer in time") from error

    def _execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        try:
            return [self._run(op) for op in ops]
        except self._failures as error:
            raise StoreError(f"{type(self.storage).__name__}: {error}") from error

    def close(self) -> None:
        """End the threads. The next operation starts new ones."""
        pool, self._pool = self._pool, _Threads()
        pool.end()

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Nothing: these storages cannot list what they hold."""
        return []

    def _run(self, op: Op[Any]) -> Any:
        if isinstance(op, Take):
            return self._take(op)
        if isinstance(op, GiveBack):
            return None
        raise StoreError(f"{self!r} cannot do {type(op).__name__}")

    def _take(self, op: Take) -> Taken:
        asked = [(demand, _item(demand.limit)) for demand in op.demands]
        fits = [
            demand.cost == 0
            or (demand.cost <= demand.limit.quota and self._limiter.test(item, demand.key, cost=demand.cost))
            for demand, item in asked
        ]
        if all(fits):
            fits = [
                demand.cost == 0 or self._limiter.hit(item, demand.key, cost=demand.cost) for demand, item in asked
            ]  # fmt: skip
        now = self._clock()
        takings = [self._taking(demand, item, fit, now) for (demand, item), fit in zip(asked, fits, strict=True)]
        return Taken(op.demands, takings, now, not all(fits))

    def _taking(self, demand: Demand, item: RateLimitItemPerSecond, fits: bool, now: int) -> Taking:
        stats = self._limiter.get_window_stats(item, demand.key)
        reset = max(0, round(stats.reset_time * SECOND) - now)
        wait = 0 if fits else NEVER if demand.cost > demand.limit.quota else max(1, reset)
        return None, demand.limit.period, max(0, int(stats.remaining)), reset, wait


class _Threads:
    """Threads that do work, as many as are needed, up to a bound.

    Those of `concurrent.futures` are waited for when the process ends: with a storage that hangs, it never would.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[list[Any]], Callable[[], list[Any]]] | None] = SimpleQueue()
        self._lock = Lock()
        self._started = 0
        self._asked = 0
        """What is under way, or waits for a thread."""

    def submit(self, work: Callable[[], list[Any]]) -> Future[list[Any]]:
        """What `work()` returns or raises, in time."""
        future: Future[list[Any]] = Future()
        with self._lock:
            self._asked += 1
            if self._started < min(self._asked, _THREADS):
                self._started += 1
                Thread(target=self._run, name="keyguard-limits", daemon=True).start()
        self._work.put((future, work))
        return future

    def _run(self) -> None:
        while (asked := self._work.get()) is not None:
            future, work = asked
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del asked, future, work
            with self._lock:
                self._asked -= 1

    def end(self) -> None:
        """End the threads, each when it has done what it does."""
        with self._lock:
            started = self._started
        for _ in range(started):
            self._work.put(None)


def _item(limit: Limit) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(limit.quota, limit.period // SECOND, "keyguard")
