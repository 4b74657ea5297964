"""Fields that tell of limits in a response: those of draft-ietf-httpapi-ratelimit-headers, or `X-RateLimit-*`.

The eleventh draft has `r` and `t` in `RateLimit`. Its authors' text of August 2026, for the next one, has `a` and `w`
in their place, and means the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from keyguard.clock import SECOND
from keyguard.guards.rate_limit.rules import Rule, RuleDemands
from keyguard.ops import Taken
from keyguard.rates import Taking
from keyguard.response import Headers

UP = SECOND - 1


def describe(headers: Headers, taken: Taken) -> None:
    """Tell what is left of each limit, in the fields its rule asks for."""
    demands = taken.demands
    assert isinstance(demands, RuleDemands)
    terms = demands.terms
    if terms.fields is not None:
        headers.join_ready(terms.fields, _value(demands, taken))
    if terms.legacy:
        _describe_one(headers, demands, taken)


def _value(demands: RuleDemands, taken: Taken) -> bytes:
    template = demands.terms.template
    if template is not None:
        numbers: list[int] = []
        for taking in taken.takings:
            numbers += _left(taking) if taking[4] else (taking[2], (taking[3] + UP) // SECOND)
        return template % tuple(numbers)
    told = [(rule, taking) for rule, taking in _each(demands, taken) if rule.draft is not None]
    if demands.terms.binding:
        told = _without_others(told)
    members = []
    for rule, taking in told:
        remaining, reset = _left(taking)
        # What does not come back has no window. A balance that is filled in part has none while it is above that.
        window = f"{rule.window}{reset}" if reset or rule.limit.returns else ""
        members.append(f"{rule.member}{remaining}{window}")
    return ", ".join(members).encode("latin-1")


def _each(demands: RuleDemands, taken: Taken) -> Iterable[tuple[Rule, Taking]]:
    return zip(demands.rules, taken.takings, strict=True)


def _without_others(told: Sequence[tuple[Rule, Taking]]) -> list[tuple[Rule, Taking]]:
    """Leave of each guard that tells of the binding limit alone that one."""
    least: dict[str, tuple[Rule, Taking]] = {}
    for rule, taking in told:
        if rule.binding and (rule.guard not in least or _rank(rule, taking) < _rank(*least[rule.guard])):
            least[rule.guard] = rule, taking
    return [(rule, taking) for rule, taking in told if not rule.binding or least[rule.guard][0] is rule]


def _rank(rule: Rule, taking: Taking) -> tuple[bool, int, int]:
    """Return what is least of the limit that binds: refused, else least left; of those, the slowest to come back."""
    remaining, reset = _left(taking)
    return not taking[4], remaining, -reset if reset or rule.limit.returns else -_AT_NO_TIME


def _left(taking: Taking) -> tuple[int, int]:
    """Units left, and the seconds that go with them: until this request is admitted, or until more units come back."""
    _, _, remaining, reset, wait = taking
    if wait > 0:  # else it is never admitted, and that is not for a lack of units that come back
        return 0, ((wait if wait > reset else reset) + UP) // SECOND
    return remaining, (reset + UP) // SECOND


def _describe_one(headers: Headers, demands: RuleDemands, taken: Taken) -> None:
    # These fields know one limit: that which refused, else the one with least left, of all layers and of the app's own.
    rule, taking = min(
        [(rule, taking) for rule, taking in _each(demands, taken) if rule.single is not None],
        key=lambda told: _rank(*told),
    )
    passed, remaining, back = _rank(rule, taking)
    if passed and _told_of_less(headers, remaining, back, taken.at // SECOND):
        return
    quota = rule.limit.quota
    reset: int | None = -back
    if reset == _AT_NO_TIME:
        reset = None
    elif rule.single == "github":
        reset = (taken.at + max(taking[3], taking[4]) + UP) // SECOND
    github = rule.single == "github"
    values = (
        quota,
        remaining,
        reset,
        max(0, quota - remaining) if github else None,
        rule.guard if github else None,
    )
    for name, value in zip((*_ONE, *_OF_GITHUB), values, strict=True):
        if value is not None:
            headers.set(name, str(value))
        elif name in headers:  # of a limit further in
            headers.remove(name)


def _told_of_less(headers: Headers, remaining: int, back: int, now: int) -> bool:
    """Tell whether the fields are there, of a limit further in or of the app itself, with as little left or less."""
    quota, left, reset = [headers.get(name) for name in _ONE]
    if not all(_NUMBER.fullmatch(told or "") for told in (quota, left, "0" if reset is None else reset)):
        return False
    assert left is not None
    seconds = _AT_NO_TIME if reset is None else int(reset)
    if _EPOCH <= seconds < _AT_NO_TIME:
        seconds = max(0, seconds - now)
    return (int(left), -seconds) <= (remaining, back)


_ONE = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_OF_GITHUB = ("X-RateLimit-Used", "X-RateLimit-Resource")
_NUMBER = re.compile("[0-9]{1,15}")
_AT_NO_TIME = 10**15
"""The seconds until nothing comes back."""
_EPOCH = 10**9
"""A reset of so many seconds is a moment: no limit takes longer than 20 years."""
