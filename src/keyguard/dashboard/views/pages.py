"""The pages themselves, each a whole one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from keyguard.dashboard.views.parts import (
    Alert,
    CauseRow,
    Delivery,
    Happening,
    KeyHead,
    KeyRow,
    Limit,
    Quota,
    Refused,
    Requests,
    Shares,
    Shell,
    Span,
    Verdict,
)
from keyguard.dashboard.views.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Overview:
    """How the service does."""

    shell: Shell
    verdict: Verdict
    requests: Requests | None
    refused: tuple[CauseRow, ...] | None
    callers: Shares | None
    near: tuple[Limit, ...] | None
    """Limits that are nearly spent, of callers that the alerts know of."""
    alerts: tuple[Alert, ...] | None
    routes: Shares | None
    latest: tuple[Refused, ...] | None


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys, or those that were looked for: a bounded list, which says so."""

    shell: Shell
    search: str
    rows: tuple[KeyRow, ...]
    more: str = ""
    """Where the next ones are; empty if there are none."""
    total: int | None = None
    """How many there are; `None` if that was not counted."""
    bounded: bool = False
    """Whether the search has looked at some keys only, since there are too many: their ids find all."""
    state: str = ""
    """The state that was asked for; empty for all."""


@dataclass(frozen=True, slots=True)
class IssueKey:
    """The form of a new key: fields `owner`, `name`, `subject`, `plan`, `scopes`, `networks`, `expires`."""

    shell: Shell
    form: Mapping[str, str]
    errors: Mapping[str, str]
    """A sentence for each field that is wrong; the empty name is for all of it."""
    once: str
    """The value of the hidden field `once`: a form that is sent twice makes one key."""
    plans: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was made just now. It is shown this once."""

    shell: Shell
    head: KeyHead
    secret: str = field(repr=False)
    example_url: str
    href: str
    rotated: bool = False
    old_until: datetime | None = None
    """When the key that it replaces stops working."""


@dataclass(frozen=True, slots=True)
class OneKey:
    """One key: is it exhausted, by what, and who spent it?"""

    shell: Shell
    head: KeyHead
    verdict: Verdict
    quota: Quota | None
    limits: tuple[Limit, ...] | None
    requests: Requests | None
    refused: tuple[CauseRow, ...] | None
    happened: tuple[Happening, ...] | None
    routes: Shares | None
    addresses: Shares | None
    latest: tuple[Refused, ...] | None
    example_url: str
    header: str = "X-API-Key"
    """The field in which the key is sent."""
    changing: Literal["", "rotate", "revoke", "update"] = ""
    """The form that is open. `rotate`: `overlap`; `revoke`: `reason`; `update`: `owner`, `plan`, `scopes`, `networks`,
    `expires`."""
    form: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explained:
    """Why one request was refused, which was asked for by its id."""

    request_id: str
    found: bool
    refused: Refused | None = None
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusals:
    """Those who were refused, and why."""

    shell: Shell
    span: Span
    cause: str
    """The cause that was asked for; empty for all."""
    key: str
    """The key that was asked for; empty for all."""
    rows: tuple[CauseRow, ...] | None
    requests: Requests | None
    latest: tuple[Refused, ...] | None
    callers: Shares | None = None
    explained: Explained | None = None


@dataclass(frozen=True, slots=True)
class Alerts:
    """Alerts that are open, and those that were; `None` if the app has none."""

    shell: Shell
    open: tuple[Alert, ...] | None
    past: tuple[Alert, ...] | None
    channels: tuple[Delivery, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheProcess:
    """The response cache of one process."""

    name: str
    hits: int
    misses: int
    stale: int
    bypassed: int
    stored: int
    not_stored: int
    evicted: int
    errors: int
    entries: int
    bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Cache:
    """The response cache; without processes if the app has none."""

    shell: Shell
    configured: bool
    processes: tuple[CacheProcess, ...]
    url: str = ""
    """The URL or path that was asked about, by `?url=`."""
    stored: bool | None = None
    why: str = ""
    """The reason why its last response was stored, or was not."""
    requests: Requests | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    """The faults of the form that purges: fields `url` and `tag`, posted to `{root}cache/purge`."""


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One store that the app uses."""

    name: str
    kind: Literal["decisions", "usage", "values"]
    up: bool
    seconds: float | None = None
    since: datetime | None = None
    error: str = ""
    failures: int = 0
    outages: int = 0
    degraded: Mapping[str, int] = field(default_factory=dict)
    """How often guards did without it, by guard and action."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process that serves the app."""

    host: str
    pid: int
    version: str
    seen: datetime
    up: bool
    """Whether it was seen lately."""
    health: str = ""
    """The fault there; empty for none."""
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit, as a stack has it."""

    stack: str
    name: str
    rate: str
    by: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    plans: tuple[str, ...] | None
    if_store_fails: str


@dataclass(frozen=True, slots=True)
class Stores:
    """Stores, processes, and the rules they go by."""

    shell: Shell
    stores: tuple[StoreRow, ...]
    processes: tuple[Process, ...] | None
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One change that somebody made by hand."""

    at: datetime
    who: str
    what: str
    """`keys.revoke`, `limits.grant`."""
    subject: str
    limit: str = ""
    href: str = ""
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The changes that were made by hand, the latest first: a bounded list."""

    shell: Shell
    rows: tuple[Change, ...]
    more: str = ""
    who: str = ""
    what: str = ""
    subject: str = ""
    """The words that were asked for, in the fields `who`, `what`, `subject`."""
    bounded: bool = False
    """Whether only the latest of them were looked at, since there are too many."""


@dataclass(frozen=True, slots=True)
class LogIn:
    """The form to log in: fields `key`, `csrf`, `next`, posted to `{root}log-in`."""

    shell: Shell
    error: Literal["", "wrong", "ended", "not-allowed", "too-many", "store-down", "insecure"] = ""
    next: str = ""
    """Where to go on afterwards, relative to the overview."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A page that says one thing."""

    shell: Shell
    status: int
    kind: Literal[
        "csrf", "not-found", "no-such-key", "forbidden", "method", "too-long", "form", "sent-twice", "store-down",
        "failed", "logged-out",
    ]  # fmt: skip
    request_id: str = ""
    text: str = ""


Page: TypeAlias = (
    Overview | Keys | IssueKey | IssuedKey | OneKey | Refusals | Alerts | Cache | Upstream | Stores | AuditLog | LogIn
    | Problem
)  # fmt: skip
