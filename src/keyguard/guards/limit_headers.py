"""What a response says about limits: the fields of draft-ietf-httpapi-ratelimit-headers-11, or `X-RateLimit-*`."""

from __future__ import annotations

from keyguard.clock import SECOND
from keyguard.guards.limit_settings import RuleDemands
from keyguard.ops import Taken
from keyguard.rates import Taking
from keyguard.response import Headers

_UP = SECOND - 1


def describe(headers: Headers, taken: Taken) -> None:
    """Tell what is left of each limit, in the fields its rule asks for."""
    demands = taken.demands
    assert isinstance(demands, RuleDemands)
    if demands.policy:
        if demands.template is not None and not taken.refused:
            numbers: list[int] = []
            for _, _, remaining, reset, _ in taken.takings:
                numbers += (remaining, (reset + _UP) // SECOND)
            value = demands.template % tuple(numbers)
        else:
            members = []
            for rule, taking in zip(demands.rules, taken.takings, strict=True):
                if "draft-11" in rule.profiles:
                    remaining, reset = _left(taking)
                    members.append(f"{rule.member}{remaining};t={reset}")
            value = ", ".join(members).encode("latin-1")
        headers.join_encoded("RateLimit-Policy", demands.policy)
        headers.join_encoded("RateLimit", value)
    if demands.legacy:
        _describe_legacy(headers, demands, taken)


def _left(taking: Taking) -> tuple[int, int]:
    """Units left, and the seconds that go with them: until this request is admitted, or until more units come back."""
    _, _, remaining, reset, wait = taking
    return (0, -(-max(wait, reset) // SECOND)) if wait else (remaining, -(-reset // SECOND))


def _describe_legacy(headers: Headers, demands: RuleDemands, taken: Taken) -> None:
    # These fields know one limit: that which refused, else the one with least left.
    found = []
    for rule, taking in zip(demands.rules, taken.takings, strict=True):
        if "x-ratelimit" in rule.profiles:
            remaining, reset = _left(taking)
            found.append((not taking[4], remaining / rule.limit.quota, rule.limit.quota, remaining, reset))
    _, _, quota, remaining, reset = min(found)
    headers.set("X-RateLimit-Limit", str(quota))
    headers.set("X-RateLimit-Remaining", str(remaining))
    headers.set("X-RateLimit-Reset", str(reset))
