"""The refusal that stands for an exhaustion: what the caller is told, and the operator."""

from __future__ import annotations

from keyguard.clock import whole_seconds
from keyguard.problem import refuse_busy, refuse_for
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest
from keyguard.response import Response
from keyguard.units import in_microseconds
from keyguard.upstream.causes import UpstreamCause
from keyguard.upstream.told import Exhaustion

_NOT_YOU = "Neither your key nor your limits are the reason"
_USED_UP = f"This service has used up its own limits at another one, which it calls for you. {_NOT_YOU}."
_DOWN = f"Another service, which this one calls for you, is overloaded or out of order. {_NOT_YOU}."
_BARRED = f"Another service, which this one calls for you, does not serve it. {_NOT_YOU}; waiting does not help."
_FAILING = frozenset({UpstreamCause.OVERLOAD, UpstreamCause.UNREACHABLE, UpstreamCause.SYSTEM})
_LASTING = frozenset(
    {
        UpstreamCause.BILLING,
        UpstreamCause.INVALID,
        UpstreamCause.UNSUPPORTED,
        UpstreamCause.TOO_LARGE,
        UpstreamCause.REQUEST,
    }
)
"""The causes that do not end by themselves: no `Retry-After` is told."""


def refuse_exhausted(request: CarriedRequest, exhaustion: Exhaustion) -> Response:
    """Return the response that refuses a request whose upstream call a pool gave up."""
    cause, recovers_at = exhaustion.cause, exhaustion.recovers_at
    reason = f"{exhaustion.pool}-{cause}"
    detail = _BARRED if cause in _LASTING else _DOWN if cause in _FAILING else _USED_UP
    wait = None
    if recovers_at is not None and cause not in _LASTING:
        wait = max(1, in_microseconds(recovers_at) - request.clock())  # it may have come by now
    if cause == UpstreamCause.BUSY:  # this service's own load: nothing is the matter with the other one
        return refuse_busy(request, reason=reason, seconds=whole_seconds(wait or 1))
    return refuse_for(request, Cause.UPSTREAM, detail, reason=reason, wait=wait)
