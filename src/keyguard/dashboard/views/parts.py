"""The parts that pages are made of: what stands around each of them, and what stands in several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

Section: TypeAlias = Literal["", "overview", "keys", "refusals", "alerts", "cache", "upstream", "stores", "audit"]
Span: TypeAlias = Literal["1h", "24h", "7d", "30d"]
SPANS: Mapping[Span, timedelta] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
KINDS = (
    "served", "cached", "failed", "usage", "fault", "overload", "credentials", "permission", "address", "request",
    "upstream",
)  # fmt: skip
"""The fates of requests: three outcomes, and the causes of refusals. `Bucket.counts` has no other names."""


@dataclass(frozen=True, slots=True)
class StoreLight:
    """The store of the app, as this process sees it."""

    name: str
    """`Redis`."""
    up: bool
    seconds: float | None = None
    """How long it has taken to answer just now."""
    since: datetime | None = None
    """Since when it is out of order."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell at the top of a page.

    `no-usage`: there is no ledger, so nothing is known of the past. `dropped`: so many records could not be written.
    `store-down`: the store is out of order. `ledger-down`: the ledger's. `incomplete`: more happened than was counted.
    `read-only`: who looks may not change anything. `inside-limits`: the app's own limits decide about the page. `done`:
    what was asked for was done, `text` says what: `issued`, `rotated`, `revoked`, `updated`, `purged`, `enabled`.
    `failed`: it was not, and `text` is a sentence.
    """

    kind: Literal[
        "no-usage", "dropped", "store-down", "ledger-down", "incomplete", "read-only", "inside-limits", "done", "failed"
    ]
    count: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Shell:
    """The frame around each page. Only `now` may differ from one second to the next."""

    here: Section
    root: str
    """The way from this URL to the overview: `./`, `../`, `../../`."""
    now: datetime
    store: StoreLight | None = None
    operator: str = ""
    """The operator who has logged in; empty for nobody."""
    may_change: bool = False
    """Whether forms and actions are shown."""
    csrf: str = field(default="", repr=False)
    """The value of the hidden field `csrf`, in each form that is posted."""
    log_out: bool = False
    """Whether there is a session to end, by a form that is posted to `{root}log-out`."""
    as_of: datetime | None = None
    """When what is shown was read, if it cannot be read now; `None` if it is of now."""
    notices: tuple[Notice, ...] = ()
    processes: int | None = None
    hosts: int | None = None
    every: timedelta | None = None
    """Within what time the ledger hears of a request; `None` without a ledger."""
    alerts_open: int = 0
    upstream: bool = False
    """Whether the app has pools of upstream keys, and so a page about them."""
    reload: int = 5
    """Seconds after which the page fetches itself; 0 for a form, and for a key that is shown once."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The requests of one span of time."""

    at: datetime
    span: timedelta
    counts: Mapping[str, int]
    """By `KINDS`; those that are not there are 0."""
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests over time, without gaps; no buckets if there were none at all."""

    span: Span
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class CauseRow:
    """One cause of refusals."""

    cause: str
    requests: int
    last: datetime | None = None
    """To the bucket: the end of the last one in which it happened, or now."""
    policies: tuple[str, ...] = ()
    href: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole: a route, an address, a caller. The name `other` is that of all the rest."""

    name: str
    count: int
    href: str = ""


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of those that spent it, the largest first."""

    rows: tuple[Share, ...]
    whole: int


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of one caller, as its counter stands."""

    name: str
    """Its public name, such as `key:5000/day`."""
    kind: Literal["quota", "window", "at-once"]
    limit: int
    period: timedelta | Literal["minute", "hour", "day", "week", "month", "year"] | None
    """A word for periods of the calendar; `None` for what is held at once."""
    used: int | None = None
    """`None` if nobody has read it. It may be more than `limit`, and less than 0 if more was granted."""
    peak: int | None = None
    """The most of today, if that is known."""
    renewed_at: datetime | None = None
    """When all of it is there again (a quota), or more of it."""
    back_at: datetime | None = None
    """When a request is admitted again, if none is now."""
    paths: str = ""
    """Which requests it is about; empty for all."""
    key: str = ""
    """Whose it is, where the page does not say: a name, and where it leads."""
    href: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """The units that were spent by then."""

    at: datetime
    used: int


@dataclass(frozen=True, slots=True)
class Guess:
    """The units that will be spent by then."""

    at: datetime
    low: int
    likely: int
    high: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a quota goes on, and when it runs out: `None` for not before it is renewed."""

    points: tuple[Guess, ...]
    earliest: datetime | None = None
    likely: datetime | None = None
    latest: datetime | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """The limit of a caller that is worth a curve: the longest one."""

    limit: Limit
    begins: datetime
    ends: datetime
    points: tuple[Point, ...]
    """Each at least the one before; the last one is of now."""
    used: int
    used_up_at: datetime | None = None
    forecast: Forecast | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened."""

    at: datetime
    kind: Literal[
        "threshold", "exhausted", "renewed", "forecast", "anomaly", "store", "overload", "key", "audit", "other"
    ]
    level: Literal["critical", "warning", "resolved", ""] = ""
    number: int | None = None
    """Per cent: of the limit (a threshold), of the usual pace (an anomaly), of requests that were shed (overload)."""
    limit: Limit | None = None
    text: str = ""
    """A route, a name, an action."""
    delivery: Literal["", "sent", "failed", "waiting", "recovered", "anomaly"] = ""
    channel: str = "webhook"
    """By what it is delivered."""
    again_at: datetime | None = None
    until: datetime | None = None
    """When it was over; `None` if it goes on, or is no span of time."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One request that was refused."""

    at: datetime
    request_id: str
    cause: str
    reason: str = ""
    policies: tuple[str, ...] = ()
    method: str = ""
    route: str = ""
    client: str = ""
    retry_after: timedelta | None = None
    key_id: str = ""
    key_name: str = ""
    href: str = ""
    """Where its key is shown."""
    status: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to the first question: does this key work, and until when?"""

    kind: Literal[
        "fine", "unused", "will-run-out", "exhausted", "revoked", "disabled", "expired", "pending", "store-down",
        "unknown",
    ]  # fmt: skip
    limit: Limit | None = None
    since: datetime | None = None
    back_at: datetime | None = None
    earliest: datetime | None = None
    likely: datetime | None = None
    latest: datetime | None = None
    busiest: Share | None = None
    """The route that spent most."""
    whole: int = 0
    doubled_since: datetime | None = None
    refused: int = 0
    agree: bool | None = None
    """Whether the counter and the ledger agree; `None` if that is not known."""
    difference: int = 0
    sentences: tuple[str, ...] = ()
    """The sentences of `keyguard why`, if it is asked."""


KeyState: TypeAlias = Literal[
    "active", "will-run-out", "exhausted", "refused", "pending", "rotating", "replaced", "disabled", "expired",
    "revoked", "unknown",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeyHead:
    """One key, as far as its issuer knows it."""

    key_id: str
    shown: str
    """How it begins: `kg_live_4lVwpQYULJPS…`."""
    name: str
    """Its own name, else its owner's."""
    owner: str
    subject: str
    plan: str
    scopes: tuple[str, ...]
    state: KeyState
    created: datetime
    expires: datetime | None = None
    last: datetime | None = None
    """When it was last used; `None` for never, or not known: see `last_known`."""
    last_known: bool = False
    networks: tuple[str, ...] = ()
    replaces: str = ""
    replaced_by: str = ""
    retires: datetime | None = None
    revoked: datetime | None = None
    revoked_for: str = ""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key in a list."""

    head: KeyHead
    href: str
    requests: int | None = None
    refused: int | None = None
    quota_used: float | None = None
    """0 to 1."""
    quota: Limit | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """The fate of an alert at one of those that it is sent to."""

    to: str
    state: Literal["sent", "failed", "waiting", "disabled"]
    tries: int = 0
    at: datetime | None = None
    again_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert."""

    id: str
    type: str
    """`keyguard.limit.threshold`, and so on."""
    level: Literal["critical", "warning", "resolved"]
    at: datetime
    until: datetime | None = None
    """When it was over; `None` if it is not."""
    subject: str = ""
    href: str = ""
    limit: str = ""
    number: int | None = None
    text: str = ""
    deliveries: tuple[Delivery, ...] = ()
