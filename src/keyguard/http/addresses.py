"""The other end of a connection: addresses, networks, and the client behind trusted proxies.

Rules:
- Addresses are compared as numbers. An IPv4-mapped IPv6 address is its IPv4 address, before anything is masked: it is
  how a socket for both families writes an IPv4 peer. No other embedding (IPv4-compatible, 6to4, NAT64) is unwrapped:
  those are IPv6 addresses in their own right, and a caller who can choose one must not pass for the IPv4 address inside
  it.
- Zone ids, ports and brackets are not part of an address. Leading zeros, octal and hexadecimal IPv4 are refused.
- No forwarding header counts unless the peer is a trusted proxy. The client is the rightmost hop that is not trusted.
- Forwarding headers are read from the right, and no further than the client. The members left of that were written by
  anybody: however long or broken it is, it changes nothing. So a caller cannot make their own address unknown.
- What cannot be read is unknown (`None`), never somebody: it is in no network, and shares one bucket.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any

from keyguard.checks import TCHAR
from keyguard.errors import ConfigurationError

# inet_pton knows what fits together; what may be written at all is said here, for some systems accept more.
_OCTET = r"(?:0|[1-9][0-9]{0,2})"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_IPV6 = rf"[0-9A-Fa-f]*:[0-9A-Fa-f:]*(?:(?<=:){_IPV4})?"
_ZONE = r"(?:%[0-9A-Za-z._~-]+)?"
_PORT = r"(?::[0-9]{1,5})?"
_SPELLING = re.compile(rf"({_IPV6}){_ZONE}|\[({_IPV6}){_ZONE}\]{_PORT}|({_IPV4}){_PORT}")
_NETWORK = re.compile(rf"({_IPV6}|{_IPV4})(?:/(0|[1-9][0-9]{{0,2}}))?")
_MAPPED = bytes(10) + b"\xff\xff"
_LONGEST = 100  # characters; the longest address with zone, brackets and port is shorter
_KEPT = 32768  # a generation; tried: with fewer than there are callers, each request pays for three times its guards


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address."""

    version: int
    """4 or 6."""
    number: int
    text: str = field(compare=False)
    """The canonical text, for logs."""
    bucket: str = field(compare=False)
    """The text under which a caller is counted: one IPv6 client commands a whole /64."""


_young: dict[str, Address | None] = {}
"""The addresses of the texts that were met last. When it is full it becomes `_old`, and those that are met again
return."""
_old: dict[str, Address | None] = {}


def parse_address(text: str) -> Address | None:
    """Return the address that `text` spells, with or without brackets, port and zone; `None` if it spells none."""
    try:
        return _young[text]
    except KeyError:
        return _met_again(text)


def _met_again(text: str) -> Address | None:
    if len(text) > _LONGEST:  # it is not remembered: the size of the memory is bounded whatever callers send
        return None
    address = _old.get(text) or _parsed(text)
    if len(_young) >= _KEPT:
        _old.clear()
        _old.update(_young)
        _young.clear()  # it stays the same object: `ClientAddress.direct` is that
    _young[text] = address
    return address


def _parsed(text: str) -> Address | None:
    match = _SPELLING.fullmatch(text.strip(" \t"))
    packed = _packed(match[1] or match[2] or match[3]) if match else None
    if packed is None:
        return None
    if packed.startswith(_MAPPED):
        packed = packed[12:]
    number = int.from_bytes(packed, "big")
    if len(packed) == 4:
        text = inet_ntop(AF_INET, packed)
        return Address(4, number, text, text)
    return Address(6, number, inet_ntop(AF_INET6, packed), inet_ntop(AF_INET6, packed[:8] + bytes(8)) + "/64")


def _packed(text: str) -> bytes | None:
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except OSError:
        return None


class Networks:
    """A set of networks. Asking it takes about the same time for one and for fifty thousand."""

    __slots__ = ("_edges", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """Raise `ConfigurationError` that names a text which is not a network, and says what would be right."""
        self.texts = _listed(texts)
        spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for text in self.texts:
            version, first, behind = _span(text)
            spans[version].append((first, behind))
        # For each version the first number inside, the first behind, the next inside, ...: sorted and merged, so that
        # a number is inside if an odd count of edges does not exceed it.
        self._edges = {version: _merged(found) for version, found in spans.items()}

    def __repr__(self) -> str:
        return f"<Networks: {len(self.texts)}>"

    def __len__(self) -> int:
        return len(self.texts)

    def __contains__(self, address: Address | None) -> bool:
        """Whether the address is in one of the networks. An unknown one never is."""
        return address is not None and bisect_right(self._edges[address.version], address.number) % 2 == 1

    @property
    def covers_everything(self) -> bool:
        """Tell whether no IPv4 address, or no IPv6 address, is left out."""
        return self._edges[4] == [0, 1 << 32] or self._edges[6] == [0, 1 << 128]


def _listed(texts: Iterable[str]) -> tuple[str, ...]:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise ConfigurationError(f"networks are a list of texts, such as ['203.0.113.0/24'], not {texts!r}")
    return tuple(texts)


def _span(text: object) -> tuple[int, int, int]:
    """Return the version, the first number inside and the first behind."""
    match = _NETWORK.fullmatch(text.strip()) if isinstance(text, str) else None
    packed = _packed(match[1]) if match else None
    if match is None or packed is None:
        raise ConfigurationError(
            f"{text!r} is not a network: write a text such as '203.0.113.7', '203.0.113.0/24' or '2001:db8::/32'"
        )
    most = len(packed) * 8
    prefix = most if match[2] is None else int(match[2])
    if prefix > most:
        raise ConfigurationError(f"{text!r} is not a network: the prefix of such an address is at most {most}")
    if packed.startswith(_MAPPED):
        # "::ffff:10.0.0.0/8" is a slip: taken at its word it is a part of IPv6, and holds no IPv4 address at all.
        if prefix < 96:
            raise ConfigurationError(f"{text!r} would need a prefix of 96 to 128: write it as IPv4, '10.0.0.0/8'")
        packed, most, prefix = packed[12:], 32, prefix - 96
    size = 1 << (most - prefix)
    number = int.from_bytes(packed, "big")
    first = number - number % size
    if first != number:
        meant = inet_ntop(AF_INET if most == 32 else AF_INET6, first.to_bytes(most // 8, "big"))
        raise ConfigurationError(f"{text!r} has bits set behind its prefix: did you mean '{meant}/{prefix}'?")
    return 4 if most == 32 else 6, first, first + size


def _merged(spans: list[tuple[int, int]]) -> list[int]:
    edges: list[int] = []
    for first, behind in sorted(spans):
        if edges and first <= edges[-1]:
            edges[-1] = max(edges[-1], behind)
        else:
            edges += (first, behind)
    return edges


def buckets_in(network: str, most: int) -> list[str]:
    """Return the texts under which the callers of an address or a network are counted.

    Raises `ConfigurationError` for what is neither, and for a network with more than `most` of them.
    """
    version, first, behind = _span(network)
    step = 1 if version == 4 else 1 << 64
    first -= first % step
    count = -(-(behind - first) // step)
    if count > most:
        raise ConfigurationError(f"{network!r} is {count} callers, and at most {most} are named so")
    if version == 4:
        return [inet_ntop(AF_INET, number.to_bytes(4, "big")) for number in range(first, behind)]
    return [inet_ntop(AF_INET6, (first + place * step).to_bytes(16, "big")) + "/64" for place in range(count)]


_UNIX = "unix"
_HOPS_MAX = 50  # so many trusted proxies in a row are a loop
_LONGEST_PIECE, _MOST_PIECES = 1024, 200  # of a `Forwarded` field, between two commas
_FIELD_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class ClientAddress:
    """Finds the client's address: the one place for a whole stack.

    `trusted` are networks of proxies; `"unix"` among them trusts a peer on a unix socket. `header` is the one field
    they tell the client in: `"x-forwarded-for"`, `"forwarded"` (RFC 7239), or a field that holds one address, such as
    `"cf-connecting-ip"`, which the proxy must set, not add to.
    """

    __slots__ = ("_header", "_hops", "_networks", "_settings", "_trusts_nobody", "_trusts_unix", "direct")

    def __init__(self, trusted: Iterable[str] = (), header: str = "x-forwarded-for") -> None:
        if isinstance(trusted, str):
            raise ConfigurationError(f"trusted_proxies are a list, such as [{trusted!r}], not one text")
        texts = _listed(trusted)
        self._trusts_unix = _UNIX in texts
        self._trusts_nobody = not texts
        self.direct: Mapping[Any, Address | None] = {} if texts else _young
        """Clients by their peer: those that are known, and need no second look. For reading alone."""
        self._networks = Networks(text for text in texts if text not in (_UNIX, "*"))
        if "*" in texts or self._networks.covers_everything:
            raise ConfigurationError(
                "trusting every address as a proxy lets every caller choose its own: name the networks of your proxies"
            )
        if not isinstance(header, str) or not _FIELD_NAME.fullmatch(header.lower()):
            raise ConfigurationError(f"forwarded_header is the name of a header field, not {header!r}")
        self._header = header.lower()
        readers = {"x-forwarded-for": _members, "forwarded": _elements}
        self._settings = frozenset(texts), self._header
        self._hops: Callable[[str], Iterable[str]] = readers.get(self._header, lambda value: (value,))

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
        if self._trusts_nobody:
            return address
        if not (self._trusts_unix if peer is None else address in self._networks):
            return address
        value = header(self._header)
        if value is None:
            return address
        for hop in self._hops(value):
            address = parse_address(hop)
            if address not in self._networks:
                return address  # the first hop that is not ours; one that cannot be read hides the client
        return address


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
