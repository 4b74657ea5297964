"""The answer of a pool that gives a request up: the provider's last one if it says why, else one of its own."""

from __future__ import annotations

import json

from keyguard.clock import whole_seconds
from keyguard.upstream.answers import Answer, Synthetic
from keyguard.upstream.causes import UpstreamCause
from keyguard.upstream.told import EXHAUSTION_FIELD

LASTING = frozenset({UpstreamCause.BILLING, UpstreamCause.INVALID, UpstreamCause.UNSUPPORTED, UpstreamCause.TOO_LARGE})
"""Causes for which no caller is told to wait: people must do something first."""

_WHY = {
    UpstreamCause.EXHAUSTED: "All keys have used up a limit of the provider.",
    UpstreamCause.QUOTA: "All keys have used up a quota of the provider.",
    UpstreamCause.RAMP: "The provider admits no faster growth of traffic.",
    UpstreamCause.BILLING: "The provider wants to be paid: no key has money left.",
    UpstreamCause.INVALID: "The provider takes none of the keys.",
    UpstreamCause.UNSUPPORTED: "No key may be used for this model.",
    UpstreamCause.OVERLOAD: "The provider is overloaded.",
    UpstreamCause.TOO_LARGE: "The request is larger than a limit of the provider allows.",
    UpstreamCause.BUSY: "The store of the pool has too much to do.",
}


def fields_of(id: str, wait: int | None, answer: Answer | None) -> tuple[tuple[str, str], ...]:
    """Return the fields of a response with which a pool gives up. SDKs must not send it again: the pool has."""
    fields = [("x-should-retry", "false"), (EXHAUSTION_FIELD, id)]
    if wait is not None:
        fields.append(("retry-after", str(whole_seconds(wait))))
        if answer is not None and answer.headers.get("retry-after-ms") is not None:
            fields.append(("retry-after-ms", str(whole_seconds(wait) * 1000)))
    return tuple(fields)


def synthetic(id: str, cause: UpstreamCause, wait: int | None) -> Synthetic:
    """Return a 429 in the words of problem details (RFC 9457), which also has what SDKs look for in an error."""
    why = _WHY.get(cause, "No key of the pool can be used.")
    detail = f"{why} Try again in {whole_seconds(wait)} s." if wait is not None else f"{why} Waiting does not help."
    body = {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": detail,
        "error": {"message": detail, "type": "upstream_exhausted", "code": str(cause), "param": None},
    }
    data = json.dumps(body).encode()
    fields = (
        ("content-type", "application/problem+json"),
        ("content-length", str(len(data))),
        *fields_of(id, wait, None),
    )
    return Synthetic(429, fields, data)
