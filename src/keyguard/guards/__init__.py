"""The guards that come with keyguard: one feature, one file, one class."""

from keyguard.guards.api_keys.guard import APIKeys as APIKeys
from keyguard.guards.cache import ResponseCache as ResponseCache
from keyguard.guards.ip_filter import IPFilter as IPFilter
from keyguard.guards.rate_limit.guard import RateLimit as RateLimit
