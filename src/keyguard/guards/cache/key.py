"""What a response is filed under: the URI asked for, who asked, and the fields that `Vary` names.

Rules:
- A key is a tuple of parts, and its digest is over parts with their lengths: no two requests share one by accident.
- The URI counts as it came over the wire, together with the path that the app routes: where the two disagree, because
  something in between rewrote one, each pair is a key of its own.
- Fields by which frameworks let a proxy change the host, the scheme or the path are parts of the key: whoever sends
  them poisons an entry that only those see who send the same.
- The query, in which keys are sent too, and the values of fields stand in a key as digests.
- Who asks, where entries are each caller's own, the cache's name and the rules that it stores by are parts too.
- What cannot be read in one way has no key, and is not cached; nor is what is too long to be read at no cost: a path or
  a query of more than 16384 bytes or with more than 1500 escapes, one of more than 128 parameters if those are looked
  at, a host or a field that rewrites of more than 2048.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import itemgetter
from typing import NamedTuple, TypeAlias
from urllib.parse import quote_from_bytes, urlsplit

from keyguard.guards.cache.entry import Variance
from keyguard.guards.cache.meanings import KEYED, meaning
from keyguard.http.callers import SURELY, named_by
from keyguard.http.fields import LONGEST_NAME, decoded
from keyguard.request import Request

Key: TypeAlias = "tuple[str | bytes, ...]"

_ASCII = "".join(map(chr, range(33, 127)))
_HOST = re.compile(r"[a-z0-9._~!$&'()*+;=%-]+(?::[0-9]{0,5})?|\[[0-9a-f:.]+\](?::[0-9]{0,5})?|", re.IGNORECASE)

# Pairs that only say who asks; not what looks like one inside another pair's value.
_QUOTED = r'"(?:[^"\\]|\\.)*'
_FORWARDED_FOR = re.compile(
    rf"""(?:^|(?<=[;,]))[ \t]*(?:for|by)=(?:{_QUOTED}"|[^;,="\s]*)[ \t]*(?:;|(?=,)|$)|(?P<kept>{_QUOTED}"?)""",
    re.IGNORECASE | re.DOTALL,
)


_LONGEST_PART = 16384
_LONGEST_FIELD = 2048
_MOST_ESCAPES = 1500
_MOST_PARAMETERS = 128


class Target(NamedTuple):
    """What a request asks for."""

    key: Key
    host: str
    uri: str
    """Path and query, percent-encoded, as they stand in the request line."""


class Query:
    """What of the query counts: all as it stands, or less the parameters to ignore, or sorted."""

    __slots__ = ("_names", "_prefixes", "_sort", "changes", "rules")

    def __init__(self, ignored: Iterable[str], sort: bool) -> None:
        self._names = frozenset(name.encode() for name in ignored if not name.endswith("*"))
        self._prefixes = tuple(name[:-1].encode() for name in ignored if name.endswith("*"))
        self._sort = sort
        self.changes = bool(self._names or self._prefixes or sort)
        self.rules = (sorted(self._names), sorted(self._prefixes), sort)

    def kept(self, query: bytes) -> bytes:
        """The query to file under. The order of one parameter's values means something, that of parameters may not."""
        pairs = []
        for pair in query.split(b"&"):
            name = _name_of(pair)
            if name not in self._names and not (self._prefixes and name.startswith(self._prefixes)):
                pairs.append((name, pair))
        if self._sort:
            pairs.sort(key=itemgetter(0))
        return b"&".join([pair for _, pair in pairs])

    def ignores_credentials(self, query: bytes) -> bool:
        """Tell whether a parameter that makes no difference may name a caller."""
        if query.count(b"&") >= _MOST_PARAMETERS:
            return True
        kept = set(self.kept(query).split(b"&"))
        return any(pair not in kept and holds_keys(pair) for pair in query.split(b"&"))

    def filed(self, uri: str) -> str:
        """A path and query with the query to file under."""
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


def too_long(value: str | None) -> bool:
    """Whether a field is longer than what is compared with others."""
    return value is not None and len(value) > _LONGEST_PART


def target_of(request: Request, query: Query, partition: str) -> Target | None:
    """What the request asks for; `None` where that cannot be read in one way."""
    raw = request.raw_path
    path = request.spelling.path
    root = request.spelling.root
    asked = request.query
    if len(root) + len(path) > _LONGEST_PART or len(asked) > _LONGEST_PART or len(raw or b"") > 3 * _LONGEST_PART:
        return None
    if query.changes and asked.count(b"&") >= _MOST_PARAMETERS:
        return None
    if asked.count(b"%") > _MOST_ESCAPES or (raw or b"").count(b"%") > _MOST_ESCAPES:
        return None
    if raw is None:
        raw = _quoted(root + path)
    if raw[:1] != b"/" or "\ufffd" in path:
        return None  # a whole URI, `*`, or bytes that are no text: the app may see what is not told apart here
    host = request.header("host") or ""
    if len(host) > _LONGEST_FIELD or not _HOST.fullmatch(host):
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


def _rewriting(request: Request) -> list[str] | None:
    """The fields that may change what the app is asked for, in order, each with a digest of what it says.

    `None` if one of them is too long.
    """
    found = []
    for raw in request.names():
        name = request.field_name(raw)
        if name is not None and meaning(name) & KEYED:
            value = request.field_value(raw)
            if len(value) > _LONGEST_FIELD:
                return None
            if name == "forwarded":
                value = _FORWARDED_FOR.sub(_kept, value)
            found.append(f"{name}={digest((value,))}")
    return sorted(found)


def changed_by(request: Request, query: Query) -> Target:
    """The target of a request that changes something: where it cannot be read in one way, the way that the app does.

    Nothing is filed under it, and what it voids is decoded anyway.
    """
    found = target_of(request, query, "")
    if found is not None:
        return found
    path, asked = request.spelling.root + request.spelling.path, request.query
    host, many = request.header("host") or "", query.changes and asked.count(b"&") >= _MOST_PARAMETERS
    escaped = max(asked.count(b"%"), (request.raw_path or b"").count(b"%")) > _MOST_ESCAPES
    if max(len(path), len(asked)) > _LONGEST_PART or len(host) > _LONGEST_FIELD or many or escaped:
        return Target((), "", "")  # no such thing is stored
    uri = _quoted(path)
    asked = query.kept(asked) if query.changes else asked
    return Target((), host, (uri + b"?" + asked if asked else uri).decode("latin-1"))


def _quoted(path: str) -> bytes:
    return quote_from_bytes(path.encode("utf-8", "surrogateescape"), safe="/:@!$&'()*+,;=~").encode()


def _kept(match: re.Match[str]) -> str:
    return match["kept"] or ""


def digest(parts: Iterable[str | bytes]) -> str:
    """32 hexadecimal digits for a sequence of texts, different for any other sequence."""
    data = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in parts]
    # In one piece: each call of the hash costs more than what it hashes.
    whole = b"".join([piece for part in data for piece in (len(part).to_bytes(4, "big"), part)])
    return blake2b(whole, digest_size=16).hexdigest()


# -- addresses, for invalidation and purging ------------------------------------------------------------------------


def place(host: str, uri: str) -> str:
    """What stands for all entries of a URI, whatever the scheme and however its path is spelled: a digest."""
    return digest((_without_port(host), *_spelled(uri)))


def everywhere(uri: str) -> str:
    """What stands for all entries of a path and query, on every host."""
    return digest(("", *_spelled(uri)))


def _without_port(host: str) -> str:
    """A host in lower case, less a port that goes without saying."""
    host = host.lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port in ("80", "443", "") else host


@lru_cache(maxsize=32)
def _spelled(uri: str) -> tuple[bytes, bytes]:
    """Path and query, decoded: `/%61` and `/a` are one resource (RFC 3986, section 6.2.2.2).

    Entries are filed under what stands in the request line, for an app may tell spellings apart. What makes one void
    makes void the others: one too many at worst.
    """
    path, _, query = uri.partition("?")
    return decoded(_wire(path)), decoded(_wire(query))


def _wire(text: str) -> bytes:
    """Bytes as they came: what comes from the wire is decoded as ISO 8859-1, and what is no such text was not."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def places_of(target: Target) -> tuple[str, str]:
    """What invalidation and purging call a target by: on its host, and on any."""
    if "?" in target.uri:  # it may hold a key, and is not remembered
        return place(target.host, target.uri), everywhere(target.uri)
    return _places(target.host, target.uri)


@lru_cache(maxsize=32)  # a miss asks several times
def _places(host: str, uri: str) -> tuple[str, str]:
    return place(host, uri), everywhere(uri)


def flight_key(target: Target, credentials: Sequence[str], variance: Variance) -> Key:
    """What requests have in common that may wait for one answer: URL, credentials, what it varied by last time."""
    values = [text for name, value in variance for text in (name, "-" if value is None else "+" + value)]
    return (*target.key, digest(credentials) if credentials else "", *values)


def split_url(url: str) -> tuple[str | None, str]:
    """The host, `None` where the URL is a path alone, and path with query. Raises `ValueError` for what is no URL."""
    parts = urlsplit(url)
    if not (parts.path.startswith("/") or (parts.netloc and not parts.path)) or bool(parts.scheme) != bool(
        parts.netloc
    ):
        raise ValueError(f"{url!r} is neither a path such as '/items?page=2' nor a URL such as 'https://host/items'")
    path = quote_from_bytes((parts.path or "/").encode(), safe="/%:@!$&'()*+,;=~")
    query = quote_from_bytes(parts.query.encode(), safe=_ASCII)
    return parts.netloc or None, path + ("?" + query if query else "")


def resolve(target: Target, reference: str) -> str | None:
    """Path and query of a same-origin reference such as `Location` holds; `None` for another origin."""
    try:
        parts = urlsplit(reference)
    except ValueError:
        return None
    if parts.netloc and _without_port(parts.netloc) != _without_port(target.host):
        return None
    if parts.scheme and parts.scheme not in ("http", "https"):
        return None
    path = parts.path
    if not path.startswith("/"):
        if not path and not parts.netloc:
            path = target.uri.partition("?")[0]
        else:
            path = target.uri.partition("?")[0].rpartition("/")[0] + "/" + path if path else "/"
    segments: list[str] = []
    if path.endswith(("/.", "/..")):
        path += "/"  # RFC 3986, section 5.2.4
    for segment in path.split("/")[1:]:
        if segment == "..":
            segments[-1:] = []
        elif segment != ".":
            segments.append(segment)
    return "/" + "/".join(segments) + ("?" + parts.query if parts.query else "")


# -- Vary ---------------------------------------------------------------------------------------------------------

# Fields whose values are no secrets: everything else is kept as a digest, for it may be one.
_PLAIN = frozenset({"accept", "accept-encoding", "accept-language", "origin", "user-agent", "x-requested-with"})
_WEIGHT = re.compile(r"q=(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_WEIGHTED = frozenset({"accept-encoding", "accept-language"})


def variance_of(request: Request, names: Sequence[str]) -> Variance:
    """The request's values of the fields that `Vary` names (RFC 9111, section 4.1)."""
    return tuple([(name, _normal(name, _value(request, name))) for name in names])


def _value(request: Request, name: str) -> str | None:
    return request.folded(name) if request.takes_off(name) else request.header(name)


class Chosen:
    """What a request chooses by the fields that `Vary` names: read once for all variants that name the same."""

    __slots__ = ("_known", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._known: dict[tuple[str, ...], Variance] = {}

    def by(self, names: Iterable[str]) -> Variance:
        """The request's values of these fields."""
        names = tuple(names)
        found = self._known.get(names)
        if found is None:
            found = self._known[names] = variance_of(self._request, names)
        return found

    def has(self, variance: Variance) -> bool:
        """Whether a response that was chosen by these values is chosen now."""
        if not variance:
            return True
        values = self.by([name for name, _ in variance])
        return values == variance and readable(values)


_UNREAD = "\0"
"""Stands for a value that is too long to be compared."""


def readable(variance: Variance) -> bool:
    """Whether a request can be told from others by these values."""
    return all(value != _UNREAD for _, value in variance)


def _normal(name: str, value: str | None) -> str | None:
    """A value as it is compared: absent and empty differ; blanks round commas do not count."""
    if value is None:
        return None
    if name in _WEIGHTED and len(value) <= 256:
        return _weighted(value)
    if len(value) > _LONGEST_PART:
        return _UNREAD
    if len(value) <= _LONGEST_FIELD:  # of what is longer, each spelling is another value
        value = ",".join([member.strip(" \t") for member in value.split(",")])
    return value if name in _PLAIN and len(value) <= 256 else digest((value,))


@lru_cache(maxsize=256)
def _weighted(value: str) -> str:
    """Languages or codings: order and case mean nothing, weights do (RFC 9110, section 12.4.2).

    A member with anything else than one weight counts as it stands: each app makes something else of it.
    """
    members = []
    for member in value.lower().split(","):
        name, *parameters = [part.strip(" \t") for part in member.split(";")]
        if not parameters:
            parameters = ["q=1"]
        if len(parameters) == 1 and _WEIGHT.fullmatch(parameters[0]):
            parameters = [f"{float(parameters[0][2:]):g}"]
        if name or parameters != ["1"]:
            members.append(";".join([name, *parameters]))
    return ",".join(sorted(set(members)))
