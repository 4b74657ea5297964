"""The answer to "why is this caller refused?", as data: whoever shows it, a terminal or a page, shows the same.

Moments are in UTC, by the store's clock. Of shares 1.0 is all. No field ever holds a key.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from keyguard.units import in_microseconds, rfc3339

Kind: TypeAlias = Literal["key", "subject", "address", "function"]
State: TypeAlias = Literal[
    "works",
    "unused",
    "nearly",
    "exhausted",
    "revoked",
    "expired",
    "replaced",
    "disabled",
    "pending",
    "unknown",
    "banned",
    "refused",
]
OF_KEYS: tuple[State, ...] = ("revoked", "expired", "replaced", "disabled", "pending", "unknown")
"""The states of keys that bar them, whatever their limits are."""
Level: TypeAlias = Literal["good", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key, as its record tells."""

    id: str
    status: str
    """As `KeyRecord.status`, or `unknown` if there is no record."""
    subject: str = ""
    owner: str = ""
    name: str | None = None
    plan: str | None = None
    scopes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    created: datetime | None = None
    since: datetime | None = None
    """When it was revoked, expired or replaced."""
    until: datetime | None = None
    """When it ends, or, if it is pending, when it begins."""
    why: str | None = None
    """The operator's reason for revoking it."""
    replaced_by: str | None = None
    last_used: datetime | None = None
    """When it was last used, to the minute; `None` if that is not known."""
    requests: int | None = None
    """Requests with it since `Diagnosis.since`; `None` if that is not known."""


@dataclass(frozen=True, slots=True)
class LimitReport:
    """A limit that counts the caller."""

    name: str
    """Its public name, such as `subject:5000/day`."""
    guard: str
    rate: str
    """How much it admits, in words: `5000/day`."""
    kind: str
    """`window`, `smooth`, `quota`, `credits`, `slots`, `strikes`; empty for a kind of somebody's own."""
    unit: str
    """The period of a quota: `hour`, `day`, `week`, `month`, `year`; else empty."""
    period: timedelta | None
    """The period, if it has one."""
    by: str
    caller: str
    """The name under which it counts the caller."""
    prefix: str
    """The beginning of the keys of its counters."""
    limit: int
    spent: int
    held: int
    remaining: int
    begins: datetime | None = None
    """When the present period of a quota began."""
    ends: datetime | None = None
    used_up_at: datetime | None = None
    """When it was used up; `None` if it is not, or if that is not known."""
    more_at: datetime | None = None
    works_at: datetime | None = None
    """When one more unit is admitted; `None` if it is now, or if only a grant helps."""
    refused: int | None = None
    """Requests that it has refused since `Diagnosis.since`; `None` if that is not known."""

    @property
    def exhausted(self) -> bool:
        """Whether not one more unit is admitted."""
        return self.remaining <= 0

    @property
    def share(self) -> float:
        """The share of the limit that is used, or held."""
        return min(1.0, max(0.0, 1 - self.remaining / self.limit)) if self.limit else 1.0


@dataclass(frozen=True, slots=True)
class BanState:
    """A ban that is in force."""

    caller: str
    guard: str
    since: datetime
    until: datetime
    number: int
    """How many bans there were in a row, this one included."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The requests of a subject since `Diagnosis.since`."""

    requests: int
    served: int
    cached: int
    refused: int
    failed: int
    last: datetime | None


@dataclass(frozen=True, slots=True)
class RefusedFor:
    """The requests that were refused for one cause, or have failed."""

    cause: str
    title: str
    """The cause, as refusals call it: `Limit reached`."""
    meaning: str
    """A sentence on what it means."""
    action: str
    """A sentence on what to do."""
    blames: Literal["caller", "nobody"]
    """Whether it is the caller's doing. Never, if a store or an app has failed, or has had too much to do."""
    requests: int
    rules: tuple[tuple[str, int], ...]
    """The refusing rules, with the requests of each: names of limits, or reasons."""
    last: datetime | None
    """When that was last, to the minute or to the span of a bucket."""


@dataclass(frozen=True, slots=True)
class Spent:
    """A route or an address, and what it has spent of the deciding limit; if there is none, its requests."""

    name: str
    """The method and the route, or the address; `other` for all that have no row of their own."""
    units: int
    share: float
    requests: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether the counter of a limit says what the ledger says: else a caller may be refused without a reason."""

    state: Literal["agree", "differ", "unsettled", "not known", "not compared"]
    because: str
    """A sentence."""
    limit: str = ""
    """The public name of the limit that was compared."""
    counter: int | None = None
    ledger: int | None = None

    @property
    def false_exhaustion(self) -> bool:
        """Whether the counter has more than the ledger knows of."""
        return self.state == "differ" and (self.counter or 0) > (self.ledger or 0)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of a caller, and the reason of it."""

    caller: str
    """The name it has in records: the id of a key, a subject, an address, or a digest."""
    kind: Kind
    at: datetime
    since: datetime
    """From when on requests and refusals are counted."""
    state: State
    level: Level
    subject: str
    """Empty if it has none, or none that is known."""
    key: KeyState | None
    """The key that is meant, if it is one."""
    keys: tuple[KeyState, ...]
    """The keys with which a subject has called, the last used one first."""
    limits: tuple[LimitReport, ...]
    """The limits that count it, the deciding one first."""
    unseen: tuple[str, ...]
    """Guards of whose limits nothing can be told here, each with the reason."""
    bans: tuple[BanState, ...]
    """The bans of the caller, and of the addresses from which it has called."""
    requests: Counts | None
    """`None` if no ledger tells it."""
    refused: tuple[RefusedFor, ...]
    """By cause, most first. Of an address, and of a key that is not there, those among the latest that are known."""
    routes: tuple[Spent, ...]
    """The routes that have spent the deciding limit, most first."""
    addresses: tuple[Spent, ...]
    spent_of: str
    """The name of the limit whose units `routes` count; empty if they count requests."""
    spent_since: datetime | None
    """From when on `routes` and `addresses` are counted."""
    ledger: Literal["complete", "incomplete", "none", "unreadable"]
    agreement: Agreement
    headline: tuple[str, ...] = ()
    """Sentences: what is the matter, and until when."""
    details: tuple[str, ...] = ()
    """Sentences: who has spent it, what was refused, and whose fault that is not."""
    advice: tuple[str, ...] = ()
    """Sentences: what would have the caller admitted."""

    @property
    def exhausted(self) -> bool:
        """Whether some limit is used up."""
        return any(limit.exhausted for limit in self.limits)

    def __str__(self) -> str:
        return "\n".join([" ".join(part) for part in (self.headline, self.details, self.advice) if part])

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it: moments as RFC 3339 text, spans in seconds."""
        found = plain_data(self)
        assert isinstance(found, dict)
        return found


def plain_data(value: Any) -> Any:
    """Return data as JSON has it, with the properties that scripts want of each limit."""
    if isinstance(value, datetime):
        return rfc3339(in_microseconds(value) // 1_000_000)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (tuple, list)):
        return [plain_data(one) for one in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    members = {each.name: plain_data(getattr(value, each.name)) for each in fields(value)}
    for name in _PROPERTIES.get(type(value), ()):
        members[name] = plain_data(getattr(value, name))
    return members


_PROPERTIES: dict[type, tuple[str, ...]] = {
    LimitReport: ("exhausted", "share"),
    Agreement: ("false_exhaustion",),
    Diagnosis: ("exhausted",),
}
