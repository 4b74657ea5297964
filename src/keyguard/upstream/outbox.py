"""Reports that wait for the next trip to the store: that of the next request, or of a thread within a second.

Rules:
- Reports go along with the next `Acquire`, so that learning costs no trip of its own.
- What could not be sent is kept, and its waits are shortened by the time that has passed; what fields told then is left
  out after a while, since it is not true any more.
- It is bounded. Successes are dropped before blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from keyguard.clock import SECOND, Clock
from keyguard.learnt import Report
from keyguard.process.fork import renew_after_fork

_BLOCKING = frozenset({"exhausted", "quota", "ramp", "billing", "invalid"})
"""Causes for which a key or a group is left alone."""
_MOST = 512
_TOGETHER = 64
_STALE = 60 * SECOND


class Waiting(NamedTuple):
    """A report, and since when it waits."""

    at: int
    report: Report


class Outbox:
    """The reports of one pool in this process."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        """`wake` is called when there is something to send."""
        self._clock = clock
        self._wake = wake
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def urgent(self) -> bool:
        """Tell whether others should know of something soon."""
        return any(_matters(one.report) for one in self._waiting)

    def add(self, report: Report) -> None:
        """Keep a report until it is sent."""
        with self._lock:
            self._keep([*self._waiting, Waiting(self._clock(), report)])
        self._wake()

    def take(self) -> list[Waiting]:
        """Return the reports to be sent now, the oldest first. They must be put back if they could not be sent."""
        if not self._waiting:
            return []
        with self._lock:
            taken, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
        return taken

    def put_back(self, taken: Sequence[Waiting]) -> None:
        """Keep reports that could not be sent."""
        if taken:
            with self._lock:
                self._keep([*taken, *self._waiting])
            self._wake()

    def reports(self, taken: Sequence[Waiting]) -> list[Report]:
        """Return reports as they are true by now."""
        now = self._clock()
        return [_aged(report, max(0, now - at)) for at, report in taken]

    def _keep(self, waiting: list[Waiting]) -> None:
        while len(waiting) > _MOST:
            del waiting[next((place for place, one in enumerate(waiting) if not _matters(one.report)), 0)]
        self._waiting = waiting


def blocks(report: Report) -> bool:
    """Tell whether a report is about a key or a group that does not work."""
    return report.cause in _BLOCKING or (report.cause == "unsupported" and report.scope == "key")


def _matters(report: Report) -> bool:
    """Tell whether others should know of a report soon."""
    return blocks(report) or report.cause == "enable" or report.grant.probe


def _aged(report: Report, age: int) -> Report:
    if age < SECOND // 10:
        return report
    return Report(
        report.candidate,
        report.grant,
        cause=report.cause,
        scope=report.scope,
        wait=None if report.wait is None else max(1, report.wait - age),
        seen=report.seen if age < _STALE else (),
        dimension=report.dimension,
        spent=report.spent,
    )
