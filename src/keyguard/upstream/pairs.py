"""Pairs of a key and a model that do not go together, as this process has seen."""

from __future__ import annotations

import threading

from keyguard.clock import SECOND, Clock
from keyguard.process.fork import renew_after_fork

LASTS = 600 * SECOND
"""A pair is remembered for so many microseconds: rights are given meanwhile."""
_MOST = 1000


class Pairs:
    """Models for which keys may not be used. Their names come from callers, so it is bounded."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._until)

    def remember(self, key: str, model: str) -> None:
        """Remember that a key cannot be used for a model."""
        with self._lock:
            self._until.pop((key, model[:200]), None)
            if len(self._until) >= _MOST:
                del self._until[next(iter(self._until))]
            self._until[key, model[:200]] = self._clock() + LASTS

    def fit(self, key: str, model: str) -> bool:
        """Tell whether a key may be tried for a model."""
        until = self._until.get((key, model[:200])) if self._until else None
        return until is None or until <= self._clock()

    def forget(self, key: str) -> None:
        """Have a key tried for all models again."""
        with self._lock:
            for pair in [pair for pair in self._until if pair[0] == key]:
                del self._until[pair]
