"""Records: one `Decision` for each request, whatever has answered it, and the log that writes them as JSON."""

from __future__ import annotations

import json
import logging
from os import getpid
from typing import Literal, NamedTuple, TypeAlias

from keyguard.clock import SECOND
from keyguard.logs import logger
from keyguard.refusal import Cause
from keyguard.request import LimitState
from keyguard.request.limits import Decided, limit_states
from keyguard.units import rfc3339

log = logger("keyguard")
_lines = logging.getLogger("keyguard.decisions")


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OTHER = "_OTHER"
"""The method of records whose own is not among these: callers can invent as many as they like."""

Result: TypeAlias = Literal["served", "cached", "refused", "failed"]


class Decision(NamedTuple):
    """The record of one request: who asked for what, and how it ended. It holds no secret, no path and no query."""

    at: int
    """When the request came, in microseconds of the Unix epoch, by the clock of the stack."""
    request_id: str
    """The id that refusals tell: the `X-Request-ID` that came with the request, else a random one."""
    trace_id: str
    """The trace, 32 hexadecimal digits: of the open span of OpenTelemetry, else of the field `traceparent` (W3C Trace
    Context); empty for none."""
    subject: str
    """The holder of the key; empty for a caller without one."""
    key_id: str
    """The public id of the key that was sent, also of one that has expired or was revoked."""
    client: str
    """The address of the client; empty if it is not known."""
    method: str
    """The method; `_OTHER` for one that neither RFC 9110 nor RFC 5789 knows."""
    route: str
    """The template of the route, such as `/items/{id}`, as the framework writes it. Of an app whose routes cannot be
    seen, the pattern of a rule that is about the path. Else empty: a path never stands here."""
    outcome: Result
    """`served`: the app has answered with a status below 500, or a guard of your own without refusing. `cached`: a
    `ResponseCache` has answered, also with a 304, a part, or what the app has only confirmed. `refused`: keyguard has
    refused it. `failed`: the app has answered with a status from 500 on, has raised an error, or has not answered."""
    cause: Cause | None
    """Why it was refused; `fault` if the app has failed; else `None`."""
    reason: str
    """One word for the operator. Of a request that has failed: `app-failed` (an error, or a status from 500 on),
    `no-response`, or `cancelled` (its client has left, or the server stops)."""
    status: int
    """The status of the answer: 101 for a websocket that was accepted, 403 for one that the app has closed. If there
    was no answer, 500, which most servers give then, or 499 if it was cancelled."""
    policies: tuple[str, ...]
    """The names of the limits that have refused it."""
    taken: tuple[Decided, ...]
    """The decisions of its limits as stores gave them; `limits` has the same for people."""
    duration: float
    """Seconds from its arrival to the head of the response."""

    @property
    def limits(self) -> tuple[LimitState, ...]:
        """The answer of each limit, in the order in which they were asked. It is worked out when it is asked for."""
        return tuple([state for decided in self.taken for state in limit_states(decided)])


def log_decision(decision: Decision) -> None:
    """Write a record as one line of JSON, at INFO, to the logger `keyguard.decisions`.

    It is given to `Keyguard(on_decision=log_decision)`, or called by a function of your own that stands there.
    """
    if _lines.isEnabledFor(logging.INFO):
        _lines.info("%s", line_of(decision))
    else:
        _tell_how_to_see()


def line_of(decision: Decision) -> str:
    """Return a record as an object of JSON, without a line break. Its fields keep their names."""
    found = {
        "time": f"{rfc3339(decision.at // SECOND)[:-1]}.{decision.at % SECOND:06d}Z",
        "request_id": decision.request_id,
        "trace_id": decision.trace_id,
        "subject": decision.subject,
        "key_id": decision.key_id,
        "client": decision.client,
        "method": decision.method,
        "route": decision.route,
        "outcome": decision.outcome,
        "cause": "" if decision.cause is None else decision.cause.value,
        "reason": decision.reason,
        "status": decision.status,
        "policies": decision.policies,
        "limits": [
            {
                "name": limit.name,
                "limit": limit.limit,
                "cost": limit.cost,
                "remaining": limit.remaining,
                "admitted": limit.admitted,
                "shadow": limit.shadow,
            }
            for limit in decision.limits
        ],
        "duration": round(decision.duration, 6),
    }
    return json.dumps(found)


_told_in = 0
"""The process that has been told how its records can be seen."""


def _tell_how_to_see() -> None:
    global _told_in
    if _told_in != getpid():
        _told_in = getpid()
        log.warning(
            "log_decision writes nothing: logging.getLogger('keyguard.decisions').setLevel(logging.INFO), and a "
            "handler whose format is '%%(message)s', show its lines"
        )
