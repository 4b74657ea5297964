"""Purging and invalidation: the names under which entries are made void, and what was purged a moment ago."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from urllib.parse import quote_from_bytes, urlsplit

from keyguard.digests import digest
from keyguard.http.fields import decoded
from keyguard.response import Headers

_ASCII = "".join(map(chr, range(33, 127)))
_REMEMBERED = 10_000


class RecentPurges:
    """The latest purges in this process, so that a response that was on its way meanwhile is not stored.

    A request notes the `moment` before it asks the app, and asks `void` before it stores the answer.
    """

    def __init__(self) -> None:
        self.moment = 0
        """How often something has been purged."""
        self._moments: OrderedDict[str, int] = OrderedDict()
        self._all = 0
        self._lock = threading.Lock()

    def renew(self) -> None:
        """Take a new lock, in a forked child: a thread that is not there may hold the old one."""
        self._lock = threading.Lock()

    def note(self, name: str | None) -> None:
        """Note that a URI has been purged, by its digest; `None` stands for all of them."""
        with self._lock:
            self.moment += 1
            if name is None:
                self._all = self.moment
                self._moments.clear()
                return
            self._moments[name] = self.moment
            self._moments.move_to_end(name)
            if len(self._moments) > _REMEMBERED:
                self._all = self._moments.popitem(last=False)[1]  # what is forgotten may have been anything

    def void(self, names: tuple[str, ...], moment: int) -> bool:
        """Tell whether what was asked for at `moment` has been purged since."""
        if moment == self.moment:
            return False
        return moment < self._all or any(moment < self._moments.get(name, 0) for name in names)


# -- names of entries -----------------------------------------------------------------------------------------------


def uri_digest(host: str, uri: str) -> str:
    """Return the digest that stands for all entries of a URI, whatever the scheme and the spelling of its path."""
    return digest((_without_port(host), *_spelled(uri)))


def path_digest(uri: str) -> str:
    """Return the digest that stands for all entries of a path and query, on every host."""
    return digest(("", *_spelled(uri)))


def digests_of(host: str, uri: str) -> tuple[str, str]:
    """Return the digests by which a URI is purged: on its host, and on any."""
    if "?" in uri:  # it may hold a key, and is not remembered
        return uri_digest(host, uri), path_digest(uri)
    return _digests(host, uri)


@lru_cache(maxsize=32)  # a miss asks several times
def _digests(host: str, uri: str) -> tuple[str, str]:
    return uri_digest(host, uri), path_digest(uri)


def tag_mark(tag: str) -> str:
    """Return the mark of a tag in the shared log of purges."""
    return "t" + digest((tag,))


def path_mark(uri: str) -> str:
    """Return the mark of a path and query on every host."""
    return "u" + path_digest(uri)


ALL_MARK = "*"
"""The mark of everything."""


def _without_port(host: str) -> str:
    """Return a host in lower case, less a port that goes without saying."""
    host = host.lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port in ("80", "443", "") else host


@lru_cache(maxsize=32)
def _spelled(uri: str) -> tuple[bytes, bytes]:
    """Return path and query, decoded: `/%61` and `/a` are one resource (RFC 3986, section 6.2.2.2).

    Entries are filed under the spelling of the request line, since an app may tell spellings apart. A purge of one
    spelling purges the others as well, which costs a miss at worst.
    """
    path, _, query = uri.partition("?")
    return decoded(_wire(path)), decoded(_wire(query))


def _wire(text: str) -> bytes:
    """Return the bytes of a text: from the wire it was decoded as ISO 8859-1, from code it may be any text."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


# -- URLs -------------------------------------------------------------------------------------------------------------


def split_url(url: str) -> tuple[str | None, str]:
    """Return the host of a URL, `None` for a path alone, and its path with query.

    Raises `ValueError` for a text that is neither.
    """
    parts = urlsplit(url)
    if not (parts.path.startswith("/") or (parts.netloc and not parts.path)) or bool(parts.scheme) != bool(
        parts.netloc
    ):
        raise ValueError(f"{url!r} is neither a path such as '/items?page=2' nor a URL such as 'https://host/items'")
    path = quote_from_bytes((parts.path or "/").encode(), safe="/%:@!$&'()*+,;=~")
    query = quote_from_bytes(parts.query.encode(), safe=_ASCII)
    return parts.netloc or None, path + ("?" + query if query else "")


def changed_uris(host: str, uri: str, headers: Headers) -> list[str]:
    """Return the URIs that an unsafe method has changed, by the request and the response (RFC 9111, section 4.4)."""
    lines = [*headers.get_all("location"), *headers.get_all("content-location")]
    found = [uri, *[resolve(host, uri, line) for line in lines]]
    return [each for each in dict.fromkeys(found) if each is not None]


def resolve(host: str, uri: str, reference: str) -> str | None:
    """Return path and query of a same-origin reference, as in `Location`; `None` if it names another origin."""
    try:
        parts = urlsplit(reference)
    except ValueError:
        return None
    if parts.netloc and _without_port(parts.netloc) != _without_port(host):
        return None
    if parts.scheme and parts.scheme not in ("http", "https"):
        return None
    path = parts.path
    if not path.startswith("/"):
        if not path and not parts.netloc:
            path = uri.partition("?")[0]
        else:
            path = uri.partition("?")[0].rpartition("/")[0] + "/" + path if path else "/"
    segments: list[str] = []
    if path.endswith(("/.", "/..")):
        path += "/"  # RFC 3986, section 5.2.4
    for segment in path.split("/")[1:]:
        if segment == "..":
            segments[-1:] = []
        elif segment != ".":
            segments.append(segment)
    return "/" + "/".join(segments) + ("?" + parts.query if parts.query else "")
