"""Conditions on requests: of their path, method, address, caller, time, header fields and query."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.conditions.condition import Asked, Condition, Either, Every, Not, condition_of
from keyguard.conditions.index import PathIndex
from keyguard.conditions.paths import OnPaths, on_paths, path
from keyguard.lazy import on_demand

if TYPE_CHECKING:
    from keyguard.conditions.criteria import header, ip, method, plan, query, scope, time
else:  # most stacks need no other conditions than those of paths
    __getattr__ = on_demand(__name__, {"criteria": "header ip method plan query scope time"})

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
