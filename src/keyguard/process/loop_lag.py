"""How late an event loop is, measured by a timer of its own.

A loop with more to do than it can do calls everything late, timers too. Requests start the timer, and it goes on as
long as more of them come: an idle loop is not woken. asyncio alone has such timers, and uvloop like it; trio has none.

A handler that holds the loop up once is no overload: the lag is what two timers in a row, or one and the next that is
overdue, were late by.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

INTERVAL = 0.05
"""Seconds from one timer to the next."""


class LoopLag:
    """The lag of the event loop of this process. Of several, the first that a request comes in is measured."""

    __slots__ = ("_before", "_busy", "_clock", "_due", "_last", "_loop")

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
        self._last = self._before = 0.0

    @property
    def seconds(self) -> float:
        """The lag at the last timer."""
        return min(self._last, self._before)

    def note(self, now: float) -> float:
        """Note that a request has come. Returns the lag in seconds; 0 if no loop of asyncio runs here."""
        if self._loop is None:
            loop = _running_loop()
            if loop is not None:
                self._start(loop, now)
            return 0.0
        self._busy = True
        last = self._last
        if not last and now - self._due < 1:  # as nearly always
            return 0.0
        loop = _running_loop()
        if loop is not self._loop:
            if not self._loop.is_running():  # it ended before its timer
                self.renew()
            return 0.0
        return max(min(last, self._before), min(last, now - self._due))

    def _start(self, loop: Any, now: float) -> None:
        self._loop, self._due, self._busy = loop, now + INTERVAL, False
        loop.call_later(INTERVAL, self._tick, loop)

    def _tick(self, loop: Any) -> None:
        if loop is not self._loop:
            return
        now = self._clock()
        self._before, self._last = self._last, max(0.0, now - self._due)
        if self._last < _UNNOTICED:
            self._last = 0.0
        if self._busy:
            self._start(loop, now)
        else:
            self.renew()


_UNNOTICED = 0.005
"""Seconds: any loop is late by so little."""


def _running_loop() -> Any:
    events: Any = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()
