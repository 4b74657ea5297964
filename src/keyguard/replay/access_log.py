"""Lines of access logs: the common and the combined format, and JSON.

Of each line is read when a request came, from which address, by which caller, for what, and how it was answered. A
field that a line does not tell is `None`; without a moment and a method it is broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError


class Entry(NamedTuple):
    """A request of the past."""

    at: int
    """When it came, in microseconds of the Unix epoch."""
    method: str
    path: str
    """The path as it stood in the request line, percent-encoded."""
    query: str
    client: str | None
    """The client's address."""
    caller: str | None
    """The caller: the log's user, or what a JSON log has as the id of the key, the owner or the account."""
    plan: str | None
    status: int | None
    """The status of the answer."""


class BrokenLine(ValueError):
    """A line that cannot be read. Its text says why, and holds nothing of the line."""


# 127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?b HTTP/1.0" 200 2326 "referer" "agent"
_COMMON = re.compile(
    r"(?P<client>\S+) \S+ (?P<user>.*?) \[(?P<at>[^\]]{20,30})\] "
    r'"(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}|-)(?: |$)'
)
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES, 1)}
_MOMENT = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d)(?:\.\d+)? ([+-])(\d\d)(\d\d)")
_REQUEST = re.compile(r"([A-Z][A-Z-]{0,30}) (\S+)(?: HTTP/\d(?:\.\d)?)?")
_METHOD = re.compile(r"_OTHER|[A-Z][A-Z-]{0,30}")
_STATUS = re.compile(r"[1-5]\d\d")

FIELDS: Mapping[str, tuple[str, ...]] = {
    "time": ("time", "timestamp", "@timestamp", "ts", "time_iso8601", "time_local", "msec", "StartUTC", "date"),
    "client": ("client", "client_ip", "remote_addr", "remote_ip", "remote_host", "ClientHost", "ip", "c-ip"),
    "request": ("request", "request_line"),
    "method": ("method", "request_method", "http_method", "RequestMethod"),
    "path": ("path", "uri", "url", "request_uri", "RequestPath", "target", "route"),
    "status": ("status", "status_code", "DownstreamStatus", "response_status"),
    "caller": ("caller", "key_id", "api_key_id", "subject", "user", "remote_user", "user_id", "ClientUsername"),
    "plan": ("plan",),
}
"""Under which names the fields of a request stand in JSON logs, the first that is there. `request` is a request line,
or, as in Caddy's, an object in which others stand. `route` is that of our own log, which has no paths."""


class Reader:
    """Reads lines, whichever of the formats each of them has.

    `fields` says under which name a field of a JSON log stands, `{"caller": "labels.account"}`: a dot leads into an
    object. Raises `ConfigurationError` for a field that there is not.
    """

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        for field in fields or {}:
            if field not in FIELDS:
                raise ConfigurationError(f"{field!r} is not a field of a request: there are {', '.join(FIELDS)}")
        self._names = {field: (fields or {}).get(field) for field in FIELDS}
        self._moment = ("", 0)
        """The last moment that was read: many lines have the same."""

    def read(self, line: str) -> Entry | None:
        """Return the request of a line, or `None` for an empty one. Raises `BrokenLine`."""
        line = line.strip().removeprefix("\ufeff")
        if not line:
            return None
        return _encodable(self._read_json(line) if line.startswith("{") else self._read_common(line))

    # -- the common and the combined format ---------------------------------------------------------------

    def _read_common(self, line: str) -> Entry:
        found = _COMMON.match(line)
        if found is None:
            raise BrokenLine("is neither in the common log format nor JSON")
        method, path, query = _request_line(found["request"])
        status, user = found["status"], found["user"]
        return Entry(
            self._common_moment(found["at"]),
            method,
            path,
            query,
            None if found["client"] == "-" else found["client"],
            None if user in ("-", '""', "") else user,
            None,
            None if status == "-" else int(status),
        )

    def _common_moment(self, text: str) -> int:
        if text == self._moment[0]:
            return self._moment[1]
        found = _MOMENT.fullmatch(text)
        if found is None or found[2] not in _MONTHS:
            raise BrokenLine("has no moment such as 10/Oct/2026:13:55:36 +0000")
        day, month, year, hour, minute, second, sign, hours, minutes = found.groups()
        ahead = timedelta(hours=int(hours), minutes=int(minutes))
        try:
            zone = timezone(-ahead if sign == "-" else ahead)
            moment = datetime(
                int(year), _MONTHS[month], int(day), int(hour), int(minute), min(59, int(second)), tzinfo=zone
            )
        except ValueError:
            raise BrokenLine("has a moment that no calendar has") from None
        self._moment = text, _microseconds(moment)
        return self._moment[1]

    # -- JSON -------------------------------------------------------------------------------------------------

    def _read_json(self, line: str) -> Entry:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise BrokenLine("begins as JSON, and is not") from None
        if not isinstance(found, dict):
            raise BrokenLine("is JSON, and not an object")
        request = self._field(found, "request")
        places = [found, request] if isinstance(request, dict) else [found]
        if isinstance(request, str):
            method, path, query = _request_line(request)
        else:
            method = self._text(places, "method") or ""
            if _METHOD.fullmatch(method) is None:
                raise BrokenLine("has no method")
            path, query = _target(self._text(places, "path") or "")
        status = self._text(places, "status")
        return Entry(
            self._json_moment(places),
            method,
            path,
            query,
            self._text(places, "client"),
            self._text(places, "caller"),
            self._text(places, "plan"),
            int(status) if status is not None and _STATUS.fullmatch(status) else None,
        )

    def _field(self, found: dict[str, Any], field: str) -> Any:
        named = self._names[field]
        if named is not None:
            at: Any = found
            for step in named.split("."):
                at = at.get(step) if isinstance(at, dict) else None
            return found.get(named) if at is None else at
        return next((found[name] for name in FIELDS[field] if found.get(name) not in (None, "", "-")), None)

    def _text(self, places: list[dict[str, Any]], field: str) -> str | None:
        for place in places:
            value = self._field(place, field)
            if isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
                return str(value)
        return None

    def _json_moment(self, places: list[dict[str, Any]]) -> int:
        text = self._text(places, "time")
        if text is None:
            raise BrokenLine("has no moment")
        if _NUMBER.fullmatch(text):
            seconds = float(text)
            while seconds > _FAR:  # milliseconds, microseconds, nanoseconds
                seconds /= 1000
            return _plausible(int(seconds * SECOND))
        if _MOMENT.fullmatch(text):
            return self._common_moment(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise BrokenLine("has a moment that cannot be read") from None
        return _microseconds(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


_NUMBER = re.compile(r"\d{1,20}(?:\.\d{1,9})?")
_FAR = 10_000_000_000
"""No log has seconds of the year 2286 and after."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _microseconds(moment: datetime) -> int:
    return _plausible((moment - _EPOCH) // timedelta(microseconds=1))


def _plausible(at: int) -> int:
    """Return a moment, if a log may have it: one that lies far ahead would make all that follow it late."""
    if not 0 <= at < _FAR * SECOND:
        raise BrokenLine("has a moment before 1970, or after 2286")
    return at


def _encodable(entry: Entry) -> Entry:
    """Return a request without halves of signs, which JSON can say and no request can hold."""
    texts = {name: text for name, text in entry._asdict().items() if isinstance(text, str)}
    try:
        "".join(texts.values()).encode()
    except UnicodeEncodeError:
        whole: dict[str, Any] = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
        return entry._replace(**whole)
    return entry


def _request_line(text: str) -> tuple[str, str, str]:
    found = _REQUEST.fullmatch(text)
    if found is None:
        raise BrokenLine("has no request line such as GET / HTTP/1.1")
    return found[1], *_target(found[2])


def _target(target: str) -> tuple[str, str]:
    """Return path and query of a request's target (RFC 9112, section 3.2)."""
    if not target.startswith("/"):
        if target == "*" or not target:
            return "/", ""
        try:
            parts = urlsplit(target)
        except ValueError:
            raise BrokenLine("has a target that cannot be read") from None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.startswith("/"):
            return "/", ""  # of CONNECT
    path, _, query = target.partition("?")
    return path, query


def decoded(path: str) -> str:
    """Return a path as servers hand it over."""
    return unquote(path, errors="replace")
