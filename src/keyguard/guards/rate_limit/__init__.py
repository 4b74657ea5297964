"""Rate limits and quotas."""

from keyguard.guards.rate_limit.guard import RateLimit as RateLimit

__all__ = ["RateLimit"]
