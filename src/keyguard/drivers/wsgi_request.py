"""A request as WSGI gives it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

from keyguard.drivers.engine import Engine
from keyguard.paths import decode_wsgi_path
from keyguard.request import Request

Environ: TypeAlias = dict[str, Any]


@lru_cache(maxsize=256)
def _variable(name: str) -> str:
    """The environ variable of a header field (RFC 3875, section 4.1.18)."""
    variable = name.upper().replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"


class WSGIRequest(Request):
    """A request head from a WSGI environ."""

    __slots__ = ()

    def __init__(self, environ: Environ, engine: Engine) -> None:
        super().__init__(environ["REQUEST_METHOD"], environ, engine.source, engine.clock)

    @property
    def scheme(self) -> str:
        return str(self.carrier["wsgi.url_scheme"])

    @property
    def query(self) -> bytes:
        return str(self.carrier.get("QUERY_STRING", "")).encode("latin-1")

    @property
    def raw_path(self) -> bytes | None:
        # Not in PEP 3333: gunicorn says RAW_URI, werkzeug and waitress REQUEST_URI.
        target = self.carrier.get("RAW_URI") or self.carrier.get("REQUEST_URI")
        return str(target).partition("?")[0].encode("latin-1", "replace") if target else None

    @property
    def peer(self) -> str | None:
        return self.carrier.get("REMOTE_ADDR") or None

    def header(self, name: str) -> str | None:
        value: str | None = self.carrier.get(_variable(name))
        return value

    def _find_path(self) -> str:
        return decode_wsgi_path(self.carrier.get("PATH_INFO", ""))
