"""What is known of a provider, as data: `keyguard.upstream.judge` is the one that reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from keyguard.clock import SECOND
from keyguard.learnt import Dimension, dimension_of
from keyguard.upstream.causes import Scope, UpstreamCause

CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "ocp-apim-subscription-key")
"""Header fields in which clients of any provider send a key: all of them are taken off before one is set."""

Cause = UpstreamCause
"""The causes, under the short name that rules use."""

SCOPES = {
    Cause.OK: Scope.NONE,
    Cause.EXHAUSTED: Scope.MODEL,
    Cause.QUOTA: Scope.MODEL,
    Cause.RAMP: Scope.GROUP,
    Cause.BILLING: Scope.GROUP,
    Cause.INVALID: Scope.KEY,
    Cause.UNSUPPORTED: Scope.PAIR,
    Cause.TOO_LARGE: Scope.REQUEST,
    Cause.OVERLOAD: Scope.ENDPOINT,
    Cause.UNREACHABLE: Scope.ENDPOINT,
    Cause.SYSTEM: Scope.ENDPOINT,
    Cause.REQUEST: Scope.REQUEST,
}
"""The scope of each cause, unless a rule says otherwise."""


@dataclass(frozen=True)
class Rule:
    """One line of a provider's table of errors: what must hold, and what it means then."""

    cause: UpstreamCause
    scope: Scope
    statuses: frozenset[int]
    """The statuses that it is for; empty: all of errors."""
    members: tuple[tuple[str, re.Pattern[str]], ...]
    """Members of the error object, by path, and what one of their values must match as a whole. A group that is called
    `dimension` tells the limit, in the provider's short word for it."""
    fields: tuple[tuple[str, re.Pattern[str]], ...]
    """Header fields, and what each must match as a whole."""
    dimension: Dimension | None
    until: str
    """A header field that tells when it works again, in any of the meanings of `X-RateLimit-Reset`; empty: none."""
    otherwise: int | None
    """The wait if the answer tells none, in microseconds."""


def patterns(members: Mapping[str, str]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Write patterns that match a whole value, by member."""
    return tuple((path, re.compile(pattern, re.DOTALL)) for path, pattern in members.items())


def rule(
    cause: UpstreamCause,
    *statuses: int,
    when: Mapping[str, str] | None = None,
    fields: Mapping[str, str] | None = None,
    scope: Scope | None = None,
    dimension: str = "",
    until: str = "",
    otherwise: int | None = None,
) -> Rule:
    """Write one line of a table: `when` and `fields` are patterns that match a whole value, by member and by field;
    `otherwise` is in seconds."""
    return Rule(
        cause,
        scope or SCOPES[cause],
        frozenset(statuses),
        patterns(when or {}),
        patterns(fields or {}),
        dimension_of(dimension) if dimension else None,
        until,
        None if otherwise is None else otherwise * SECOND,
    )


@dataclass(frozen=True)
class LimitFields:
    """The header fields that tell of one limit."""

    dimension: Dimension
    limit: str = ""
    remaining: str = ""
    reset: str = ""
    """Names in lower case; empty for what the provider does not tell."""
    reads: str = "duration"
    """How the reset is written: a name in `keyguard.upstream.waits.READERS`."""
    full: bool = False
    """Whether the reset is when all of the limit is back, as of a bucket that fills all the time: that is no wait."""
    longer: Dimension | None = None
    """The limit that the fields tell of instead, if a day's: some models have one, under the same names."""
    only: tuple[str, frozenset[str]] | None = None
    """A field, and the values with which the others mean this limit; the field may be missing."""


def limit_fields(
    what: str | Dimension,
    pattern: str,
    *,
    reads: str = "duration",
    full: bool = False,
    longer: str = "",
    only: tuple[str, frozenset[str]] | None = None,
    reset: bool = True,
) -> LimitFields:
    """Write the fields of one limit: `what` may be its short word, `{}` stands for `limit`, `remaining` and `reset`."""
    return LimitFields(
        dimension_of(what) if isinstance(what, str) else what,
        pattern.format("limit"),
        pattern.format("remaining"),
        pattern.format("reset") if reset else "",
        reads,
        full,
        dimension_of(longer) if longer else None,
        only,
    )


@dataclass(frozen=True)
class Credential:
    """The form in which a key is sent."""

    field: str = "authorization"
    scheme: str = "Bearer"
    """The word before the key; empty if it stands alone."""

    def value(self, secret: str) -> str:
        """Return the field's value with this key."""
        return f"{self.scheme} {secret}" if self.scheme else secret


@dataclass(frozen=True)
class Sizes:
    """Where a request says how large it is, and an answer what it cost."""

    counts: Literal["requests", "sum", "most", "apart"] = "requests"
    """The estimated units: requests alone; input and output together; the larger of both; each as its own unit."""
    model_paths: tuple[re.Pattern[str], ...] = ()
    """Patterns that find the model in the path of a request, as their first group."""
    model_member: str = "model"
    inputs: tuple[str, ...] = ()
    """Members of a request's body that hold what the model reads."""
    outputs: tuple[str, ...] = ()
    """Members, by path, that say how many tokens the model may write."""
    usage: tuple[str, ...] = ("usage",)
    """Where an answer's body, or an event of a stream, tells what was used, by path."""
    used_input: tuple[str, ...] = ()
    """Members of that whose sum are the tokens of the input that count."""
    used_output: tuple[str, ...] = ()
    used_total: str = ""
    """The member that has all tokens; empty: the sum of both."""


@dataclass(frozen=True)
class Profile:
    """All that is known of one provider: data, and no code."""

    name: str
    origins: tuple[str, ...] = ()
    """The origins that get a key, unless the pool is given others; empty: it must be given one."""
    credential: Credential = Credential()
    takes_off: tuple[str, ...] = CREDENTIALS
    """Header fields that are removed from a request before a key is set, in lower case."""
    takes_off_query: tuple[str, ...] = ()
    """Parameters of the query that are removed."""
    error_at: tuple[str, ...] = ("error", "response.error", "")
    """Where the error object stands in a body: the first path that leads to an object."""
    fields: tuple[LimitFields, ...] = ()
    draft_fields: bool = False
    """Whether `RateLimit`, `RateLimit-Policy` and their forerunners are read."""
    rules: tuple[Rule, ...] = ()
    """The table of errors: the first line that holds decides. Behind it stand the meanings of the statuses alone."""
    known: tuple[tuple[str, re.Pattern[str]], ...] = ()
    """Members that have one of few values, and those: an error with another one is not known, whichever rule holds."""
    waits: tuple[tuple[str, str], ...] = ()
    """Members of the error object that tell when it works again, and how each is written (`READERS`)."""
    day: str = ""
    """The time zone in which the provider's day ends, on which daily quotas are renewed; empty if that is not known."""
    sizes: Sizes = Sizes()
