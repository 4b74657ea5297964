"""The client behind proxies: who counts as one, and which of the addresses that they tell is the client's.

Rules:
- No forwarding header counts unless the peer is a trusted proxy. The client is the rightmost hop that is not trusted.
- A number of trusted hops counts only if the peer is private, a unix socket, or a trusted proxy. So many hops, counted
  from the right, are proxies, the peer being the first; the next one is the client. If there are fewer, somebody came
  another way: then the client is unknown, and nobody that the header names.
- Forwarding headers are read from the right, and no further than the client. The members left of that were written by
  anybody: however long or broken it is, it changes nothing. So a caller cannot make their own address unknown.
- The names of header fields that others write do not count; that they come from a private peer is worth one warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from keyguard.checks import TCHAR, is_whole
from keyguard.errors import ConfigurationError
from keyguard.http.addresses import (
    IPV6_PREFIX,
    KNOWN,
    Address,
    Networks,
    checked_ipv6_prefix,
    counted_by,
    listed,
    parse_address,
)
from keyguard.logs import logger

log = logger("keyguard")


_UNIX = "unix"
_HOPS_MAX = 50  # so many trusted proxies in a row are a loop
_LONGEST_PIECE, _MOST_PIECES = 1024, 200  # of a `Forwarded` field, between two commas
_FIELD_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_MOST_TRUSTED = 10
_PRIVATE = Networks(
    [
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16"),
        *("fc00::/7", "fe80::/10", "::1/128"),
    ]
)
"""Addresses that nobody has who comes from the internet without a proxy (RFC 1918, 3927, 4193, 4291). Those that are
shared by a provider's customers (RFC 6598) are not among them."""
_TOLD_BY_PROXIES = ("x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip")
_LOOKS = 200
"""Requests that are looked at for these."""


class ClientAddress:
    """Finds the client's address: the one place for a whole stack.

    `trusted` are networks of proxies; `"unix"` among them trusts a peer on a unix socket. `header` is the one field
    they tell the client in: `"x-forwarded-for"`, `"forwarded"` (RFC 7239), or a field that holds one address, such as
    `"cf-connecting-ip"`, which the proxy must set, not add to.

    `hops` is the number of proxies in front of the app, if their addresses are not known; 0 if it is not. `ipv6_prefix`
    are the bits of an IPv6 address that tell callers apart.
    """

    __slots__ = (
        "_header",
        "_hops",
        "_looks",
        "_networks",
        "_number",
        "_settings",
        "_trusts_nobody",
        "_trusts_unix",
        "direct",
        "ipv6_prefix",
    )

    def __init__(
        self,
        trusted: Iterable[str] = (),
        header: str = "x-forwarded-for",
        *,
        hops: int = 0,
        ipv6_prefix: int = IPV6_PREFIX,
    ) -> None:
        if isinstance(trusted, str):
            raise ConfigurationError(f"trusted_proxies are a list, such as [{trusted!r}], not one text")
        texts = listed(trusted)
        self._trusts_unix = _UNIX in texts
        self._networks = Networks(text for text in texts if text not in (_UNIX, "*"))
        if "*" in texts or self._networks.covers_everything:
            raise ConfigurationError(
                "trusting every address as a proxy lets every caller choose its own: name the networks of your proxies"
            )
        if not isinstance(header, str) or not _FIELD_NAME.fullmatch(header.lower()):
            raise ConfigurationError(f"forwarded_header is the name of a header field, not {header!r}")
        self._header = header.lower()
        self._number = _checked_hops(hops)
        if self._number > 1 and self._header not in _READERS:
            raise ConfigurationError(
                f"trusted_hops={hops} counts hops, and {header!r} has one: use 'x-forwarded-for' or 'forwarded'"
            )
        self.ipv6_prefix = checked_ipv6_prefix(ipv6_prefix)
        self._trusts_nobody = not texts and not hops
        self.direct: Mapping[Any, Address | None] = {}
        """Clients by their peer: those that are known, and need no second look. For reading alone."""
        self._looks = _LOOKS
        """So many more requests are looked at for headers of a proxy that nobody has named."""
        self._settings = frozenset(texts), self._header, self._number, self.ipv6_prefix
        self._hops: Callable[[str], Iterable[str]] = _READERS.get(self._header, lambda value: (value,))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClientAddress) and self._settings == other._settings

    def __hash__(self) -> int:
        return hash(self._settings)

    def trusts(self, address: Address) -> bool:
        """Tell whether this is the address of a trusted proxy."""
        return address in self._networks

    def find(self, peer: str | None, header: Callable[[str], str | None]) -> Address | None:
        """Return the client behind `peer`, or `None` if it cannot be known."""
        address = None if peer is None else parse_address(peer)
        found = self._behind(peer, address, header)
        return None if found is None else counted_by(found, self.ipv6_prefix)

    def _behind(self, peer: str | None, address: Address | None, header: Callable[[str], str | None]) -> Address | None:
        if self._trusts_nobody:
            if self._looks:
                self._look(peer, address, header)
            return address
        near = self._trusts_unix if peer is None else address in self._networks
        by_number = self._number and (near or peer is None or address in _PRIVATE)
        if not near and not by_number:
            if self._looks:
                self._look(peer, address, header)
            return address
        value = header(self._header)
        if value is None:
            return address
        if by_number:
            # The peer is the first proxy, and each tells of the one before it.
            hop = next(islice(self._hops(value), self._number - 1, None), None)
            return None if hop is None else parse_address(hop)
        for hop in self._hops(value):
            address = parse_address(hop)
            if address not in self._networks:
                return address  # the first hop that is not ours; one that cannot be read hides the client
        return address

    def _look(self, peer: str | None, address: Address | None, header: Callable[[str], str | None]) -> None:
        """Warn of a header that seems to be a proxy's, which nobody has named; once, and not for ever."""
        self._looks -= 1
        told = next((name for name in _TOLD_BY_PROXIES if header(name) is not None), None)
        if told is not None and (peer is None or address in _PRIVATE):
            self._looks = 0
            _warn(peer, told, self._header)
        if not self._looks and self._trusts_nobody and self.ipv6_prefix == IPV6_PREFIX:
            self.direct = KNOWN


def _checked_hops(hops: object) -> int:
    if not is_whole(hops) or not 0 <= hops <= _MOST_TRUSTED:
        raise ConfigurationError(
            f"trusted_hops is the number of proxies in front of the app, 1 to {_MOST_TRUSTED}, or 0 if none is trusted "
            f"by its number, not {hops!r:.80}"
        )
    return hops


def _warn(peer: str | None, told: str, header: str) -> None:
    whence, wanted = ("a unix socket", "unix") if peer is None else (f"{peer}, a private address", peer)
    other = "" if told == header else f", forwarded_header={told!r}"
    log.warning(
        "requests come from %s, with %s, which does not count: nobody has named that peer a proxy, so all callers "
        "behind it are one. If it is your proxy, write Keyguard(..., trusted_proxies=[%r]%s), or trusted_hops=1%s if "
        "its address changes; docs/client-address.md tells more",
        whence,
        told,
        wanted,
        other,
        other,
    )


def _members(value: str) -> Iterable[str]:
    """Return the members of a list, the last first. All left of the last `_HOPS_MAX` are one, which names no client."""
    return reversed(value.rsplit(",", _HOPS_MAX))


# Possessive, so that no text takes longer than its length.
_TOKEN = f"{TCHAR}++"
_QUOTED = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])*+"'
_BLANKS = r"[ \t]*+"
_PARAMETER = re.compile(rf"({_TOKEN})=({_TOKEN}|{_QUOTED})")
_ELEMENT = re.compile(
    rf"{_BLANKS}(?:{_PARAMETER.pattern}{_BLANKS})?+(?:;{_BLANKS}(?:{_PARAMETER.pattern}{_BLANKS})?+)*+"
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def _elements(value: str) -> Iterator[str]:
    """Return the `for` parameters of a `Forwarded` field (RFC 7239, section 4), the last first; "" for a malformed one.

    Elements are told apart from the right, by the quotes behind each comma: a quote that a caller opened and left open
    cannot swallow what the proxies added behind it. A field that is longer than any proxy writes, or has more members,
    is not well said either, from there on to the left.
    """
    start = end = len(value)
    quoted = False
    pieces = 0
    while start >= 0:
        pieces += 1
        comma = value.rfind(",", 0, start)
        if start - comma > _LONGEST_PIECE or pieces > _MOST_PIECES:
            quoted = True
            break
        piece = value[comma + 1 : start]
        quoted ^= '"' in piece and _ESCAPE.sub("", piece).count('"') % 2 == 1
        start = comma
        if not quoted:
            yield _named_for(value[start + 1 : end])
            end = start
    if quoted:
        yield ""


def _named_for(element: str) -> str:
    if len(element) > _LONGEST_PIECE:  # of several pieces, in quotes
        return ""
    if not _ELEMENT.fullmatch(element):
        return ""
    found = [text for name, text in _PARAMETER.findall(element) if name.lower() == "for"]
    if len(found) != 1:  # a parameter must not occur twice in an element
        return ""
    text: str = found[0]
    return _ESCAPE.sub(r"\1", text[1:-1]) if text[0] == '"' else text


_READERS: dict[str, Callable[[str], Iterable[str]]] = {"x-forwarded-for": _members, "forwarded": _elements}
