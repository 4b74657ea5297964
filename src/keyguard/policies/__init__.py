"""Policies: which requests which guards are about, said once, and in one place of a stack.

    from keyguard.policies import Policy, first_match, header, ip, method, path, plan

    Keyguard(
        APIKeys(),
        first_match(
            Policy("office", when=ip("10.0.0.0/8"), then=[]),
            Policy("writes", when=path("/v1/*") & method("POST"), then=[RateLimit("10/minute", by="key")]),
            Policy("free", when=plan("free"), then=[RateLimit("100/hour", by="subject")]),
        ),
    )

Criteria are joined by `&`, `|` and `~`. `shadow` has a guard decide without refusing anybody.
"""

from keyguard.conditions import Condition, header, ip, method, path, plan, query, scope, time
from keyguard.policies.policy import Policy, PolicySet, all_of, first_match
from keyguard.policies.shadow import Shadow, ShadowStats, shadow

__all__ = [
    "Condition",
    "Policy",
    "PolicySet",
    "Shadow",
    "ShadowStats",
    "all_of",
    "first_match",
    "header",
    "ip",
    "method",
    "path",
    "plan",
    "query",
    "scope",
    "shadow",
    "time",
]
