"""The line of those who wait for room: first come first served, in this process, for one model class.

Rules:
- While nobody waits, each request asks the store for itself. Once one has been told to wait, the others of this process
  stand in line behind it, and only the first asks: no herd wakes at one moment, and no small request overtakes.
- The order is that in which requests began; one that is rotated keeps its place.
- It is bounded: what comes beyond is told at once how long it would have to wait.
- To leave never blocks and never awaits, so a request that is cancelled can.
"""

from __future__ import annotations

import threading
from bisect import insort
from itertools import count

from keyguard.flow import Signal
from keyguard.process.fork import renew_after_fork
from keyguard.upstream.causes import UpstreamCause


class Place:
    """One request's place in line."""

    __slots__ = ("signal", "ticket")

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket
        self.signal = Signal()
        """Moves when it may have become the first."""

    def __lt__(self, other: Place) -> bool:
        return self.ticket < other.ticket


class Queue:
    """The requests that wait in one line, `most` at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._line: list[Place] = []
        self._tickets = count(1)
        self.told: tuple[int | None, UpstreamCause] = (None, UpstreamCause.EXHAUSTED)
        """When the first asks again, by the pool's clock, `None` if that is not known; and why it must wait."""

    def __len__(self) -> int:
        return len(self._line)

    def ticket(self) -> int:
        """Return the number of a request that begins now."""
        return next(self._tickets)

    def join(self, ticket: int) -> Place | None:
        """Stand in line; `None` if it is full."""
        with self._lock:
            if len(self._line) >= self.most:
                return None
            place = Place(ticket)
            insort(self._line, place)
        return place

    def is_first(self, place: Place) -> bool:
        """Tell whether it is this one's turn to ask."""
        line = self._line
        return bool(line) and line[0] is place

    def tell(self, asks_at: int, why: UpstreamCause) -> None:
        """Note when the first asks again, and why it must wait."""
        self.told = asks_at, why

    def leave(self, place: Place, *, in_vain: bool = False) -> None:
        """Leave the line, and have the next one go on if this was the first. It may be called twice.

        `in_vain` if it found no room in time: then what it was told still holds.
        """
        with self._lock:
            if place not in self._line:
                return
            first = self._line[0] is place
            self._line.remove(place)
            if first and not (in_vain and self._line):  # who comes to an empty line asks for itself
                self.told = (None, self.told[1])
            following = self._line[0] if first and self._line else None
        if following is not None:
            following.signal.move()
