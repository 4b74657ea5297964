"""What the ledger tells: small frozen data. Moments are in UTC, by the store's clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class RuleUse:
    """The requests that one rule has refused."""

    name: str
    """The limit's public name; of other refusals the reason, such as `revoked`, `banned` or `store-failed`."""
    cause: str
    """The cause of the refusal: `usage`, `credentials`, `overload`, ..."""
    count: int


@dataclass(frozen=True, slots=True)
class RouteUse:
    """The requests for one route."""

    method: str
    route: str
    """The template, such as `/items/{id}`; empty if it is not known."""
    requests: int
    units: Mapping[str, int]
    """The units that they have spent, by the beginning of the counters' keys (`LimitFacts.prefix`)."""


@dataclass(frozen=True, slots=True)
class ClientUse:
    """The requests from one address."""

    client: str
    requests: int


@dataclass(frozen=True, slots=True)
class KeyUse:
    """The requests with one key."""

    key_id: str
    requests: int
    last: datetime | None
    """When it was last used, to the minute; `None` if that is not known."""
    units: Mapping[str, int]
    """The units of limits that count by key."""


@dataclass(frozen=True, slots=True)
class SubjectUse:
    """The requests of one subject."""

    subject: str
    """Empty for all callers without a key. One with more than a hundred characters is cut off."""
    requests: int
    refused: int


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """The requests and the units of a span of time."""

    at: datetime
    """When it begins."""
    seconds: int
    """How long it is."""
    requests: Mapping[str, int]
    """Requests by `served`, `cached`, `failed`, and the causes of refusals."""
    units: Mapping[str, int]
    """Units by the beginning of the counters' keys (`LimitFacts.prefix`)."""


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The requests of somebody, and what came of them."""

    subject: str | None
    """The subject; empty for all callers without a key, `None` for the whole service."""
    since: datetime
    """From when on requests are counted: the begin of a minute, or of an hour if that is more than two days ago."""
    until: datetime
    """The time of the report."""
    requests: int
    served: int
    cached: int
    refused: int
    failed: int
    by_cause: Mapping[str, int]
    """The refused ones by cause, most first."""
    by_rule: tuple[RuleUse, ...]
    """The refused ones by what has refused them, most first."""
    by_route: tuple[RouteUse, ...]
    """Most first. Routes, addresses and keys are counted by the hour, or by the day: from `rows_since` on."""
    by_client: tuple[ClientUse, ...]
    by_key: tuple[KeyUse, ...]
    units: Mapping[str, int]
    """The units that were spent, by the beginning of the counters' keys (`LimitFacts.prefix`)."""
    buckets: tuple[UsageBucket, ...]
    """The whole span, without a hole."""
    other: Mapping[str, int]
    """Requests in no row, by what the rows are of: `rules`, `routes`, `clients`, `keys`. Empty if there are none."""
    rows_since: datetime
    """The full hour from which on `by_route`, `by_client` and `by_key` count; the full day (UTC) if `since` is more
    than two days ago."""
    last: datetime | None
    """When the last request came; `None` for none."""
    begun: datetime | None
    """When the ledger was begun; `None` for one that has nothing in it yet."""
    complete: bool
    """Whether all that was asked is counted here. Not, if a process was killed, if there was no room, or if a later
    version of keyguard has written what this one cannot read."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that has served requests."""

    host: str
    pid: int
    version: str
    seen: datetime
    """When it was last heard of."""
    vanished: bool
    """Whether nothing was heard of it for too long, and it has not said that it ends."""
    health: Mapping[str, Mapping[str, object]]
    """How the store of each of its stacks does, by the stack's name: the fields of a `StoreHealth`."""
    dropped: int
    """Requests that it could not count at all, since its start."""
    overflow: int
    """Requests that it has counted for the whole service alone, since its start."""
    cache: Mapping[str, int]
    """The counts of its caches since its start (`CacheStats`)."""

    @property
    def ok(self) -> bool:
        """Whether the stores of all its stacks are in order."""
        return all(health.get("ok") is True for health in self.health.values())
