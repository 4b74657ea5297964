"""Where a request carries API keys: header fields, the Bearer scheme, cookies, the query.

Every place is read, and every key that is found counts: two different ones are for the guard to refuse, whatever
places they came in. Texts are compared as they are; nothing is normalised. A part that is not looked at, since a place
holds more than any caller has reason to send, counts as one more key, which is not valid.

The Bearer scheme is everybody's: an app may have tokens of its own there, beside a key in another place. If it is known
how keys begin, a Bearer text that begins otherwise is not a key. In the other places stands what was put there for us.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeAlias

from keyguard.checks import is_token
from keyguard.errors import ConfigurationError
from keyguard.http.fields import MOST_KEYS, FieldSet, decoded
from keyguard.request import CarriedRequest

Reader: TypeAlias = Callable[[CarriedRequest, set[str]], None]

_LONGEST = 16384
"""Characters of a query or of all cookies that are looked at."""
_UNREAD = "\0"
"""Stands for what is not looked at; no key is that."""


class Sources:
    """The places in which a key is looked for. A Bearer text is a key if it begins with `beginning`."""

    __slots__ = ("_bearer", "_beginning", "_fields", "_readers", "_schemes", "names")

    def __init__(self, names: Iterable[str], beginning: str = "") -> None:
        self.names = tuple([names] if isinstance(names, str) else names)
        if not self.names:
            raise ConfigurationError("sources is empty: name at least one place, such as 'x-api-key'")
        self._beginning = beginning
        readers = [_reader(name) for name in self.names]
        self._bearer = None in readers
        self._readers = [read for read in readers if read is not None]
        plain = not any(":" in name or "_" in name for name in self.names)
        self._fields = FieldSet({name.lower() for name in self.names} if plain else ())
        """The header fields that are looked at. Empty if other places are looked at too."""
        bearer = FieldSet(["authorization"])
        self._schemes: dict[Any, bytes] = dict.fromkeys((*bearer.raw, *bearer.variables), b"Bearer ")
        """The beginning of a value before the key, by the name of the field as servers give it."""

    def read(self, request: CarriedRequest) -> set[str]:
        """Return the different keys that the request carries. An empty one is a key, and not a valid one."""
        found: set[str] = set()
        if self._bearer and (value := request.header("authorization")) is not None:
            for text in _bearer_texts(value):
                if text.startswith(self._beginning):
                    found.add(text)
        for read in self._readers:
            read(request, found)
        return found

    def read_plain(self, request: CarriedRequest) -> bytes | None:
        """Return the text in the place of a key, if the request has one such place filled; else `None`.

        If it is a key that was valid when `read` found it in another request, `read` finds it in this one, and nothing
        else: fast path of `read`, same answers. What any other text means, `read` decides.
        """
        found = request.sole(self._fields)
        if found is None:
            return None
        name, value = found
        scheme = self._schemes.get(name)
        if scheme is None:
            return value
        return value[len(scheme) :] if value.startswith(scheme) else None

    def foreign(self, request: CarriedRequest) -> bool:
        """Tell whether the request carries a Bearer text that is not a key."""
        value = request.header("authorization") if self._bearer else None
        return value is not None and not all(text.startswith(self._beginning) for text in _bearer_texts(value))


def _reader(name: str) -> Reader | None:
    """Return what reads keys from a place, or `None` for the Bearer scheme."""
    if not isinstance(name, str):
        raise ConfigurationError(f"a source is a text such as 'x-api-key', not {name!r}")
    kind, colon, rest = name.partition(":")
    if not is_token(rest if colon else kind) or (colon and kind not in ("cookie", "query")):
        raise ConfigurationError(f"{name!r} is not a source: name a header field, 'cookie:name' or 'query:name'")
    if kind == "cookie" and colon:
        return _cookie(rest)
    if kind == "query" and colon:
        return _query(rest)
    return None if name.lower() == "authorization" else _field(name.lower())


def _bearer_texts(value: str) -> list[str]:
    texts = []
    members = value.split(",", MOST_KEYS) if "," in value else [value]
    if len(members) > MOST_KEYS:
        texts.append(members.pop().strip())
    for member in members:
        scheme, _, token = member.strip().partition(" ")
        if scheme.lower() == "bearer":  # schemes are case-insensitive (RFC 9110, section 11.1)
            texts.append(token.strip())
    return texts


def _field(name: str) -> Reader:
    def read(request: CarriedRequest, found: set[str]) -> None:
        value = request.header(name)
        if value is not None:
            # Several lines, or one that some server joined: no key holds a comma.
            members = value.split(",", MOST_KEYS) if "," in value else [value]
            found.update([member.strip() for member in members])

    return read


def _cookie(name: str) -> Reader:
    # Lines of the Cookie field may be joined by a comma on the way; pairs are separated by `;` (RFC 6265).
    pair = re.compile(rf"(?:^|[;,])\s*{re.escape(name)}\s*=([^;,]*)")

    def read(request: CarriedRequest, found: set[str]) -> None:
        text = request.header("cookie") or ""
        if len(text) > _LONGEST:
            found.add(_UNREAD)
        elif name in text:
            values = [match[1] for match in islice(pair.finditer(text), MOST_KEYS + 1)]
            found.update([value.strip().strip('"') for value in values])

    return read


def _query(name: str) -> Reader:
    # Each character may be written as it is or encoded, a blank as `+` too.
    signs = "".join([rf"(?:{re.escape(chr(byte))}|%{byte:02x}|%{byte:02X})" for byte in name.encode()])
    pair = re.compile(rf"(?:^|&){signs}=([^&]*)".encode())

    def read(request: CarriedRequest, found: set[str]) -> None:
        text = request.raw_query
        if len(text) > _LONGEST:
            found.add(_UNREAD)
        elif b"=" in text:
            for match in islice(pair.finditer(text), MOST_KEYS + 1):
                found.add(decoded(match[1].replace(b"+", b" ")).decode("latin-1"))

    return read
