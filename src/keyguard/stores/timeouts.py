"""Settings that stores over a network have in common."""

from __future__ import annotations

from keyguard.errors import ConfigurationError


def check_patience(timeout: float, max_connections: int, max_timeout: float = 1) -> None:
    """Raise `ConfigurationError` unless `timeout` is from 0.01 to `max_timeout` seconds, and there is a connection."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0.01 <= timeout <= max_timeout:
        raise ConfigurationError(f"timeout is a number of seconds from 0.01 to {max_timeout}, not {timeout!r}")
    if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
        raise ConfigurationError(f"max_connections is a whole number, at least 1, not {max_connections!r}")
