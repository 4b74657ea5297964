"""The guards that come with keyguard: one feature, one file, one class."""

from keyguard.guards.api_keys import APIKeys as APIKeys
from keyguard.guards.cache import ResponseCache as ResponseCache
from keyguard.guards.ip_filter import IPFilter as IPFilter
from keyguard.guards.rate_limit import RateLimit as RateLimit
