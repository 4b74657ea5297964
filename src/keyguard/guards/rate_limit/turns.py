"""Turns: requests of one caller that wait for what other requests of this process hold.

A limit that counts failures holds a unit for each request until it is known how that ended. A request that finds all
that is left held is not one too many yet: it waits for those on their way, and asks again as they end.

Rules:
- Each request that ends wakes one that waits. One that is woken and cannot have what was released stands first again.
- If what is missing is spent and no longer held, all are woken: they are refused at once.
- If nobody of this process holds or asks for anything any more, all are woken, and ask once more: those who held it may
  all have left at one time. If nobody holds anything after that either, they are refused.
- Nobody waits for requests of other processes, of whose end nothing is heard here, nor longer than `PATIENCE`.
"""

from __future__ import annotations

from collections import deque

from keyguard.clock import monotonic
from keyguard.flow import Signal, Wait
from keyguard.ops import Take, Taken
from keyguard.process.fork import ProcessLock, renew_after_fork

PATIENCE = 10.0
"""Seconds that a request waits for others of its caller at most."""


class Waiting:
    """A request that waits."""

    __slots__ = ("alone", "signal")

    def __init__(self) -> None:
        self.signal = Signal()
        self.alone = False
        """Whether nobody of this process holds or asks for anything any more, who would wake it."""


class Line:
    """Those who hold something of one counter in this process, who ask the store for it, and who wait for it."""

    __slots__ = ("asking", "holding", "waiting")

    def __init__(self) -> None:
        self.holding = 0
        self.asking = 0
        """These may hold something already, and not know it yet."""
        self.waiting: deque[Waiting] = deque()


class Lines:
    """The lines of one guard, by the keys of its counters."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget all: a forked process has none of the requests of its parent."""
        self._lines: dict[str, Line] = {}

    def ask(self, key: str) -> None:
        """Note a request that asks the store, until `asked`."""
        with self._lock:
            self._line(key).asking += 1

    def asked(self, key: str) -> None:
        """Note that it has its answer, and what it holds by that. If nobody holds or asks, none would wake the rest."""
        with self._lock:
            line = self._line(key)
            line.asking = max(0, line.asking - 1)
            alone = [] if line.holding or line.asking else [*line.waiting]
            for one in alone:
                one.alone = True
            self._wake(key, line, alone)

    def hold(self, key: str) -> None:
        """Note a request that holds something until it is over."""
        with self._lock:
            self._line(key).holding += 1

    def release(self, key: str) -> None:
        """Note that one of them is over, and wake one that waits."""
        with self._lock:
            line = self._line(key)
            line.holding = max(0, line.holding - 1)
            self._wake(key, line, [*line.waiting][:1])

    def stand(self, key: str, waiting: Waiting, *, first: bool) -> bool:
        """Stand in line, at its end or first again. Return false if no other request of this process holds anything.

        The request itself is one of those who ask.
        """
        with self._lock:
            line = self._line(key)
            if line.holding + line.asking <= 1:
                return False
            if first:
                line.waiting.appendleft(waiting)
            else:
                line.waiting.append(waiting)
            return True

    def leave(self, key: str, waiting: Waiting, *, wake: int) -> None:
        """Stand in line no more. `wake` so many of the others, all if it is negative."""
        with self._lock:
            line = self._line(key)
            if waiting in line.waiting:
                line.waiting.remove(waiting)
            self._wake(key, line, [*line.waiting][: None if wake < 0 else wake])

    def _line(self, key: str) -> Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line()
        return line

    def _wake(self, key: str, line: Line, woken: list[Waiting]) -> None:
        """Wake some of those who wait. A signal never blocks, so it may be moved under the lock."""
        for one in woken:
            line.waiting.remove(one)
            one.signal.move()
        if not (line.holding or line.asking or line.waiting):
            self._lines.pop(key, None)


async def in_turn(take: Take, taken: Taken, lines: Lines, key: str) -> Taken:
    """Ask again for what others of this process hold, as they release it. Return the last answer.

    The request is one of those who ask, but for the time in which it waits.
    """
    ends = monotonic() + PATIENCE
    waiting, seen = Waiting(), 0
    wake_all = alone = False
    try:
        while True:
            # What is released before it stands in line is told to others: so it stands there first, and asks then.
            waits = lines.stand(key, waiting, first=seen > 0)
            if not waits and not seen:
                return taken
            taken = await take
            if not taken.refused:
                return taken
            if not waits or not only_held(taken):
                wake_all = True
                return taken
            left = ends - monotonic()
            if left <= 0:
                return taken
            lines.asked(key)
            try:
                moved = await Wait(waiting.signal, seen, left)
            finally:
                lines.ask(key)
            if not moved or (waiting.alone and alone):
                return taken
            alone, waiting.alone = waiting.alone, False
            seen += 1
    finally:
        # It may have been woken once more than it has asked since: then that is another one's turn.
        unused = 0 if waiting.alone else waiting.signal.count - seen
        lines.leave(key, waiting, wake=-1 if wake_all else unused)


def only_held(taken: Taken) -> bool:
    """Tell whether holds alone stand in the way of a request that was refused."""
    return bool(taken.held) and len(taken.in_use) == len(taken.refusing)
