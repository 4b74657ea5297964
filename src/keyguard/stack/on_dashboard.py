"""A stack, as its dashboard sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from keyguard.audit import AuditLog
from keyguard.clock import Clock
from keyguard.dashboard import Rules
from keyguard.drivers.setup import Setup
from keyguard.guards.api_keys import APIKeys
from keyguard.guards.cache import ResponseCache
from keyguard.keys import KeyRecord, KeyRegistry
from keyguard.observer import Observer, observer_of
from keyguard.ops import Store, traits_of
from keyguard.run import run_flow
from keyguard.stack.checking import limit_report
from keyguard.stack.limit_actions import Actions
from keyguard.stores.health import StoreHealth
from keyguard.usage import Usage
from keyguard.why import Diagnosis, LimitReport
from keyguard.why.requests import RequestReport

if TYPE_CHECKING:
    from keyguard.alerts.book import AlertBook
    from keyguard.upstream.pool import KeyPool


class ShownStack:
    """A stack, as its dashboard sees it."""

    def __init__(self, stack: Any) -> None:
        self._stack = stack

    @property
    def name(self) -> str:
        return str(self._stack.name)

    @property
    def store(self) -> Store:
        found: Store = self._stack.store
        return found

    @property
    def clock(self) -> Clock:
        found: Clock = self._stack._clock
        return found

    @property
    def api_keys(self) -> APIKeys | None:
        for guard in self._stack._declared:
            if isinstance(guard, APIKeys) and guard.issued:
                return guard
        return None

    @property
    def registry(self) -> KeyRegistry | None:
        guard = self.api_keys
        return None if guard is None else guard.registry(self.store)

    @property
    def audit(self) -> AuditLog:
        return AuditLog(self.store)

    @property
    def health(self) -> StoreHealth:
        found: StoreHealth = self._stack.health
        return found

    @property
    def usage(self) -> Usage | None:
        return observer_of(self._observers, Usage)

    @property
    def alerts(self) -> AlertBook | None:
        from keyguard.alerts.observer import Alerts

        if observer_of(self._observers, Alerts) is None:
            return None
        found: AlertBook = self._stack.alerts
        return found

    @property
    def cache(self) -> ResponseCache | None:
        return next((guard for guard in self._stack.guards if isinstance(guard, ResponseCache)), None)

    @property
    def rules(self) -> Sequence[Rules]:
        return [Rules(self.name, self._stack._note.facts)]

    @property
    def pools(self) -> Sequence[KeyPool]:
        found: tuple[KeyPool, ...] = self._stack._pools
        return found

    @property
    def _observers(self) -> tuple[Observer, ...]:
        found: tuple[Observer, ...] = self._stack._observers
        return found

    def why(self, who: str, /, *, by: Literal["key"]) -> Diagnosis:
        found: Diagnosis = self._stack.why(who, by=by)
        return found

    def limits_of(self, records: Sequence[KeyRecord], /) -> Mapping[str, Sequence[LimitReport]]:
        if traits_of(self.store).limitations is not None:  # it lets nobody look
            return {}
        actions = Actions(self.store, self._stack._note.facts, self.clock)
        now = self.clock()
        found = run_flow(self.store, actions.see_keys(records))
        return {id: [limit_report(seen, now) for seen in limits] for id, limits in found.items()}

    def explain(self, request_id: str, /) -> RequestReport:
        if self.usage is None or request_id.startswith("/") or "://" in request_id:  # those are asked of the cache
            return RequestReport(request_id, False)
        found: RequestReport = self._stack.explain(request_id)
        return found

    def refusals(self, subject: str | None = None, /) -> Sequence[RequestReport]:
        found: Sequence[RequestReport] = self._stack.refusals(subject)
        return found

    def setup(self) -> Setup:
        found: Setup = self._stack._setup()
        return found
