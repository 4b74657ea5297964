"""How late an event loop is, measured by a timer of its own.

A loop with more to do than it can do calls everything late, timers too. Requests start the timer, and it goes on as
long as more of them come: an idle loop is not woken. asyncio has such timers; trio has none.

A handler that holds the loop up once is not an overload: the lag is what two timers in a row, or one and the next that
is overdue, were late by. It is forgotten by and by, a fifth of it a timer, so that a guard lets in the most critical
requests first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

INTERVAL = 0.05
"""Seconds from one timer to the next."""


class LoopLag:
    """The lag of the event loop of this process. Of several, the first that a request comes in is measured."""

    __slots__ = ("_busy", "_clock", "_due", "_last", "_loop", "seconds")

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns seconds from any moment on."""
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """Forget all: in the child of a fork another loop runs."""
        self._loop: Any = None
        """The loop that a timer runs in; `None` for no timer."""
        self._due = 0.0
        self._busy = False
        """Whether a request has come since the last timer."""
        self._last = 0.0
        """How late the last timer was."""
        self.seconds = 0.0
        """The lag at the last timer."""

    def note(self, now: float) -> float:
        """Note that a request has come. Returns the lag in seconds; 0 if no loop of asyncio runs here."""
        if self._loop is None:
            loop = _running_loop()
            if loop is not None:
                self._start(loop, now)
            return 0.0
        self._busy = True
        last, seconds = self._last, self.seconds
        if not (last or seconds) and now - self._due < 1:  # as nearly always
            return 0.0
        loop = _running_loop()
        if loop is not self._loop:
            if not self._loop.is_running():  # it ended before its timer
                self.renew()
            return 0.0
        return max(seconds, min(last, now - self._due))

    def _start(self, loop: Any, now: float) -> None:
        self._loop, self._due, self._busy = loop, now + INTERVAL, False
        loop.call_later(INTERVAL, self._tick, loop)

    def _tick(self, loop: Any) -> None:
        if loop is not self._loop:
            return
        now = self._clock()
        before, self._last = self._last, _noticed(now - self._due)
        self.seconds = max(min(before, self._last), _noticed(self.seconds * 0.8))
        if self._busy:
            self._start(loop, now)
        else:
            self.renew()


def _noticed(late: float) -> float:
    return late if late > 0.005 else 0.0  # any loop is late by so little


def _running_loop() -> Any:
    events: Any = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()
