"""Turns at an SQLite file: how the threads and event loops of a process share it, with each other and other processes.

Rules:
- A thread that has the lock tries at once, and waits for nothing: a greenlet that is set aside with the lock in its
  hands would stop its whole process.
- The thread that gets the file does the work of all who wait for the same kind of thing, in one transaction. So a
  thousand threads are as fast as one, and those of one process do not wait for other processes one after the other.
- Other processes are waited for by one thread of the store's own, made if it is needed, and never in an event loop or
  behind an app's own jobs.
- Nobody waits longer than a request may. A request that got no turn by then is told so (`StoreBusy`), whoever was in
  the way: that is not a failure of the file, and nothing was charged.
- A disk that does not answer is a failure. It is told from a process that is too busy by that thread: it gets to run as
  often as whoever has the lock, so if it looks again and again and nothing has moved, nothing moves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from keyguard.clock import monotonic, pause
from keyguard.errors import StoreBusy, StoreError
from keyguard.flow import Signal, Wait
from keyguard.logs import logger
from keyguard.ops import Op
from keyguard.process.fork import forks_in_c, run_aside

log = logger("keyguard.stores")

_FIRST_WAIT, _LONGEST_WAIT = 0.0002, 0.005  # seconds
_MIN_TRIES = 8
"""How often the file is tried at least: a busy process may have slept through its time."""
_IDLE = 1.0
"""Seconds that the thread waits for more to do before it ends."""
_LOOK = 0.02
_LOOKS = 25
"""Looks after which a transaction of this process that has not got on shows that the disk does not answer."""
_STUCK = f"SQLite has not answered for {_LOOK * _LOOKS:g} s"
_LONG = 5.0
"""Seconds after which the operator is told that another process keeps the file locked, and again after as long."""
_LATE = 0.5
"""Seconds after its time at which a job is given up by whoever waits for it, though the thread has not said so."""
_BATCH = 100
"""Jobs of one transaction at most: other processes want the file too."""


class Kind(Enum):
    """The purpose of a transaction. Each has transactions of its own: no decision hangs on what is only a copy."""

    READING = "reading"
    """It changes nothing, so it waits for nobody who writes."""
    DECIDING = "deciding"
    SETTLING = "settling"
    """Deciding too; but nobody waits for it."""
    CACHING = "caching"


class Job:
    """Operations that wait for the file. The signal moves when they are over."""

    __slots__ = ("_error", "ends", "kind", "ops", "over", "results", "signal", "tries")

    def __init__(self, ops: Sequence[Op[Any]], kind: Kind, ends: float) -> None:
        self.ops = ops
        self.kind = kind
        self.ends = ends
        """Until when it waits, as `keyguard.clock.monotonic`."""
        self.tries = 0
        self.results: list[Any] | None = None
        self._error: Exception | None = None
        self.over = False
        self.signal = Signal()

    def end(self, results: list[Any] | None, error: Exception | None = None) -> None:
        """Tell whoever waits."""
        self.results, self._error = results, error
        self.over = True
        self.signal.move()

    def result(self) -> list[Any]:
        """Return the results, or raise what went wrong."""
        if self._error is not None:
            raise self._error
        assert self.results is not None
        return self.results


class Turns:
    """The queue of one process.

    `serve(kind)` is called with the lock held. It tries to get the file, takes its jobs with `take(kind)` if it could,
    and ends them. Returns whether it could.
    """

    def __init__(self, serve: Callable[[Kind], bool], name: str) -> None:
        self._serve = serve
        self._name = name
        self.renew()

    def renew(self) -> None:
        """Begin anew, in a process that was forked: those who wait are the parent's."""
        self.lock = threading.Lock()
        self.jobs: dict[Job, bool] = {}
        self.done = 0
        """Goes up with each operation and with each transaction."""
        self._stuck = -1
        self._left: dict[Job, Callable[[list[Any]], None]] = {}
        self._work = Signal()
        self._thread: threading.Thread | None = None
        self._serving = False
        self._starting = threading.Lock()
        self._stops = 0

    # -- the lock -----------------------------------------------------------------------------------------

    def get_lock(self, seconds: float) -> bool:
        """Get the lock within so many seconds. Raises `StoreError` if it is known that nobody gets on."""
        if self.stuck:
            if self.lock.acquire(timeout=_FIRST_WAIT):
                return True
            if self.stuck:
                raise StoreError(_STUCK)
        # Also if the disk answers again, and whoever has found that has the lock.
        if self.lock.acquire(timeout=seconds):
            return True
        if self.stuck:
            raise StoreError(_STUCK)
        self.wake()
        return False

    @property
    def stuck(self) -> bool:
        """Whether the transaction that is under way has not got on for long, as far as is known."""
        return self._stuck == self.done

    def free(self) -> None:
        """Give the lock back, after a transaction."""
        self.done += 1
        self.lock.release()

    def waited_for(self, kind: Kind) -> bool:
        """Tell whether others have come before with something of this kind."""
        return any(job.kind is kind for job in list(self.jobs)) if self.jobs else False

    # -- jobs ---------------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Stand at the end of the queue."""
        self.jobs[job] = True

    def withdraw(self, job: Job) -> bool:
        """Leave the queue. Returns whether the job had not begun."""
        return self.jobs.pop(job, False)

    def take(self, kind: Kind) -> list[Job]:
        """Take the first jobs of a kind out of the queue, to do them now."""
        taken = []
        for job in list(self.jobs):
            if job.kind is kind and self.jobs.pop(job, False):
                taken.append(job)
                if len(taken) >= _BATCH:
                    break
        return taken

    def leave(self, job: Job, late: Callable[[list[Any]], None]) -> None:
        """Note that nobody waits for it any more. Results that it has by then, or gets later, are told to `late`."""
        if not self.withdraw(job):
            self._left[job] = late
            if job.over:
                self._tell_late(job)

    def ended(self, job: Job, results: list[Any] | None, error: Exception | None = None) -> None:
        """End a job that was taken."""
        job.end(results, error)
        if self._left:
            self._tell_late(job)

    def _tell_late(self, job: Job) -> None:
        late = self._left.pop(job, None)
        if late is not None and job.results is not None:
            late(job.results)

    # -- waiting ------------------------------------------------------------------------------------------

    def wait(self, job: Job, late: Callable[[list[Any]], None]) -> list[Any]:
        """Wait for a job in this thread, while the store's own thread works.

        Results for somebody who had gone by then are told to `late`.
        """
        try:
            self.wake()
            Wait(job.signal, 0, _patience(job)).block()
            return _result(job)
        except BaseException:
            self.leave(job, late)
            raise

    async def wait_in_loop(self, job: Job, late: Callable[[list[Any]], None]) -> list[Any]:
        """Do the same in an event loop."""
        if self.stuck:
            self.withdraw(job)
            raise StoreError(_STUCK)
        try:
            self.wake()
            await Wait(job.signal, 0, _patience(job)).in_loop()
            return _result(job)
        except BaseException:
            self.leave(job, late)
            raise

    # -- the thread ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the thread look after the queue."""
        self._work.move()
        if not self._serving and self._claim():
            try:
                self._thread = run_aside(self._name, self._run, self._stops)
            except RuntimeError as error:  # there are too many, or the process is ending
                self._serving = False
                for job in list(self.jobs):
                    if self.withdraw(job):
                        job.end(None, StoreBusy(f"SQLite: no thread to wait for the file in ({error})"))

    def stop(self) -> None:
        """End the thread, when the queue is empty."""
        thread, self._thread = self._thread, None
        self._stops += 1
        self._work.move()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def _claim(self) -> bool:
        with self._starting:
            if self._serving:
                return False
            self._serving = True
            return True

    def _run(self, stops: int) -> None:
        while True:
            seen = self._work.count
            self._serve_all()
            if self._stops != stops or forks_in_c() or not Wait(self._work, seen, _IDLE).block():
                self._serving = False
                if not self.jobs or not self._claim():
                    return

    def _serve_all(self) -> None:
        """Work until nobody waits."""
        span, began = _FIRST_WAIT, monotonic()
        while True:
            if self._look():
                try:
                    served = [self._serve(kind) for kind in Kind if self.waited_for(kind)]
                finally:
                    self.free()
                if all(served):
                    span, began = _FIRST_WAIT, monotonic()
            jobs, now = list(self.jobs), monotonic()
            if not jobs:
                return
            for job in jobs:
                job.tries += 1
                if self.stuck:
                    self._give_up(job, StoreError(_STUCK))
                elif now >= job.ends and job.tries >= _MIN_TRIES:
                    self._give_up(job, StoreBusy("SQLite: other processes kept the file locked"))
            if now - began > _LONG:
                log.warning("SQLite: another process has kept the file locked for %.0f s", now - began)
                began = now
            pause(span)
            span = min(span * 1.5, _LONGEST_WAIT)

    def _give_up(self, job: Job, error: StoreError) -> None:
        if self.withdraw(job):
            self.ended(job, None, error)

    def _look(self) -> bool:
        """Get the lock, or look whether those who have it get on."""
        looks, done = 0, self.done
        while not self.lock.acquire(timeout=_LOOK):
            if self.done != done:
                return False
            looks += 1
            if looks >= _LOOKS:
                self._stuck = done
                return False
        self._stuck = -1
        return True


def _patience(job: Job) -> float:
    return max(0.0, job.ends - monotonic()) + _LATE


def _result(job: Job) -> list[Any]:
    if not job.over:
        raise StoreBusy("SQLite: no turn at the file")
    return job.result()
