"""From an entry to the response that a request gets: whole, not modified, or a part. No clock, no I/O."""

from __future__ import annotations

import re
from itertools import islice
from typing import NamedTuple

from keyguard.clock import SECOND
from keyguard.guards.cache.entry import Entry, first, without
from keyguard.http.dates import parse_date
from keyguard.http.fields import LIMIT_FIELDS
from keyguard.request import CarriedRequest
from keyguard.response import Headers, Response

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[^"]*"')
_MAX_LENGTH, _MAX_TAGS = 8192, 256
"""Characters and entity tags of an `If-None-Match` that are read: beyond that it names nothing that is stored."""
_NO_LENGTH = frozenset({204, 205, 304})
_DIGESTS = frozenset({"content-digest", "content-md5", "digest"})
"""Fields about the very bytes that are sent. `Repr-Digest` is about the whole representation, which may be more
(RFC 9530, section 3). The older `Digest` has been read in both ways."""
# These describe content, which a 304 does not have (RFC 9110, section 15.4.5).
_OF_CONTENT = _DIGESTS | {"content-length", "content-type", "content-encoding", "content-language", "content-range"}


class Conditions(NamedTuple):
    """The conditions and the range of a request."""

    if_none_match: str | None
    if_modified_since: str | None
    if_range: str | None
    range: str | None

    @classmethod
    def of(cls, request: CarriedRequest) -> Conditions:
        """Return those of a request. A range means something on GET alone (RFC 9110, section 14.2)."""
        ranged = request.header("range") if request.method == "GET" else None
        return cls(
            request.header("if-none-match"),
            request.header("if-modified-since"),
            request.header("if-range") if ranged is not None else None,
            ranged,
        )


NO_CONDITIONS = Conditions(None, None, None, None)


def answer(request: CarriedRequest, entry: Entry, conditions: Conditions, now: int, status: str) -> Response | None:
    """Return the response from an entry; `None` if the entry is a part, and not the part that was asked for.

    `status` is this cache's member of `Cache-Status` (RFC 9211).
    """
    if conditions is not NO_CONDITIONS:
        if entry.part is not None:
            if conditions.if_none_match is not None or conditions.if_modified_since is not None:
                return None  # a part is for a client that has none of it yet
            if not range_applies(conditions.if_range, entry, now):
                return None
            return _of_part(request, entry, conditions.range, now, status)
        if entry.status == 200:
            if not_modified(conditions, entry, now):
                return _bodiless(request, 304, without(entry.fields, _OF_CONTENT), entry, now, status)
            if conditions.range is not None and range_applies(conditions.if_range, entry, now):
                return _of_whole(request, entry, conditions.range, now, status)
    elif entry.part is not None:
        return None
    fields = request.raw_fields(whole_fields(entry, entry.current_age(now), status))
    response = Response(entry.status, request.headers_of(fields), entry.body)
    response.sized = request.state.cached = True
    if request.method == "HEAD":  # its content is empty (RFC 9530, appendix B.2)
        for name in _DIGESTS:
            if name in response.headers:
                response.headers.remove(name)
    return response


def whole_fields(entry: Entry, age: int, status: str) -> list[tuple[str, str]]:
    """Return the header fields of a response that has all of an entry."""
    fields = list(entry.fields)
    if entry.status not in _NO_LENGTH and first(fields, "content-length") is None:
        fields.append(("Content-Length", str(len(entry.body))))
    fields += [("Age", str(age)), ("Cache-Status", status)]
    return fields


def _with_age(fields: list[tuple[str, str]], entry: Entry, now: int, status: str) -> list[tuple[str, str]]:
    return [*fields, ("Age", str(entry.current_age(now))), ("Cache-Status", status)]


def _bodiless(
    request: CarriedRequest, code: int, fields: list[tuple[str, str]], entry: Entry, now: int, status: str
) -> Response:
    response = Response(code, request.headers_of(request.raw_fields(_with_age(fields, entry, now, status))))
    response.sized = request.state.cached = True
    return response


# -- conditions (RFC 9110, section 13) --------------------------------------------------------------------------


def not_modified(conditions: Conditions, entry: Entry, now: int) -> bool:
    """Tell whether the client holds what the entry holds.

    "A recipient MUST ignore If-Modified-Since if the request contains an If-None-Match header field" (13.1.3).
    """
    if conditions.if_none_match is not None:
        return etag_listed(conditions.if_none_match, entry.etag)
    if conditions.if_modified_since is None:
        return False
    since = parse_date(conditions.if_modified_since, now // SECOND)
    if since is None:
        return False
    changed = parse_date(entry.last_modified, now // SECOND)
    if changed is None:  # then the Date or the time of receipt stands in for it (RFC 9111, section 4.3.2)
        changed = parse_date(first(entry.fields, "date"), now // SECOND)
    return since >= (entry.received // SECOND if changed is None else changed)


def etag_listed(text: str, etag: str | None) -> bool:
    """Tell whether `If-None-Match` names an entity tag, by weak comparison (RFC 9110, sections 8.8.3.2 and 13.1.2)."""
    if len(text) > _MAX_LENGTH:
        return False
    if text.strip() == "*":
        return True
    if etag is None:
        return False
    wanted = etag.removeprefix("W/")
    tags = islice(_ETAG.finditer(text), _MAX_TAGS)
    return any(tag[0].removeprefix("W/") == wanted for tag in tags) or text.strip() == etag


def range_applies(if_range: str | None, entry: Entry, now: int) -> bool:
    """Tell whether `If-Range` lets the range count, by strong comparison (RFC 9110, section 13.1.5)."""
    if if_range is None:
        return True
    if '"' in if_range:
        return entry.etag == if_range and not if_range.startswith("W/")
    if entry.last_modified is None or entry.last_modified != if_range:
        return False
    # A date is strong if it is at least a second older than the response (section 8.8.2.2).
    modified = parse_date(entry.last_modified, now // SECOND)
    date = parse_date(first(entry.fields, "date"), now // SECOND)
    return modified is not None and modified < (entry.received // SECOND if date is None else date)


# -- ranges (RFC 9110, section 14) --------------------------------------------------------------------------------


def _of_whole(request: CarriedRequest, entry: Entry, text: str, now: int, status: str) -> Response | None:
    """Return one range of a whole entry; all of it if several ranges are asked for, or units other than bytes."""
    match = _RANGE.fullmatch(text.strip()) if len(text) <= _MAX_LENGTH else None
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        return answer(request, entry, NO_CONDITIONS, now, status)
    total = len(entry.body)
    if match[3] is not None:
        begin, end = max(0, total - int(match[3])), total
        satisfiable = int(match[3]) > 0 and total > 0
    else:
        begin, end = int(match[1]), min(int(match[2]) + 1, total) if match[2] else total
        satisfiable = begin < total
    if not satisfiable:
        fields = [("Content-Range", f"bytes */{total}"), ("Content-Length", "0")]
        return _bodiless(request, 416, fields, entry, now, status)
    return _partial(request, entry, entry.body[begin:end], begin, str(total), now, status)


def _of_part(request: CarriedRequest, entry: Entry, text: str | None, now: int, status: str) -> Response | None:
    """Return a part that was received, or a narrower one of it."""
    part = entry.part
    match = None if text is None or len(text) > _MAX_LENGTH else _RANGE.fullmatch(text.strip())
    if part is None or match is None:
        return None
    if text == entry.range_text:
        begin, end = 0, part.length
    elif match[3] is not None:
        length = int(match[3])
        if not part.to_end or not 0 < length <= part.length:
            return None
        begin, end = part.length - length, part.length
    else:
        begin = int(match[1]) - part.first
        if match[2]:
            end = int(match[2]) + 1 - part.first
        elif part.to_end:
            end = part.length
        else:
            return None
        if not 0 <= begin < end <= part.length:
            return None
    total = "*" if part.total is None else str(part.total)
    return _partial(request, entry, entry.body[begin:end], part.first + begin, total, now, status)


def _partial(
    request: CarriedRequest, entry: Entry, body: bytes, start: int, total: str, now: int, status: str
) -> Response:
    same = entry.part is not None and len(body) == len(entry.body)
    fields = without(entry.fields, frozenset({"content-length", "content-range"}) | (frozenset() if same else _DIGESTS))
    fields += [
        ("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}"),
        ("Content-Length", str(len(body))),
    ]
    raw = request.raw_fields(_with_age(fields, entry, now, status))
    response = Response(206, request.headers_of(raw), body)
    response.sized = request.state.cached = True
    return response


# -- others -------------------------------------------------------------------------------------------------------


def gateway_timeout(status: str) -> Response:
    """Return the answer to `only-if-cached` if no stored response may be used (RFC 9111, section 5.2.1.7)."""
    body = (
        b'{"type": "about:blank", "title": "Gateway Timeout", "status": 504, "detail": "Nothing is stored for this."}'
    )
    fields = [
        ("Content-Type", "application/problem+json"),
        ("Cache-Control", "no-store"),
        ("Cache-Status", status),
    ]
    return Response(504, Headers(fields), body)


def set_limits(response: Response, told: Response) -> None:
    """Set the fields about limits as another response tells them: an entry has those of the caller it was made for."""
    fields = [pair for pair in told.headers if pair[0].lower() in LIMIT_FIELDS]
    for name in {name for name, _ in fields}:
        response.headers.remove(name)
    for name, value in fields:
        response.headers.add(name, value)


def strip_tags(response: Response) -> None:
    """Remove the fields that are for caches and not for clients."""
    for name in ("Cache-Tag", "Surrogate-Key"):
        if name in response.headers:
            response.headers.remove(name)
