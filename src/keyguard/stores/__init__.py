"""Where keys and counters live. A store is chosen by its URL, or is an object with `execute` and `scan`."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from keyguard.clock import Clock
from keyguard.errors import ConfigurationError
from keyguard.ops import Store

_KNOWN = (
    "memory://, sqlite:///file.db (relative), sqlite:////path/file.db (absolute), redis://, rediss://, unix://, "
    "redis+sentinel:// and redis+cluster://"
)
_REDIS = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")


def open_store(store: str | Store, clock: Clock | None = None) -> Store:
    """The store that a URL names; a store object is returned as it is.

    `memory://?max_bytes=67108864` lives in this process. `sqlite:///file.db?timeout=0.1` is shared by the processes of
    a machine. `redis://host:6379/0?namespace=keyguard&timeout=0.1&max_connections=64` is shared by many machines; so
    are `rediss://`, `unix://`, `redis+sentinel://` and `redis+cluster://`. `clock` replaces the store's own, for tests.
    Raises `ConfigurationError` for a URL that names none.
    """
    if not isinstance(store, str):
        if not callable(getattr(store, "execute", None)):
            raise ConfigurationError(f"a store is a URL or has execute() and scan(), unlike {type(store).__name__}")
        return store
    parts = urlsplit(store)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "memory":
        if parts.netloc or parts.path:
            raise ConfigurationError("memory:// takes no name; give the same store object to those who share it")
        return _memory(options, clock)
    if parts.scheme == "sqlite":
        if parts.netloc:
            raise ConfigurationError("a sqlite URL has three slashes before a relative path: sqlite:///file.db")
        return _sqlite(unquote(parts.path[1:]), options, clock)
    if parts.scheme in _REDIS:
        return _redis(store, clock)
    # The URL is not shown: it may hold a password.
    raise ConfigurationError(f"there is no store for the scheme {parts.scheme!r}; there are {_KNOWN}")


def _memory(options: dict[str, str], clock: Clock | None) -> Store:
    from keyguard.stores.memory import MemoryStore

    settings: dict[str, Any] = {name: _number(name, text, int) for name, text in options.items() if name == "max_bytes"}
    _check_names("memory://", options, {"max_bytes"})
    return MemoryStore(**settings, clock=clock)


def _sqlite(path: str, options: dict[str, str], clock: Clock | None) -> Store:
    from keyguard.stores.sqlite import SQLiteStore

    _check_names("sqlite://", options, {"timeout"})
    settings: dict[str, Any] = {name: _number(name, text, float) for name, text in options.items()}
    return SQLiteStore(path, **settings, clock=clock)


def _redis(url: str, clock: Clock | None) -> Store:
    try:
        from keyguard.stores.redis import RedisStore
    except ImportError as error:
        raise ConfigurationError(f"this store needs more: pip install 'keyguard[redis]' ({error})") from error

    place, _, query = url.partition("?")
    # What is not ours is redis-py's, such as ssl_ca_certs.
    options = parse_qsl(query, keep_blank_values=True)
    others = urlencode([(name, text) for name, text in options if name not in _REDIS_OPTIONS])
    settings: dict[str, Any] = {
        name: _number(name, text, _REDIS_OPTIONS[name]) if _REDIS_OPTIONS[name] is not str else text
        for name, text in options
        if name in _REDIS_OPTIONS
    }
    return RedisStore(f"{place}?{others}" if others else place, **settings, clock=clock)


_REDIS_OPTIONS: dict[str, Any] = {"namespace": str, "timeout": float, "max_connections": int}


def _check_names(store: str, options: dict[str, str], known: set[str]) -> None:
    for name in options.keys() - known:
        raise ConfigurationError(f"{store} has no option {name!r}; it has {', '.join(sorted(known))}")


def _number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    # Stricter than int() and float(), which take "1_0", " 7" and "nan".
    if text.isascii() and text.replace(".", "", 1 if kind is float else 0).isdigit():
        return kind(text)
    raise ConfigurationError(f"{name} is a number, not {text!r}")
