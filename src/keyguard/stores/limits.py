"""Storages of the `limits` library as a store: memcached, MongoDB, and whatever else it has. Best effort.

This store can do no more than a `limits` storage can:
- Several limits are asked one after the other, and then charged one after the other. Between that, others may come: a
  request may be refused by one limit and still be charged by another. Units that were taken stay taken: nothing is
  given back, and nothing is settled later.
- It keeps no keys: authentication needs another store, in a layer of its own.
- It cannot be called off: a call that takes longer than `timeout` is given up, and may still be charged. A call that
  got no thread by then is not asked for at all.
- It may forget: memcached drops counters when it is full, and keeps none for more than 30 days. A limit that
  a storage is known not to keep stops the start.
- How exact a limit is depends on the storage: a moving window if it has one, else two fixed windows weighed (up to
  twice the limit in bad cases), else a fixed window (twice the limit).

Storages differ in what the name of a counter may hold, and how long it may be: it is always a digest. A stack on it
says so in the log when it starts. Use one of keyguard's own stores if that matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from hashlib import blake2b
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from limits.errors import StorageError
from limits.storage import (
    MemcachedStorage,
    MemoryStorage,
    MongoDBStorage,
    MovingWindowSupport,
    SlidingWindowCounterSupport,
    Storage,
)
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from keyguard.clock import SECOND, monotonic, wall_clock
from keyguard.errors import ConfigurationError, KeyguardError, StoreBusy, StoreError
from keyguard.manual_clock import GivenClock, clock_from
from keyguard.ops import Demand, Op, Settle, Take, Taken
from keyguard.process.fork import forks_in_c, renew_after_fork
from keyguard.rates import NEVER, Limit, Taking
from keyguard.rates.gcra import Smooth
from keyguard.rates.window import WindowLog, WindowSlices
from keyguard.stores.timeouts import check_patience

_THREADS = 16
_ENDING = 5.0
"""Seconds that a thread is waited for if it has to end: no longer, for it may hang."""
_DAY = 86400 * SECOND
_MEMCACHED_KEEPS = 30 * _DAY
"""For how long memcached keeps a counter at most: a longer life is taken for a date, which has long passed."""
_MONGODB_HOLDS = 1_000_000
"""The most units of which MongoDB can keep the moments: a document holds 16 MB."""


class LimitsStore:
    """Counters in `storage`, an object such as `limits.storage.MemcachedStorage("memcached://localhost:11211")`.

    `timeout` is how many seconds an operation waits for a thread, and then for the storage, whatever time-outs that has
    of its own; 0.01 to 1.
    Raises `ConfigurationError` for a setting that is wrong.
    """

    holds_values = False
    """Limits alone: neither keys nor cached responses."""

    def __init__(self, storage: Storage, *, timeout: float = 0.075, clock: GivenClock | None = None) -> None:
        if not isinstance(storage, Storage):
            raise ConfigurationError(f"a storage is an object of limits.storage, not {type(storage).__name__}")
        check_patience(timeout, _THREADS)
        self.storage = storage
        self.timeout = float(timeout)
        self._clock = clock_from(clock, wall_clock)
        failures = storage.base_exceptions
        self._failures: tuple[type[Exception], ...] = (
            OSError,
            StorageError,  # if it was told to wrap its own
            *(failures if isinstance(failures, tuple) else (failures,)),
        )
        self._limiter: RateLimiter
        if isinstance(storage, MovingWindowSupport):
            self._limiter = MovingWindowRateLimiter(storage)
        elif isinstance(storage, SlidingWindowCounterSupport):
            self._limiter = SlidingWindowCounterRateLimiter(storage)
        else:
            self._limiter = FixedWindowRateLimiter(storage)
        self.of_one_process = isinstance(storage, MemoryStorage)
        """Whether each process has counters of its own."""
        self.after_fork()
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<LimitsStore {type(self.storage).__name__}, {type(self._limiter).__name__}>"

    def limitations(self, limits: Sequence[Limit], *, keys: bool) -> str:
        """Return what a stack should know that has these limits and may take several at once; empty for nothing.

        Raises `ConfigurationError` for what cannot be done at all.
        """
        if keys:
            raise ConfigurationError(
                f"{self!r} keeps no keys: add APIKeys as a layer of its own, with another store=, outside of this one"
            )
        for limit in limits:
            self._check(limit)
        if len(limits) < 2:
            return ""
        return (
            f"{self!r} is best effort: {len(limits)} limits are not taken all or nothing, and a refused request may "
            "still be charged by some of them. Use memory://, sqlite://, redis:// or postgresql:// to have it exact"
        )

    def _check(self, limit: Limit) -> None:
        """Raise `ConfigurationError` for a limit that the storage cannot keep."""
        if limit.script == Smooth.script:
            raise ConfigurationError(f"{self!r} cannot pace evenly: write {limit.text.split(' ')[0]!r} instead")
        if limit.script not in (WindowLog.script, WindowSlices.script):
            raise ConfigurationError(f"{self!r} cannot keep {limit!r}: memory://, redis:// and the like can")
        if limit.period % SECOND:
            raise ConfigurationError(f"{self!r} counts in whole seconds, unlike {limit.text}")
        if isinstance(self.storage, MemcachedStorage):
            # Two windows are weighed, so each is kept for as long as two of them.
            longest = _MEMCACHED_KEEPS // (2 if isinstance(self._limiter, SlidingWindowCounterRateLimiter) else 1)
            if limit.period > longest:
                raise ConfigurationError(
                    f"{self!r} would admit everything: memcached keeps what {limit.text} counts for no more than "
                    f"{longest // _DAY} days"
                )
        if isinstance(self.storage, MongoDBStorage) and limit.quota > _MONGODB_HOLDS:
            raise ConfigurationError(
                f"{self!r} keeps the moments of no more than {_MONGODB_HOLDS} units, unlike {limit.text}"
            )

    def after_fork(self) -> None:
        self._threads = _Threads(self._hang_up)

    def _hang_up(self) -> None:
        """Close this thread's connection, if the storage has one for each thread: memcached's has."""
        connection = getattr(getattr(self.storage, "local_storage", None), "storage", None)
        close = getattr(connection, "close", None)
        if close is not None:
            with suppress(Exception):
                close()

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Take from limits, one after the other; settle nothing. Raises `StoreError` for other operations."""
        with self._lent() as threads:
            done, work = threads.done, threads.submit(lambda: self._execute(ops))
            with suppress(TimeoutError):
                return work.future.result(self.timeout)
            if not work.future.cancel():  # it has its turn, or is over by now
                with suppress(TimeoutError):
                    return work.future.result(work.left(self.timeout))
            raise self._late(work.future.cancelled() and threads.done > done)

    async def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Do the same for an event loop."""
        with self._lent() as threads:
            done, work = threads.done, threads.submit(lambda: self._execute(ops))
            answer = asyncio.wrap_future(work.future)
            answer.add_done_callback(_seen)
            try:
                await asyncio.wait({answer}, timeout=self.timeout)
                if not answer.done() and not work.future.cancel():
                    await asyncio.wait({answer}, timeout=work.left(self.timeout))
            except asyncio.CancelledError:
                work.future.cancel()  # if it has not begun
                raise
            if answer.done() and not answer.cancelled():
                return answer.result()
            raise self._late(work.future.cancelled() and threads.done > done)

    @contextmanager
    def _lent(self) -> Iterator[_Threads]:
        """Yield the threads; those of one operation alone, which end with it, in a process that forks in C."""
        if not forks_in_c():
            yield self._threads
            return
        threads = _Threads(self._hang_up)
        try:
            yield threads
        finally:
            threads.end(_ENDING)

    def _late(self, queued: bool) -> StoreError:
        """Return what to raise if no answer has come in time; `queued` if others were, and this one was not."""
        name = type(self.storage).__name__
        return (
            StoreBusy(f"{name}: other requests were first") if queued else StoreError(f"{name} did not answer in time")
        )

    def _execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        try:
            return [self._run(op) for op in ops]
        except KeyguardError:  # our own; some storages name `ValueError` for theirs
            raise
        except self._failures as error:
            raise StoreError(f"{type(self.storage).__name__}: {error}") from error

    def close(self) -> None:
        """End the threads. The next operation starts new ones."""
        threads, self._threads = self._threads, _Threads(self._hang_up)
        threads.end()

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return nothing: these storages cannot list what they hold."""
        return []

    def _run(self, op: Op[Any]) -> Any:
        if isinstance(op, Take):
            return self._take(op)
        if isinstance(op, Settle):
            return None
        raise StoreError(f"{self!r} cannot do {type(op).__name__}")

    def _take(self, op: Take) -> Taken:
        for demand in op.demands:  # one that a function chose was not seen at the start
            self._check(demand.limit)
        asked: list[tuple[Demand, Any]] = [(demand, _Item(demand)) for demand in op.demands]
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

    def _taking(self, demand: Demand, item: Any, fits: bool, now: int) -> Taking:
        limit = demand.limit
        try:
            stats = self._limiter.get_window_stats(item, demand.key)
            remaining, reset = max(0, int(stats.remaining)), max(0, round(stats.reset_time * SECOND) - now)
        except TypeError:  # if all moments have expired, MongoDB names no oldest, and `limits` adds to it
            remaining, reset = limit.quota, 0
        wait = 0 if fits else NEVER if demand.cost > limit.quota else max(1, reset)
        return None, limit.period, remaining, reset, wait


class _Work:
    """Something to be done in a thread, and what becomes of it."""

    __slots__ = ("_began", "_call", "future")

    def __init__(self, call: Callable[[], list[Any]]) -> None:
        self._call = call
        self._began = 0.0
        self.future: Future[list[Any]] = Future()

    def left(self, timeout: float) -> float:
        """Return the seconds until it has taken longer than it may, since it has had its turn."""
        return max(0.0, self._began + timeout - monotonic())

    def run(self) -> bool:
        """Do it, and tell whether it was still wanted."""
        self._began = monotonic()
        if not self.future.set_running_or_notify_cancel():
            return False
        try:
            self.future.set_result(self._call())
        except BaseException as error:
            self.future.set_exception(error)
        return True


def _seen(answer: asyncio.Future[list[Any]]) -> None:
    if not answer.cancelled():
        answer.exception()  # whoever still waits for it is told; else nobody needs to be


class _Threads:
    """Threads that do work, as many as are needed, up to a bound.

    Those of `concurrent.futures` are waited for when the process ends: with a storage that hangs, it never would.
    """

    def __init__(self, at_end: Callable[[], None]) -> None:
        self._at_end = at_end
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = Lock()
        self._started: list[Thread] = []
        self._asked = 0
        """How many calls are under way, or wait for a thread."""
        self.done = 0
        """How many calls have ended, well or not."""

    def submit(self, call: Callable[[], list[Any]]) -> _Work:
        """Have `call()` done, in its turn."""
        work = _Work(call)
        with self._lock:
            self._asked += 1
            if len(self._started) < min(self._asked, _THREADS):
                thread = Thread(target=self._run, name="keyguard-limits", daemon=True)
                thread.start()
                self._started.append(thread)
        self._work.put(work)
        return work

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            ran = work.run()
            del work
            with self._lock:
                self._asked -= 1
                self.done += ran
        self._at_end()

    def end(self, wait: float | None = None) -> None:
        """End the threads, each when it has done what it does. `wait`: seconds to wait for each."""
        with self._lock:
            started = list(self._started)
        for _ in started:
            self._work.put(None)
        for thread in started if wait else ():
            thread.join(wait)


class _Item:
    """A limit of one counter, as the library's limiters ask for it.

    It is not a `RateLimitItem`: the library makes each subclass of that its own, and `limits.parse` would return it.
    """

    def __init__(self, demand: Demand) -> None:
        self.amount = demand.limit.quota
        self._period = demand.limit.period // SECOND
        name = demand.key.encode("utf-8", "surrogatepass")
        self._name = "keyguard/" + blake2b(name, digest_size=20).hexdigest()

    def get_expiry(self) -> int:
        """Return the period in seconds."""
        return self._period

    def key_for(self, *identifiers: object) -> str:
        """Return the name of the counter. It does not say the quota: an edited limit keeps its counters."""
        return self._name
