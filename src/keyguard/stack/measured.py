"""What a stack and its parts count by themselves, for metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from keyguard.metrics import ProcessCounts
from keyguard.metrics.process import Source
from keyguard.metrics.series import CACHE, DEGRADED, EVENTS, Series, label
from keyguard.stores.best_effort import BestEffortStore
from keyguard.stores.circuit_breaker import CircuitBreaker, StoreHealth

_RESULTS = {"hits": "hit", "misses": "miss", "bypassed": "bypass"}
"""By the name of a count: of those, each request to a cache adds to one."""
_EVENTS = ("stale", "validated", "collapsed", "stored", "not_stored", "invalidated", "errors", "evicted")


def source_of(health: Callable[[], StoreHealth], cache: Callable[[], Mapping[str, int]]) -> Source:
    """Return what tells the counts of a stack's store and of its caches."""

    def counts() -> dict[Series, int]:
        found: dict[Series, int] = {}
        for action, number in health().degraded.items():
            found[DEGRADED.name, label(action)] = number
        cached = cache()
        for name, result in _RESULTS.items():
            if name in cached:
                found[CACHE.name, result] = cached[name]
        for name in _EVENTS:
            if name in cached:
                found[EVENTS.name, name] = cached[name]
        return found

    return counts


def measure(counts: ProcessCounts, watched: CircuitBreaker | None, aside: BestEffortStore | None) -> None:
    """Have the operations of a stack's stores timed."""
    if watched is not None:
        watched.time(lambda seconds: counts.took("decisions", seconds))
    for breaker in () if aside is None else (aside.reading, aside.writing):
        breaker.time(lambda seconds: counts.took("cache", seconds))


def answering(watched: CircuitBreaker | None, aside: BestEffortStore | None) -> dict[str, bool]:
    """Tell whether a stack's stores answer, as far as this process knows."""
    up = {"decisions": watched is None or watched.health.ok}
    if aside is not None:
        up["cache"] = aside.reading.health.ok and aside.writing.health.ok
    return up
