"""Problem details: how a refusal is written down for whoever is refused (RFC 9457).

The body is JSON; a client that asks for HTML or plain text gets the same facts in that form.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from keyguard.clock import SECOND, whole_seconds
from keyguard.refusal import Cause, Refusal
from keyguard.request import Request
from keyguard.response import Headers, Response

_STATUS = {
    Cause.USAGE: 429,
    Cause.FAULT: 503,
    Cause.OVERLOAD: 503,
    Cause.CREDENTIALS: 401,
    Cause.PERMISSION: 403,
    Cause.ADDRESS: 403,
    Cause.REQUEST: 400,
}
_TITLE = {
    Cause.USAGE: "Limit reached",
    Cause.FAULT: "Temporarily out of order",
    Cause.OVERLOAD: "Too busy",
    Cause.CREDENTIALS: "Valid API key needed",
    Cause.PERMISSION: "Not permitted",
    Cause.ADDRESS: "Address refused",
    Cause.REQUEST: "Bad request",
}
# Registered by draft-ietf-httpapi-ratelimit-headers-11, section 6; the others have no more to say than their status.
_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
_TYPE = {
    Cause.USAGE: _PROBLEMS + "quota-exceeded",
    Cause.FAULT: _PROBLEMS + "temporary-reduced-capacity",
    Cause.OVERLOAD: _PROBLEMS + "temporary-reduced-capacity",
}


def refuse(
    request: Request,
    cause: Cause,
    detail: str,
    *,
    reason: str,
    status: int | None = None,
    retry_after: int | None = None,
    at: int | None = None,
    policies: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    key_id: str = "",
) -> Response:
    """The response that refuses `request`.

    `retry_after` is in microseconds from `at`, which is the time of the decision (by default now); `detail` is
    written for the caller and must not hold internals. `status` is the cause's own unless another is given; `key_id`
    is for the log, where the key was recognised but the caller is not its identity.
    """
    status = status or _STATUS[cause]
    seconds = recovers_at = None
    if retry_after is not None:
        seconds = whole_seconds(retry_after)
        recovers_at = -(-((request.now() if at is None else at) + retry_after) // SECOND) * SECOND
    identity = request.caller
    client = request.client
    refusal = Refusal(
        cause=cause,
        status=status,
        detail=detail,
        reason=reason,
        request_id=request.id,
        retry_after=seconds,
        recovers_at=recovers_at,
        policies=tuple(policies),
        key_id=key_id or identity.key_id,
        subject=identity.subject,
        client="" if client is None else client.text,
    )
    request.findings.refusal = refusal
    media_type, body = _render(refusal, request.header("accept"))
    # No X-Request-ID: if some middleware or proxy sets it, it stands once. The id stands in the body.
    fields = [("Content-Type", media_type), ("Cache-Control", "no-store")]
    if seconds is not None and status in (429, 503):
        fields.append(("Retry-After", str(seconds)))
    fields.extend(headers)
    return Response(status, Headers(fields), body, refusal=refusal)


def refuse_bad_request(request: Request, detail: str, *, reason: str) -> Response:
    """A 400: the request contradicts itself, or could be read in two ways."""
    return refuse(request, Cause.REQUEST, detail, reason=reason)


def refuse_busy(request: Request) -> Response:
    """A 503 with cause `overload`: there was no turn at the store within the request's time."""
    return refuse(
        request,
        Cause.OVERLOAD,
        "The service has more to do than it can do at the moment. Neither your key nor your limits are the reason.",
        reason="store-busy",
        retry_after=SECOND,
    )


def refuse_ambiguous(request: Request) -> Response:
    """A 400: something depends on the path, and that can be read in more than one way."""
    return refuse_bad_request(request, _AMBIGUOUS_PATH, reason="ambiguous-path")


_AMBIGUOUS_PATH = (
    "The path can be read in more than one way. Send it without '//', dot segments, ';', encoded slashes and what is "
    "encoded twice."
)


def rfc3339(moment: int) -> str:
    """A moment in microseconds as RFC 3339 text, to the second, in UTC."""
    return _rfc3339(moment // SECOND)


@lru_cache(maxsize=64)  # many callers are told the same moment
def _rfc3339(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def problem_details(refusal: Refusal) -> dict[str, object]:
    """The refusal as the members of a problem details object (RFC 9457, section 3)."""
    problem: dict[str, object] = {
        "type": _TYPE.get(refusal.cause, "about:blank"),
        "title": _title(refusal),
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": refusal.request_id,
        "cause": refusal.cause.value,
    }
    if refusal.policies:
        problem["violated-policies"] = list(refusal.policies)
    if refusal.retry_after is not None:
        problem["retry_after"] = refusal.retry_after
    if refusal.recovers_at is not None:
        problem["recovers_at"] = rfc3339(refusal.recovers_at)
    return problem


def _title(refusal: Refusal) -> str:
    if refusal.cause is Cause.ADDRESS and refusal.status == 429:
        return "Too many wrong keys"
    return _TITLE[refusal.cause]


def _render(refusal: Refusal, accept: str | None) -> tuple[str, bytes]:
    form = _preferred(accept)
    problem = problem_details(refusal)
    if form == "application/problem+json":
        return form, json.dumps(problem).encode()
    if form == "text/plain":
        text = "".join(f"{name}: {_words(value)}\n" for name, value in problem.items() if name != "type")
        return "text/plain; charset=utf-8", text.encode()
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(_words(value))}</dd>"
        for name, value in problem.items()
        if name not in ("type", "title", "detail")
    )
    title, detail = html.escape(str(problem["title"])), html.escape(refusal.detail)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>{detail}</p><dl>{rows}</dl></html>\n"
    )
    return "text/html; charset=utf-8", page.encode()


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# In the order of our own preference, which decides between equal weights; then the ranges that cover each.
_FORMS = {
    "application/problem+json": ("application/problem+json", "application/json", "application/*", "*/*"),
    "text/html": ("text/html", "application/xhtml+xml"),
    "text/plain": ("text/plain", "text/*"),
}


def _preferred(accept: str | None) -> str:
    """The form a client asks for (RFC 9110, section 12.5.1). JSON where it does not say, or cannot be understood."""
    # Nor is a list read that is longer than any browser's.
    if not accept or len(accept) > 1000 or accept.count(",") + accept.count(";") > 64:
        return "application/problem+json"
    return _negotiated(accept)


@lru_cache(maxsize=64)  # clients of one kind send one text
def _negotiated(accept: str) -> str:
    weights: dict[str, float] = {}
    for member in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in member.split(";"))
        weights[media_range] = _weight(parameters)
    best, best_weight = "application/problem+json", 0.0
    for form, ranges in _FORMS.items():
        # The most specific range that covers the form decides.
        weight = next((weights[r] for r in ranges if r in weights), 0.0)
        if weight > best_weight:
            best, best_weight = form, weight
    return best


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            digits = value.strip()
            plain = digits.replace(".", "", 1)
            return float(digits) if plain.isascii() and plain.isdigit() and len(digits) <= 5 else 0.0
    return 1.0
