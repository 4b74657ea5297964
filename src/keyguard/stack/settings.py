"""Checks of a stack's settings: each raises `ConfigurationError`, and says what would be right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal

from keyguard.checks import is_token
from keyguard.errors import ConfigurationError
from keyguard.flow import check_takes, is_async, is_blocking
from keyguard.http.paths import Paths
from keyguard.keys.credentials import Sources
from keyguard.manual_clock import GivenClock


def check_functions(
    clock: GivenClock | None,
    on_refusal: Callable[..., Any] | None,
    on_health: Callable[..., Any] | None,
    render_refusal: Callable[..., Any] | None = None,
    on_decision: Callable[..., Any] | None = None,
) -> None:
    """Check that the functions of a stack can be called as they are."""
    for word, function in (
        *(("clock", clock), ("on_refusal", on_refusal), ("on_health", on_health)),
        *(("render_refusal", render_refusal), ("on_decision", on_decision)),
    ):
        if not callable(function) and function is not None:
            raise ConfigurationError(f"{word} is a function, not {function!r}")
        if is_async(function) or is_blocking(function):
            raise ConfigurationError(f"{word} is a plain function: {function!r} would not be awaited")
    for word, told, what in (
        ("on_refusal", on_refusal, "a Refusal"),
        ("render_refusal", render_refusal, "a Refusal"),
        ("on_health", on_health, "a StoreHealth"),
        ("on_decision", on_decision, "a Decision"),
    ):
        if told is not None:
            check_takes(word, told, what)


def checked_switch(name: str, value: bool) -> bool:
    """Return a setting that is on or off."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name} is True or False, not {value!r}")


def checked_prefix(prefix: str | Literal[False]) -> str | Literal[False]:
    """Return the prefix of paths that an app cuts off."""
    if prefix is False or prefix == "":
        return prefix
    if isinstance(prefix, str) and prefix.strip("/") and "{" not in prefix and "*" not in prefix:
        with suppress(ConfigurationError):
            return Paths([prefix]).texts[0].rstrip("/")
    raise ConfigurationError(f"root_path is a prefix of paths such as '/api', not {prefix!r}")


def checked_field_name(name: str | None) -> str | None:
    """Return the name of the field in which refusals tell the request's id."""
    if name is None or (isinstance(name, str) and is_token(name)):
        return name
    raise ConfigurationError(f"request_id_header is the name of a header field, not {name!r}")


def checked_underscores(
    names: Iterable[str], readers: Iterable[tuple[Any, Sources]], forwarded: str
) -> frozenset[bytes]:
    """Return the names of fields with an underscore that are let through.

    `readers` are the guards that read credentials, with their places; `forwarded` is the header that names the client.
    """
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise ConfigurationError(
            f"underscores is a list of names of header fields, such as ['tenant_id'], not {names!r}"
        )
    kept = set()
    ours = {name.lower(): guard for guard, sources in readers for name in sources.names}
    for name in names:
        if not isinstance(name, str) or "_" not in name or not is_token(name):
            raise ConfigurationError(f"underscores names header fields with an underscore in them, not {name!r}")
        name = name.lower()
        for read in (*ours, forwarded.lower()):
            if name != read and name.replace("_", "-") == read.replace("_", "-"):
                raise ConfigurationError(f"underscores cannot keep {name!r}: others would read it as {read!r}")
        kept.add(name)
    for name, guard in ours.items():
        if "_" in name and ":" not in name and name not in kept:
            raise ConfigurationError(
                f"{guard!r} reads {name!r}, but fields with an underscore in their name are taken off: write it with "
                f"hyphens, or name it in underscores=[{name!r}] as well"
            )
    return frozenset(name.encode() for name in kept)
