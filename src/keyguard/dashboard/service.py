"""The questions that the dashboard asks its stack: the pages read nothing by any other way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from keyguard.alerts.book import AlertBook
from keyguard.audit import AuditLog
from keyguard.clock import Clock
from keyguard.counter_names import LimitFacts
from keyguard.drivers.setup import Setup
from keyguard.guards.api_keys import APIKeys
from keyguard.guards.cache import ResponseCache
from keyguard.keys import KeyRecord, KeyRegistry
from keyguard.ops import Store
from keyguard.stores.health import StoreHealth
from keyguard.usage import Usage
from keyguard.why import Diagnosis, LimitReport
from keyguard.why.requests import RequestReport

if TYPE_CHECKING:
    from keyguard.upstream.pool import KeyPool

INSIDE = (
    "the dashboard is mounted inside of keyguard's own guards: they limit and count what operators look at, and may "
    "refuse them when they need it most. Mount it beside the guarded app, not in it"
)


class Rules(NamedTuple):
    """The limits of one stack."""

    stack: str
    facts: Sequence[LimitFacts]


class Service(Protocol):
    """A stack, as its dashboard sees it. All of it may be asked from any thread, and may block."""

    @property
    def name(self) -> str: ...
    @property
    def store(self) -> Store: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def api_keys(self) -> APIKeys | None:
        """The guard whose keys are in the registry; `None` if there is none."""
        ...

    @property
    def registry(self) -> KeyRegistry | None: ...
    @property
    def audit(self) -> AuditLog: ...
    @property
    def health(self) -> StoreHealth: ...
    @property
    def usage(self) -> Usage | None: ...
    @property
    def alerts(self) -> AlertBook | None: ...
    @property
    def cache(self) -> ResponseCache | None: ...
    @property
    def rules(self) -> Sequence[Rules]: ...
    @property
    def pools(self) -> Sequence[KeyPool]: ...

    def why(self, who: str, /, *, by: Literal["key"]) -> Diagnosis:
        """Return why a key is refused, or that it is not."""
        ...

    def limits_of(self, records: Sequence[KeyRecord], /) -> Mapping[str, Sequence[LimitReport]]:
        """Return what keys have used of the limits that count them, by the ids of the keys."""
        ...

    def explain(self, request_id: str, /) -> RequestReport:
        """Return what came of a request."""
        ...

    def refusals(self, subject: str | None = None, /) -> Sequence[RequestReport]:
        """Return the latest refusals of a subject, or of all, the last one first."""
        ...

    def setup(self) -> Setup:
        """Return the stack as drivers see it."""
        ...
