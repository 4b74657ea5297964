"""The other end of a connection: addresses and networks. The client behind proxies is found in `forwarding.py`.

Rules:
- Addresses are compared as numbers. An IPv4-mapped IPv6 address is its IPv4 address, before anything is masked: it is
  how a socket for both families writes an IPv4 peer. No other embedding (IPv4-compatible, 6to4, NAT64) is unwrapped:
  those are IPv6 addresses in their own right, and a caller who can choose one must not pass for the IPv4 address inside
  it.
- Zone ids, ports and brackets are not part of an address. Leading zeros, octal and hexadecimal IPv4 are refused.
- What cannot be read is unknown (`None`), never somebody: it is in no network, and shares one bucket.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from keyguard.checks import is_whole
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


KNOWN: Mapping[str, Address | None] = _young
"""The same for those who look and do not read: it stays one object."""


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
    return Address(6, number, inet_ntop(AF_INET6, packed), _network_of(number, IPV6_PREFIX))


IPV6_PREFIX = 64
"""The bits of an IPv6 address that tell callers apart, if the stack does not say other."""


def _network_of(number: int, prefix: int) -> str:
    rest = 128 - prefix
    return f"{inet_ntop(AF_INET6, (number >> rest << rest).to_bytes(16, 'big'))}/{prefix}"


def counted_by(address: Address, prefix: int) -> Address:
    """Return the same address, which counts by another prefix if it is of IPv6."""
    if address.version == 4 or prefix == IPV6_PREFIX:
        return address
    return Address(6, address.number, address.text, _network_of(address.number, prefix))


def buckets_of(address: Address) -> set[str]:
    """Return the texts under which an address may be counted, by whatever prefix."""
    if address.version == 4:
        return {address.bucket}
    return {_network_of(address.number, prefix) for prefix in range(_PREFIX_MIN, 129)}


_PREFIX_MIN = 32  # with less, whole providers would be one caller


def checked_ipv6_prefix(prefix: object) -> int:
    """Return the number of bits that tell callers of IPv6 apart. Raises `ConfigurationError` for what is none."""
    if not is_whole(prefix) or not _PREFIX_MIN <= prefix <= 128:
        raise ConfigurationError(
            f"ipv6_prefix is how many bits of an IPv6 address tell callers apart, {_PREFIX_MIN} to 128, such as 64 for "
            f"one subscriber's network or 56 for one that is delegated to a site, not {prefix!r:.80}"
        )
    return prefix


def bucket_named(text: str, prefix: int) -> str | None:
    """Return the text under which an address is counted; a network is one itself. `None` for what is neither."""
    plain, slash, bits = text.partition("/")
    found = parse_address(plain)
    if found is None or (slash and (found.version == 4 or not _BITS.fullmatch(bits))):
        return None
    if not slash:
        return counted_by(found, prefix).bucket
    return _network_of(found.number, int(bits)) if _PREFIX_MIN <= int(bits) <= 128 else None


_BITS = re.compile("[1-9][0-9]{1,2}")


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
        self.texts = listed(texts)
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


def listed(texts: Iterable[str]) -> tuple[str, ...]:
    """Return texts that are a list. Raises `ConfigurationError` for what is none."""
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


def buckets_in(network: str, most: int, prefix: int = IPV6_PREFIX) -> list[str]:
    """Return the texts under which the callers of an address or a network are counted, of IPv6 by a prefix.

    Raises `ConfigurationError` for what is neither, and for a network with more than `most` of them.
    """
    version, first, behind = _span(network)
    step = 1 if version == 4 else 1 << (128 - prefix)
    first -= first % step
    count = -(-(behind - first) // step)
    if count > most:
        raise ConfigurationError(f"{network!r} is {count} callers, and at most {most} are named so")
    if version == 4:
        return [inet_ntop(AF_INET, number.to_bytes(4, "big")) for number in range(first, behind)]
    return [_network_of(first + place * step, prefix) for place in range(count)]
