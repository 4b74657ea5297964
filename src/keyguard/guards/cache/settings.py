"""Checks of the cache's settings: each raises `ConfigurationError`, and says what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from keyguard.errors import ConfigurationError

_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_.*:/-]{0,63}")  # a Token of RFC 9651, section 3.3.4, and no longer than that
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


def check_flags(flags: Mapping[str, object]) -> None:
    """Settings that are true or false."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigurationError(f"{name} is True or False, not {value!r}")


def whole(name: str, value: object, least: int, most: int, unit: str) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(f"{name} is a whole number of {unit} from {least} to {most}, not {value!r}")
    return value


def number(name: str, value: object, least: float, most: float) -> float:
    """A number of seconds within bounds; not NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigurationError(f"{name} is a number of seconds from {least} to {most}, not {value!r}")
    return float(value)


def token(name: str, value: object) -> str:
    """The name of a cache, as `Cache-Status` has it."""
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ConfigurationError(f"{name} is one word of ASCII letters, digits and _.*:/-, not {value!r}")
    return value


def texts(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """A list of texts; one text is a list of one."""
    if not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} is a list of names, not {values!r}")
    found = (values,) if isinstance(values, str) else tuple(values)
    for value in found:
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{name} is a list of names, not {value!r}")
    return found


def field_names(name: str, values: Iterable[str], *, lower: bool = True) -> tuple[str, ...]:
    """A list of header field names, as lower case unless they may name something else as well."""
    found = texts(name, values)
    for value in found:
        if not _FIELD.fullmatch(value) or value == "*":
            raise ConfigurationError(f"{name} is a list of header field names, not {value!r}")
    return tuple(dict.fromkeys(value.lower() if lower else value for value in found))
