"""Work in the background: jobs that one daemon thread of a process goes about, every so many seconds.

Rules:
- The thread begins when the first job is woken, that is after the forks of a server, and ends with its last job. A
  child has no thread and no job that is woken; what its parent's jobs had still to do is the parent's.
- A job that fails is told of once, goes on, and fails no other. One that may wait for others (a webhook) is `alone`: it
  has a thread of its own, and holds up nobody.
- `Job.end` has it run a last time, within a bounded time; so has the end of the process. Whoever wakes it afterwards
  begins it again.
- By a clock that is set by hand there is no thread: a job runs in place, when the clock is advanced beyond its time.
- No thread runs where there must be none (`forks_in_c`): what is woken there begins in the processes that are forked.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from math import inf
from typing import Any, Protocol, runtime_checkable
from weakref import WeakSet

from keyguard.clock import SECOND, Clock, monotonic
from keyguard.errors import KeyguardError
from keyguard.logs import frames, logger, plain
from keyguard.process import exits as exits  # registered first, so that stores are closed after the last run
from keyguard.process.fork import check_process, forks_in_c, renew_after_fork, run_aside

log = logger("keyguard")

PATIENCE = 5.0
"""Seconds that an end waits for the last run, unless it is told otherwise; at the exit, for those of all jobs."""
_AGAIN = 1.0
"""Seconds after which a thread is tried again for which there was no room."""


@runtime_checkable
class SetByHand(Protocol):
    """A clock that tells what goes by it when it has been set."""

    def watch(self, watcher: Job) -> None:
        """Have `watcher.run_due()` called whenever the clock has been set, as long as the watcher lives."""
        ...


class Job:
    """Something that is done every so many seconds, from when it is woken until it is ended.

    `run` is called with whether this is the last time: then it must not take long. `clock` is that of whoever has the
    job; it matters only if it is set by hand. A job that is woken keeps alive whatever its function does.
    """

    def __init__(
        self, name: str, run: Callable[[bool], None], every: float, *, clock: Clock | None = None, alone: bool = False
    ) -> None:
        self.name = name
        self.every = every
        self.begun = False
        """Whether it runs from time to time. Who wakes it for each request may look here first."""
        self.due = inf
        self.woken = False
        """Whether it has something to do at an end: also where there is no thread."""
        self.ended: threading.Event | None = None
        """Set when its last run is over, while that is waited for."""
        self._run = run
        self._failed = False
        self._by_hand = clock if clock is not None and isinstance(clock, SetByHand) else None
        self._clock = clock
        self._worker = _Worker(f"keyguard-{name}") if alone and self._by_hand is None else _shared
        if self._by_hand is not None:
            self._by_hand.watch(self)

    def __repr__(self) -> str:
        return f"<Job {self.name}>"

    def wake(self) -> None:
        """Have it run every so many seconds from now on. It costs nothing if it does already."""
        if not self.begun:
            self._begin(self.every)

    def soon(self) -> None:
        """Have it run now, without waiting for it; and again every so many seconds."""
        if not self.begun:
            self._begin(0.0)
        elif self._by_hand is not None:
            self.due = -inf
        else:
            self._worker.hurry(self)

    def end(self, timeout: float = PATIENCE) -> bool:
        """Have it run a last time, and wait for that so many seconds. Tell whether it is done.

        It does nothing if the job has not been woken since. Where an event loop runs, call it by `in_thread`.
        """
        check_process()
        if self._by_hand is not None:
            if self.woken:
                self.begun = self.woken = False
                self.perform(last=True)
            return True
        return self._worker.wait(self, self._worker.end(self), timeout)

    def run_due(self) -> None:
        """Run it in place if it is due by a clock that is set by hand."""
        if self._by_hand is None or not self.begun:
            return
        now = self._now()
        if self.due > now + self.every:  # the clock was set back
            self.due = now + self.every
        if self.due <= now:
            self.due = now + self.every
            self.perform(last=False)

    def _begin(self, pause: float) -> None:
        self.woken = True
        if self._by_hand is None:
            self._worker.begin(self, pause)
        else:
            self.due = self._now() + pause
            self.begun = True

    def _now(self) -> float:
        return monotonic() if self._clock is None else self._clock() / SECOND

    def perform(self, *, last: bool) -> None:
        """Run it in this thread. What it raises is told, once until it works again."""
        try:
            self._run(last)
        except Exception as error:
            if not self._failed:
                self._failed = True
                told = plain(error) if isinstance(error, KeyguardError) else frames(error)
                log.warning("%s failed in the background, and goes on: %s", self.name, told)
        else:
            self._failed = False


class _Worker:
    """A thread, while it has jobs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: list[Job] = []
        self.after_fork()
        renew_after_fork(self)
        _workers.add(self)

    def after_fork(self) -> None:
        for job in self._jobs:
            job.begun = job.woken = False
            job.ended = None
        self._jobs = []
        self._lock = threading.Lock()
        self._wake: threading.Event | None = None
        """Wakes the thread; `None` if there is none."""
        self._thread = 0
        self._sleeps_until = -inf
        self._tries_at = -inf
        self._without = False
        """Whether there is no room for a thread, and that was told."""

    @property
    def jobs(self) -> list[Job]:
        return [*self._jobs]

    def begin(self, job: Job, pause: float) -> None:
        check_process()
        now = monotonic()
        if _exiting or now < self._tries_at or forks_in_c():
            return
        with self._lock:
            if job.begun:
                return
            job.begun, job.due = True, now + pause
            self._jobs.append(job)
            wake = self._wake
            if wake is None:
                self._wake = begun = threading.Event()
            elif job.due < self._sleeps_until:
                wake.set()
        if wake is None:
            # Without the lock: under gevent this lets others run, and one that waits for a lock that was made before
            # gevent came would have all of them wait.
            self._start(begun)

    def _start(self, wake: threading.Event) -> None:
        _end_as_a_child()
        try:
            run_aside(self._name, self._go, wake)
        except RuntimeError as error:
            with self._lock:
                self._leave(wake)
            self._tries_at = monotonic() + _AGAIN
            if not self._without:
                log.warning("%s has no thread, and is tried again: %s", self._name, plain(error))
            self._without = True

    def hurry(self, job: Job) -> None:
        with self._lock:
            job.due = -inf
            if self._wake is not None and self._sleeps_until > -inf:
                self._wake.set()

    def end(self, job: Job) -> threading.Event | None:
        """Have a job run a last time. Return what is set afterwards.

        Where there is no thread it runs in this one, and there is nothing to wait for.
        """
        with self._lock:
            if job.ended is not None:
                return job.ended
            if not job.woken:
                return None
            job.woken = False
            if job.begun and self._wake is not None and self._thread != threading.get_ident():
                job.ended = threading.Event()
                job.due = -inf
                self._wake.set()
                return job.ended
            self._drop(job)
        job.perform(last=True)
        return None

    def wait(self, job: Job, ended: threading.Event | None, timeout: float) -> bool:
        if ended is None or ended.wait(max(0.0, timeout)):
            return True
        log.warning("%s was not brought to an end within its time", job.name)
        return False

    # -- in the thread --------------------------------------------------------------------------------------

    def _go(self, wake: threading.Event) -> None:
        self._thread = threading.get_ident()
        self._without = False
        try:
            while True:
                with self._lock:
                    job = self._next(wake)
                    if job is None:
                        return
                    pause = job.due - monotonic()
                    ended = job.ended
                    if pause > 0:
                        self._sleeps_until = job.due
                        wake.clear()
                    elif ended is None:
                        self._sleeps_until = -inf
                        job.due = monotonic() + job.every
                    else:
                        self._sleeps_until = -inf
                        self._drop(job)  # before its last run: who wakes it meanwhile begins it again
                if pause > 0:
                    wake.wait(pause)
                    continue
                job.perform(last=ended is not None)
                if ended is not None:
                    with self._lock:
                        job.ended = None
                    ended.set()
        finally:
            with self._lock:
                self._leave(wake)

    def _next(self, wake: threading.Event) -> Job | None:
        """Return the job that is due next, one that ends before all others; `None` if the thread is to end."""
        if self._wake is not wake:  # of what was before a fork
            return None
        job = min(self._jobs, key=lambda job: (job.ended is None, job.due), default=None)
        if job is None:
            self._wake = None  # in the same moment: who begins a job from now on begins a thread
        return job

    def _drop(self, job: Job) -> None:
        job.begun = False
        if job in self._jobs:
            self._jobs.remove(job)

    def _leave(self, wake: threading.Event) -> None:
        """Have what is left begin again when it is woken: the thread is none any more, for whatever reason."""
        if self._wake is wake:
            self._wake = None
            for job in self.jobs:
                self._drop(job)


_workers: WeakSet[_Worker] = WeakSet()
_shared = _Worker("keyguard-background")
_exiting = False
"""Whether the process ends: then no thread can be begun."""
_ends_at = inf
"""The moment up to which the end of the process waits for last runs."""
_finalized = 0
"""The process that `multiprocessing` brings to an end."""


def time_left() -> float:
    """Return the seconds that the end of the process has left for the last runs of all jobs; no end before it ends."""
    return _ends_at - monotonic()


def _end_as_a_child() -> None:
    """Have all brought to an end with this process, if `multiprocessing` has forked it: that skips `atexit`."""
    global _finalized
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None and _finalized != os.getpid():
        from multiprocessing.util import Finalize

        _finalized = os.getpid()
        Finalize(None, _end_all, exitpriority=0)


@atexit.register
def _end_all() -> None:
    global _exiting, _ends_at
    check_process()
    _exiting = True
    _ends_at = end = monotonic() + PATIENCE
    waited = [(worker, job, worker.end(job)) for worker in [*_workers] for job in worker.jobs]
    for worker, job, ended in waited:
        worker.wait(job, ended, end - monotonic())
