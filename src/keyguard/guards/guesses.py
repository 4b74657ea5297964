"""Guessing keys: what is counted against a source, and look-ups that may turn out to be no guesses."""

from __future__ import annotations

import threading

from keyguard.clock import SECOND
from keyguard.flow import Signal
from keyguard.rates import Limit, parse_rates, window

PATIENCE = SECOND  # for look-ups of the same source that are on their way
TRIES = 100


class Looking:
    """The look-ups on their way, by source."""

    __slots__ = ("_lock", "_sources")

    def __init__(self) -> None:
        self._sources: dict[str, tuple[int, Signal]] = {}
        self._lock = threading.Lock()

    def begin(self, source: str) -> None:
        """Note that one begins."""
        with self._lock:
            count, signal = self._sources.get(source) or (0, Signal())
            self._sources[source] = count + 1, signal

    def end(self, source: str, *, given_back: bool) -> None:
        """Note that one ends; `given_back`: it was no guess."""
        with self._lock:
            count, signal = self._sources[source]
            if count > 1:
                self._sources[source] = count - 1, signal
            else:
                del self._sources[source]
        if given_back or count == 1:  # else there is nothing that those who wait could have
            signal.move()

    def signal(self, source: str) -> Signal | None:
        """Moves when a look-up of this source has given back its guess, or the last one has ended; `None` for none."""
        found = self._sources.get(source)
        return None if found is None else found[1]


def guess_rules(name: str, rates: str) -> list[tuple[str, str, Limit]]:
    """The limits on wrong keys: of each its public name, and how the keys begin under which it counts."""
    limits = [window(quota, period, text) for quota, period, text in parse_rates(rates)]
    return [(f"{name}-guesses:{limit.text}", f"guess:{name}:{limit.code}|", limit) for limit in limits]
