"""Choosing keys while the store is out of order: each process has its share of each limit, counted here alone.

The same operations run on a table of this process. Blocks and dead keys that were learnt from the store's grants are
learnt here as well, so that an outage begins with what this process knows.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from keyguard.clock import Clock
from keyguard.learnt import Candidate, Dimension, Grant, NoGrant, Report, Seen
from keyguard.ops.op import run
from keyguard.ops.upstream import Acquire, Learn
from keyguard.ops.values import Read
from keyguard.process.fork import renew_after_fork

_MOST_DIMENSIONS = 8
"""As many of a group's as its state in the store counts: answers tell of them, and may tell of ever new ones."""


class WithoutStore:
    """The states of limit groups as this process counts them, one of `workers` that share each limit."""

    def __init__(self, workers: int, clock: Clock) -> None:
        self._workers = workers
        self._clock = clock
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._table: dict[str, tuple[bytes, int | None]] = {}
        self._blocked: set[str] = set()
        """The states of groups of which something is blocked that a grant of the store told of."""
        self._told: dict[str, dict[Dimension, int]] = {}
        """The limits that answers told last, by the key of the group's state."""

    def limits(self, candidate: Candidate) -> dict[Dimension, int]:
        """Return the limits of a group that are known: those that were told last, else those that are configured."""
        return {**dict(candidate.limits), **self._told.get(candidate.state, {})}

    def note(self, candidate: Candidate, seen: Sequence[Seen]) -> None:
        """Remember the limits that an answer told of."""
        for one in seen:
            if one.limit is not None and one.limit > 0:
                told = self._told.setdefault(candidate.state, {})
                if one.dimension in told or len(told) < _MOST_DIMENSIONS:
                    told[one.dimension] = one.limit

    def acquire(self, candidates: Sequence[Candidate], cost: Mapping[str, int], ahead: int) -> Grant | NoGrant:
        """Choose a group, and book this process's share of it."""
        with self._lock:
            return run(Acquire([*map(self._share, candidates)], cost, ahead=ahead), self._table, self._clock())

    def learn(self, report: Report) -> None:
        """Learn from a report of a grant that was made here, or of none."""
        shared = Report(
            self._share(report.candidate),
            report.grant,
            cause=report.cause,
            scope=report.scope,
            wait=report.wait,
            seen=[self._part(one) for one in report.seen],
            dimension=report.dimension,
            spent=report.spent,
        )
        with self._lock:
            run(Learn([shared]), self._table, self._clock())

    def block(self, report: Report) -> None:
        """Learn that a key or a group does not work, as an answer told that came by a grant of the store."""
        self._blocked.add(report.candidate.state)
        self.learn(report)

    def works(self, report: Report) -> None:
        """Forget that, once an answer tells that it works again."""
        if report.candidate.state in self._blocked:
            self._blocked.discard(report.candidate.state)
            self.learn(report)

    def read(self, names: Sequence[str]) -> tuple[bytes | None, ...]:
        """Return the states that stand here, by their keys."""
        with self._lock:
            return run(Read(*names), self._table, self._clock())

    def _share(self, candidate: Candidate) -> Candidate:
        limits = self.limits(candidate).items()
        return candidate._replace(limits=tuple([(of, max(1, limit // self._workers)) for of, limit in limits]))

    def _part(self, seen: Seen) -> Seen:
        limit, remaining = seen.limit, seen.remaining
        return seen._replace(
            limit=None if limit is None else max(1, limit // self._workers),
            remaining=None if remaining is None else remaining // self._workers,
        )
