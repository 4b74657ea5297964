"""Threads for functions that would hold up an event loop.

Rules:
- They are keyguard's own: a function does not wait behind whatever the app does in its threads.
- There are so many and no more, made as they are needed. One that is asked for when all are taken waits for a turn, and
  not for ever: then its request is refused as one too many.
- A function that has begun is never stopped. If nobody waits for it any more, its result is dropped.
- They are daemons: a process that is told to end does not wait for a function that hangs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextvars import Context, copy_context
from typing import Any

from keyguard.errors import StoreBusy
from keyguard.flow import Blocking, Signal, Wait
from keyguard.process.fork import forks_in_c, renew_after_fork

MOST = 40
TURN = 5.0
"""Seconds that a function waits for a thread."""
_A_WHILE = 3600.0


class Job:
    """A function on its way through a thread. Its signal moves when it begins, and when it has ended."""

    __slots__ = ("_context", "_error", "_step", "_value", "ended", "signal")

    def __init__(self, step: Blocking[Any], context: Context) -> None:
        self._step = step
        self._context = context
        self._value: Any = None
        self._error: BaseException | None = None
        self.ended = False
        self.signal = Signal()

    def run(self) -> None:
        """Call the function, in its request's context."""
        self.signal.move()
        try:
            self._value = self._context.run(self._step.run)
        except BaseException as error:
            self._error = error
        self.ended = True
        self.signal.move()

    def result(self) -> Any:
        """Return what the function returned, or raise what it raised."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame
        return self._value


class Threads:
    """At most `most` threads, for whoever comes first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._turn = threading.Condition(threading.Lock())
        self._waiting: deque[Job] = deque()
        self.made = 0
        """The number of threads there are."""
        self._idle = 0

    def start(self, step: Blocking[Any]) -> Job:
        """Have it called as soon as there is a thread."""
        job = Job(step, copy_context())
        with self._turn:
            self._waiting.append(job)
            if self._idle >= len(self._waiting):
                self._turn.notify()
            elif self.made < self._most:
                self.made += 1
                threading.Thread(target=self._serve, args=(self._turn,), name="keyguard", daemon=True).start()
        return job

    def withdraw(self, job: Job) -> bool:
        """Take back a function that has not begun. Returns whether it could be."""
        with self._turn:
            waits = job in self._waiting
            if waits:
                self._waiting.remove(job)
            return waits

    def _serve(self, turn: threading.Condition) -> None:
        while True:
            with turn:
                while not self._waiting:
                    self._idle += 1
                    turn.wait()
                    self._idle -= 1
                job = self._waiting.popleft()
            job.run()
            del job  # what it holds is not kept until the next one comes


threads = Threads()
"""The threads of this process, for all its apps."""


async def in_thread(step: Blocking[Any]) -> Sequence[Any]:
    """Return the function's result, in a sequence of one. Raises `StoreBusy` if there was no thread for it in time."""
    if forks_in_c():  # these threads stay
        return (copy_context().run(step.run),)
    job = threads.start(step)
    try:
        if not await Wait(job.signal, 0, TURN).in_loop() and threads.withdraw(job):
            raise StoreBusy(f"no thread has been free for {TURN:g} s")
        while not job.ended:
            await Wait(job.signal, 1, _A_WHILE).in_loop()
    finally:
        if not job.ended:
            threads.withdraw(job)
    return (job.result(),)
