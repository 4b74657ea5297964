"""Rate limits and quotas."""

from keyguard.guards.rate_limit.guard import RateLimit as RateLimit
from keyguard.guards.rate_limit.settling import Outcome as Outcome

__all__ = ["Outcome", "RateLimit"]
