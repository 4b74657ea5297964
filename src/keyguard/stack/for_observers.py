"""The methods of `Keyguard` for its observers, such as the ledger of usage and alerts, and for the stack's end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from keyguard.clock import Clock
from keyguard.errors import ConfigurationError
from keyguard.guard import AnyGuard
from keyguard.lazy import instances_of
from keyguard.manual_clock import ManualClock
from keyguard.observer import Observed, Observer, Sink, close_all, observer_of
from keyguard.ops import Store, close_in_loop, traits_of
from keyguard.process.event_loops import in_thread
from keyguard.stack.written import StackNote
from keyguard.stores.best_effort import BestEffortStore
from keyguard.stores.circuit_breaker import CircuitBreaker, StoreHealth

if TYPE_CHECKING:
    from keyguard.alerts.book import AlertBook
    from keyguard.metrics import Metrics
    from keyguard.upstream.pool import KeyPool
    from keyguard.usage import Usage


class ForObservers:
    """The part of `Keyguard` that is about its observers."""

    guards: tuple[AnyGuard, ...]
    _home: Store
    _aside: BestEffortStore | None
    store: Store
    _clock: Clock
    _note: StackNote
    _on_health: Callable[[StoreHealth], None] | None
    _watched: CircuitBreaker | None
    _workers: int
    _metrics: Metrics | None = None
    _pools: tuple[KeyPool, ...]

    if TYPE_CHECKING:  # another part of `Keyguard` has it

        @property
        def health(self) -> StoreHealth: ...

        def _switch(self) -> None: ...

    def _observe(self, observers: Iterable[tuple[str, Observer | None]], pools: Iterable[KeyPool]) -> None:
        """Attach the observers of the stack, which is whole but for them."""
        self._pools = ()
        if pools != ():
            from keyguard.stack.pools import checked_pools

            self._pools = checked_pools(pools)
        self._observers: tuple[Observer, ...] = ()
        self._observing: tuple[Sink, ...] = ()
        """The functions of observers that are told of each request."""
        aside = None if self._aside is None else self._aside.store
        self._stores = [self._home, *([] if aside is None or aside is self._home else [aside])]
        given = [*observers]
        if self._ledgers(observer for _, observer in given):
            from keyguard.why.recall import Recall

            given.append(("recall", Recall()))
        for word, observer in given:
            if observer is None:
                continue
            if isinstance(observer, type) or not callable(getattr(observer, "attach", None)):
                told = getattr(observer, "__name__", observer)
                raise ConfigurationError(f"{word} is an object such as {word.capitalize()}(), not {told!r:.80}")
            sink = observer.attach(
                Observed(
                    name=self._note.name,
                    store=self._home,
                    clock=self._clock,
                    manual=self._clock if isinstance(self._clock, ManualClock) else None,
                    facts=lambda: self._note.facts,
                    health=lambda: self.health,
                    cache=self._cache_counts,
                    before=self._observers,
                    pools=self._pools,
                )
            )
            self._observers += (observer,)
            if sink is not None:
                self._observing += (sink,)

    def _hear_of_health(self, health: StoreHealth) -> None:
        if health.ok and self.store is self._home:
            self._note.again()
        if self._on_health is not None:
            self._on_health(health)

    def _cache_counts(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for cache in instances_of(self.guards, "keyguard.guards.cache.guard", "ResponseCache"):
            for name, count in asdict(cache.stats()).items():
                found[name] = found.get(name, 0) + count
        return found

    def metrics(self) -> Metrics:
        """Return the metrics of this stack: `asgi` and `wsgi` show them to Prometheus, `instrument` to OpenTelemetry.

        Nothing is counted before the first call, so make it when the app is made, and not in a handler.
        """
        if self._metrics is None:
            from keyguard.stack.measured import metrics_of

            self._metrics, counts = metrics_of(
                self._note.name,
                lambda: self._watched,
                lambda: self._aside,
                lambda: self.health,
                self._cache_counts,
                self._observers,
                self._workers,
                self._pools,
            )
            self._observing += (counts.note,)
            self._switch()
        return self._metrics

    @property
    def usage(self) -> Usage:
        """Return the ledger of this stack: `of` somebody, `by_cause`, `top`, `last_used`, `processes`."""
        found = self._ledgers(self._observers)
        if found:
            return found[0]
        raise ConfigurationError("this stack has no ledger: write Keyguard(usage=Usage())")

    @staticmethod
    def _ledgers(observers: Iterable[object]) -> list[Usage]:
        return instances_of(observers, "keyguard.usage.usage", "Usage")

    @property
    def alerts(self) -> AlertBook:
        """Return the alerts of this stack's store: `list` those that are open and the latest, `resolve` one by hand."""
        from keyguard.alerts.book import AlertBook
        from keyguard.alerts.observer import Alerts

        mine = observer_of(self._observers, Alerts)
        if mine is None:
            return AlertBook(self._home, self._clock)
        return AlertBook(self._home, self._clock, lambda: mine.counts, mine.of_process)

    # -- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the stack: write what its observers have not written yet, and close its stores.

        An ASGI app with a lifespan does this at its end, and so does a Python process that ends by itself. Call it
        where neither happens, such as in a script, or in a hook of a server that stops its workers in another way. A
        stack that is used again goes on.
        """
        close_all(self._observers)
        for pool in self._pools:
            pool.close()
        for store in self._stores:
            closing = traits_of(store).close
            if closing is not None:
                closing()

    async def aclose(self) -> None:
        """Do as `close` does, in the event loop that the app runs in: what is open there is closed as well."""
        await in_thread(close_all, self._observers)
        for pool in self._pools:
            await pool.aclose()
        for store in self._stores:
            await close_in_loop(store)
