"""Names of request fields: one field has one name, for guards and for the app.

WSGI knows a field as a variable, in which `-` and `_` are the same (RFC 3875, section 4.1.18). So a bridge or a server
that makes an environ of a request folds `X_Forwarded_For` into `X-Forwarded-For`, and the app reads a field that was
not there for the guards, and for the proxies before them. Rules:

- Under ASGI fields whose name has an underscore, or is not a token (RFC 9110, section 5.6.2), are taken off before
  guards and app see them, as nginx, gunicorn and others do by default. They are not refused: a client that sends one by
  accident is served, and a proxy that adds one breaks nothing.
- Names are lower case then, as ASGI wants them: those that differ by case are one field of several lines.
- Under WSGI an environ does not tell. One that a2wsgi made holds the scope, and is put right; of servers and bridges
  that are known to fold, the log tells once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

from keyguard.drivers.bridges import passed
from keyguard.errors import ConfigurationError
from keyguard.request import RequestSettings

log = logging.getLogger("keyguard")

Pairs: TypeAlias = "list[tuple[bytes, bytes]]"

_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-!#$%&'*+.^`|~"
"""The characters of a token, in lower case, but the underscore."""


@lru_cache(maxsize=256)
def variable_of(name: str) -> str:
    """Return the environ variable of a header field (RFC 3875, section 4.1.18)."""
    variable = name.upper().replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"


def odd(names: Iterable[bytes]) -> bool:
    """Tell whether one of these names might be read as another one."""
    return bool(b"".join(names).translate(None, _PLAIN))


def plain(headers: Pairs, kept: frozenset[bytes]) -> Pairs:
    """Return the fields less those whose names might be read as others; `kept` are names that stay all the same."""
    return [(name.lower(), value) for name, value in headers if _unmistakable(name.lower(), kept)]


def _unmistakable(name: bytes, kept: frozenset[bytes]) -> bool:
    return not name.translate(None, _PLAIN) or name in kept


def taken_off(name: str) -> ConfigurationError:
    """Return the error for a guard that reads a field which is never there."""
    return ConfigurationError(
        f"the request field {name!r} is read, but those with an underscore in their name are taken off: write it "
        f"with hyphens, or keep it by Keyguard(..., underscores=[{name!r}])"
    )


def clean_scope(scope: MutableMapping[str, Any], settings: RequestSettings) -> list[bytes]:
    """Take off the fields of an ASGI scope that might be read as others. Returns the names of those.

    It need not be called if all names are among `KNOWN_NAMES`: they are the same again and again.
    """
    headers = scope["headers"]
    if headers.__class__ is not list:
        # "An iterable", of iterables: they may be gone after the first look, as those of Falcon's test client are.
        headers = scope["headers"] = [(name, value) for name, value in headers]
        if scope.get("client") is not None:
            scope["client"] = tuple(scope["client"])
    names = [name for name, _ in headers]
    if odd(names):
        scope["headers"] = plain(headers, settings.underscores)
        return [name for name in names if not _unmistakable(name.lower(), settings.underscores)]
    if len(KNOWN_NAMES) < _MOST and sum(map(len, names)) < _LONGEST:
        KNOWN_NAMES.update(names)
    return []


NAME_OF = itemgetter(0)
KNOWN_NAMES: set[bytes] = set()
"""Names that need no second look. So many are kept and no more, whatever callers send."""
_MOST = 1024
_LONGEST = 4096  # bytes of all names of one request


# -- WSGI -----------------------------------------------------------------------------------------------------------

_FOLDING = {"WSGIServer": "wsgiref", "Granian": "granian", "Cheroot": "cheroot"}
"""The beginnings of names by which servers that fold call themselves."""
_ELSEWHERE = (b"content-type", b"content-length")  # their variables have no HTTP_ in front
_told: set[str] = set()


def clean_environ(environ: MutableMapping[str, Any], kept: frozenset[bytes]) -> None:
    """Take off the fields that a2wsgi has folded, for its environ holds the scope that it was made of."""
    scope = environ.get("asgi.scope")
    headers = scope.get("headers") if isinstance(scope, MutableMapping) else None
    if not isinstance(headers, list):
        return
    if not odd([name for name, _ in headers]):
        return
    right = [(_folded(name), value.decode("latin-1")) for name, value in plain(headers, kept) if name not in _ELSEWHERE]
    for variable in {_folded(name) for name, _ in headers if not _unmistakable(name.lower(), kept)}:
        environ.pop(variable, None)
        values = [value for name, value in right if name == variable]
        if values:
            environ[variable] = ",".join(values)


def _folded(name: bytes) -> str:
    return "HTTP_" + name.decode("latin-1").upper().replace("-", "_")


def tell_of_folding(environ: MutableMapping[str, Any] | None = None) -> None:
    """Log a warning, once in a process, if a server or a bridge is known to fold names.

    At the start, without an environ, uWSGI alone can be seen: it has a module of its own.
    """
    folder = _folder({"uwsgi.version": b""} if "uwsgi" in sys.modules else environ or {})
    if folder is not None and folder not in _told:
        _told.add(folder)
        log.warning(
            "%s makes one variable of X-Forwarded-For and X_Forwarded_For: a client that sends the second can add to "
            "what a proxy says in the first, or replace it. Let the proxy in front drop names with underscores (nginx "
            "does by default), or serve the app with gunicorn or waitress; around a bridge put a keyguard layer",
            folder,
        )


def _folder(environ: MutableMapping[str, Any]) -> str | None:
    if "uwsgi.version" in environ:
        return "uWSGI"
    software = environ.get("SERVER_SOFTWARE")
    if isinstance(software, str):
        name = next((name for start, name in _FOLDING.items() if software.startswith(start)), None)
        # Django's own server is wsgiref's, and drops them.
        return None if name == "wsgiref" and "django.core.servers.basehttp" in sys.modules else name
    if "asgi.scope" in environ or passed(environ, "wsgi.url_scheme") is not None:
        return None  # the scope is known, here or further out
    if environ.get("wsgi.multithread") is True and environ.get("wsgi.multiprocess") is True:
        return "a bridge from ASGI, or hypercorn,"  # none of which names itself
    return None
