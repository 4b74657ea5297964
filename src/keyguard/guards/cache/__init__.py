"""The response cache (RFC 9111): one guard, its rules as pure functions, and what a route may say of its caching."""

from keyguard.conditions import path as path
from keyguard.guards.cache.decorators import cache_control as cache_control
from keyguard.guards.cache.decorators import vary as vary
from keyguard.guards.cache.guard import ResponseCache as ResponseCache
from keyguard.guards.cache.stats import CacheStats as CacheStats
from keyguard.guards.cache.stats import Explanation as Explanation
