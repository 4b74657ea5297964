"""Names of request header fields, and what some of them mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MOST_KEYS = 16
"""Members of a field that are looked at as keys. All that stands behind them counts as one more, which is not valid."""
LONGEST_NAME = 256
"""Characters of a name that are looked at: of a longer one the worst is taken for granted."""


_ESCAPES = re.compile(rb"%([0-9A-Fa-f]{2})")


def decoded(text: bytes) -> bytes:
    """Decode what is percent-encoded. `unquote_to_bytes` does the same, and takes each `%` in turn, escape or not."""
    return _ESCAPES.sub(lambda match: bytes.fromhex(match[1].decode()), text) if b"%" in text else text


class FieldSet:
    """Names of header fields, to ask of a request at once whether it has any of them."""

    __slots__ = ("names", "raw", "variables")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        """Lower case."""
        self.raw = frozenset(name.encode("latin-1") for name in self.names)
        """As ASGI has them."""
        self.variables = frozenset(
            variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"
            for variable in (name.upper().replace("-", "_") for name in self.names)
        )
        """As WSGI has them (RFC 3875, section 4.1.18)."""


METHOD_OVERRIDES = FieldSet(
    name
    for known in (
        *("x-http-method-override", "x-http-method", "x-method-override", "x-method", "x-http-verb"),
        *("http-method-override", "method-override", "x-override-method"),
    )
    for name in (known, known.replace("-", "_"))  # bridges make one variable of both
)
"""Fields by which middleware makes a request of another method of one."""


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""The methods that HTTP defines. Nobody knows what an app makes of another one."""


LIMIT_FIELDS = frozenset(
    {
        *("ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
        *("x-ratelimit-used", "x-ratelimit-resource"),
    }
)
"""Response fields that tell of limits: apps set them as well as guards."""


class Draft(NamedTuple):
    """How a draft names the parameters of `RateLimit`."""

    left: str
    window: str


DRAFTS = {"draft-11": Draft("r", "t"), "draft-next": Draft("a", "w")}
"""The drafts of draft-ietf-httpapi-ratelimit-headers: the eleventh, and what its authors have for the next one."""


def quoted(text: str) -> str:
    """Return printable ASCII text as a string of structured fields (RFC 9651, section 3.3.3)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def asks_for_another_method(name: str) -> bool:
    """Tell whether a field may be one by which middleware makes a request of another method of it.

    Goes by the name, in lower case: one too many is better than one that is not known. It is for preflights, with which
    browsers send no such field but this one.
    """
    if len(name) > LONGEST_NAME:
        return True
    return _OVERRIDE.search(name) is not None and name != "access-control-request-method"


_OVERRIDE = re.compile("method|override|verb")


def length_of(value: str | None) -> int | None:
    """Return the length that `Content-Length` says; `None` for none, and -1 for what is not one."""
    if value is None:
        return None
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else -1
