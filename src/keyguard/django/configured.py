"""The stack that `settings.KEYGUARD` names, and what may be wrong about Django's settings for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from keyguard.errors import ConfigurationError
from keyguard.guards.cache import ResponseCache
from keyguard.logs import logger
from keyguard.stack import Keyguard

log = logger("keyguard")

MIDDLEWARE = "keyguard.django.Middleware"
_HOW = 'write KEYGUARD = "package.module.guard", the dotted path of a Keyguard'


class Problem(NamedTuple):
    """Something in the settings that cannot work or, if it is not an error, is hardly meant."""

    id: str
    """As Django's checks tell it, such as `keyguard.E001`."""
    text: str
    hint: str
    error: bool = True


def configured_stack() -> Keyguard:
    """Return the stack that `settings.KEYGUARD` names.

    Raises `ConfigurationError` if it names none.
    """
    found = _named()
    if isinstance(found, Problem):
        raise ConfigurationError(f"{found.text}: {found.hint}")
    return found


def _named() -> Keyguard | Problem:
    from django.conf import settings
    from django.utils.module_loading import import_string

    path: Any = getattr(settings, "KEYGUARD", None)
    if isinstance(path, Keyguard):
        return path
    if path is None:
        return Problem("keyguard.E001", "the settings have no KEYGUARD", _HOW)
    if not isinstance(path, str):
        return Problem("keyguard.E001", f"KEYGUARD is of type {type(path).__name__}", _HOW)
    try:
        found = import_string(path)
    except ImportError as error:
        return Problem("keyguard.E001", f"KEYGUARD = {path!r} cannot be imported ({error})", _HOW)
    if not isinstance(found, Keyguard):
        return Problem("keyguard.E001", f"KEYGUARD = {path!r} is of type {type(found).__name__}", _HOW)
    return found


def check_settings(stack: Keyguard) -> None:
    """Raise `ConfigurationError` for what cannot work, and log what is hardly meant."""
    for problem in problems_of(stack):
        if problem.error:
            raise ConfigurationError(f"{problem.text}: {problem.hint}")
        if problem.id not in _told:
            _told.add(problem.id)
            log.warning("%s: %s", problem.text, problem.hint)


_told: set[str] = set()
"""The problems that were logged already: each test client of Django's makes the middleware anew."""


def is_listed() -> bool:
    """Tell whether the middleware stands in `MIDDLEWARE`."""
    from django.conf import settings

    return bool(_places(settings.MIDDLEWARE))


def _places(names: Sequence[str]) -> list[int]:
    """Return where the middleware stands in a list: by its own name, or as a class that extends it."""
    return [place for place, name in enumerate(names) if name == MIDDLEWARE or _is_ours(name)]


def _is_ours(name: str) -> bool:
    from django.utils.module_loading import import_string

    if name.startswith("django."):
        return False
    try:
        found = import_string(name)
    except ImportError:
        return False  # Django tells of it
    return getattr(found, "decides", False) is True


def problems() -> Iterator[Problem]:
    """List all that is wrong about the settings."""
    from django.conf import settings

    found = _named()
    if isinstance(found, Problem):
        if is_listed() or getattr(settings, "KEYGUARD", None) is not None:
            yield found
    elif is_listed():
        yield from problems_of(found)
    else:
        yield Problem(
            "keyguard.W003",
            f"KEYGUARD is set, and MIDDLEWARE lacks {MIDDLEWARE}: Django's test clients are not guarded, nor is a "
            "server, unless guard.wsgi or guard.asgi stands around the application",
            FIRST,
            error=False,
        )


FIRST = f"put {MIDDLEWARE!r} first in MIDDLEWARE"


_VARYING = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
)
"""Middleware whose answers depend on who asks, and which says so in fields that it adds."""


def problems_of(stack: Keyguard) -> Iterator[Problem]:
    """List what is wrong about the order of `MIDDLEWARE`."""
    from django.conf import settings

    names = list(settings.MIDDLEWARE)
    places = _places(names)
    if len(places) > 1:
        yield Problem("keyguard.E003", f"{MIDDLEWARE} stands twice in MIDDLEWARE", "each request would count twice")
    if not places:
        return
    outside = names[: places[0]]
    if any(isinstance(guard, ResponseCache) for guard in stack.guards):
        for name in outside:
            if name in _VARYING:
                yield Problem(
                    "keyguard.E004",
                    f"{name} stands before {MIDDLEWARE}, whose ResponseCache would not see what it adds",
                    f"put {MIDDLEWARE!r} before it",
                )
    if "keyguard.django.RefusedMiddleware" in names:
        yield Problem(
            "keyguard.W001",
            "MIDDLEWARE has keyguard.django.RefusedMiddleware as well",
            f"take it out: {MIDDLEWARE} does the same",
            error=False,
        )
    cors = "corsheaders.middleware.CorsMiddleware"
    if cors in names[places[0] :]:
        yield Problem(
            "keyguard.W002",
            f"{cors} stands after {MIDDLEWARE}: browsers cannot read refusals",
            f"put {cors!r} before it",
            error=False,
        )
