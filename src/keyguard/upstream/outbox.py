"""Reports that wait for the next trip to the store: that of the next request, or of a thread within a second.

Rules:
- Reports of one model class go along with the next `Acquire` of it, so that learning costs no trip of its own.
- What could not be sent is kept, and its waits are shortened by the time that has passed; what fields told then is left
  out after a while, since it is not true any more.
- It is bounded. Successes are dropped before blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from keyguard.clock import SECOND, Clock
from keyguard.ops.upstream import Report
from keyguard.process.fork import renew_after_fork

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
        self._waiting: dict[str, list[Waiting]] = {}

    def __len__(self) -> int:
        return sum([len(waiting) for waiting in [*self._waiting.values()]])

    @property
    def classes(self) -> list[str]:
        """The model classes of which reports wait."""
        return [name for name, waiting in [*self._waiting.items()] if waiting]

    def urgent(self) -> bool:
        """Tell whether others should know of something soon."""
        return any(blocks(one.report) for waiting in [*self._waiting.values()] for one in [*waiting])

    def add(self, model_class: str, report: Report) -> None:
        """Keep a report until it is sent."""
        self._put(model_class, [Waiting(self._clock(), report)], first=False)
        self._wake()

    def take(self, model_class: str) -> list[Waiting]:
        """Return the reports to be sent now, the oldest first. They must be put back if they could not be sent."""
        with self._lock:
            waiting = self._waiting.get(model_class)
            if not waiting:
                return []
            taken, self._waiting[model_class] = waiting[:_TOGETHER], waiting[_TOGETHER:]
        return taken

    def put_back(self, model_class: str, taken: Sequence[Waiting]) -> None:
        """Keep reports that could not be sent."""
        if taken:
            self._put(model_class, taken, first=True)
            self._wake()

    def reports(self, taken: Sequence[Waiting]) -> list[Report]:
        """Return reports as they are true by now."""
        now = self._clock()
        return [_aged(report, max(0, now - at)) for at, report in taken]

    def _put(self, model_class: str, reports: Sequence[Waiting], *, first: bool) -> None:
        with self._lock:
            waiting = self._waiting.setdefault(model_class, [])
            waiting[:] = [*reports, *waiting] if first else [*waiting, *reports]
            while len(waiting) > _MOST:
                del waiting[next((place for place, one in enumerate(waiting) if not blocks(one.report)), 0)]


def blocks(report: Report) -> bool:
    """Tell whether a report is about a key or group that does not work, or does again."""
    return report.cause in ("exhausted", "quota", "ramp", "billing", "invalid", "enable") or report.grant.probe


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
