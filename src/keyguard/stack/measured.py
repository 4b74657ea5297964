"""The metrics of a stack: what it and its parts count by themselves, and where the processes of a host add it up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from keyguard.alerts.messages import ANOMALY, DEGRADED, FORECAST, FULL, OVERLOAD, THRESHOLD, UPSTREAM
from keyguard.alerts.observer import Alerts
from keyguard.logs import logger
from keyguard.metrics import Metrics, ProcessCounts, series
from keyguard.metrics.process import Source
from keyguard.metrics.series import Series, label
from keyguard.observer import Observer, observer_of
from keyguard.stack.pools import answers_of, numbers_of
from keyguard.stores.best_effort import BestEffortStore
from keyguard.stores.circuit_breaker import CircuitBreaker, StoreHealth
from keyguard.usage import Usage, host_name

if TYPE_CHECKING:
    from keyguard.upstream.pool import KeyPool

log = logger("keyguard")

_RESULTS = {"hits": "hit", "misses": "miss", "bypassed": "bypass"}
"""By the name of a count: of those, each request to a cache adds to one."""
_EVENTS = ("stale", "validated", "collapsed", "stored", "not_stored", "invalidated", "errors", "evicted")
_ALERTS = (THRESHOLD, FORECAST, ANOMALY, DEGRADED, OVERLOAD, FULL, *UPSTREAM)


class OfHost:
    """The totals of all processes of a host, in the ledger of usage."""

    def __init__(self, usage: Usage, name: str) -> None:
        self._usage, self._name = usage, name

    def read(self) -> Mapping[str, int]:
        return self._usage.read_total(self._name) or {}

    async def aread(self) -> Mapping[str, int]:
        return await self._usage.aread_total(self._name) or {}


def metrics_of(
    name: str,
    watched: Callable[[], CircuitBreaker | None],
    aside: Callable[[], BestEffortStore | None],
    health: Callable[[], StoreHealth],
    cache: Callable[[], Mapping[str, int]],
    observers: Iterable[Observer],
    workers: int,
    pools: Sequence[KeyPool] = (),
) -> tuple[Metrics, ProcessCounts]:
    """Return the metrics of a stack of that name, and what is to be told of its requests."""
    usage = observer_of(observers, Usage)
    alerts = observer_of(observers, Alerts)
    counts = ProcessCounts([source_of(health, cache, usage, alerts), lambda: answers_of(pools)])
    measure(counts, watched(), aside())
    shared = None
    if usage is not None:
        shared = OfHost(usage, usage.contribute(f"{host_name()}~{name}", counts.hand_on))
    if workers > 1 and (usage is None or usage.of_one_process):
        log.warning(
            "%d processes serve this app, and each shows the metrics of its own: a ledger that they share, "
            "Keyguard(usage=Usage()) with such a store, has any of them show those of all",
            workers,
        )
    known: list[Series] = [] if alerts is None else [(series.ALERTS.name, type) for type in _ALERTS]
    known += [(series.CACHE.name, result) for result in _RESULTS.values()] if cache() else []
    numbers = (lambda: numbers_of(pools)) if pools else None
    return Metrics(counts, lambda: answering(watched(), aside()), shared, known, numbers), counts


def source_of(
    health: Callable[[], StoreHealth],
    cache: Callable[[], Mapping[str, int]],
    usage: Usage | None = None,
    alerts: Alerts | None = None,
) -> Source:
    """Return what tells the counts of the parts of a stack."""

    def counts() -> dict[Series, int]:
        found: dict[Series, int] = {}
        for action, number in health().degraded.items():
            found[series.DEGRADED.name, label(action)] = number
        cached = cache()
        for name in cached.keys() & _RESULTS.keys():
            found[series.CACHE.name, _RESULTS[name]] = cached[name]
        for name in cached.keys() & {*_EVENTS}:
            found[series.EVENTS.name, name] = cached[name]
        if alerts is not None:
            for type, number in alerts.counts.items():
                found[series.ALERTS.name, label(type)] = number
        if usage is not None:
            found[(series.OVERFLOW.name,)] = usage.overflow + usage.dropped
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
