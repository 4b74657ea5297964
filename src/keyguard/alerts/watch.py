"""The watch over one stack: requests are noted as they come, and looked at in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keyguard.alerts.board import Board
from keyguard.alerts.health import HealthWatch
from keyguard.alerts.overload import OverloadWatch
from keyguard.alerts.receivers import Receiver
from keyguard.alerts.sender import Sender
from keyguard.alerts.thresholds import Spent, Thresholds
from keyguard.alerts.upstream import UpstreamWatch
from keyguard.alerts.usage import UsageWatch
from keyguard.clock import SECOND
from keyguard.decision import Decision
from keyguard.errors import StoreError
from keyguard.observer import Observed
from keyguard.process.background import Job
from keyguard.process.fork import renew_after_fork

_MOST = 8192
"""Requests of one look. Beyond them the oldest are forgotten: whoever comes again has spent no less."""
_FULL_FOR = 60 * SECOND
_MOST_KEPT = 10_000


class Watch:
    """The alerts of one stack, in one process."""

    def __init__(
        self,
        stack: Observed,
        thresholds: Thresholds,
        receivers: Sequence[Receiver],
        is_quiet: Callable[[int], bool],
        ledger: Any,
        *,
        forecasts: bool,
        anomalies: bool,
    ) -> None:
        self._stack = stack
        self._thresholds = thresholds
        self.board = Board(stack.store, stack.clock, stack.manual, [one.name for one in receivers])
        self.job = Job("alerts", self.look, 1.0, clock=stack.clock)
        self.sender = Sender(self.board, receivers, is_quiet, stack.clock, self._is_deciding)
        self._health = HealthWatch(self.board, stack.name)
        self._overload = OverloadWatch(stack.name)
        self._upstream = UpstreamWatch(stack.pools, stack.clock, self.job.wake)
        self._usage = None
        if ledger is not None and (forecasts or anomalies):
            self._usage = UsageWatch(self.board, ledger, forecasts=forecasts, anomalies=anomalies)
        self._records: deque[Decision] = deque(maxlen=_MOST)
        self._left: dict[str, Spent] = {}
        """Decisions that wait for the store, since it did not answer."""
        self._healthy = True
        self._forget_full = 0
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget what the parent has heard, and is about."""
        self._records.clear()
        self._left.clear()
        self.sender.after_fork()
        self._health.after_fork()
        self._overload.after_fork()
        self._upstream.after_fork()
        if self._usage is not None:
            self._usage.after_fork()

    def sink(self) -> Callable[[Decision], None]:
        """Return what is told of each request. It takes note of it, and no more."""
        append, job = self._records.append, self.job

        def hear(decision: Decision) -> None:
            append(decision)
            if not job.begun:
                job.wake()

        return hear

    def begin(self) -> None:
        """Begin in this process, before any request: what others have left may be due."""
        self.job.wake()
        self.sender.job.wake()

    def close(self) -> None:
        """Decide what is left, and deliver what can be within a few seconds."""
        self.job.end()
        self.sender.job.end()

    def _is_deciding(self) -> bool:
        return self.job.begun or self.job.ended is not None

    def look(self, last: bool) -> None:
        """Look at what has come since the last time."""
        records = self._records
        heard = [records.popleft() for _ in range(len(records))]
        now, health = self._stack.clock(), self._stack.health()
        self._health.look(health, now)
        spent = self._thresholds.latest(heard)
        if not (health.ok and self._healthy):
            spent = {}  # while the store is out of order limits tell what this process's share of them is
        self._healthy = health.ok
        spent = {**self._left, **spent}
        self._left = {}
        if now >= self._forget_full:
            self._forget_full = now + _FULL_FOR
            self.board.full.clear()
        ops: list[Any] = [*self._overload.look(heard, now, self.board.to)]
        judged = self._thresholds.judge(spent, self.board.known, self.board.to) if spent else []
        upstream = self._upstream.look(now, self.board.known, self.board.to)
        ops += [op for op in (*judged, *upstream) if op.id not in self.board.full]
        try:
            if ops:
                self.board.decide(ops)
            self._upstream.decided()
            if self._usage is not None:
                self._usage.note(spent)
                foreseen = self._usage.look(now, self.sender.who)
                if foreseen:
                    self.board.decide(foreseen)
        except StoreError:
            if len(spent) <= _MOST_KEPT:
                self._left = spent
            raise
        finally:
            if self.board.told:
                self.board.told = False
                self.sender.soon()


def ledger_of(observers: Iterable[object]) -> Any:
    """Return the ledger among a stack's observers; `None` if there is none."""
    return next((one for one in observers if callable(getattr(one, "top", None))), None)
