"""Who is at the other end: addresses, networks, and the client behind trusted proxies.

Rules:
- Addresses are compared as numbers. An IPv4-mapped IPv6 address is its IPv4 address, before anything is masked.
- Zone ids, ports and brackets are no part of an address. Leading zeros, octal and hexadecimal IPv4 are refused.
- No forwarding header counts unless the peer is a trusted proxy. The client is the rightmost hop that is not trusted.
- What cannot be read is unknown (`None`), never somebody: it is on no allow list, and shares one bucket.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from keyguard.errors import ConfigurationError

_MAPPED = bytes(10) + b"\xff\xff"
_LONGEST = 100  # characters; the longest address with zone, brackets and port is shorter
_ALL_4, _ALL_6 = 2**32 - 1, 2**128 - 1


class Address:
    """An IP address."""

    __slots__ = ("bucket", "number", "text", "version")

    def __init__(self, version: int, packed: bytes) -> None:
        self.version = version
        """4 or 6."""
        self.number = int.from_bytes(packed, "big")
        self.text = inet_ntop(AF_INET if version == 4 else AF_INET6, packed)
        """The canonical text, for logs and counters."""
        self.bucket = self.text if version == 4 else inet_ntop(AF_INET6, packed[:8] + bytes(8)) + "/64"
        """The text under which a caller is counted: one IPv6 client commands a whole /64."""

    def __repr__(self) -> str:
        return f"<Address {self.text}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and (self.version, self.number) == (other.version, other.number)

    def __hash__(self) -> int:
        return hash((self.version, self.number))


_PORT = re.compile(r":[0-9]{1,5}")
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


@lru_cache(maxsize=8192)
def parse_address(text: str) -> Address | None:
    """The address that `text` spells, with or without brackets, port and zone; `None` where it spells none."""
    text = text.strip(" \t")
    if not text or len(text) > _LONGEST or not text.isascii() or "\0" in text:
        return None
    if text[0] == "[":
        text, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in text or (port and not _PORT.fullmatch(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _IPV4.fullmatch(text) or not _PORT.fullmatch(":" + port):
            return None
    if ":" not in text:
        # inet_pton refuses leading zeros on some systems only.
        if not _IPV4.fullmatch(text) or any(part != "0" and part[0] == "0" for part in text.split(".")):
            return None
        try:
            return Address(4, inet_pton(AF_INET, text))
        except OSError:
            return None
    text, zone, name = text.partition("%")
    if zone and not name:
        return None
    try:
        packed = inet_pton(AF_INET6, text)
    except OSError:
        return None
    if packed.startswith(_MAPPED):
        return Address(4, packed[12:])
    return Address(6, packed)


class Networks:
    """A set of networks. Asking it takes the same time for one and for fifty thousand."""

    __slots__ = ("_bounds", "covers_everything", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises `ConfigurationError` that names the text which is no network, and says what would be right."""
        if isinstance(texts, (str, bytes)):
            raise ConfigurationError(f"networks are a list of texts, such as [{texts!r}], not one text")
        self.texts = tuple(texts)
        spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for text in self.texts:
            version, first, last = _span(text)
            spans[version].append((first, last))
        # Sorted and merged, so that one bisection over the first addresses finds the only span that could match.
        self._bounds = {version: _merged(found) for version, found in spans.items()}
        self.covers_everything = any(
            firsts[:1] == [0] and lasts[:1] == [most]
            for (firsts, lasts), most in zip(self._bounds.values(), (_ALL_4, _ALL_6), strict=True)
        )

    def __repr__(self) -> str:
        return f"<Networks: {len(self.texts)}>"

    def __len__(self) -> int:
        return len(self.texts)

    def __contains__(self, address: Address) -> bool:
        firsts, lasts = self._bounds[address.version]
        number = address.number
        place = bisect_right(firsts, number) - 1
        return place >= 0 and number <= lasts[place]


def _span(text: object) -> tuple[int, int, int]:
    if not isinstance(text, str):
        raise ConfigurationError(f"{text!r} is no network: write it as text, such as '203.0.113.0/24'")
    try:
        network = ip_network(text.strip())
    except ValueError:
        try:
            meant = ip_network(text.strip(), strict=False)
        except ValueError:
            raise ConfigurationError(
                f"{text!r} is no network: write '203.0.113.7', '203.0.113.0/24', '2001:db8::/32'"
            ) from None
        raise ConfigurationError(f"{text!r} has bits set behind its prefix: did you mean {str(meant)!r}?") from None
    return _unmapped(network)


def _unmapped(network: IPv4Network | IPv6Network) -> tuple[int, int, int]:
    first, last = int(network.network_address), int(network.broadcast_address)
    if network.version == 6 and network.prefixlen >= 96 and first >> 32 == 0xFFFF:
        return 4, first & _ALL_4, last & _ALL_4
    return network.version, first, last


def _merged(spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in sorted(spans):
        if lasts and first <= lasts[-1] + 1:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts


_UNIX = "unix"
_HEADER_MAX = 8192  # characters
_FIELD_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class ClientAddress:
    """Finds the client's address: the one place for a whole stack.

    `trusted` are networks of proxies; `"unix"` among them trusts a peer on a unix socket. `header` is the one field
    they tell the client in: `"x-forwarded-for"`, `"forwarded"` (RFC 7239), or a field that holds one address, such as
    `"cf-connecting-ip"`.
    """

    __slots__ = ("_header", "_hops", "_networks", "_trusts_unix")

    def __init__(self, trusted: Iterable[str] = (), header: str = "x-forwarded-for") -> None:
        if isinstance(trusted, str):
            raise ConfigurationError(f"trusted_proxies are a list, such as [{trusted!r}], not one text")
        texts = list(trusted)
        self._trusts_unix = _UNIX in texts
        if "*" in texts:
            raise ConfigurationError("trusting every proxy lets every caller choose an address: name their networks")
        self._networks = Networks(text for text in texts if text != _UNIX)
        if self._networks.covers_everything:
            raise ConfigurationError(
                "trusted_proxies covers every address, so every caller could choose one: name yours"
            )
        if not isinstance(header, str) or not _FIELD_NAME.fullmatch(header.lower()):
            raise ConfigurationError(f"forwarded_header is the name of a header field, not {header!r}")
        self._header = header.lower()
        self._hops: Callable[[str], list[str | None]] = {
            "x-forwarded-for": lambda value: list(value.split(",")),
            "forwarded": forwarded_for,
        }.get(self._header, lambda value: [value])

    def find(self, peer: str | None, header: Callable[[str], str | None]) -> Address | None:
        """The client behind `peer`, or `None` where it cannot be known."""
        address = None if peer is None else parse_address(peer)
        if not (self._trusts_unix if peer is None else address is not None and address in self._networks):
            return address
        value = header(self._header)
        if value is None:
            return address
        if len(value) > _HEADER_MAX:
            return None
        for hop in reversed(self._hops(value)):
            address = None if hop is None else parse_address(hop)
            if address is None or address not in self._networks:
                return address  # the first hop that is not ours; one that cannot be read hides the client
        return address


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])*"'
_PAIR = re.compile(rf"[ \t]*(?:({_TOKEN})=({_TOKEN}|{_QUOTED}))?[ \t]*(;|,|$)")


def forwarded_for(value: str) -> list[str | None]:
    """The `for` parameters of a `Forwarded` field, one a hop (RFC 7239, section 4); `None` where a hop has none.

    A field that breaks the grammar has one hop, which is unknown.
    """
    hops: list[str | None] = []
    hop: str | None = None
    pairs = place = 0
    while True:
        match = _PAIR.match(value, place)
        if match is None:
            return [None]
        name, text, end = match.groups()
        place = match.end()
        if name is not None:
            pairs += 1
            if name.lower() == "for":
                if hop is not None:
                    return [None]  # a parameter must not occur twice in one element
                hop = re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text
        if end != ";":
            if pairs:  # an empty list element counts as none (RFC 9110, section 5.6.1)
                hops.append(hop)
            hop, pairs = None, 0
            if end == "":
                return hops or [None]
