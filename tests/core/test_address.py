"""Addresses, networks, and the client behind proxies: tables, a story for each advisory, and every parser fuzzed."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyguard.errors import ConfigurationError
from keyguard.http import addresses
from keyguard.http.addresses import Address, Networks, parse_address
from keyguard.http.forwarding import ClientAddress


def address(text: str) -> Address:
    found = parse_address(text)
    assert found is not None, text
    return found


# -- one address ----------------------------------------------------------------------------------------------

SPELLINGS = {
    "192.0.2.1": "192.0.2.1",
    "0.0.0.0": "0.0.0.0",
    "255.255.255.255": "255.255.255.255",
    " \t192.0.2.1 ": "192.0.2.1",
    "192.0.2.1:80": "192.0.2.1",
    "2001:db8::1": "2001:db8::1",
    "2001:DB8:0:0:0:0:0:1": "2001:db8::1",
    "2001:0db8:0000:0000:0000:0000:0000:0001": "2001:db8::1",
    "2001:db8::192.0.2.1": "2001:db8::c000:201",
    "::": "::",
    "::1": "::1",
    "1::": "1::",
    "[2001:db8::1]": "2001:db8::1",
    "[2001:db8::1]:4711": "2001:db8::1",
    "fe80::1%eth0": "fe80::1",
    "fe80::1%25eth0.100": "fe80::1",
    "[fe80::1%br-lan]:80": "fe80::1",
    "fe80::1%" + "z" * 92: "fe80::1",
    # Without brackets a last group is a group: no port can be meant.
    "2001:db8::1:80": "2001:db8::1:80",
    # IPv4-mapped addresses are IPv4, however they are written.
    "::ffff:192.0.2.1": "192.0.2.1",
    "::FFFF:192.0.2.1": "192.0.2.1",
    "::ffff:c000:201": "192.0.2.1",
    "0:0:0:0:0:ffff:c000:0201": "192.0.2.1",
    "0000:0000:0000:0000:0000:ffff:192.0.2.1": "192.0.2.1",
    "[::ffff:192.0.2.1]:80": "192.0.2.1",
    "::ffff:192.0.2.1%eth0": "192.0.2.1",
    # All other embeddings are IPv6 addresses in their own right.
    "64:ff9b::192.0.2.1": "64:ff9b::c000:201",
    "2002:c000:201::": "2002:c000:201::",
    "::ffff:0:192.0.2.1": "::ffff:0:c000:201",
}

NO_ADDRESSES = [
    "",
    " ",
    "unknown",
    "_hidden",
    "localhost",
    "testclient",
    "unix:",
    "unix:/run/app.sock",
    "example.com:80",
    # IPv4 in the forms that some systems take for octal, hexadecimal or short.
    "010.0.0.1",
    "10.0.0.01",
    "00.0.0.0",
    "0x0a.0.0.1",
    "0xa000001",
    "167772161",
    "10.1",
    "10.0.1",
    "10.0.0.0.1",
    "10.0.0.",
    ".10.0.0.1",
    "10.0.0.256",
    "10.0.0.1000",
    "-1.0.0.0",
    "+1.0.0.0",
    "1e1.0.0.0",
    "10.0.0.1/32",
    "10 .0.0.1",
    "10.0.0.1\n",
    "x10.0.0.1",
    "10.0.0.1x",
    "10.0.0.1\0",
    "\0",
    "10.0.0.1, 10.0.0.2",
    "１０.0.0.1",
    "١٠.0.0.1",
    "10.0.0.1\u00a0",
    "10。0。0。1",
    "10.0.0.1%eth0",
    # Ports are digits; a port that is hidden or missing is none.
    "10.0.0.1:",
    "10.0.0.1:_port",
    "10.0.0.1:http",
    "10.0.0.1:123456",
    "10.0.0.1:٨٠",
    "10.0.0.1:80:80",
    "[10.0.0.1]",
    "[10.0.0.1]:80",
    ":80",
    # IPv6
    ":",
    ":::",
    "::1::",
    "1:2",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7:8::",
    "12345::",
    "g::",
    "::ffff:010.0.0.1",
    "::ffff:10.0.0.256",
    "::10.0.0.1:1",
    "[::1",
    "::1]",
    "[::1]]",
    "[[::1]]",
    "[::1]80",
    "[::1]:",
    "[::1]:x",
    "[::1]:123456",
    "[]",
    "[]:80",
    "::1%",
    "[::1%]",
    "::1%eth0%eth1",
    "::1%et h0",
    "%eth0",
    "::1/64",
    "::1\0",
    "：：1",
    "\ud800",
    "1" * 101,
    "::1%" + "z" * 97,
]


@pytest.mark.parametrize(("text", "canonical"), SPELLINGS.items())
def test_an_address_is_one_address_however_it_is_spelled(text: str, canonical: str) -> None:
    found = address(text)
    assert found.text == canonical
    assert found == address(canonical)
    assert hash(found) == hash(address(canonical))
    assert found.version == (6 if ":" in canonical else 4)


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_nobody(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("text", "bucket"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.2", "192.0.2.2"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        # Whoever holds the /64 could write any IPv4 address into it.
        ("2001:db8::192.0.2.1", "2001:db8::/64"),
        ("64:ff9b::192.0.2.1", "64:ff9b::/64"),
    ],
)
def test_a_caller_is_counted_under(text: str, bucket: str) -> None:
    assert address(text).bucket == bucket


def test_an_address_cannot_be_changed_for_it_is_shared_by_requests() -> None:
    with pytest.raises(FrozenInstanceError):
        address("192.0.2.1").number = 0


def test_an_ipv4_address_is_no_ipv6_address_of_the_same_number() -> None:
    assert address("0.0.0.1") != address("::1")
    assert address("0.0.0.1") in Networks(["0.0.0.1"])
    assert address("::1") not in Networks(["0.0.0.1"])


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
@example(ipaddress.ip_address("::"))
@example(ipaddress.ip_address("::ffff:0:0"))
@example(ipaddress.ip_address("::ffff:ffff:ffff"))
@example(ipaddress.ip_address("::fffe:ffff:ffff"))
@example(ipaddress.ip_address("::1:0:0:0"))
def test_addresses_are_read_as_the_standard_library_reads_them(
    expected: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    spellings = [str(expected)]
    if isinstance(expected, ipaddress.IPv6Address):
        spellings += [expected.exploded, str(expected).upper(), f"[{expected}]:65535", f"{expected}%z"]
        expected = expected.ipv4_mapped or expected
    for spelling in spellings:
        found = address(spelling)
        assert (found.version, found.number) == (expected.version, int(expected))
        assert ipaddress.ip_address(found.text) == expected
        if isinstance(expected, ipaddress.IPv4Address):
            assert found.bucket == str(expected)
        else:
            assert ipaddress.ip_network(found.bucket) == ipaddress.ip_network((expected, 64), strict=False)


ADDRESS_LIKE = st.text(alphabet="0123456789abcdefABCDEF:.%[]/x -_\0", max_size=50)


@given(ADDRESS_LIKE | st.text(max_size=200) | st.text(alphabet=st.characters(), max_size=20))
def test_any_text_is_an_address_or_none_and_what_is_read_is_what_the_standard_library_reads(text: str) -> None:
    found = parse_address(text)
    try:
        expected = ipaddress.ip_address(text)
    except ValueError:
        # Decorations alone are taken off; what is left is an address to both.
        assert found is None or any(mark in text for mark in " \t[]:")
        return
    if isinstance(expected, ipaddress.IPv6Address):
        zone = expected.scope_id
        if zone is not None and not all(c.isascii() and (c.isalnum() or c in "._~-") for c in zone):
            assert found is None
            return
        expected = expected.ipv4_mapped or ipaddress.IPv6Address(int(expected))
    assert found is not None
    assert (found.version, found.number) == (expected.version, int(expected))


# -- networks -------------------------------------------------------------------------------------------------

MEMBERS = [
    (["10.0.0.0/8"], "10.255.255.255", True),
    (["10.0.0.0/8"], "11.0.0.0", False),
    (["10.0.0.0/8"], "9.255.255.255", False),
    (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
    (["10.0.0.0/8"], "::ffff:a00:1", True),
    (["10.0.0.0/8"], "64:ff9b::10.0.0.1", False),
    (["10.0.0.0/8"], "::10.0.0.1", False),
    (["10.0.0.0/8"], "2002:a00:1::", False),
    (["192.0.2.7"], "192.0.2.7", True),
    (["192.0.2.7"], "192.0.2.8", False),
    (["192.0.2.7/32"], "192.0.2.7", True),
    (["0.0.0.0/0"], "255.255.255.255", True),
    (["0.0.0.0/0"], "::1", False),
    (["::/0"], "::1", True),
    (["::/0"], "10.0.0.1", False),
    (["::/0"], "::ffff:10.0.0.1", False),
    (["2001:db8::/32"], "2001:db8:ffff::1", True),
    (["2001:db8::/32"], "2001:db9::", False),
    (["2001:DB8::/32"], "2001:db8::1%eth0", True),
    (["2001:db8::1"], "2001:db8:0:0:0:0:0:1", True),
    (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
    (["::ffff:a00:0/104"], "11.0.0.0", False),
    (["::ffff:192.0.2.7"], "192.0.2.7", True),
    (["::ffff:0:0/96"], "192.0.2.7", True),
    ([" 10.0.0.0/8\n"], "10.0.0.1", True),
    (["10.0.0.0/9", "10.128.0.0/9"], "10.128.0.0", True),
    (["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8"], "10.200.0.0", True),
    (["10.0.0.0/24", "10.0.2.0/24"], "10.0.1.0", False),
    (["10.0.0.0/24", "10.0.2.0/24"], "10.0.2.0", True),
    ([], "10.0.0.1", False),
]


@pytest.mark.parametrize(("texts", "text", "inside"), MEMBERS)
def test_an_address_is_in_a_network(texts: list[str], text: str, inside: bool) -> None:
    assert (address(text) in Networks(texts)) is inside


def test_who_is_unknown_is_in_no_network() -> None:
    assert None not in Networks(["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0.1/8", "did you mean '10.0.0.0/8'?"),
        ("2001:db8::1/32", "did you mean '2001:db8::/32'?"),
        ("::ffff:10.0.0.1/104", "did you mean '10.0.0.0/8'?"),
        ("::ffff:10.0.0.0/8", "write it as IPv4"),
        ("::ffff:0:0/95", "write it as IPv4"),
        ("10.0.0.0/33", "at most 32"),
        ("2001:db8::/129", "at most 128"),
        ("010.0.0.0/8", "is not a network"),
        ("10.0.0.0/08", "is not a network"),
        ("10.0.0.0/-8", "is not a network"),
        ("10.0.0.0/+8", "is not a network"),
        ("10.0.0.0/٨", "is not a network"),
        ("10.0.0.0/8.0", "is not a network"),
        ("10.0.0.0/1_0", "is not a network"),
        ("10.0.0.0/", "is not a network"),
        ("10.0.0.0/8/8", "is not a network"),
        # A netmask and a wildcard mask look alike, and mean the opposite.
        ("10.0.0.0/255.0.0.0", "is not a network"),
        ("10.0.0.0/0.255.255.255", "is not a network"),
        ("10.0.0.0:80", "is not a network"),
        ("[2001:db8::]/32", "is not a network"),
        ("fe80::%eth0/64", "is not a network"),
        ("10.0.0.*", "is not a network"),
        ("10.0.0.0-10.0.0.9", "is not a network"),
        ("example.com", "is not a network"),
        ("/8", "is not a network"),
        ("", "is not a network"),
        ("*", "is not a network"),
        (None, "is not a network"),
        (float("nan"), "is not a network"),
        (167772160, "is not a network"),
        (b"10.0.0.0/8", "is not a network"),
        (ipaddress.ip_network("10.0.0.0/8"), "is not a network"),
    ],
)
def test_what_is_no_network_stops_the_start(text: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Networks(["192.0.2.1", text])
    assert says in str(raised.value)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize("texts", ["10.0.0.0/8", b"10.0.0.0/8", None, 8, float("nan")])
def test_a_list_of_networks_is_a_list(texts: Any) -> None:
    with pytest.raises(ConfigurationError, match="networks are a list"):
        Networks(texts)


@pytest.mark.parametrize(
    ("texts", "everything"),
    [
        ([], False),
        (["10.0.0.0/8"], False),
        (["0.0.0.0/0"], True),
        (["::/0"], True),
        (["::ffff:0:0/96"], True),
        (["0.0.0.0/1"], False),
        (["128.0.0.0/1", "0.0.0.0/1"], True),
        (["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2"], True),
        (["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"], False),
        (["::/1", "8000::/1", "10.0.0.0/8"], True),
    ],
)
def test_covering_everything_is_seen_in_pieces_too(texts: list[str], everything: bool) -> None:
    assert Networks(texts).covers_everything is everything


def test_networks_say_how_many_they_are() -> None:
    networks = Networks(text for text in ("10.0.0.0/8", "::1"))
    assert (len(networks), repr(networks)) == (2, "<Networks: 2>")
    assert networks.texts == ("10.0.0.0/8", "::1")
    assert not Networks([])


def _network(bits: int, number: int, prefix: int) -> Any:
    family = ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network
    return family((number >> (bits - prefix) << (bits - prefix) if prefix else 0, prefix))


# Few numbers, near each other, so that networks touch, nest and overlap.
NEAR = {32: 10 << 24, 128: 0x20010DB8 << 96}
PLACES = st.sampled_from([32, 128]).flatmap(
    lambda bits: st.tuples(st.just(bits), st.integers(0, 300).map(lambda n: NEAR[bits] + n))
)
SOME_NETWORKS = st.lists(
    PLACES.flatmap(lambda place: st.integers(place[0] - 10, place[0]).map(lambda prefix: _network(*place, prefix))),
    max_size=12,
)


@given(SOME_NETWORKS, st.lists(PLACES, min_size=1, max_size=20))
def test_networks_hold_what_a_walk_through_them_finds(networks: list[Any], places: list[tuple[int, int]]) -> None:
    held = Networks(map(str, networks))
    edges = [(net.max_prefixlen, int(end)) for net in networks for end in (net[0], net[-1])]
    for bits, number in places + edges + [(b, n + 1) for b, n in edges] + [(b, n - 1) for b, n in edges]:
        each: Any = ipaddress.IPv4Address(number) if bits == 32 else ipaddress.IPv6Address(number)
        assert (address(str(each)) in held) is any(each in net for net in networks)


@given(st.text(alphabet="0123456789abcdef:./% ", max_size=40) | st.text(max_size=60))
def test_any_text_is_a_network_to_the_standard_library_too_or_is_refused(text: str) -> None:
    try:
        Networks([text])
    except ConfigurationError:
        return
    ipaddress.ip_network(text.strip())


# -- the client behind proxies --------------------------------------------------------------------------------

PROXIES = ["10.0.0.0/8", "2001:db8:10::/48"]
PROXY, OTHER_PROXY, CLIENT, LIAR = "10.0.0.1", "10.0.0.2", "203.0.113.9", "192.0.2.66"


def find(
    value: str | None, *, peer: str | None = PROXY, trusted: Iterable[str] = PROXIES, header: str = "x-forwarded-for"
) -> str | None:
    """The client's text; `value` stands in `header`, and lies stand in every other one."""
    lies = {"forwarded": f"for={LIAR}"}
    found = ClientAddress(trusted, header).find(peer, lambda name: value if name == header else lies.get(name, LIAR))
    return None if found is None else found.text


def test_by_default_nobody_is_trusted_and_the_peer_is_the_client() -> None:
    asked: list[str] = []

    def header(name: str) -> str | None:
        asked.append(name)
        return LIAR

    for peer in ("127.0.0.1", "::1", "10.0.0.1", CLIENT):
        assert ClientAddress().find(peer, header) == address(peer)
    assert ClientAddress().find(None, header) is None
    assert ClientAddress().find("testclient", header) is None
    assert ClientAddress().find(CLIENT, header) == address(CLIENT)
    assert set(asked) <= {"x-forwarded-for"}  # and that only to warn of it


def test_where_no_header_is_chosen_it_is_x_forwarded_for() -> None:
    assert ClientAddress(PROXIES).find(PROXY, {"x-forwarded-for": CLIENT, "forwarded": "for=_"}.get) == address(CLIENT)


X_FORWARDED_FOR = {
    "the client": (CLIENT, CLIENT),
    "what a caller wrote stands left of it": (f"{LIAR}, {CLIENT}", CLIENT),
    "proxies of ours are passed over": (f"{LIAR}, {CLIENT}, {OTHER_PROXY}, {PROXY}", CLIENT),
    "written as IPv6 they are still ours": (f"{CLIENT}, ::ffff:{OTHER_PROXY}", CLIENT),
    "IPv6 proxies of ours": (f"{CLIENT}, [2001:db8:10::7]:4711", CLIENT),
    "no blanks": (f"{LIAR},{CLIENT},{OTHER_PROXY}", CLIENT),
    "tabs": (f"{LIAR}\t,\t{CLIENT}\t", CLIENT),
    "with a port": (f"{CLIENT}:4711", CLIENT),
    "IPv6": ("2001:db8::1", "2001:db8::1"),
    "IPv6 in brackets": ("[2001:db8::1]:4711", "2001:db8::1"),
    "mapped": ("::ffff:203.0.113.9", CLIENT),
    "all are ours: the first of them": (f"{OTHER_PROXY}, {PROXY}", OTHER_PROXY),
    "no header: the proxy itself calls": (None, PROXY),
    # What cannot be read hides the client; nobody else takes the place.
    "unknown": ("unknown", None),
    "unknown behind somebody": (f"{LIAR}, unknown", None),
    "unknown before a proxy of ours": (f"{LIAR}, unknown, {OTHER_PROXY}", None),
    "hidden": (f"{LIAR}, _hidden", None),
    "a host name": (f"{LIAR}, client.example", None),
    "empty": ("", None),
    "blank": (" ", None),
    "only commas": (",,", None),
    "an empty member": (f"{LIAR},", None),
    "an empty member before a proxy of ours": (f"{LIAR}, , {OTHER_PROXY}", None),
    "leading zeros": (f"{LIAR}, 203.000.113.009", None),
    "quoted": (f'{LIAR}, "{CLIENT}"', None),
    "another list": (f"{LIAR}; {CLIENT}", None),
    # Left of the client may stand anything.
    "unknown left of the client": (f"unknown, {CLIENT}", CLIENT),
    "rubbish left of the client": (f'\0"\\, \xff,;{CLIENT}, {CLIENT}', CLIENT),
}


@pytest.mark.parametrize(("value", "expected"), X_FORWARDED_FOR.values(), ids=X_FORWARDED_FOR)
def test_x_forwarded_for(value: str | None, expected: str | None) -> None:
    assert find(value) == expected


FORWARDED = {
    "the client": (f"for={CLIENT}", CLIENT),
    "with more to say": (f"by=10.0.0.9;for={CLIENT};host=example.com;proto=https", CLIENT),
    "case does not matter": (f"FOR={CLIENT};Proto=HTTPS", CLIENT),
    "quoted": (f'for="{CLIENT}"', CLIENT),
    "with a port": (f'for="{CLIENT}:4711"', CLIENT),
    "IPv6": ('for="[2001:db8::1]:4711"', "2001:db8::1"),
    "mapped": ('for="[::ffff:203.0.113.9]"', CLIENT),
    "with escapes": ('for="203.0\\.113.9"', CLIENT),
    "blanks and tabs": (f" \tfor={CLIENT}\t; proto=https ;", CLIENT),
    "empty parameters": (f";;for={CLIENT};;", CLIENT),
    "what a caller wrote stands left of it": (f"for={LIAR}, for={CLIENT}", CLIENT),
    "no blanks": (f"for={LIAR},for={CLIENT},for={OTHER_PROXY}", CLIENT),
    "proxies of ours are passed over": (f'for={CLIENT}, for={OTHER_PROXY};by={PROXY}, for="[2001:db8:10::7]"', CLIENT),
    "all are ours: the first of them": (f"for={OTHER_PROXY}, for={PROXY}", OTHER_PROXY),
    "no header: the proxy itself calls": (None, PROXY),
    "a comma in quotes": (f'for={LIAR}, for={CLIENT};host="a,b"', CLIENT),
    "an element in quotes": (f'for={CLIENT};host="a, for={LIAR}"', CLIENT),
    "an element in quotes, and escaped quotes": (f'for={CLIENT};host="a\\", for={LIAR};b=\\""', CLIENT),
    "an escaped comma": (f'for={CLIENT};host="a\\,for={LIAR}"', CLIENT),
    "a backslash last": (f'for={CLIENT};host="a,\\\\"', CLIENT),
    # What cannot be read hides the client.
    "unknown": (f"for={LIAR}, for=unknown", None),
    "hidden": (f"for={LIAR}, for=_hidden", None),
    "hidden with a port": (f'for={LIAR}, for="_hidden:80"', None),
    "a hidden port": (f'for={LIAR}, for="{CLIENT}:_80"', None),
    "nobody named": (f"for={LIAR}, by={CLIENT};proto=https", None),
    "named twice": (f"for={CLIENT};for={LIAR}", None),
    "named twice, in other letters": (f"for={CLIENT};For={CLIENT}", None),
    "an empty name": (f'for={LIAR}, for=""', None),
    "no value": (f"for={LIAR}, for=", None),
    "no pair": (f"for={LIAR}, {CLIENT}", None),
    "a blank before the equals sign": (f"for={LIAR}, for ={CLIENT}", None),
    "a blank behind the equals sign": (f"for={LIAR}, for= {CLIENT}", None),
    "IPv6 without quotes": (f"for={LIAR}, for=[2001:db8::1]", None),
    "single quotes": (f"for={LIAR}, for='{CLIENT}'", None),
    "something behind the quotes": (f'for={LIAR}, for="{CLIENT}"x', None),
    "an open quote": (f'for={LIAR}, for="{CLIENT}', None),
    "an open quote and nothing else": ('for="', None),
    "an open quote, no comma": (f'for="{CLIENT}', None),
    "a control character": (f'for={CLIENT};host="\0"', None),
    "empty": ("", None),
    "blank": (" ", None),
    "an empty element": (f"for={LIAR},", None),
    "an empty element before a proxy of ours": (f"for={LIAR}, , for={OTHER_PROXY}", None),
}


@pytest.mark.parametrize(("value", "expected"), FORWARDED.values(), ids=FORWARDED)
def test_forwarded(value: str | None, expected: str | None) -> None:
    assert find(value, header="forwarded") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (CLIENT, CLIENT),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        (OTHER_PROXY, OTHER_PROXY),
        (None, PROXY),
        ("", None),
        ("unknown", None),
        # It holds one address. Of two one was sent by the caller, and nobody can say which.
        (f"{LIAR}, {CLIENT}", None),
        (f"{CLIENT},{CLIENT}", None),
    ],
)
@pytest.mark.parametrize("header", ["cf-connecting-ip", "x-real-ip", "true-client-ip"])
def test_a_header_of_one_address(header: str, value: str | None, expected: str | None) -> None:
    assert find(value, header=header) == expected


@pytest.mark.parametrize("header", ["X-Forwarded-For", "FORWARDED", "CF-Connecting-IP"])
def test_the_name_of_the_header_is_asked_for_in_lower_case(header: str) -> None:
    asked: list[str] = []
    ClientAddress(PROXIES, header).find(PROXY, lambda name: asked.append(name))
    assert asked == [header.lower()]


@pytest.mark.parametrize(
    ("peer", "trusted", "expected"),
    [
        (PROXY, PROXIES, CLIENT),
        (f"::ffff:{PROXY}", PROXIES, CLIENT),
        ("2001:db8:10::1%eth0", PROXIES, CLIENT),
        (LIAR, PROXIES, LIAR),
        ("2001:db8:11::1", PROXIES, "2001:db8:11::1"),
        ("testclient", PROXIES, None),
        # A peer on a unix socket has no address; it is trusted where that is said.
        (None, PROXIES, None),
        (None, ["unix"], CLIENT),
        (None, ["unix", "10.0.0.0/8"], CLIENT),
        (LIAR, ["unix"], LIAR),
        ("unix", ["unix"], None),
        ("127.0.0.1", ["unix"], "127.0.0.1"),
    ],
)
def test_the_header_counts_if_the_peer_is_trusted(peer: str | None, trusted: list[str], expected: str | None) -> None:
    assert find(f"{CLIENT}", peer=peer, trusted=trusted) == expected


def test_a_trusted_unix_socket_that_names_nobody_is_nobody() -> None:
    assert find(None, peer=None, trusted=["unix"]) is None


@pytest.mark.parametrize(
    ("trusted", "says"),
    [
        (["*"], "trusting every address"),
        (["10.0.0.0/8", "*"], "trusting every address"),
        (["0.0.0.0/0"], "trusting every address"),
        (["::/0"], "trusting every address"),
        (["::ffff:0:0/96"], "trusting every address"),
        (["0.0.0.0/1", "128.0.0.0/1"], "trusting every address"),
        (["unix", "::/1", "8000::/1"], "trusting every address"),
        (["::ffff:10.0.0.0/8"], "write it as IPv4"),
        (["10.0.0.1/8"], "did you mean '10.0.0.0/8'?"),
        (["proxy.example"], "is not a network"),
        (["UNIX"], "is not a network"),
        ([None], "is not a network"),
        ("10.0.0.0/8", "are a list"),
        ("*", "are a list"),
        ("unix", "are a list"),
        (b"unix", "are a list"),
        (None, "are a list"),
        (True, "are a list"),
    ],
)
def test_trust_that_is_wrong_stops_the_start(trusted: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=r".") as raised:
        ClientAddress(trusted)
    assert says in str(raised.value)


@pytest.mark.parametrize("header", ["", "x_forwarded_for", "x forwarded for", "x-forwarded-for:", "é", None, 1, ["a"]])
def test_a_header_name_that_is_none_stops_the_start(header: Any) -> None:
    with pytest.raises(ConfigurationError, match="forwarded_header"):
        ClientAddress(PROXIES, header)


# -- who tries to be another, or nobody -----------------------------------------------------------------------

JUNK = [
    "x" * 100_000,
    "," * 100_000,
    " " * 100_000,
    "," + " " * 100_000 + ",",
    '"' * 99_999,
    '"' * 100_000,
    "\\" * 100_000,
    ',a="' * 25_000,
    ",;" * 50_000,
    'a="\\' * 25_000,
    "10.0.0.1," * 10_000,
    "for=10.0.0.1," * 10_000,
    "for=10.0.0.1;" * 10_000,
    'for="',
    "for=1.1.1.1;a=",
    'for=1.1.1.1;a="',
    'for=1.1.1.1;a="\\',
    'for=1.1.1.1;a="\\"',
    "\0",
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize(
    ("header", "added"),
    [
        ("x-forwarded-for", f", {CLIENT}"),
        ("x-forwarded-for", f", {CLIENT}, {OTHER_PROXY}"),
        ("forwarded", f", for={CLIENT}"),
        ("forwarded", f',for="{CLIENT}:80";host="a,b=";by=_x, for="{OTHER_PROXY}"'),
    ],
)
def test_nobody_hides_behind_what_they_write_left_of_the_proxies(junk: str, header: str, added: str) -> None:
    """A header too long or too broken to read would otherwise make a denied address an unknown one, which passes."""
    assert find(junk + added, header=header) == CLIENT


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_what_a_proxy_passes_on_unread_costs_no_more_than_its_length(junk: str, header: str) -> None:
    started = time.perf_counter()
    find(junk, header=header)
    assert time.perf_counter() - started < 2  # what takes the square of 100,000 steps takes minutes


def test_a_chain_of_trusted_proxies_has_an_end() -> None:
    assert find(f"{CLIENT}" + f", {PROXY}" * 50) == CLIENT
    assert find(f"{CLIENT}" + f", {PROXY}" * 51) is None


def test_long_texts_are_not_remembered() -> None:
    """Or the memory of verdicts would be as large as callers like."""
    before = len(addresses._young)
    for number in range(20):
        assert parse_address(f"{number:0>101}") is None
    assert len(addresses._young) == before


def test_the_memory_of_verdicts_is_bounded_and_keeps_those_who_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_KEPT", 100)
    addresses._young.clear()
    read: list[str] = []
    parsed = addresses._parsed
    monkeypatch.setattr(addresses, "_parsed", lambda text: read.append(text) or parsed(text))  # type: ignore[func-returns-value]
    source = ClientAddress()
    for _ in range(200):  # so many are looked at for a header that does not count
        source.find(None, lambda name: None)
    for number in range(1000):
        for text in (CLIENT, f"10.0.{number >> 8}.{number & 255}", "unknown"):
            found = source.find(text, lambda name: None)
            assert str(found and found.text) == str(text if text != "unknown" else None)
            assert source.direct.get(text) == found
    assert read.count(CLIENT) == 1
    assert len(addresses._young) <= 100
    assert len(addresses._old) <= 100


def naive_x_forwarded_for(peer: str, value: str | None, trusted: list[str]) -> str | None:
    """The rule again, without any care for speed."""
    nets = [ipaddress.ip_network(text) for text in trusted]
    chain = [*([] if value is None else value.split(",")), peer]
    found: Any = None
    while chain:
        try:
            found = ipaddress.ip_address(chain.pop().strip(" \t"))
        except ValueError:
            return None
        found = getattr(found, "ipv4_mapped", None) or found
        if not any(found in net for net in nets):
            break
    return str(found)


HOPS = st.sampled_from(
    [CLIENT, LIAR, PROXY, OTHER_PROXY, f"::ffff:{PROXY}", "2001:db8:10::7", "2001:db8::1", "unknown", "", "1.1.1"]
)


@given(HOPS.filter(bool), st.none() | st.lists(HOPS, min_size=1, max_size=6))
def test_the_walk_is_the_one_that_the_rule_describes(peer: str, hops: list[str] | None) -> None:
    value = None if hops is None else ", ".join(hops)
    assert find(value, peer=peer) == naive_x_forwarded_for(peer, value, PROXIES)


@given(st.lists(HOPS, min_size=1, max_size=6))
def test_forwarded_and_x_forwarded_for_tell_the_same(hops: list[str]) -> None:
    elements = [f'proto=https;for="[{hop}]"' if ":" in hop else f'for="{hop}";host="x, y"' for hop in hops]
    assert find(", ".join(elements), header="forwarded") == find(", ".join(hops))


QUOTED_TEXT = st.text(alphabet='ab=;, "\\for1.', max_size=20)
FORWARDED_LIKE = st.text(alphabet='for=102.:;,"\\ \t[]_b', max_size=60) | st.text(max_size=60)


@given(FORWARDED_LIKE, QUOTED_TEXT, QUOTED_TEXT)
@example('for=1.1.1.1;a="', ";b=", ";c=")
@example('for=1.1.1.1;a="', ',for=1.1.1.1;x="', "\\")
def test_what_a_proxy_writes_well_is_read_whatever_callers_put_in(junk: str, host: str, more: str) -> None:
    """The caller chooses what stands left of the element, and what stands in its quoted parameters."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    element = f"for={CLIENT};host={quoted(host)};x={quoted(more)}"
    assert find(f"{junk},{element}", header="forwarded") == CLIENT
    assert find(f"{junk}, {element}, for={OTHER_PROXY};x={quoted(more)}", header="forwarded") == CLIENT


@given(FORWARDED_LIKE, st.sampled_from(["x-forwarded-for", "forwarded", "x-real-ip"]))
def test_any_header_names_somebody_or_nobody(value: str, header: str) -> None:
    find(value, header=header)


# -- faults that others had -----------------------------------------------------------------------------------


def test_cve_2025_46814_a_forwarding_header_of_anybody_does_not_choose_the_address() -> None:
    for header in ("x-forwarded-for", "forwarded", "x-real-ip"):
        for lie in ("127.0.0.1", f"{LIAR}, 127.0.0.1", "for=127.0.0.1", PROXY):
            assert find(lie, peer=CLIENT, trusted=[], header=header) == CLIENT
            assert find(lie, peer=CLIENT, header=header) == CLIENT
    # Behind a proxy as well: what it adds is right of the lie, and wins.
    assert find(f"{LIAR}, 127.0.0.1, {CLIENT}") == CLIENT


def test_cve_2025_59152_a_rotating_forwarding_header_is_no_fresh_client() -> None:
    direct = {find(f"192.0.2.{n}", peer=CLIENT) for n in range(50)}
    proxied = {find(f"192.0.2.{n}, {CLIENT}") for n in range(50)}
    assert direct == proxied == {CLIENT}


def test_cve_2026_30827_mapped_addresses_are_unwrapped_before_they_are_masked() -> None:
    """Masked first, all of IPv4 on a socket for both families is one caller, and one spends the limit of all."""
    spellings = [("::ffff:192.0.2.1", "::ffff:192.0.2.2"), ("::ffff:c000:201", "0:0:0:0:0:ffff:c000:202")]
    for one, other in spellings:
        assert address(one).bucket == "192.0.2.1"
        assert address(other).bucket == "192.0.2.2"
    # Nor may an IPv6 caller get out of their /64 by writing its end like IPv4.
    assert address("2001:db8::192.0.2.1").bucket == address("2001:db8::192.0.2.2").bucket


def test_cve_2026_39409_a_rule_for_ipv4_holds_for_the_mapped_spelling() -> None:
    rule = Networks(["203.0.113.0/24"])
    for spelling in ("203.0.113.9", "::ffff:203.0.113.9", "::FFFF:CB00:7109", "0:0:0:0:0:ffff:cb00:7109%eth0"):
        assert address(spelling) in rule
    assert address("203.0.113.9") in Networks(["::ffff:203.0.113.0/120"])
