"""Fields that tell of limits in a response: those of draft-ietf-httpapi-ratelimit-headers-11, or `X-RateLimit-*`."""

from __future__ import annotations

import re

from keyguard.clock import SECOND
from keyguard.guards.rate_limit.rules import RuleDemands
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
        _describe_legacy(headers, demands, taken)


def _value(demands: RuleDemands, taken: Taken) -> bytes:
    template = demands.terms.template
    if template is not None:
        numbers: list[int] = []
        for taking in taken.takings:
            numbers += _left(taking)
        return template % tuple(numbers)
    members = []
    for rule, taking in zip(demands.rules, taken.takings, strict=True):
        if "draft-11" in rule.profiles:
            remaining, reset = _left(taking)
            members.append(f"{rule.member}{remaining}{f';t={reset}' if rule.limit.returns else ''}")
    return ", ".join(members).encode("latin-1")


def _left(taking: Taking) -> tuple[int, int]:
    """Units left, and the seconds that go with them: until this request is admitted, or until more units come back."""
    _, _, remaining, reset, wait = taking
    if wait:
        return 0, ((wait if wait > reset else reset) + UP) // SECOND
    return remaining, (reset + UP) // SECOND


def _describe_legacy(headers: Headers, demands: RuleDemands, taken: Taken) -> None:
    # These fields know one limit: that which refused, else the one with least left, of all layers and of the app's own;
    # of several with as much left the one that is slowest to come back.
    found = []
    for rule, taking in zip(demands.rules, taken.takings, strict=True):
        if "x-ratelimit" in rule.profiles:
            remaining, reset = _left(taking)
            found.append((not taking[4], remaining, -reset, rule.limit.quota))
    passed, remaining, reset, quota = min(found)
    if passed:
        told = [headers.get(name) or "" for name in _LEGACY]
        if all(map(_NUMBER.fullmatch, told)) and (int(told[1]), -int(told[2])) <= (remaining, reset):
            return  # of a limit further in, or of the app itself
    for name, number in zip(_LEGACY, (quota, remaining, -reset), strict=True):
        headers.set(name, str(number))


_LEGACY = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_NUMBER = re.compile("[0-9]{1,15}")
