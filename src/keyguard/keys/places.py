"""The places in which a key may stand, one class for each: how it is read there, and what is left without it.

    x-api-key                   a header field that holds the key
    authorization               the Bearer scheme (RFC 6750)
    authorization:Token         another scheme of `Authorization`
    basic:user                  the user name of the Basic scheme (RFC 7617), whatever the password
    basic:password              its password, whatever the user name
    cookie:session              a cookie
    query:api_key               a parameter of the query
    subprotocol:api-key         a websocket subprotocol `api-key.KEY`, which browsers can send; they send no fields

Before the colon stands the kind of the place, behind it a name. A name alone is that of a header field.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from itertools import islice

from keyguard.checks import is_token
from keyguard.errors import ConfigurationError
from keyguard.http.fields import MOST_KEYS, decoded
from keyguard.request import CarriedRequest

AUTHORIZATION = "authorization"
_LONGEST = 16384
"""Characters of a query or of all cookies that are looked at."""
_UNREAD = "\0"
"""Stands for what is not looked at; no key is that."""


class Place:
    """A header field that holds the key, and the base of all other places."""

    field: str | None
    """The header field that holds it; `None` for the query."""
    form: str
    """How a caller writes it, with `KEY` for the key."""
    scheme = ""
    """The scheme of `Authorization` that it is, if it is one."""

    def __init__(self, name: str) -> None:
        self.field = name.lower()
        self.form = f"{name.title() if name.islower() else name}: KEY".replace("Api", "API")

    def text(self, request: CarriedRequest) -> str | None:
        """Return the text in which keys may stand; `None` if there is none."""
        assert self.field is not None
        return request.header(self.field)

    def read(self, text: str, found: set[str]) -> None:
        """Add the keys in a text."""
        # Several lines, or one that some server joined: no key holds a comma.
        members = text.split(",", MOST_KEYS) if "," in text else [text]
        found.update([member.strip() for member in members])

    def without(self, text: str) -> str | None:
        """Return what is left of a text without its keys; `None` for nothing."""
        return None


class Scheme(Place):
    """A scheme of `Authorization`. `beginning` is that of keys, if others may use the scheme as well."""

    field = AUTHORIZATION

    def __init__(self, scheme: str, beginning: str = "") -> None:
        self.scheme = scheme
        self.form = f"Authorization: {scheme} KEY"
        self.open = scheme == "Bearer"
        """Whether others use the scheme for texts of their own."""
        self._scheme = scheme.lower()  # schemes are case-insensitive (RFC 9110, section 11.1)
        self._beginning = beginning

    def read(self, text: str, found: set[str]) -> None:
        found.update([key for key in self.texts(text) if key.startswith(self._beginning)])

    def texts(self, text: str) -> list[str]:
        """Return what stands behind the scheme, in each member of the field."""
        texts = []
        members = text.split(",", MOST_KEYS) if "," in text else [text]
        if len(members) > MOST_KEYS:
            texts.append(members.pop().strip())
        for member in members:
            token = self._behind(member)
            if token is not None:
                texts.append(token)
        return texts

    def _behind(self, member: str) -> str | None:
        scheme, _, token = member.strip().partition(" ")
        return token.strip() if scheme.lower() == self._scheme else None

    def without(self, text: str) -> str | None:
        return _joined_without(text, self._is_ours)

    def _is_ours(self, member: str) -> bool:
        token = self._behind(member)
        return token is not None and token.startswith(self._beginning)


class Basic(Scheme):
    """A part of the Basic scheme: an empty one is not a key, and what cannot be read is not a valid one."""

    def __init__(self, part: str) -> None:
        super().__init__("Basic")
        self.form = f"Authorization: Basic base64({'KEY:' if part == 'user' else ':KEY'})"
        self._first = part == "user"

    def read(self, text: str, found: set[str]) -> None:
        for token in self.texts(text):
            try:
                pair = b64decode(token.encode("latin-1"), validate=True).decode("latin-1")
            except ValueError:
                found.add(_UNREAD)
                continue
            user, colon, password = pair.partition(":")
            key = user if self._first else password
            if not colon:
                found.add(_UNREAD)
            elif key:
                found.add(key)


class Cookie(Place):
    """A cookie."""

    def __init__(self, name: str) -> None:
        self.field = "cookie"
        self.form = f"Cookie: {name}=KEY"
        self._name = name
        # Lines of the Cookie field may be joined by a comma on the way; pairs are separated by `;` (RFC 6265).
        self._pair = re.compile(rf"(?:^|[;,])\s*{re.escape(name)}\s*=([^;,]*)")

    def read(self, text: str, found: set[str]) -> None:
        if len(text) > _LONGEST:
            found.add(_UNREAD)
        elif self._name in text:
            values = [match[1] for match in islice(self._pair.finditer(text), MOST_KEYS + 1)]
            found.update([value.strip().strip('"') for value in values])

    def without(self, text: str) -> str | None:
        left, count = self._pair.subn("", text) if self._name in text else (text, 0)
        return (left.lstrip("; ,") or None) if count else text


class Query(Place):
    """A parameter of the query."""

    field = None

    def __init__(self, name: str) -> None:
        self.form = f"?{name}=KEY"
        # Each character may be written as it is or encoded.
        signs = "".join([rf"(?:{re.escape(chr(byte))}|%{byte:02x}|%{byte:02X})" for byte in name.encode()])
        self._pair = re.compile(rf"(?:^|&){signs}=([^&]*)")

    def text(self, request: CarriedRequest) -> str | None:
        return request.raw_query.decode("latin-1") or None

    def read(self, text: str, found: set[str]) -> None:
        if len(text) > _LONGEST:
            found.add(_UNREAD)
        elif "=" in text:
            for match in islice(self._pair.finditer(text), MOST_KEYS + 1):
                found.add(decoded(match[1].replace("+", " ").encode("latin-1")).decode("latin-1"))

    def without(self, text: str) -> str | None:
        left, count = self._pair.subn("", text)
        return left.removeprefix("&") if count else text


class Subprotocol(Place):
    """A websocket subprotocol that begins with a name and a dot."""

    def __init__(self, name: str) -> None:
        self.field = "sec-websocket-protocol"
        self.form = f"Sec-WebSocket-Protocol: {name}.KEY"
        self._beginning = f"{name}."

    def read(self, text: str, found: set[str]) -> None:
        members = text.split(",", MOST_KEYS)
        if len(members) > MOST_KEYS:
            found.add(_UNREAD)
        for member in members:
            if member.strip().startswith(self._beginning):
                found.add(member.strip().removeprefix(self._beginning))

    def without(self, text: str) -> str | None:
        return _joined_without(text, lambda member: member.strip().startswith(self._beginning))


def _joined_without(text: str, ours: Callable[[str], bool]) -> str | None:
    """Return the members of a list that are not ours; the text as it is, if none is."""
    members = text.split(",")
    kept = [member for member in members if not ours(member)]
    return text if len(kept) == len(members) else ",".join(kept).strip() or None


_KINDS = {"cookie": Cookie, "query": Query, "subprotocol": Subprotocol}


def place_of(name: str, beginning: str) -> Place:
    """Return the place that a name means. Raises `ConfigurationError` for one that means none."""
    if not isinstance(name, str):
        raise ConfigurationError(f"a source is a text such as 'x-api-key', not {name!r}")
    kind, colon, rest = name.partition(":")
    if not colon and (name.lower() in _KINDS or name.lower() in ("basic", "bearer")):
        right = {"basic": "'basic:user'", "bearer": "'authorization'"}.get(name.lower(), f"'{name.lower()}:name'")
        raise ConfigurationError(f"{name!r} alone is not a source: write {right}")
    if not colon and is_token(name):
        return Scheme("Bearer", beginning) if name.lower() == AUTHORIZATION else Place(name)
    if colon and is_token(rest):
        if kind.lower() == AUTHORIZATION:
            if rest.lower() == "basic":
                raise ConfigurationError(f"{name!r} is not a source: write 'basic:user' or 'basic:password'")
            return Scheme("Bearer", beginning) if rest.lower() == "bearer" else Scheme(rest)
        if kind == "basic" and rest in ("user", "password"):
            return Basic(rest)
        if kind in _KINDS:
            return _KINDS[kind](rest)
    raise ConfigurationError(
        f"{name!r} is not a source: name a header field, 'authorization:Scheme', 'basic:user', 'basic:password', "
        "'cookie:name', 'query:name' or 'subprotocol:name'"
    )
