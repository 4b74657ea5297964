"""Problem details: how a refusal is written down for whoever is refused (RFC 9457).

The body is JSON; a client that asks for HTML or plain text gets the same facts in that form.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from sys import modules

from keyguard.clock import SECOND, whole_seconds
from keyguard.identity import ANONYMOUS
from keyguard.refusal import Cause, Refusal
from keyguard.request import CarriedRequest, Request, carried
from keyguard.request.tracing import SPANS, trace_of
from keyguard.response import FieldNames, Response
from keyguard.units import Duration, microseconds, moment, rfc3339, second_of

_STATUS = {
    Cause.USAGE: 429,
    Cause.FAULT: 503,
    Cause.OVERLOAD: 503,
    Cause.UPSTREAM: 503,
    Cause.CREDENTIALS: 401,
    Cause.PERMISSION: 403,
    Cause.ADDRESS: 403,
    Cause.REQUEST: 400,
}
_TITLE = {
    Cause.USAGE: "Limit reached",
    Cause.FAULT: "Temporarily out of order",
    Cause.OVERLOAD: "Too busy",
    Cause.UPSTREAM: "Upstream unavailable",
    Cause.CREDENTIALS: "Valid API key needed",
    Cause.PERMISSION: "Not permitted",
    Cause.ADDRESS: "Address refused",
    Cause.REQUEST: "Bad request",
}
BANNED = "banned"
"""The reason of refusals that end by themselves, and of which a title says so."""
# Registered by draft-ietf-httpapi-ratelimit-headers-11, section 6; the others have no more to say than their status.
_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
_TYPE = {
    Cause.USAGE: _PROBLEMS + "quota-exceeded",
    Cause.FAULT: _PROBLEMS + "temporary-reduced-capacity",
    Cause.OVERLOAD: _PROBLEMS + "temporary-reduced-capacity",
    Cause.UPSTREAM: _PROBLEMS + "temporary-reduced-capacity",
}


def refuse(
    request: Request,
    cause: Cause,
    detail: str,
    *,
    reason: str,
    status: int | None = None,
    retry_after: Duration | None = None,
    at: datetime | None = None,
    policies: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    key_id: str = "",
    subject: str = "",
) -> Response:
    """Return the response that refuses `request`.

    - `detail`: one or two sentences for the caller; they must not hold internals. `reason`: a word for the log.
    - `status`: by default the cause's own.
    - `retry_after`: if waiting helps, for how long: seconds, a `timedelta`, or a text such as `"10 minutes"`.
    - `at`: the moment from which that is counted, the time of the decision; by default now.
    - `policies`: the names of the limits that refused. `headers`: more fields of the response.
    - `key_id`, `subject`: for the log, if a key was recognised but the caller is not its identity.

    Raises `ConfigurationError` for what is not a duration, or not a moment.
    """
    wait = None if retry_after is None else microseconds("retry_after", retry_after, max="36500 days")
    decided = None if at is None else moment("at", at)
    return refuse_for(
        request,
        cause,
        detail,
        reason=reason,
        status=status,
        wait=wait,
        at=decided,
        policies=policies,
        headers=headers,
        key_id=key_id,
        subject=subject,
    )


def refuse_for(
    request: Request,
    cause: Cause,
    detail: str,
    *,
    reason: str,
    status: int | None = None,
    wait: int | None = None,
    at: int | None = None,
    policies: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    key_id: str = "",
    subject: str = "",
) -> Response:
    """Do as `refuse` does, with the wait and the moment in microseconds, as stores tell them."""
    asked, when = carried(request), None
    if wait is not None:
        when = whole_seconds(wait), -(-((request.clock() if at is None else at) + wait) // SECOND)
    write = _notice if len(detail) < _KEPT else Notice
    notice = write(cause, status or _STATUS[cause], detail, reason, when, tuple(policies))
    return notice.give(asked, headers, key_id, subject)


class Notice:
    """All that a refusal says, but for whom it refuses: written once for many requests."""

    __slots__ = (
        "begin",
        "cause",
        "detail",
        "end",
        "fields",
        "policies",
        "reason",
        "recovers_at",
        "retry_after",
        "status",
    )

    def __init__(
        self,
        cause: Cause,
        status: int,
        detail: str,
        reason: str,
        when: tuple[int, int] | None = None,
        policies: tuple[str, ...] = (),
    ) -> None:
        """Write it. `when` are the seconds to wait, and the second since the Unix epoch in which waiting ends."""
        self.cause = cause
        self.status = status
        self.detail = detail
        self.reason = reason
        self.policies = policies
        self.retry_after: int | None = None
        self.recovers_at: datetime | None = None
        self.fields: tuple[tuple[bytes, bytes], ...] = (_CONTENT_TYPE[JSON], _NO_STORE)
        self.begin = f'{_begin_of(cause, status, reason)}{quoted(detail)}, "instance": "'
        """The body as `json.dumps(problem_details(refusal))` writes it, up to the id; a test holds the two together."""
        self.end = f'"{_rest_of(cause, policies)}}}'
        """The body after the id, which has no sign that JSON would have to escape."""
        if when is not None:
            seconds, second = when
            self.retry_after, self.recovers_at = seconds, second_of(second)
            self.end = f'{self.end[:-1]}, "retry_after": {seconds}, "recovers_at": "{rfc3339(second)}"}}'
            if status in (429, 503):
                self.fields += ((b"retry-after", b"%d" % seconds),)

    def give(
        self, request: CarriedRequest, headers: Iterable[tuple[str, str]] = (), key_id: str = "", subject: str = ""
    ) -> Response:
        """Return the response that refuses `request` with it. `headers` are more fields."""
        state = request.state
        identity = state.identity or ANONYMOUS
        client = request.client
        trace = trace_of(request) if request.header("traceparent") or SPANS in modules else ""
        told = (
            self.cause,
            self.status,
            self.detail,
            self.reason,
            request.id,
            self.retry_after,
            self.recovers_at,
            self.policies,
            key_id or identity.key_id,
            subject or identity.subject,
            "" if client is None else client.text,
            request.method,
            request.route,
            False,
            "",
            trace,
        )
        refusal = state.refusal = _tuple(Refusal, told)
        accept = request.header("accept")
        # A list that is longer than any browser's is not read.
        form = _preferred(accept) if accept and len(accept) <= 1000 else JSON
        # No X-Request-ID: if some middleware or proxy sets it, it stands once. The id stands in the body.
        if form is JSON:
            instance = f'{request.id}", "trace_id": "{trace}' if trace else request.id
            fields, body = self.fields, f"{self.begin}{instance}{self.end}".encode("ascii")
        else:
            fields, body = (_CONTENT_TYPE[form], *self.fields[1:]), _text_of(refusal, form)
        head = request.head_of(fields, _FIELDS)
        for name, value in headers:
            head.add(name, value)
        return Response(self.status, head, body, refusal=refusal)


_tuple = tuple.__new__
_notice = lru_cache(maxsize=256)(Notice)  # many callers are told the same
_KEPT = 512
"""A notice is kept if its detail has fewer characters: callers may have a say in that."""

_FIELDS = FieldNames("Content-Type", "Cache-Control", "Retry-After")
_NO_STORE = (b"cache-control", b"no-store")


@lru_cache(maxsize=64)
def _begin_of(cause: Cause, status: int, reason: str) -> str:
    kind, title = quoted(_TYPE.get(cause, "about:blank")), quoted(_title(cause, status, reason))
    return f'{{"type": {kind}, "title": {title}, "status": {status}, "detail": '


@lru_cache(maxsize=256)
def _rest_of(cause: Cause, policies: tuple[str, ...]) -> str:
    names = f', "violated-policies": [{", ".join(map(quoted, policies))}]' if policies else ""
    return f', "cause": {quoted(cause.value)}{names}'


def refuse_bad_request(request: Request, detail: str, *, reason: str) -> Response:
    """Refuse with a 400: the request contradicts itself, or could be read in two ways."""
    return refuse_for(request, Cause.REQUEST, detail, reason=reason)


def refuse_busy(request: Request, *, reason: str = "store-busy", seconds: int = 1) -> Response:
    """Refuse with a 503 and the cause `overload`: this process, or the store, cannot serve the request in time."""
    return refuse_for(
        request,
        Cause.OVERLOAD,
        "The service has more to do than it can do at the moment. Neither your key nor your limits are the reason.",
        reason=reason,
        wait=seconds * SECOND,
    )


def refuse_ambiguous(request: Request) -> Response:
    """Refuse with a 400: something depends on the path, and that can be read in more than one way."""
    return refuse_bad_request(request, _AMBIGUOUS_PATH, reason="ambiguous-path")


_AMBIGUOUS_PATH = (
    "The path can be read in more than one way. Send it without '//', dot segments, ';', encoded slashes and what is "
    "encoded twice."
)


def problem_details(refusal: Refusal) -> dict[str, object]:
    """Return the refusal as the members of a problem details object (RFC 9457, section 3)."""
    problem: dict[str, object] = {
        "type": _TYPE.get(refusal.cause, "about:blank"),
        "title": _title(refusal.cause, refusal.status, refusal.reason),
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": refusal.request_id,
    }
    if refusal.trace_id:
        problem["trace_id"] = refusal.trace_id
    problem["cause"] = refusal.cause.value
    if refusal.policies:
        problem["violated-policies"] = list(refusal.policies)
    if refusal.retry_after is not None:
        problem["retry_after"] = refusal.retry_after
    if refusal.recovers_at is not None:
        problem["recovers_at"] = rfc3339(moment("recovers_at", refusal.recovers_at) // SECOND)
    return problem


def _title(cause: Cause, status: int, reason: str) -> str:
    if reason == BANNED:
        return "Banned for a while"
    return "Too many wrong keys" if cause is Cause.ADDRESS and status == 429 else _TITLE[cause]


def _text_of(refusal: Refusal, form: str) -> bytes:
    problem = problem_details(refusal)
    if form == "text/plain":
        return "".join(f"{name}: {_words(value)}\n" for name, value in problem.items() if name != "type").encode()
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
    return page.encode()


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


JSON = "application/problem+json"
# In the order of our own preference, which decides between equal weights; then the ranges that cover each.
_FORMS = {
    JSON: ("application/problem+json", "application/json", "application/*", "*/*"),
    "text/html": ("text/html", "application/xhtml+xml"),
    "text/plain": ("text/plain", "text/*"),
}
_CONTENT_TYPE = {
    JSON: (b"content-type", JSON.encode()),
    "text/html": (b"content-type", b"text/html; charset=utf-8"),
    "text/plain": (b"content-type", b"text/plain; charset=utf-8"),
}


@lru_cache(maxsize=64)  # clients of one kind send one text
def _preferred(accept: str) -> str:
    """Return the form a client asks for (RFC 9110, section 12.5.1): JSON if it does not say, or is not understood."""
    if accept.count(",") + accept.count(";") > 64:
        return JSON
    weights: dict[str, float] = {}
    for member in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in member.split(";"))
        weights[media_range] = _weight(parameters)
    best, best_weight = JSON, 0.0
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
