"""Refusals as data: the cause, and what the log, the metric and the caller are told of it.

Every refusal has one cause, and the same cause stands in the body, the log and the metric. `reason` is for the
operator and never leaves the process: callers are told the same for an unknown, an expired and a revoked key.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import NamedTuple


class Cause(enum.StrEnum):
    """The cause of a refusal: one of eight."""

    USAGE = "usage"
    """The caller spent a limit or a quota."""
    FAULT = "fault"
    """The store, keyguard or the app failed. The caller's key is not exhausted."""
    OVERLOAD = "overload"
    """The app is saturated; no key is to blame."""
    UPSTREAM = "upstream"
    """The app's own keys for a service that it calls are used up, or that service is out of order."""
    CREDENTIALS = "credentials"
    """No key, or not a valid one."""
    PERMISSION = "permission"
    """A valid key that does not reach this far."""
    ADDRESS = "address"
    """The address is refused, or banned for a while."""
    REQUEST = "request"
    """The request contradicts itself or cannot be read in one way only."""


class Refusal(NamedTuple):
    """Why a request was refused: what the log, the metric and the caller are told."""

    cause: Cause
    status: int
    detail: str
    """One or two sentences for the caller."""
    reason: str
    """One word for the operator, such as `expired`; never sent to the caller."""
    request_id: str
    retry_after: int | None = None
    """Whole seconds after which a lone caller is served; `None` if waiting does not help."""
    recovers_at: datetime | None = None
    """The same as a moment, rounded up to a whole second."""
    policies: tuple[str, ...] = ()
    """The names of the limits that refused."""
    key_id: str = ""
    """The public id of the key that was sent, also of one that has expired or was revoked."""
    subject: str = ""
    """The holder of that key."""
    client: str = ""
    method: str = ""
    route: str = ""
    """The route that the app has matched, such as `/items/{id}`, if it has come that far. Else the path without its
    query, in which `{}` stands for every segment that is not a word: ids and tokens are not told."""
    shadow: bool = False
    """Whether it did not happen: a guard in shadow mode would have refused the request, which went on."""
    guard: str = ""
    """The name of the policy or guard in shadow mode; empty for a refusal."""
    trace_id: str = ""
    """The trace of the request, 32 hexadecimal digits, as in `Decision`; empty for none."""
