"""The settings of each guard and of a stack, as types: what a layer of one guard takes by name.

They repeat the signatures of the guards and of `Keyguard`, since Python's types cannot join two of them; a test holds
the two to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from keyguard.conditions import OnPaths
from keyguard.decision import Decision
from keyguard.drivers.rendering import Rendered
from keyguard.guards.api_keys.guard import Scopes
from keyguard.guards.api_keys.look_ups import Lookup
from keyguard.guards.cache.settings import When
from keyguard.guards.overload.criticality import Criticalities
from keyguard.guards.rate_limit.guard import Profile, Rates, Tell
from keyguard.guards.rate_limit.settling import Refunds, Settler
from keyguard.keys import Pepper
from keyguard.manual_clock import GivenClock
from keyguard.observer import Observer
from keyguard.ops import Store
from keyguard.refusal import Cause, Refusal
from keyguard.selection import By, Setting
from keyguard.stores.circuit_breaker import StoreHealth
from keyguard.units import Duration
from keyguard.without_store import FailureMode

if TYPE_CHECKING:
    from keyguard.upstream.pool import KeyPool


class StackOptions(TypedDict, total=False):
    """The settings of `Keyguard`."""

    store: str | Store | EllipsisType
    trusted_proxies: Iterable[str]
    forwarded_header: str
    trusted_hops: int
    ipv6_prefix: int
    underscores: Iterable[str]
    request_id_header: str | None
    on_refusal: Callable[[Refusal], None] | None
    render_refusal: Callable[[Refusal], Rendered] | None
    on_health: Callable[[StoreHealth], None] | None
    on_decision: Callable[[Decision], None] | None
    workers: int | None
    root_path: str | Literal[False]
    clock: GivenClock | None
    enabled: bool
    handlers: bool | None
    overrides: bool
    usage: Observer | None
    alerts: Observer | None
    pools: Iterable[KeyPool]


class APIKeysOptions(StackOptions, total=False):
    """The settings of `APIKeys` that are given by name, and those of a stack of its own."""

    lookup: Lookup | None
    issued: bool | None
    imported: bool
    hmac_secret: str | bytes | None
    sources: Iterable[str]
    public: Iterable[str] | OnPaths
    paths: Iterable[str] | OnPaths | None
    ignore_case: bool
    optional: bool
    scopes: Scopes | None
    guesses: str | None
    guess_exempt: Iterable[str]
    pepper: Pepper
    prefix: str
    env: str | None
    if_store_fails: Literal["local", "refuse"]
    stale_if_error: Duration
    realm: str
    preflights: bool | None
    strip: bool
    name: str


class BanOptions(StackOptions, total=False):
    """The settings of `Ban`, and those of a stack of its own."""

    after: str
    of: Iterable[int | Cause] | int | Cause
    for_: Duration
    growing: bool
    max_for: Duration
    by: By
    exempt: Iterable[str]
    name: str | None
    if_store_fails: Literal["allow", "refuse"]


class ConcurrencyOptions(StackOptions, total=False):
    """The settings of `Concurrency` that are given by name, and those of a stack of its own."""

    by: By
    when: Setting[bool] | None
    exempt: Setting[bool] | None
    methods: Iterable[str] | None
    paths: Iterable[str] | OnPaths | None
    ignore_case: bool
    name: str | None
    headers: Literal["draft-11", "draft-next"] | None
    if_store_fails: FailureMode
    lease: Duration
    max_age: Duration


class IPFilterOptions(StackOptions, total=False):
    """The settings of `IPFilter` that are given by name, and those of a stack of its own."""

    paths: Iterable[str] | OnPaths | None
    ignore_case: bool
    name: str


class OverloadOptions(StackOptions, total=False):
    """The settings of `Overload` that are given by name, and those of a stack of its own."""

    latency: Duration | None
    min_in_flight: int | None
    max_in_flight: int
    criticality: Criticalities
    health: Iterable[str] | OnPaths
    max_lag: Duration
    start_header: str | None
    max_wait: Duration
    retry_after: Duration
    random: Callable[[], float]
    name: str


class RateLimitOptions(StackOptions, total=False):
    """The settings of `RateLimit` that are given by name, and those of a stack of its own."""

    by: By | None
    cost: Setting[int]
    when: Setting[bool] | None
    exempt: Setting[bool] | None
    methods: Iterable[str] | None
    paths: Iterable[str] | OnPaths | None
    ignore_case: bool
    plans: Mapping[str, Rates | Sequence[Rates] | Literal[0] | None] | None
    default: Rates | Sequence[Rates] | Literal[0] | None
    name: str | None
    headers: Profile | Sequence[Profile] | None
    tell: Tell
    if_store_fails: FailureMode
    settle: Settler | None
    refund_on: Refunds | None
    count: Literal["requests", "failures"]
    failures: Iterable[int | str] | None


class ResponseCacheOptions(StackOptions, total=False):
    """The settings of `ResponseCache` that are given by name, and those of a stack of its own."""

    ttl: Duration | None
    when: When | None
    by: Literal["key", "subject"] | None
    credentials: Iterable[str]
    public: bool
    heuristic: bool
    set_cookie: bool
    ignore_client_directives: bool
    ignore_query: Iterable[str]
    sort_query: bool
    vary: Iterable[str]
    targeted: Iterable[str]
    stale_on_error: Duration
    serve_exhausted: bool
    coalesce: Duration
    max_bytes: int
    max_entries: int
    max_variants: int
    max_entry_bytes: int
    local_bytes: int
    local_ttl: Duration
    name: str


class TokenBudgetOptions(StackOptions, total=False):
    """The settings of `TokenBudget` that are given by name, and those of a stack of its own."""

    by: By
    mode: Literal["soft", "hard"]
    clamp: bool
    output: int
    input_tokens: Callable[[Mapping[str, Any]], int] | None
    max_body: int
    include_usage: bool
    on_disconnect: Literal["drain", "abort"]
    drain_for: Duration
    when: Setting[bool] | None
    exempt: Setting[bool] | None
    methods: Iterable[str] | None
    paths: Iterable[str] | OnPaths | None
    ignore_case: bool
    plans: Mapping[str, Rates | Sequence[Rates] | Literal[0] | None] | None
    default: Rates | Sequence[Rates] | Literal[0] | None
    name: str | None
    headers: Profile | Sequence[Profile] | None
    tell: Tell
    if_store_fails: FailureMode


class UpstreamCausesOptions(StackOptions, total=False):
    """The settings of a stack of its own: `UpstreamCauses` has none."""
