"""Where the servers are: URLs, and how a connection is made, with redis-py's own connections.

    redis://user:password@host:6379/0        rediss:// with TLS        unix:///run/redis.sock
    redis+sentinel://host:26379,host:26379/service/0                    rediss+sentinel:// with TLS
    redis+cluster://host:6379,host:6379                                 rediss+cluster:// with TLS

Retries are off: a decision has a budget of milliseconds, and what was sent may have happened. Other options that
redis-py takes from a URL (time-outs, retries, how replies are read) would break rules of ours: few are let through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelPool
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.driver_info import DriverInfo
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from keyguard.errors import ConfigurationError
from keyguard.stores.places import one_host
from keyguard.stores.redis.credentials import Asked, Credentials, check_credentials
from keyguard.stores.redis.opening import OPENING
from keyguard.stores.schemes import SCHEMES, ours

if redis.__version__.partition(".")[0] != "8":  # another library may have brought it along
    raise ImportError(f"redis-py {redis.__version__} is not version 8, of which parts are used that others may lack")

_PORTS = {"sentinel": 26379, "cluster": 6379}
_PATIENCE = 5.0  # seconds, for operators
_SENTINEL = OPENING / 10
_NEVER_FULL = 2**31
"""A connection pool of redis-py counts the connections that it has ever made, and makes no more than 100 by itself. How
many there are at a time is bounded elsewhere."""
_OURS = ("namespace", "timeout", "max_connections")  # whoever opens a store has taken them from the URL
_OPTIONS = {
    "": ("client_name", "db", "username", "password"),
    "sentinel": ("sentinel_username", "sentinel_password"),
    "cluster": (),
}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class Servers:
    """The servers that a URL names. Raises `ConfigurationError` for one that cannot be; connects to nothing."""

    def __init__(
        self, url: str, timeout: float, login: dict[str, Any] | None = None, credentials: Credentials | None = None
    ) -> None:
        url = ours(url)
        self.scheme = urlsplit(url).scheme
        self.kind = self.scheme.partition("+")[2]
        """`sentinel`, `cluster`, or nothing for one server."""
        self.secure = self.scheme.startswith("rediss")
        self.timeout = timeout
        self.login = login or {}
        if credentials is not None:
            check_credentials(credentials)
        if urlsplit(url).netloc.count("@") > 1:
            raise ConfigurationError(
                "an @ in a user name or a password of a Redis URL is percent-encoded, as %40 (the URL is not shown, it "
                "may hold a password)"
            )
        try:
            if self.scheme not in SCHEMES:
                raise ValueError(f"no scheme {self.scheme!r}")
            if self.kind:
                self._parse(url)
            else:
                self._url = url
                self._check(url)
        except ConfigurationError:
            raise
        except ValueError as error:
            # The URL is not shown, nor is what redis-py says of it: it may hold a password.
            raise ConfigurationError(
                "not a Redis URL: write redis://host:6379/0, rediss://..., unix:///path, "
                "redis+sentinel://host:26379,host/service or redis+cluster://host:6379,host, or with rediss+ for TLS"
            ) from (error if "no scheme" in str(error) else None)
        if credentials is not None:
            options = dict(parse_qsl(urlsplit(url).query))
            if "@" in urlsplit(url).netloc or {"username", "password"} & options.keys():
                raise ConfigurationError("credentials are in the URL or come from a function, not both")
            self.login["credential_provider"] = Asked(credentials)
        if not self.kind:
            self._check_settings(url)

    @property
    def cluster(self) -> bool:
        """Whether they are the seeds of a cluster."""
        return self.kind == "cluster"

    @property
    def place(self) -> tuple[object, ...]:
        """Which servers and which of their databases, however the URL says it."""
        if self.kind:
            seeds = tuple(sorted((one_host(host), port) for host, port in self.seeds))
            return "redis", seeds, getattr(self, "service", ""), self.login.get("db", 0)
        found: Any = redis.connection.parse_url(self._url)
        where = found.get("path") or (one_host(found.get("host", "localhost")), found.get("port", 6379))
        return "redis", where, found.get("db", 0)

    def _check(self, url: str) -> None:
        """Raise `ValueError` for what redis-py would read in a way of its own."""
        redis.connection.parse_url(url)
        place = unquote(urlsplit(url).path)
        number = place.removeprefix("/")
        if not place if self.scheme == "unix" else number and not (number.isascii() and number.isdigit()):
            raise ValueError("no socket" if self.scheme == "unix" else "no number of a database")

    def _check_settings(self, url: str) -> None:
        options = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
        self._check_names(options)
        self._check_files(options)
        try:
            self.connector()[0]()
        except (TypeError, ValueError, RedisError) as error:
            raise ConfigurationError(f"{self.scheme}:// cannot be used so: {error}") from None

    def _check_files(self, options: Mapping[str, str]) -> None:
        for name in _FILES:
            if name in options and not Path(options[name]).is_file():
                raise ConfigurationError(f"{name}: there is no file {options[name]}")

    def _check_names(self, names: Iterable[str]) -> None:
        known = [*_OPTIONS[self.kind], *(["ssl_*"] if self.secure else [])]
        for name in names:
            if name not in known and not (self.secure and name.startswith("ssl_")):
                listed = ", ".join([*_OURS, *known])
                raise ConfigurationError(f"{self.scheme}:// has no option {name!r}; it has {listed}")

    def _parse(self, url: str) -> None:
        parts = urlsplit(url)
        login, _, places = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        if login:
            self.login = {"username": unquote(user) or None, "password": unquote(password) or None}
        default = _PORTS[self.kind]
        self.seeds = [_host_port(place, default) for place in places.split(",")]
        words = [word for word in parts.path.split("/") if word]
        if self.kind == "sentinel":
            self.service, database, *more = [*words, *("mymaster", "0")[len(words) :]]
            if more or not (database.isascii() and database.isdigit()):
                raise ValueError("no service and number of a database")
            self.login["db"] = int(database)
        elif words:
            raise ValueError("a cluster has no databases")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._check_names(options)
        self._check_files(options)
        self._sentinel_login = {
            name.removeprefix("sentinel_"): value for name, value in options.items() if name.startswith("sentinel_")
        }
        """Sentinels have passwords of their own."""
        self._tls = urlencode([(name, value) for name, value in options.items() if name.startswith("ssl_")])
        """The options of TLS, as a URL has them."""
        self.node("localhost", default)  # raises for options that redis-py does not know

    # -- how a connection is made -------------------------------------------------------------------------

    def _settings(self, timeout: float | None, retry: Any) -> dict[str, Any]:
        return {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": retry,
            "protocol": 2,
            "driver_info": None,
        }

    def _secured(self) -> dict[str, Any]:
        """Return the settings of TLS for what is not made from a URL."""
        if not self.secure:
            return {}
        read: dict[str, Any] = dict(redis.connection.parse_url(f"rediss://localhost/?{self._tls}"))
        return {"ssl": True} | {name: value for name, value in read.items() if name.startswith("ssl_")}

    def connector(self) -> tuple[Callable[[], AbstractConnection], Callable[[], None]]:
        """Return a function that makes connections for threads, and one to call at the end; not for a cluster."""
        settings = self._settings(OPENING, Retry(NoBackoff(), 0))
        if self.kind == "sentinel":
            # A sentinel that is down must leave time for the next.
            brief = {**settings, "socket_timeout": _SENTINEL, "socket_connect_timeout": _SENTINEL, **self._secured()}
            brief["driver_info"] = _introduction()  # see `client`
            sentinel: Any = _sentinel(self.seeds, sentinel_kwargs=brief | self._sentinel_login, **settings)
            maker: Any = SentinelConnectionPool(
                self.service, sentinel, max_connections=_NEVER_FULL, **settings, **self._secured(), **self.login
            )
            # That pool is known to its connections by a weak reference only.
            return lambda: _kept(maker.make_connection(), maker), sentinel.close
        maker = self._maker(redis.ConnectionPool, {**settings, "max_connections": _NEVER_FULL})
        return maker.make_connection, _none

    def aconnector(self) -> tuple[Callable[[], AsyncConnection], Callable[[], Awaitable[None]]]:
        """Return the same for one event loop. Not for a cluster.

        The time-outs of the connections are the caller's.
        """
        settings = self._settings(None, AsyncRetry(NoBackoff(), 0))
        if self.kind == "sentinel":
            brief = {**settings, "socket_timeout": _SENTINEL, "socket_connect_timeout": _SENTINEL, **self._secured()}
            sentinel = _async_sentinel(self.seeds, sentinel_kwargs=brief | self._sentinel_login, **settings)
            maker: Any = AsyncSentinelPool(self.service, sentinel, **settings, **self._secured(), **self.login)

            async def end() -> None:
                for client in sentinel.sentinels:
                    await client.aclose()

            return lambda: _kept(maker.make_connection(), maker), end
        return self._maker(redis.asyncio.ConnectionPool, settings).make_connection, _nothing

    def _maker(self, kind: Any, settings: dict[str, Any]) -> Any:
        return kind.from_url(self._url, **settings, **self.login)

    def node(self, host: str, port: int) -> Servers:
        """Return the servers of one node of a cluster."""
        place = f"{f'[{host}]' if ':' in host else host}:{port}/0"
        url = f"rediss://{place}?{self._tls}" if self.secure else f"redis://{place}"
        return Servers(url, self.timeout, self.login)

    def client(self) -> Any:
        """Return a client for what operators do, with time-outs of seconds."""
        settings = self._settings(_PATIENCE, Retry(NoBackoff(), 1))
        # With TLS a new connection has something to read, which redis-py's connection pool takes for a stale reply; if
        # it has introduced itself first, all has been read.
        settings["driver_info"] = _introduction()
        if self.cluster:
            from redis.cluster import ClusterNode, RedisCluster

            nodes = [ClusterNode(host, port) for host, port in self.seeds]
            settings.pop("retry")
            try:
                return RedisCluster(startup_nodes=nodes, **settings, **self._secured(), **self.login)
            except RedisClusterException as error:  # which is not one of the others
                raise RedisError(str(error)) from error
        if self.kind == "sentinel":
            settings |= self._secured()
            sentinel: Any = _sentinel(self.seeds, sentinel_kwargs=settings | self._sentinel_login, **settings)
            return sentinel.master_for(self.service, **self.login)
        return redis.Redis.from_url(self._url, **settings, **self.login)


class _Sentinel(Sentinel):
    """Says what is wrong in words."""

    def discover_master(self, service_name: str) -> Any:
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError as error:
            raise MasterNotFoundError(_in_words(service_name, error)) from None


class _AsyncSentinel(AsyncSentinel):
    """Does the same for an event loop."""

    async def discover_master(self, service_name: str) -> Any:
        try:
            return await super().discover_master(service_name)
        except AsyncMasterNotFoundError as error:
            raise AsyncMasterNotFoundError(_in_words(service_name, error)) from None


_sentinel: Any = _Sentinel  # it ships no types
_async_sentinel: Any = _AsyncSentinel


def _in_words(service: str, error: Exception) -> str:
    # redis-py prints its clients, hundreds of characters each; what went wrong with the last one stands at the end.
    _, dash, why = str(error).rpartition(" - ")
    return f"no sentinel names a primary for {service!r}{f' ({why})' if dash else ''}"


@cache
def _introduction() -> DriverInfo:
    """Return how redis-py introduces itself, made once: it reads its distribution's files for each connection else."""
    return DriverInfo()


def _none() -> None:
    """Do nothing: there is nothing to end."""


async def _nothing() -> None:
    """Do nothing: there is nothing to end."""


def _kept(connection: Any, owner: Any) -> Any:
    connection.keyguard_owner = owner
    return connection


def _host_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit("//" + text)
    if not parts.hostname or "@" in text:
        raise ValueError("no host")
    return parts.hostname, parts.port or default
