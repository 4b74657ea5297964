"""The header fields of an answer, read: how much is left of each limit, and how long to wait.

Fields come from others, through proxies: whatever stands there, nothing here raises. A limit that is not above zero is
ignored with all that goes with it (providers send `-1`, `-1` and `0` where they do not know).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard

from keyguard.clock import SECOND
from keyguard.http.dates import parse_date
from keyguard.learnt import Dimension, Seen
from keyguard.upstream import waits
from keyguard.upstream.profiles.profile import LimitFields, Profile

_NUMBER = re.compile(r"([0-9]{1,15})(?:\.[0-9]{1,15})?")
_WINDOW = re.compile(r"[0-9]{1,15} *, *[0-9]{1,15} *; *w *= *([0-9]{1,9})(?![0-9]).*")
_LONGEST = 2048  # characters of a field
_HOUR, _DAY = 3600 * SECOND, 86400 * SECOND
_SKEW = _DAY  # a clock that differs by more is a test's, or an answer out of a cache


_Policies: TypeAlias = dict[str, tuple[int | None, int | None]]
"""By name: the quota, and the window in microseconds."""


class Headers(Protocol):
    """Header fields by name, in any case; `None` for one that is not there."""

    def get(self, name: str, /) -> str | None: ...


def field(headers: Headers, name: str) -> str | None:
    """Return a field's value without blanks around it; `None` if there is none."""
    value: Any = headers.get(name)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value[:_LONGEST].strip() if isinstance(value, str) else None


def now_there(headers: Headers, now: int) -> int:
    """Return the time as the answer's `Date` tells it, in microseconds, or `now` if it tells none that is near.

    Instants are written by the provider's clock. Ours may be an hour off, which would be an hour without a key.
    """
    text = field(headers, "date")
    at = parse_date(text, now // SECOND) if text and text.endswith("GMT") and 0 <= now < 2**53 else None
    if at is None or abs(at * SECOND - now) > _SKEW:
        return now
    return at * SECOND if abs(at * SECOND - now) > 2 * SECOND else now  # a date has whole seconds alone


def retry_after(headers: Headers, now: int) -> int | None:
    """Return the microseconds that `retry-after-ms` or `retry-after` ask to wait (RFC 9110, section 10.2.3)."""
    text = field(headers, "retry-after-ms")
    told = _longest(text, waits.milliseconds) if text else None
    if told is not None:
        return told
    text = field(headers, "retry-after")
    if not text:
        return None
    told = waits.instant(text, now)
    if told is not None:
        return told or None  # a moment that has passed tells nothing
    return _longest(text, waits.seconds)


def seen(profile: Profile, headers: Headers, now: int) -> tuple[Seen, ...]:
    """Return what the fields tell of each limit, one for each dimension: the one of which least is left."""
    found: dict[Dimension, Seen] = {}
    told = [one for rule in profile.fields if (one := _told(rule, headers, now)) is not None]
    for one in [*told, *(_drafts(headers, now) if profile.draft_fields else ())]:
        other = found.get(one.dimension)
        if other is None or _left(one) < _left(other):
            found[one.dimension] = one
    return tuple(found.values())


def used_up(profile: Profile, told: Sequence[Seen]) -> Seen | None:
    """Return the limit of which nothing is left: of several the one that lasts longest."""
    empty = [one for one in told if one.remaining == 0]
    return max(empty, key=lambda one: (one.reset or 0, one.dimension.period), default=None)


def is_full_reset(profile: Profile, dimension: Dimension) -> bool:
    """Return whether the reset of a limit is when all of it is back, and so more than a wait."""
    return any(rule.full for rule in profile.fields if dimension in (rule.dimension, rule.longer))


def _left(one: Seen) -> int:
    return 2**62 if one.remaining is None else one.remaining


def _longest(text: str, read: Any) -> int | None:
    """Read each of several lines of a field that HTTP has joined: the longest wait is right for all."""
    told = [wait for part in text.split(",")[:16] if (wait := read(part)) is not None]
    return max(told, default=None)


def _told(rule: LimitFields, headers: Headers, now: int) -> Seen | None:
    if rule.only is not None:
        meant = field(headers, rule.only[0])
        if meant is not None and meant not in rule.only[1]:
            return None
    limit, remaining, reset = [
        field(headers, name) if name else None for name in (rule.limit, rule.remaining, rule.reset)
    ]
    one = _one(
        rule.dimension,
        limit,
        _number(limit),
        _number(remaining),
        waits.READERS[rule.reads](reset, now) if reset else None,
    )
    if one is None or rule.longer is None or not (one.limit and one.remaining is not None and one.reset):
        return one
    period = one.reset * one.limit // max(1, one.limit - one.remaining)  # so long does all of it take to come back
    return one._replace(dimension=rule.longer) if period > _HOUR else one


def _one(dimension: Dimension, text: str | None, limit: int | None, left: int | None, reset: int | None) -> Seen | None:
    """Put together what is told of a limit; `None` if its field, whose text this is, says no number above zero."""
    if not limit and (limit == 0 or text is not None or left is None):
        return None
    return Seen(dimension, limit, left if limit is None or left is None else min(left, limit), reset)


def _number(text: str | None) -> int | None:
    """Read a whole number, or several that are the same."""
    if text is None:
        return None
    parts = {part.strip() for part in text.split(",")[:16]}
    found = _NUMBER.fullmatch(parts.pop()) if len(parts) == 1 else None
    return int(found[1]) if found is not None else None


# -- fields that are no provider's own ------------------------------------------------------------------------------


def _drafts(headers: Headers, now: int) -> list[Seen]:
    policies = dict(_policies(field(headers, "ratelimit-policy")))
    found = []
    for name, limit, left, reset in _states(field(headers, "ratelimit")):
        quota, window = policies.get(name, (limit, None))
        found.append(_one(_requests(window, reset), None, quota, left, reset))
    return [one for one in found if one is not None] or list(_forerunners(headers, now, policies))


def _forerunners(headers: Headers, now: int, policies: _Policies) -> Iterator[Seen]:
    """Read `RateLimit-Limit` and its kin (drafts 0 to 6), and the same fields with an `X-`, which none describes."""
    for prefix in ("ratelimit-", "x-ratelimit-", "x-rate-limit-"):
        text = field(headers, f"{prefix}limit")
        limit = _number(text.split(",")[0] if text and _WINDOW.fullmatch(text) else text)
        left = _number(field(headers, f"{prefix}remaining"))
        when = field(headers, f"{prefix}reset")
        reset = waits.moment(when, now) if when else None
        one = _one(_requests(_window_of(text, policies), reset), text, limit, left, reset)
        if one is not None:
            yield one
            return


def _policies(text: str | None) -> Iterator[tuple[str, tuple[int | None, int | None]]]:
    """Read `RateLimit-Policy`: `"burst";q=100;w=60` (draft 8 and later), `100;w=60` (older). Quotas by name."""
    for item, parameters in _listed(text):
        quota = parameters.get("q") if isinstance(item, str) else item
        if parameters.get("qu", "requests") == "requests" and _whole(quota):
            window = parameters.get("w")
            yield str(item), (quota, window * SECOND if _whole(window) and 0 < window <= 10**8 else None)


def _states(text: str | None) -> Iterator[tuple[str, int | None, int, int | None]]:
    """Read `RateLimit`: `"burst";r=50;t=30` (draft 8 and later), `limit=10, remaining=1, reset=7` (draft 7)."""
    for item, parameters in _listed(text):
        left = parameters.get("r")
        if isinstance(item, str) and _whole(left):
            yield item, None, left, _seconds(parameters.get("t"))
    members = _members(text)
    limit, rest = members.get("limit"), members.get("remaining")
    if _whole(limit) and _whole(rest):
        yield str(limit), limit, rest, _seconds(members.get("reset"))


def _window_of(text: str | None, policies: _Policies) -> int | None:
    """Return the window that a forerunner tells: beside its limit (draft 3), or as the only policy."""
    found = _WINDOW.fullmatch(text) if text else None
    if found is not None:
        return int(found[1]) * SECOND or None
    return next(iter(policies.values()))[1] if len(policies) == 1 else None


def _requests(window: int | None, reset: int | None) -> Dimension:
    """Return a limit of requests; if its window is not told, the shortest usual one in which the reset lies."""
    if window is None:
        window = next((period for period in (60 * SECOND, _HOUR) if (reset or 0) <= period), _DAY)
    return Dimension("requests", window)


def _listed(text: str | None) -> list[tuple[Any, dict[str, Any]]]:
    parsed = _structured(text, "list")
    return [item for item in parsed[:16] if isinstance(item, tuple)] if isinstance(parsed, list) else []


def _members(text: str | None) -> dict[str, Any]:
    parsed = _structured(text, "dictionary")
    if not isinstance(parsed, dict):
        return {}
    return {name: item[0] for name, item in parsed.items() if isinstance(item, tuple)}


def _structured(text: str | None, kind: str) -> Any:
    """Parse a structured field (RFC 9651); `None` if it is not one."""
    if not text:
        return None
    import http_sf  # here, since it takes as long to import as all of keyguard, and few providers set such fields

    try:
        return http_sf.parse(text.encode("latin-1"), tltype=kind)
    except (ValueError, RecursionError):
        return None


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _seconds(value: Any) -> int | None:
    return waits.believed(value * SECOND) if _whole(value) else None
