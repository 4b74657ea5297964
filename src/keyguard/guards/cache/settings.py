"""The settings of a cache, and their checks: each raises `ConfigurationError`, which says what would be right."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from keyguard.checks import is_token, is_whole
from keyguard.errors import ConfigurationError
from keyguard.request import Request
from keyguard.units import Duration, microseconds, seconds

When: TypeAlias = "Callable[[Request], bool | Awaitable[bool]]"
"""A function of the request that says whether it goes through the cache."""

_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_.*:/-]{0,63}")  # a Token of RFC 9651, section 3.3.4, and no longer than that


@dataclass(frozen=True, slots=True)
class Settings:
    """The choices of the app's developer by which responses are stored and used."""

    ttl: int | None = None
    """Seconds that a response without a lifetime of its own is fresh."""
    private: bool = False
    """Whether each entry belongs to one caller (`by=`), so that private responses may be stored."""
    public: bool = False
    """Whether answers to callers with credentials are the same for everybody."""
    heuristic: bool = False
    set_cookie: bool = False
    ignore_client: bool = False
    targeted: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    stale_on_error: int = 0
    longest: int = 365 * 86400
    """Seconds: no entry is kept for longer. Part of the rules that keys are made of, so its name stays."""


class Bounds(NamedTuple):
    """How much a cache holds in one process."""

    bytes: int
    entries: int
    variants: int
    entry_bytes: int
    local_bytes: int
    """Bytes in front of a shared store."""
    local_ttl: int
    """Microseconds for which an entry of a shared store is used here without asking the store."""


def settings(
    *,
    ttl: Duration | None,
    by: str | None,
    public: bool,
    heuristic: bool,
    set_cookie: bool,
    ignore_client_directives: bool,
    targeted: Iterable[str],
    vary: Iterable[str],
    credentials: Iterable[str],
    stale_on_error: Duration,
) -> Settings:
    """Return the checked settings of a `ResponseCache`, whose docstring says what they mean."""
    check_flags(
        public=public,
        heuristic=heuristic,
        set_cookie=set_cookie,
        ignore_client_directives=ignore_client_directives,
    )
    if by not in (None, "key", "subject"):
        raise ConfigurationError(f"by is 'key', 'subject' or None, not {by!r}")
    return Settings(
        ttl=None if ttl is None else seconds("ttl", ttl, min=1, max="365 days"),
        private=by is not None,
        public=public,
        heuristic=heuristic,
        set_cookie=set_cookie,
        ignore_client=ignore_client_directives,
        targeted=field_names("targeted", targeted),
        vary=field_names("vary", vary),
        credentials=field_names("credentials", credentials, lower=False),
        stale_on_error=seconds("stale_on_error", stale_on_error, max="7 days"),
    )


def bounds(
    max_bytes: int, max_entries: int, max_variants: int, max_entry_bytes: int, local_bytes: int, local_ttl: Duration
) -> Bounds:
    """Return the checked bounds of a `ResponseCache`."""
    return Bounds(
        whole("max_bytes", max_bytes, 65536, 2**40, "bytes"),
        whole("max_entries", max_entries, 1, 2**40, "entries"),
        whole("max_variants", max_variants, 1, 10_000, "variants"),
        whole("max_entry_bytes", max_entry_bytes, 1, 2**31, "bytes"),
        whole("local_bytes", local_bytes, 65536, 2**40, "bytes"),
        microseconds("local_ttl", local_ttl, max="1 minute"),
    )


def check_flags(**flags: object) -> None:
    """Refuse settings that are neither true nor false."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigurationError(f"{name} is True or False, not {value!r}")


def whole(name: str, value: object, min: int, max: int, unit: str) -> int:
    """Return a whole number, if it is within bounds."""
    if not is_whole(value) or not min <= value <= max:
        raise ConfigurationError(f"{name} is a whole number of {unit} from {min} to {max}, not {value!r}")
    return value


def token(name: str, value: object) -> str:
    """Return the name of a cache, if it can stand in `Cache-Status`."""
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ConfigurationError(f"{name} is one word of ASCII letters, digits and _.*:/-, not {value!r}")
    return value


def texts(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return a list of texts; one text is a list of one."""
    if not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} is a list of names, not {values!r}")
    found = (values,) if isinstance(values, str) else tuple(values)
    for value in found:
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{name} is a list of names, not {value!r}")
    return found


def field_names(name: str, values: Iterable[str], *, lower: bool = True) -> tuple[str, ...]:
    """Return a list of header field names; in lower case, unless they may name something else as well."""
    found = texts(name, values)
    for value in found:
        if not is_token(value) or value == "*":
            raise ConfigurationError(f"{name} is a list of header field names, not {value!r}")
    return tuple(dict.fromkeys(value.lower() if lower else value for value in found))
