"""Settings that stores over a network have in common."""

from __future__ import annotations

from keyguard.checks import is_number, is_whole
from keyguard.errors import ConfigurationError


def check_patience(timeout: float, max_connections: int, max_timeout: float = 1) -> None:
    """Raise `ConfigurationError` unless `timeout` is from 0.01 to `max_timeout` seconds, and there is a connection."""
    if not is_number(timeout) or not 0.01 <= timeout <= max_timeout:
        raise ConfigurationError(f"timeout is a number of seconds from 0.01 to {max_timeout}, not {timeout!r}")
    if not is_whole(max_connections) or max_connections < 1:
        raise ConfigurationError(f"max_connections is a whole number, at least 1, not {max_connections!r}")
