"""Proxies that are known by their number, headers of proxies that nobody has named, and IPv6 by other prefixes."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import APIKeys, Ban, ConfigurationError, IPFilter, Keyguard, RateLimit, Request, Response
from keyguard.http.addresses import buckets_in, parse_address
from keyguard.http.forwarding import ClientAddress
from keyguard.stores.memory import MemoryStore
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

WORLDS: dict[str, Callable[[Keyguard, Ask], Answer]] = {
    "asgi": lambda guard, ask: ask_asgi(guard.asgi(asgi_app), ask),
    "wsgi": lambda guard, ask: ask_wsgi(guard.wsgi(wsgi_app), ask),
}
CLIENT, LIAR, NEAR, PUBLIC, NAMED = "203.0.113.7", "192.0.2.66", "10.1.2.3", "198.51.100.1", "198.51.100.99"


def seen(world: str, ask: Ask, **settings: Any) -> str | None:
    """The client, as a guard sees it."""
    found: list[str | None] = []

    def look(request: Request) -> Response | None:
        found.append(None if request.client is None else request.client.text)
        return None

    assert WORLDS[world](Keyguard(look, **settings), ask).status == 200
    return found[0]


# hops, peer, X-Forwarded-For, client
WALKS: list[tuple[int, str | None, str | None, str | None]] = [
    (1, NEAR, CLIENT, CLIENT),
    (1, NEAR, f"{LIAR}, {CLIENT}", CLIENT),
    (1, None, f"{LIAR}, {CLIENT}", CLIENT),
    (1, "::1", CLIENT, CLIENT),
    (1, "fd00::7", CLIENT, CLIENT),
    (1, "::ffff:10.1.2.3", CLIENT, CLIENT),
    (1, NAMED, CLIENT, CLIENT),
    (2, NAMED, f"{LIAR}, {CLIENT}, 10.0.0.9", CLIENT),
    (2, NEAR, f"{LIAR}, {CLIENT}, 192.0.2.200", CLIENT),
    (3, NEAR, f"{CLIENT}, 192.0.2.1, 192.0.2.2", CLIENT),
    # From elsewhere the header is anybody's.
    (1, PUBLIC, LIAR, PUBLIC),
    (2, PUBLIC, f"{LIAR}, {LIAR}", PUBLIC),
    (1, "100.64.0.1", LIAR, "100.64.0.1"),
    # Fewer hops than there must be: it came another way, and nobody in the header is believed.
    (2, NEAR, LIAR, None),
    (3, NEAR, f"{LIAR}, {LIAR}", None),
    (2, None, LIAR, None),
    # No header at all: the peer itself asks, as a health check does.
    (1, NEAR, None, NEAR),
    (1, None, None, None),
    # What cannot be read is nobody.
    (1, NEAR, f"{CLIENT}, unknown", None),
    (1, NEAR, "", None),
    (1, NEAR, f"{CLIENT},", None),
    (2, NEAR, f"unknown, {CLIENT}", None),
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
@pytest.mark.parametrize(
    ("hops", "peer", "value", "client"), WALKS, ids=[f"{hops} {peer} {value}" for hops, peer, value, _ in WALKS]
)
def test_the_client_is_the_hop_before_the_proxies(
    world: str, header: str, hops: int, peer: str | None, value: str | None, client: str | None
) -> None:
    if header == "forwarded" and value is not None:
        value = ", ".join(f'for="{hop}"' if hop else "" for hop in value.split(", "))
    fields = () if value is None else ((header, value),)
    ask = Ask(headers=fields, client=peer)
    assert seen(world, ask, trusted_hops=hops, trusted_proxies=[NAMED], forwarded_header=header) == client


HOPS = st.sampled_from([CLIENT, LIAR, NEAR, NAMED, "2001:db8::1", "unknown", "", "1.1.1"])


def plainly(peer: str | None, members: list[str] | None, hops: int) -> str | None:
    """The rule again, as it is told."""
    private = peer is None or ipaddress.ip_address(peer).is_private or peer == NAMED
    if peer in (PUBLIC, CLIENT, LIAR):  # these are for documentation, which Python takes for private
        private = False
    if not private or members is None:
        return peer
    chain = [*members, peer]  # the last one is the first proxy
    if len(chain) <= hops:
        return None
    found = parse_address(chain[-1 - hops] or "")
    return None if found is None else found.text


@given(
    st.sampled_from([NEAR, NAMED, PUBLIC, "fd00::7", None]),
    st.none() | st.lists(HOPS, min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_the_walk_is_the_one_that_the_rule_describes(peer: str | None, members: list[str] | None, hops: int) -> None:
    value = None if members is None else ",".join(members)
    found = ClientAddress([NAMED], hops=hops).find(peer, {"x-forwarded-for": value}.get)
    assert (None if found is None else found.text) == plainly(peer, members, hops)


@pytest.mark.parametrize("hops", [-1, 11, True, "1", 1.0, None])
def test_numbers_that_are_none_do_not_start(hops: Any) -> None:
    with pytest.raises(ConfigurationError, match="trusted_hops is the number of proxies"):
        Keyguard(trusted_hops=hops)


def test_hops_are_not_counted_in_a_field_of_one_address() -> None:
    Keyguard(trusted_hops=1, forwarded_header="cf-connecting-ip")
    with pytest.raises(ConfigurationError, match="trusted_hops=2 counts hops"):
        Keyguard(trusted_hops=2, forwarded_header="cf-connecting-ip")


def test_layers_agree_on_them() -> None:
    inner = Keyguard(RateLimit("1/s"), trusted_hops=1).wsgi(wsgi_app)
    with pytest.raises(ConfigurationError, match="trusted_hops"):
        Keyguard(IPFilter(deny=["192.0.2.0/24"]), trusted_hops=2).wsgi(inner)


@pytest.mark.parametrize("world", WORLDS)
def test_who_comes_by_fewer_hops_passes_no_allow_list(world: str) -> None:
    guard = Keyguard(IPFilter(allow=["10.0.0.0/8", LIAR]), trusted_hops=2)
    assert WORLDS[world](guard, Ask(headers=(("X-Forwarded-For", LIAR),), client=NEAR)).status == 403


# -- headers of proxies that nobody has named -------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("peer", [NEAR, "::1", None])
@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_a_header_from_a_private_peer_that_nobody_has_named_is_told_once(
    world: str, peer: str | None, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Keyguard(RateLimit("100/minute"))
    WORLDS[world](guard, Ask(client=peer))  # a health check
    for _ in range(3):
        WORLDS[world](guard, Ask(headers=((header, CLIENT),), client=peer))
    (message,) = caplog.messages
    assert f"trusted_proxies=[{peer or 'unix'!r}]" in message
    assert "trusted_hops=1" in message
    assert (f"forwarded_header={header.lower()!r}" in message) is (header != "X-Forwarded-For")
    assert CLIENT not in message


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("peer", "header", "settings"),
    [
        (PUBLIC, "X-Forwarded-For", {}),  # anybody may send one
        (NEAR, "X-Real-Ipv9", {}),
        (NEAR, "X-Forwarded-For", {"trusted_proxies": ["10.0.0.0/8"]}),
        (NEAR, "X-Forwarded-For", {"trusted_hops": 1}),
        (None, "X-Forwarded-For", {"trusted_proxies": ["unix"]}),
    ],
)
def test_nothing_is_told_of_others(
    world: str, peer: str | None, header: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    WORLDS[world](Keyguard(RateLimit("100/minute"), **settings), Ask(headers=((header, CLIENT),), client=peer))
    assert caplog.messages == []


def test_a_proxy_of_another_network_is_told_of_as_well(caplog: pytest.LogCaptureFixture) -> None:
    guard = Keyguard(RateLimit("100/minute"), trusted_proxies=["192.168.0.0/16"])
    WORLDS["wsgi"](guard, Ask(headers=(("X-Forwarded-For", CLIENT),), client=NEAR))
    assert f"trusted_proxies=[{NEAR!r}]" in caplog.text


def test_after_two_hundred_requests_nobody_looks_any_more(caplog: pytest.LogCaptureFixture) -> None:
    source = ClientAddress()
    for _ in range(200):
        assert source.find(PUBLIC, lambda name: None) is not None
    assert source.direct.get(PUBLIC) is not None
    source.find(NEAR, lambda name: CLIENT)
    assert caplog.messages == []


# -- IPv6 ------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("prefix", "one", "same", "other"),
    [
        (48, "2001:db8:1:2::1", "2001:db8:1:ffff::9", "2001:db8:2:2::1"),
        (56, "2001:db8:1:200::1", "2001:db8:1:2ff::9", "2001:db8:1:300::1"),
        (64, "2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"),
        (128, "2001:db8:1:2::1", "2001:db8:1:2:0::1", "2001:db8:1:2::2"),
    ],
)
@pytest.mark.parametrize("kind", ["limits", "guesses", "bans", "lookups"])
def test_callers_of_ipv6_are_told_apart_by_the_prefix(
    world: str, prefix: int, one: str, same: str, other: str, kind: str
) -> None:
    guards: dict[str, Any] = {
        "limits": (RateLimit("1/hour"),),
        "guesses": (APIKeys(guesses="1/hour"),),
        "bans": (Ban(after="1/hour", of=401), APIKeys(guesses=None)),
        "lookups": (APIKeys(lookup=lambda key: None, guesses="1/hour"),),
    }
    guard = Keyguard(*guards[kind], ipv6_prefix=prefix, store=MemoryStore())

    def ask(client: str) -> int:
        return WORLDS[world](guard, Ask(headers=(("X-API-Key", "wrong"),), client=client)).status

    first = 200 if kind == "limits" else 401
    asked = [ask(client) for client in ((one, same, one, other) if kind != "bans" else (one, one, same, other))]
    expected = {"bans": [401, 401, 429, 401]}.get(kind, [first, 429, 429, first])
    assert asked == expected
    mapped = [ask(client) for client in ("203.0.113.1", "::ffff:203.0.113.1")]
    assert mapped == {"bans": [401, 401]}.get(kind, [first, 429])


@pytest.mark.parametrize("prefix", [0, 31, 129, True, "64", 64.0, None, -1])
def test_prefixes_that_are_none_do_not_start(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match="ipv6_prefix is how many bits"):
        Keyguard(ipv6_prefix=prefix)


@given(st.ip_addresses(v=6), st.integers(32, 128))
def test_buckets_are_the_networks_of_the_standard_library(one: ipaddress.IPv6Address, prefix: int) -> None:
    found = ClientAddress(ipv6_prefix=prefix).find(str(one), lambda name: None)
    assert found is not None
    if one.ipv4_mapped is None:
        assert ipaddress.ip_network(found.bucket) == ipaddress.ip_network((one, prefix), strict=False)
    else:
        assert found.bucket == str(one.ipv4_mapped)


@pytest.mark.parametrize("prefix", [48, 64, 128])
def test_operators_name_callers_as_requests_do(prefix: int) -> None:
    store = MemoryStore()
    guard = Keyguard(
        Ban(after="1/hour", of=401), RateLimit("5/hour"), APIKeys(guesses=None), store=store, ipv6_prefix=prefix
    )
    one = "2001:db8:1:2::1"
    for _ in range(2):
        assert WORLDS["wsgi"](guard, Ask(client=one)).status == 401
    network = str(ipaddress.ip_network((one, prefix), strict=False))
    for name in (one, network):
        assert [use.spent for use in guard.limits.peek(name)] == [2]
    assert [ban.caller for ban in guard.bans.list()] == [network]
    assert [ban.caller for ban in guard.bans.lift(one)] == [network]
    assert guard.bans.list() == []


def test_bans_that_were_made_elsewhere_are_taken_over_by_prefix() -> None:
    assert buckets_in("2001:db8:1:2::/63", 4) == ["2001:db8:1:2::/64", "2001:db8:1:3::/64"]
    assert buckets_in("2001:db8:1:2::/64", 4, 48) == ["2001:db8:1::/48"]
    assert buckets_in("2001:db8::/47", 4, 48) == ["2001:db8::/48", "2001:db8:1::/48"]
    with pytest.raises(ConfigurationError, match="is 65536 callers"):
        buckets_in("2001:db8::/48", 4)
    with pytest.raises(ConfigurationError, match="at most 4"):
        buckets_in("2001:db8::/120", 4, 128)
