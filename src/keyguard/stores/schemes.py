"""The ways to write where a Redis or Valkey server is: other names for the same are read as ours."""

from __future__ import annotations

from keyguard.errors import ConfigurationError

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
"""The schemes that are read. With two `s`, everything goes by TLS."""

_ALIASES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+sentinel": "redis+sentinel",
    "valkeys+sentinel": "rediss+sentinel",
    "valkey+cluster": "redis+cluster",
    "valkeys+cluster": "rediss+cluster",
    "redis+unix": "unix",
    "valkey+unix": "unix",
    "redis+socket": "unix",
}
_WRITE = {
    "redis+tls": "rediss",
    "redis+ssl": "rediss",
    "redis+rediss": "rediss",
    "redis-sentinel": "redis+sentinel",
    "sentinel": "redis+sentinel",
    "redis-cluster": "redis+cluster",
    "redis+sentinels": "rediss+sentinel",
    "redis+clusters": "rediss+cluster",
    "async+redis": "redis",
    "async+rediss": "rediss",
    "async+redis+cluster": "redis+cluster",
    "async+redis+sentinel": "redis+sentinel",
}

READ = frozenset(SCHEMES) | _ALIASES.keys()
ANSWERED = frozenset(_WRITE)
"""Schemes that others use for the same; whoever writes one is told which is ours."""


def scheme_of(url: str) -> str:
    """Return our name of a URL's scheme. Raises `ConfigurationError` for one that is written in another way here."""
    scheme = url.partition(":")[0].lower()
    if scheme in _WRITE:
        raise ConfigurationError(f"{scheme}:// is written {_WRITE[scheme]}:// here")
    return _ALIASES.get(scheme, scheme)


def ours(url: str) -> str:
    """Return the URL with our name of its scheme."""
    return scheme_of(url) + url[len(url.partition(":")[0]) :]
