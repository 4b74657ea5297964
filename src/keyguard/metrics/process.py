"""The counts of one process.

Rules:
- A request costs one place in a queue. It is counted later: in the ledger's thread, or with `BATCH` others.
- What guards, caches and alerts count by themselves is read when somebody asks for totals, and what has come since is
  added.
- A child begins at zero, whatever its parent had counted.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from keyguard.decision import Decision
from keyguard.metrics.counting import counted
from keyguard.metrics.series import BOUNDS, DURATIONS, WAITED, Series, Table, Totals, name_of
from keyguard.process.fork import check_process, renew_after_fork

BATCH: Final = 512
Source = Callable[[], Totals]
"""Returns what somebody has counted in this process since its start."""
_BUCKETS = tuple(map(str, range(len(BOUNDS) + 1)))


class ProcessCounts:
    """The counts of this process since it began."""

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._sources = tuple(sources)
        self.table = Table()
        self._seen: list[dict[Series, int]] = [dict(source()) for source in self._sources]
        """What sources said last. A forked child has its parent's counts, which are not its own, and keeps this."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Decision] = deque()
        self._handed: dict[Series, int] = {}
        """The totals that were handed on."""

    def note(self, decision: Decision) -> None:
        """Take note of a request, of which a driver has told."""
        waiting = self._waiting
        waiting.append(decision)
        if len(waiting) >= BATCH:
            self._count_waiting()

    def count(self, decisions: Sequence[Decision]) -> None:
        """Count requests at once."""
        self.table.add(counted(decisions))

    def took(self, store: str, seconds: float) -> None:
        """Count an operation of a store."""
        bucket = _BUCKETS[bisect_left(BOUNDS, seconds)]
        self.table.add({(DURATIONS.name, store, bucket): 1, (WAITED.name, store): round(seconds * 1_000_000)})

    def totals(self) -> dict[Series, int]:
        """Return all totals as of now."""
        check_process()
        self._count_waiting()
        with self._lock:
            for place, source in enumerate(self._sources):
                seen, now = self._seen[place], dict(source())
                self._seen[place] = now
                self.table.add(
                    {series: n - seen.get(series, 0) for series, n in now.items() if n > seen.get(series, 0)}
                )
            return self.table.totals()

    def hand_on(self) -> dict[str, int]:
        """Return what has come since the last call, by the names of series."""
        totals = self.totals()
        with self._lock:
            before, self._handed = self._handed, totals
        return {name_of(series): n - before.get(series, 0) for series, n in totals.items() if n > before.get(series, 0)}

    def _count_waiting(self) -> None:
        waiting = self._waiting
        batch = []
        try:
            while True:
                batch.append(waiting.popleft())
        except IndexError:  # another thread may count others meanwhile
            pass
        if batch:
            self.count(batch)
