"""Where the servers are: URLs, and how a connection is made, with redis-py's own connections.

    redis://user:password@host:6379/0        rediss:// with TLS        unix:///run/redis.sock
    redis+sentinel://host:26379,host:26379/service/0
    redis+cluster://host:6379,host:6379

Retries are off: a decision has a budget of milliseconds, and what was sent may have happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelPool
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from keyguard.errors import ConfigurationError

_PORTS = {"redis+sentinel": 26379, "redis+cluster": 6379}
_PATIENCE = 5.0  # seconds, for operators


class Servers:
    """The servers that a URL names. Raises `ConfigurationError` for one that cannot be; connects to nothing."""

    def __init__(self, url: str, timeout: float, login: dict[str, Any] | None = None) -> None:
        self.scheme = urlsplit(url).scheme
        self.timeout = timeout
        self.patience = timeout * 0.6
        """Seconds that a thread waits for one thing, so that there is time for a second one."""
        self.login = login or {}
        try:
            if self.scheme in ("redis", "rediss", "unix"):
                self._url = url
                redis.connection.parse_url(url)
            elif self.scheme in _PORTS:
                self._parse(url)
            else:
                raise ValueError(f"no scheme {self.scheme!r}")
        except ValueError as error:
            # The URL is not shown, nor is what redis-py says of it: it may hold a password.
            raise ConfigurationError(
                "not a Redis URL: write redis://host:6379/0, rediss://..., unix:///path, "
                "redis+sentinel://host:26379,host/service or redis+cluster://host:6379,host"
            ) from (error if "no scheme" in str(error) else None)

    @property
    def cluster(self) -> bool:
        """Whether they are the seeds of a cluster."""
        return self.scheme == "redis+cluster"

    def _parse(self, url: str) -> None:
        parts = urlsplit(url)
        login, _, places = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        if login:
            self.login = {"username": unquote(user) or None, "password": unquote(password) or None}
        default = _PORTS[self.scheme]
        self.seeds = [_host_port(place, default) for place in places.split(",")]
        words = [word for word in parts.path.split("/") if word]
        if self.scheme == "redis+sentinel":
            self.service = words[0] if words else "mymaster"
            self.login["db"] = int(words[1]) if len(words) > 1 else 0
        elif words:
            raise ValueError("a cluster has no databases")
        self.options = dict(parse_qsl(parts.query))
        if self.options:
            raise ValueError("options")

    # -- how a connection is made -------------------------------------------------------------------------

    def _settings(self, timeout: float | None, retry: Any) -> dict[str, Any]:
        return {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": retry,
            "protocol": 2,
            "driver_info": None,
        }

    def connector(self) -> Callable[[], AbstractConnection]:
        """Makes connections for threads; not for a cluster."""
        settings = self._settings(self.patience, Retry(NoBackoff(), 0))
        if self.scheme == "redis+sentinel":
            # A sentinel that is down must leave time for the next.
            brief = {**settings, "socket_timeout": self.timeout / 4, "socket_connect_timeout": self.timeout / 4}
            sentinel = Sentinel(self.seeds, sentinel_kwargs=brief, **settings)
            pool: Any = SentinelConnectionPool(self.service, sentinel, **settings, **self.login)
            # The pool is known to its connections by a weak reference only.
            return lambda: _kept(pool.make_connection(), pool)
        pool = self._pool(redis.ConnectionPool, settings)
        make: Callable[[], AbstractConnection] = pool.make_connection
        return make

    def aconnector(self) -> tuple[Callable[[], AsyncConnection], Callable[[], Awaitable[None]]]:
        """For one event loop: what makes connections, and what ends it. Not for a cluster.

        The time-outs of the connections are the caller's.
        """
        settings = self._settings(None, AsyncRetry(NoBackoff(), 0))
        settings["socket_connect_timeout"] = self.timeout
        if self.scheme == "redis+sentinel":
            brief = {**settings, "socket_timeout": self.timeout / 4, "socket_connect_timeout": self.timeout / 4}
            sentinel = AsyncSentinel(self.seeds, sentinel_kwargs=brief, **settings)
            pool: Any = AsyncSentinelPool(self.service, sentinel, **settings, **self.login)

            async def end() -> None:
                for client in sentinel.sentinels:
                    await client.aclose()

            return lambda: _kept(pool.make_connection(), pool), end
        return self._pool(redis.asyncio.ConnectionPool, settings).make_connection, _nothing

    def _pool(self, kind: Any, settings: dict[str, Any]) -> Any:
        return kind.from_url(self._url, **settings, **self.login)

    def node(self, host: str, port: int) -> Servers:
        """One node of a cluster."""
        return Servers(f"redis://{f'[{host}]' if ':' in host else host}:{port}/0", self.timeout, self.login)

    def client(self) -> Any:
        """A client for what operators do, with time-outs of seconds."""
        settings = self._settings(_PATIENCE, Retry(NoBackoff(), 1))
        # With TLS a new connection has something to read, which redis-py's pool takes for a stale reply; where it has
        # introduced itself first, all has been read.
        del settings["driver_info"]
        if self.cluster:
            from redis.cluster import ClusterNode, RedisCluster

            nodes = [ClusterNode(host, port) for host, port in self.seeds]
            settings.pop("retry")
            return RedisCluster(startup_nodes=nodes, **settings, **self.login)
        if self.scheme == "redis+sentinel":
            sentinel = Sentinel(self.seeds, sentinel_kwargs=settings, **settings)
            return sentinel.master_for(self.service, **self.login)
        return redis.Redis.from_url(self._url, **settings)


async def _nothing() -> None:
    """There is nothing to end."""


def _kept(connection: Any, owner: Any) -> Any:
    connection.keyguard_owner = owner
    return connection


def _host_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit("//" + text)
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or default
