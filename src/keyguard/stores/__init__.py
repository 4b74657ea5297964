"""Where keys and counters live. A store is chosen by its URL, or is an object with `execute` and `scan`.

A URL may hold a password, wherever a reader of URLs finds it: one with a `?`, a `/` or a bracket that is not encoded
ends up in what looks like an option, a path or an address. So what is wrong with a URL is told without showing it.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, unquote_plus, urlsplit

from keyguard.errors import ConfigurationError
from keyguard.manual_clock import GivenClock
from keyguard.ops import Store, is_store
from keyguard.stores.schemes import ANSWERED, READ, scheme_of

__all__ = ["open_store"]

_KNOWN = (
    "memory://, sqlite:///file.db (relative), sqlite:////path/file.db (absolute), redis://, rediss://, unix://, "
    "redis+sentinel://, redis+cluster:// (rediss+... with TLS) and postgresql://"
)
_REDIS = READ | ANSWERED
_POSTGRES = re.compile(r"(postgresql|postgres)(\+[a-z0-9_]+)?")  # with the name of a driver, as SQLAlchemy writes it
_LIKE_POSTGRES = ("jdbc", "pgsql", "psql", "pg", "postgis", "cockroachdb", "timescale", "timescalegis", "redshift")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ENCODE = (
    "this URL of a store cannot be read: special characters in a user name, a password or a path are percent-encoded, "
    "such as %3A for ':', %40 for '@', %2F for '/', %3F for '?', %23 for '#', %5B for '['"
)


def open_store(store: str | Store, clock: GivenClock | None = None) -> Store:
    """Return the store that a URL names; a store object is returned as it is.

    `memory://?max_bytes=67108864` lives in this process. `sqlite:///file.db?timeout=0.1&cache_bytes=268435456` is
    shared by the processes of a machine; `redis://host:6379/0?namespace=keyguard&timeout=0.1&max_connections=64`, by
    many machines; so are `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://` and
    `postgresql://host/db?schema=keyguard&timeout=0.1&max_connections=10`. `clock` replaces the store's own, for tests.
    Raises `ConfigurationError` for a URL that names no store.
    """
    if not isinstance(store, str):
        if not is_store(store):
            raise ConfigurationError(f"a store is a URL or has execute() and scan(), unlike {type(store).__name__}")
        return store
    try:
        opened = _opened(store, clock)
    except ConfigurationError as error:
        problem, cause = str(error), error.__cause__
        if _shows_secret(problem, store):
            problem = _ENCODE
    except ValueError:
        problem, cause = _ENCODE, None
    else:
        return opened
    # Raised here, so that what went wrong is not its context: that may show what this does not.
    raise ConfigurationError(problem) from (cause if isinstance(cause, ImportError) else None)


def _opened(url: str, clock: GivenClock | None) -> Store:
    scheme = url.partition(":")[0].lower()
    if _CONTROL.search(url):
        raise ConfigurationError("the URL of a store holds a control character: such are percent-encoded, as in %0A")
    if "#" in url and scheme in ("memory", "sqlite", *_REDIS):
        # Else the rest would be left out, of a file's name or of a password.
        raise ConfigurationError("a # in the URL of a store is written %23")
    if _POSTGRES.fullmatch(scheme) and url[len(scheme) :].startswith("://"):
        _check_hosts(url)
        return _postgres(url, clock)
    if scheme in _LIKE_POSTGRES or _POSTGRES.fullmatch(scheme):
        raise ConfigurationError("for PostgreSQL write postgresql://user:password@host:5432/db")
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if scheme == "memory":
        if parts.netloc or parts.path:
            raise ConfigurationError("memory:// takes no name; give the same store object to those who share it")
        return _memory(options, clock)
    if scheme == "sqlite":
        return _sqlite(parts, options, clock)
    if scheme in _REDIS:
        if scheme_of(url) == "unix":
            _check_no_host(parts)
        else:
            _check_hosts(url)
        return _redis(url, clock)
    # Text before a colon is a scheme only before "://": else it may be a user name, or a password.
    named = (
        repr(scheme) if _SCHEME.fullmatch(scheme) and url[len(scheme) :].startswith("://") else "that this begins with"
    )
    raise ConfigurationError(f"there is no store for the scheme {named}; there are {_KNOWN}")


def _check_hosts(url: str) -> None:
    """Raise `ConfigurationError` for hosts that no name server could be asked about: that would show at a request."""
    place = re.split(r"[/?]", url.partition("://")[2], maxsplit=1)[0]  # to PostgreSQL # is a character like others
    for host in place.rpartition("@")[2].split(","):
        name = unquote(host if host.startswith("[") else host.partition(":")[0])
        try:
            if not name.startswith(("[", "/")):
                name.rstrip(".").encode("idna")
        except UnicodeError:
            problem = True
        else:
            problem = _CONTROL.search(name) is not None
        if problem:
            raise ConfigurationError(
                "the URL of a store names a host that cannot be one: a label of it is empty or too long, or a special "
                "character in the user name or the password is not percent-encoded"
            )


def _check_no_host(parts: SplitResult) -> None:
    """Raise `ConfigurationError` for a host before the path of a socket: it would be left out.

    It may be the beginning of a password that holds a slash, and the path the rest of it, which errors show.
    """
    if parts.netloc.rpartition("@")[2]:
        raise ConfigurationError(
            "the URL of a socket is unix:///path/of.sock, or unix://user:password@/path/of.sock, with %2F for a '/' in "
            "the password"
        )


def _shows_secret(problem: str, url: str) -> bool:
    """Tell whether a message holds a part of what stands before the last `@` of a URL: user and password are meant."""
    if url.lower().startswith("sqlite:///"):  # a path, of which nothing is secret
        return False
    private = url.partition(":")[2].removeprefix("//").rpartition("@")[0]
    user = re.split(r"[:/?#@]", private, maxsplit=1)[0]
    words = {word for text in (private, unquote(private)) for word in re.split(r"[:/?#&=@\[\],\s]+", text)}
    secrets = {form for word in words if len(word) >= 3 and word != user for form in (word, repr(word)[1:-1])}
    return any(form in problem for form in secrets)


def _memory(options: dict[str, str], clock: GivenClock | None) -> Store:
    from keyguard.stores.memory import MemoryStore

    settings: dict[str, Any] = {name: _number(name, text, int) for name, text in options.items() if name == "max_bytes"}
    _check_names("memory://", options, {"max_bytes"})
    return MemoryStore(**settings, clock=clock)


def _sqlite(parts: SplitResult, options: dict[str, str], clock: GivenClock | None) -> Store:
    if parts.netloc:
        raise ConfigurationError("a sqlite URL has three slashes before a relative path: sqlite:///file.db")
    path = unquote(parts.path[1:])
    if "\0" in path:
        raise ConfigurationError("the path in a sqlite URL holds %00, which no file's name does")
    from keyguard.stores.sqlite.store import SQLiteStore

    kinds: dict[str, type[int] | type[float]] = {"timeout": float, "cache_bytes": int}
    _check_names("sqlite://", options, set(kinds))
    settings: dict[str, Any] = {name: _number(name, text, kinds[name]) for name, text in options.items()}
    return SQLiteStore(path, **settings, clock=clock)


def _redis(url: str, clock: GivenClock | None) -> Store:
    try:
        from keyguard.stores.redis import RedisStore
    except ImportError as error:
        raise ConfigurationError(f"this store needs more: pip install 'keyguard[redis]' ({error})") from error

    url, settings = _split(url, {"namespace": str, "timeout": float, "max_connections": int})
    return RedisStore(url, **settings, clock=clock)


def _postgres(url: str, clock: GivenClock | None) -> Store:
    try:
        from keyguard.stores.postgres import PostgresStore
    except ImportError as error:
        raise ConfigurationError(f"this store needs more: pip install 'keyguard[postgresql]' ({error})") from error

    url, settings = _split(url, {"schema": str, "timeout": float, "max_connections": int})
    return PostgresStore(url, **settings, clock=clock)


def _split(url: str, ours: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split a URL: itself without the options that are keyguard's, and these. Others are the client library's."""
    place, _, query = url.partition("?")
    settings: dict[str, Any] = {}
    others = []
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        kind = ours.get(unquote_plus(name))
        if kind is None:
            others.append(part)  # as it is: what a plus means is the library's business
        else:
            text = unquote_plus(text)
            settings[unquote_plus(name)] = text if kind is str else _number(name, text, kind)
    return f"{place}?{'&'.join(others)}" if others else place, settings


def _check_names(store: str, options: dict[str, str], known: set[str]) -> None:
    for name in options.keys() - known:
        raise ConfigurationError(f"{store} has no option {name!r}; it has {', '.join(sorted(known))}")


def _number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    # Stricter than int() and float(), which take "1_0", " 7" and "nan".
    if text.isascii() and len(text) < 20 and text.replace(".", "", 1 if kind is float else 0).isdigit():
        return kind(text)
    raise ConfigurationError(f"{name} is a number, not {text!r}")
