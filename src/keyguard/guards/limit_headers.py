"""What a response says about limits: the fields of draft-ietf-httpapi-ratelimit-headers-11, or `X-RateLimit-*`."""

from __future__ import annotations

from keyguard.clock import SECOND
from keyguard.guards.limit_settings import RuleDemand
from keyguard.ops import Taken
from keyguard.response import Headers


def describe(headers: Headers, taken: Taken) -> None:
    """Tell what is left of each limit, in the fields its rule asks for."""
    policies: list[str] = []
    members: list[str] = []
    legacy = None
    for demand, taking in zip(taken.demands, taken.takings, strict=True):
        assert isinstance(demand, RuleDemand)
        rule = demand.rule
        _, _, remaining, reset, wait = taking
        if wait:
            # While a limit refuses, `t` says when it admits this request again; else, when more units come back.
            remaining, reset = 0, max(wait, reset)
        if "draft-11" in rule.profiles:
            policies.append(rule.policy)
            members.append(f"{rule.member}{remaining};t={-(-reset // SECOND)}")
        if "x-ratelimit" in rule.profiles:
            # These fields know one limit: that which refused, else the one with least left.
            found = (not wait, remaining / rule.limit.quota, rule.limit.quota, remaining, -(-reset // SECOND))
            legacy = found if legacy is None else min(legacy, found)
    if members:
        headers.join("RateLimit-Policy", ", ".join(policies))
        headers.join("RateLimit", ", ".join(members))
    if legacy is not None:
        headers.set("X-RateLimit-Limit", str(legacy[2]))
        headers.set("X-RateLimit-Remaining", str(legacy[3]))
        headers.set("X-RateLimit-Reset", str(legacy[4]))
