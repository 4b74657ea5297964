"""The guards that come with keyguard: one feature, one folder or one file. Each is loaded when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.lazy import on_demand

if TYPE_CHECKING:
    from keyguard.guards.api_keys.guard import APIKeys
    from keyguard.guards.bans import Ban
    from keyguard.guards.cache import ResponseCache
    from keyguard.guards.concurrency import Concurrency
    from keyguard.guards.ip_filter import IPFilter
    from keyguard.guards.overload import Overload
    from keyguard.guards.rate_limit.guard import RateLimit
    from keyguard.guards.token_budget.guard import TokenBudget
    from keyguard.guards.upstream_causes import UpstreamCauses
else:  # type checkers take every name for one of ours with it
    __getattr__ = on_demand(
        __name__,
        {
            "api_keys.guard": "APIKeys",
            "bans": "Ban",
            "cache": "ResponseCache",
            "concurrency": "Concurrency",
            "ip_filter": "IPFilter",
            "overload": "Overload",
            "rate_limit.guard": "RateLimit",
            "token_budget.guard": "TokenBudget",
            "upstream_causes": "UpstreamCauses",
        },
    )

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
