"""The response cache (RFC 9111): one guard, its rules as pure functions, and what a route may say of its caching."""

from keyguard.conditions import path
from keyguard.guards.cache.decorators import cache_control, vary
from keyguard.guards.cache.guard import ResponseCache
from keyguard.guards.cache.stats import CacheStats, Explanation

__all__ = ["CacheStats", "Explanation", "ResponseCache", "cache_control", "path", "vary"]
