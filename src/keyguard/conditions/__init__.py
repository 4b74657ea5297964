"""Conditions on requests: of their path, method, address, caller, time, header fields and query."""

from keyguard.conditions.condition import Asked, Condition, Either, Every, Not, condition_of
from keyguard.conditions.criteria import header, ip, method, plan, query, scope, time
from keyguard.conditions.index import PathIndex
from keyguard.conditions.paths import OnPaths, on_paths, path

__all__ = [
    "Asked",
    "Condition",
    "Either",
    "Every",
    "Not",
    "OnPaths",
    "PathIndex",
    "condition_of",
    "header",
    "ip",
    "method",
    "on_paths",
    "path",
    "plan",
    "query",
    "scope",
    "time",
]
