"""The guards that come with keyguard: one feature, one folder or one file."""

from keyguard.guards.api_keys.guard import APIKeys
from keyguard.guards.bans import Ban
from keyguard.guards.cache import ResponseCache
from keyguard.guards.concurrency import Concurrency
from keyguard.guards.ip_filter import IPFilter
from keyguard.guards.overload import Overload
from keyguard.guards.rate_limit.guard import RateLimit
from keyguard.guards.token_budget.guard import TokenBudget
from keyguard.guards.upstream_causes import UpstreamCauses

__all__ = [
    "APIKeys",
    "Ban",
    "Concurrency",
    "IPFilter",
    "Overload",
    "RateLimit",
    "ResponseCache",
    "TokenBudget",
    "UpstreamCauses",
]
