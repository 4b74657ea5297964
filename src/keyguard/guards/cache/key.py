"""The key that a response is filed under: the URI asked for, and the caller if entries are each caller's own.

Rules:
- A key is a tuple of parts, and its digest is over parts with their lengths: no two requests share one by accident.
- The URI counts as it came over the wire, together with the path that the app routes: if the two disagree, because
  something in between rewrote one, each pair is a key of its own.
- Fields by which frameworks let a proxy change the host, the scheme or the path are parts of the key: whoever sends
  them poisons an entry that only those see who send the same.
- The query, in which keys are sent too, and the values of fields stand in a key as digests.
- The cache's name and the rules that it stores by are parts too, and so is the caller if entries are each caller's own.
- A request that cannot be read in one way has no key, and is not cached. Neither is one that is too long to be read at
  no cost: a path or a query of more than 16384 bytes or with more than 1500 escapes, a query of more than 128
  parameters if those are looked at, a host or a rewriting field of more than 2048.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple, TypeAlias
from urllib.parse import quote_from_bytes

from keyguard.digests import digest
from keyguard.http.callers import SURELY, named_by
from keyguard.http.fields import LONGEST_NAME, decoded
from keyguard.http.meanings import KEYED, meaning
from keyguard.request import CarriedRequest

Key: TypeAlias = "tuple[str | bytes, ...]"
"""The parts by which a response is filed."""

_HOST = re.compile(r"[a-z0-9._~!$&'()*+;=%-]+(?::[0-9]{0,5})?|\[[0-9a-f:.]+\](?::[0-9]{0,5})?|", re.IGNORECASE)

# Pairs that only say who asks. One that stands inside another pair's quoted value is kept.
_QUOTED = r'"(?:[^"\\]|\\.)*'
_FORWARDED_FOR = re.compile(
    rf"""(?:^|(?<=[;,]))[ \t]*(?:for|by)=(?:{_QUOTED}"|[^;,="\s]*)[ \t]*(?:;|(?=,)|$)|(?P<kept>{_QUOTED}"?)""",
    re.IGNORECASE | re.DOTALL,
)

_MAX_PART = 16384
_MAX_FIELD = 2048
_MAX_ESCAPES = 1500
_MAX_PARAMETERS = 128


class Target(NamedTuple):
    """The URI that a request asks for."""

    key: Key
    host: str
    uri: str
    """Path and query, percent-encoded, as they stand in the request line."""


class Query:
    """The part of a query that counts: all as it stands, or all but some parameters, or its parameters sorted."""

    __slots__ = ("_names", "_prefixes", "_sort", "changes", "rules")

    def __init__(self, ignored: Iterable[str], sort: bool) -> None:
        self._names = frozenset(name.encode() for name in ignored if not name.endswith("*"))
        self._prefixes = tuple(name[:-1].encode() for name in ignored if name.endswith("*"))
        self._sort = sort
        self.changes = bool(self._names or self._prefixes or sort)
        self.rules = (sorted(self._names), sorted(self._prefixes), sort)

    def kept(self, query: bytes) -> bytes:
        """Return the query to file under. Values of one parameter keep their order, which may mean something."""
        pairs = []
        for pair in query.split(b"&"):
            name = _name_of(pair)
            if name not in self._names and not (self._prefixes and name.startswith(self._prefixes)):
                pairs.append((name, pair))
        if self._sort:
            pairs.sort(key=itemgetter(0))
        return b"&".join([pair for _, pair in pairs])

    def ignores_credentials(self, query: bytes) -> bool:
        """Tell whether a parameter that is ignored may name a caller."""
        if query.count(b"&") >= _MAX_PARAMETERS:
            return True
        kept = set(self.kept(query).split(b"&"))
        return any(pair not in kept and holds_keys(pair) for pair in query.split(b"&"))

    def filed(self, uri: str) -> str:
        """Return a path and query with the query to file under."""
        path, mark, query = uri.partition("?")
        if mark and self.changes:
            query = self.kept(query.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
        return path + "?" + query if query else path


def holds_keys(query: bytes) -> bool:
    """Tell whether a parameter of a query may be a key, by its name."""
    return bool(query) and any(
        named_by(_name_of(pair).decode("latin-1").lower()) == SURELY for pair in query.split(b"&")
    )


def _name_of(pair: bytes) -> bytes:
    name = pair.partition(b"=")[0]
    if len(name) > LONGEST_NAME:
        return name
    return decoded(name.replace(b"+", b" "))


def target_of(request: CarriedRequest, query: Query, partition: str) -> Target | None:
    """Return the URI that a request asks for; `None` if it cannot be read in one way."""
    raw = request.raw_path
    path = request.spelling.path
    root = request.spelling.root
    asked = request.raw_query
    if len(root) + len(path) > _MAX_PART or len(asked) > _MAX_PART or len(raw or b"") > 3 * _MAX_PART:
        return None
    if query.changes and asked.count(b"&") >= _MAX_PARAMETERS:
        return None
    if asked.count(b"%") > _MAX_ESCAPES or (raw or b"").count(b"%") > _MAX_ESCAPES:
        return None
    if raw is None:
        raw = _quoted(root + path)
    if raw[:1] != b"/" or "\ufffd" in path:
        return None  # a whole URI, `*`, or bytes that are not text: the app may tell apart what is not told apart here
    host = request.header("host") or ""
    if len(host) > _MAX_FIELD or not _HOST.fullmatch(host):
        return None
    host = host.lower()
    if query.changes:
        asked = query.kept(asked)
    key: Key = (request.scheme, host, raw, root, path, digest((asked,)) if asked else "", partition)
    rewriting = _rewriting(request)
    if rewriting is None:
        return None
    key += tuple(rewriting)
    uri = raw + b"?" + asked if asked else raw
    return Target(key, host, uri.decode("latin-1"))


def _rewriting(request: CarriedRequest) -> list[str] | None:
    """Return the fields that may change what the app is asked for, in order, each with a digest of its value.

    `None` if one of them is too long.
    """
    found = []
    for raw in request.names():
        name = request.field_name(raw)
        if name is not None and meaning(name) & KEYED:
            value = request.field_value(raw)
            if len(value) > _MAX_FIELD:
                return None
            if name == "forwarded":
                value = _FORWARDED_FOR.sub(_kept, value)
            found.append(f"{name}={digest((value,))}")
    return sorted(found)


def changed_by(request: CarriedRequest, query: Query) -> Target:
    """Return the URI that a request changes; if it cannot be read in one way, in the way in which the app reads it.

    Nothing is filed under it, and invalidation decodes it anyway.
    """
    found = target_of(request, query, "")
    if found is not None:
        return found
    path, asked = request.spelling.root + request.spelling.path, request.raw_query
    host, many = request.header("host") or "", query.changes and asked.count(b"&") >= _MAX_PARAMETERS
    escaped = max(asked.count(b"%"), (request.raw_path or b"").count(b"%")) > _MAX_ESCAPES
    if max(len(path), len(asked)) > _MAX_PART or len(host) > _MAX_FIELD or many or escaped:
        return Target((), "", "")  # no such URI is ever stored
    uri = _quoted(path)
    asked = query.kept(asked) if query.changes else asked
    return Target((), host, (uri + b"?" + asked if asked else uri).decode("latin-1"))


def _quoted(path: str) -> bytes:
    return quote_from_bytes(path.encode("utf-8", "surrogateescape"), safe="/:@!$&'()*+,;=~").encode()


def _kept(match: re.Match[str]) -> str:
    return match["kept"] or ""
