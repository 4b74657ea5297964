"""What an answer means for the key that it was asked with: one judge, which reads the profiles.

Rules:
- The first line of the profile's table that holds decides, else the status alone.
- Only members of a parsed body decide. A body that quotes error codes, as one does that echoes a prompt, says nothing.
- Whatever comes, there is a verdict: the judge is pure, and never raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError
from keyguard.learnt import Dimension, Seen, dimension_of
from keyguard.upstream import members, waits
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.headers import Headers, field, is_full_reset, now_there, retry_after, seen, used_up
from keyguard.upstream.profiles.profile import SCOPES, Profile, Rule

_DAY = 86400 * SECOND
_OK = Verdict(UpstreamCause.OK, Scope.NONE)
_LIMITS = frozenset({UpstreamCause.EXHAUSTED, UpstreamCause.QUOTA})
_WAITING = _LIMITS | {UpstreamCause.RAMP, UpstreamCause.OVERLOAD, UpstreamCause.SYSTEM}
"""Causes of which `Retry-After` tells the end: for want of money providers send one as well, and it helps nobody."""

_BY_STATUS: dict[int, tuple[UpstreamCause, bool]] = {
    401: (UpstreamCause.INVALID, True),
    402: (UpstreamCause.BILLING, False),
    403: (UpstreamCause.UNSUPPORTED, False),
    408: (UpstreamCause.SYSTEM, True),
    429: (UpstreamCause.EXHAUSTED, True),
    503: (UpstreamCause.OVERLOAD, True),
    529: (UpstreamCause.OVERLOAD, True),
    **dict.fromkeys((400, 404, 405, 409, 410, 411, 412, 413, 414, 415, 422), (UpstreamCause.REQUEST, True)),
    **dict.fromkeys((500, 501, 502, 504, *range(520, 528)), (UpstreamCause.SYSTEM, True)),
}
"""The meaning of a status if no rule knows more, and whether that is all there is to know."""

_ERRORS = frozenset({"error", "response.failed"})
"""The `type` or `object` of an event that is an error."""

_CODE = re.compile(r"[A-Za-z][A-Za-z_]{0,47}|[0-9]{1,5}")  # no key looks like that
_CODE_MEMBERS = ("type", "code", "status", "details.error_code", "details.reason", "metadata.limit_source")


class _Reading(NamedTuple):
    """An answer, read once."""

    status: int
    """0 for an event of a stream."""
    headers: Headers
    error: Any
    now: int
    """By the provider's clock."""
    seen: tuple[Seen, ...]
    quoted: str = ""
    """The texts that its messages may quote, to be taken out of them."""


def judge(profile: Profile, status: int, headers: Headers, body: bytes, now: int, model: str = "") -> Verdict:
    """Say what an answer means.

    `body` is that of an error, decoded, of which 64 KiB are read; of a success only the fields are. `now` is in
    microseconds since the epoch. `model` is that of the request: one with blanks in it, as no provider has, is taken
    out of messages, which may quote it.
    """
    now = now_there(headers, now)
    told = seen(profile, headers, now)
    if status < 400:
        return _OK._replace(seen=told)
    error = _error(profile, members.parsed(body[: members.MOST]))
    return _judged(profile, _Reading(status, headers, error, now, told, model if " " in model else ""))


def judge_event(profile: Profile, name: str, data: bytes | str, now: int) -> Verdict:
    """Say what an event of a stream means, after its head has told of success: OK unless it is an error.

    `name` is the event's, empty if it has none; `data` is its text.
    """
    body = members.parsed(data[: members.MOST])
    is_error = name == "error" or bool({*members.values(body, "type"), *members.values(body, "object")} & _ERRORS)
    if not is_error and not members.child(body, "error"):
        return _OK
    error = _error(profile, body)
    code = members.value(error, "code") or ""
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 0
    return _judged(profile, _Reading(status, {}, error, now, ()))


def fingerprint(status: int, body: bytes) -> str:
    """Return what kind of answer this is, to tell of each kind once: its status and codes, and no text of it."""
    found = members.parsed(body[: members.MOST])
    codes = [
        code if _CODE.fullmatch(code) else "?"
        for at in ("error", "response.error", "")
        for path in _CODE_MEMBERS
        if (code := members.value(members.child(_unwrapped(found), at), path))
    ]
    return " ".join([str(status), *list(dict.fromkeys(codes))[:6]])


def _judged(profile: Profile, answer: _Reading) -> Verdict:
    for rule in profile.rules:
        groups = _holds(rule, answer)
        if groups is not None:
            dimension = rule.dimension or _dimension(groups.get("dimension"))
            verdict = _verdict(profile, answer, rule.cause, rule.scope, dimension)
            wait = _of_rule(rule, answer) if verdict.wait is None else verdict.wait
            return verdict._replace(wait=wait, known=_is_known(profile, answer))
    cause, known = _by_status(answer.status)
    verdict = _verdict(profile, answer, cause, SCOPES[cause], None)
    return verdict._replace(known=known and not _has_code(profile, answer) and _is_known(profile, answer))


def _of_rule(rule: Rule, answer: _Reading) -> int | None:
    text = field(answer.headers, rule.until) if rule.until else None
    wait = waits.moment(text, answer.now) if text else None
    return rule.otherwise if wait is None else wait


def _holds(rule: Rule, answer: _Reading) -> Mapping[str, str] | None:
    """Return the groups of a rule's patterns if it holds, else `None`."""
    if rule.statuses and answer.status not in rule.statuses and not (answer.status == 0 and rule.members):
        return None
    groups: dict[str, str] = {}
    for name, pattern in rule.fields:
        if not pattern.fullmatch(field(answer.headers, name) or ""):
            return None
    for path, pattern in rule.members:
        texts = members.values(answer.error, path)
        found = _first_match(pattern, (text.replace(answer.quoted, "?") if answer.quoted else text for text in texts))
        if found is None:
            return None
        groups |= {name: text for name, text in found.groupdict().items() if text}
    return groups


def _first_match(pattern: re.Pattern[str], texts: Iterable[str]) -> re.Match[str] | None:
    return next((found for text in texts if (found := pattern.fullmatch(text)) is not None), None)


def _verdict(
    profile: Profile, answer: _Reading, cause: UpstreamCause, scope: Scope, dimension: Dimension | None
) -> Verdict:
    empty = used_up(profile, answer.seen) if cause in _LIMITS else None
    if dimension is None and empty is not None:
        dimension = empty.dimension
    if cause is UpstreamCause.EXHAUSTED and dimension is not None and dimension.period >= _DAY:
        cause = UpstreamCause.QUOTA
    wait = retry_after(answer.headers, answer.now) if cause in _WAITING else None
    if wait is None and (cause in _WAITING or cause is UpstreamCause.BILLING):
        wait = _told(profile, answer)
    if wait is None and empty is not None and empty.reset and not is_full_reset(profile, empty.dimension):
        wait = empty.reset
    if wait is None and cause is UpstreamCause.QUOTA and profile.day:
        wait = _end_of_day(profile.day, answer.now)
    return Verdict(cause, scope, wait, answer.seen, dimension)


def _told(profile: Profile, answer: _Reading) -> int | None:
    """Return the longest wait that members of the error tell: one of two may be rounded down."""
    told = [
        wait
        for path, reader in profile.waits
        for text in members.values(answer.error, path)
        if (wait := waits.READERS[reader](text, answer.now))
    ]
    return max(told, default=None)


def _error(profile: Profile, body: Any) -> Any:
    """Return the error object of a body; `None` if it has none."""
    body = _unwrapped(body)
    return next((found for path in profile.error_at if isinstance(found := members.child(body, path), dict)), None)


def _unwrapped(body: Any) -> Any:
    """Return the first item of a list: so come the errors of some streams that are no events."""
    return body[0] if isinstance(body, list) and body else body


def _by_status(status: int) -> tuple[UpstreamCause, bool]:
    unknown = UpstreamCause.REQUEST if 400 <= status < 500 else UpstreamCause.SYSTEM
    return _BY_STATUS.get(status, (unknown, False))


def _is_known(profile: Profile, answer: _Reading) -> bool:
    """Return whether all members that have one of few values have one of those."""
    return all(
        pattern.fullmatch(text) for path, pattern in profile.known for text in members.values(answer.error, path)
    )


def _has_code(profile: Profile, answer: _Reading) -> bool:
    """Return whether an error says more than its status, in a member of which not all values are known."""
    closed = {path for path, _ in profile.known}
    texts = [text for path in _CODE_MEMBERS if path not in closed for text in members.values(answer.error, path)]
    return any(text != str(answer.status) for text in texts)


def _dimension(word: str | None) -> Dimension | None:
    try:
        return dimension_of(word.lower()) if word else None
    except ConfigurationError:  # of a unit that is not counted, such as images
        return None


def _end_of_day(zone: str, now: int) -> int | None:
    try:
        here = datetime.fromtimestamp(now // SECOND, ZoneInfo(zone))
        tomorrow = (here + timedelta(days=1)).replace(hour=0, minute=0, second=0)
        return waits.believed(int(tomorrow.astimezone(UTC).timestamp()) * SECOND - now)
    except (ValueError, OverflowError, OSError, KeyError):  # a `now` that no calendar has; a machine without zones
        return None
