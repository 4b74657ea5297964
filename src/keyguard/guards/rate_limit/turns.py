"""Turns: requests of one caller that wait for what other requests of this process hold.

A limit that counts failures holds a unit for each request until it is known how that ended. A request that finds all
that is left held is not one too many yet: it waits for those on their way, and asks again as they end.

Rules:
- Each request that ends wakes one that waits. One that is woken and cannot have what was released stands first again.
- If what is missing is spent and no longer held, all are woken: they are refused at once.
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


class Line:
    """Those who hold something of one counter in this process, and those who wait for it."""

    __slots__ = ("holding", "waiting")

    def __init__(self) -> None:
        self.holding = 0
        self.waiting: deque[Signal] = deque()


class Lines:
    """The lines of one guard, by the keys of its counters."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget all: a forked process has none of the requests of its parent."""
        self._lines: dict[str, Line] = {}

    def hold(self, key: str) -> None:
        """Note a request that holds something until it is over."""
        with self._lock:
            self._line(key).holding += 1

    def release(self, key: str) -> None:
        """Note that one of them is over, and wake one that waits."""
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                return
            line.holding -= 1
            woken = line.waiting.popleft() if line.waiting else None
            self._tidy(key, line)
        if woken is not None:
            woken.move()

    def stand(self, key: str, signal: Signal, *, first: bool) -> bool:
        """Stand in line, at its end or first again. Return false if nobody of this process holds anything."""
        with self._lock:
            line = self._lines.get(key)
            if line is None or not line.holding:
                return False
            if first:
                line.waiting.appendleft(signal)
            else:
                line.waiting.append(signal)
            return True

    def leave(self, key: str, signal: Signal, *, wake: int) -> None:
        """Stand in line no more. `wake` so many of the others, all if it is negative."""
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                return
            if signal in line.waiting:
                line.waiting.remove(signal)
            number = len(line.waiting) if wake < 0 else min(wake, len(line.waiting))
            woken = [line.waiting.popleft() for _ in range(number)]
            self._tidy(key, line)
        for one in woken:
            one.move()

    def _line(self, key: str) -> Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line()
        return line

    def _tidy(self, key: str, line: Line) -> None:
        if line.holding <= 0 and not line.waiting:
            del self._lines[key]


async def in_turn(take: Take, taken: Taken, lines: Lines, key: str) -> Taken:
    """Ask again for what others of this process hold, as they release it. Return the last answer."""
    ends = monotonic() + PATIENCE
    signal, seen = Signal(), 0
    wake_all = False
    try:
        while True:
            # What is released before it stands in line is told to others: so it stands there first, and asks then.
            waits = lines.stand(key, signal, first=seen > 0)
            if not waits and not seen:
                return taken
            taken = await take
            if not taken.refused:
                return taken
            if not waits or not only_held(taken):
                wake_all = True
                return taken
            left = ends - monotonic()
            if left <= 0 or not await Wait(signal, seen, left):
                return taken
            seen += 1
    finally:
        # It may have been woken once more than it has asked since: then that is another one's turn.
        lines.leave(key, signal, wake=-1 if wake_all else signal.count - seen)


def only_held(taken: Taken) -> bool:
    """Tell whether holds alone stand in the way of a request that was refused."""
    return bool(taken.held) and len(taken.in_use) == len(taken.refusing)
