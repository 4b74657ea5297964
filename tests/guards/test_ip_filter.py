"""The address filter: who is let in, where, and who cannot talk their way around it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from keyguard import Cause, ConfigurationError, IPFilter, Keyguard, Request, Response
from keyguard.drivers.asgi.request import ASGIRequest
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

ENGINE = Keyguard().asgi(asgi_app).engine


def request(peer: str | None = "192.0.2.1", path: str = "/", raw: bytes | None = None) -> Request:
    """A request with a peer and a path, and nothing else."""
    client = None if peer is None else (peer, 40000)
    return ASGIRequest("GET", {"type": "http", "path": path, "raw_path": raw, "headers": [], "client": client}, ENGINE)


def reason(response: Response | None) -> str:
    """Why it was refused; "" where it was not."""
    if response is None:
        return ""
    assert response.refusal is not None
    assert response.status == response.refusal.status
    return response.refusal.reason


ALLOW = {"allow": ["10.0.0.0/8", "2001:db8::/32"]}
DENY = {"deny": ["10.1.0.0/16", "2001:db8:bad::/48"]}
BOTH = ALLOW | DENY


@pytest.mark.parametrize(
    ("lists", "peer", "expected"),
    [
        (ALLOW, "10.0.0.1", ""),
        (ALLOW, "10.1.0.1", ""),
        (ALLOW, "::ffff:10.0.0.1", ""),
        (ALLOW, "2001:db8::1", ""),
        (ALLOW, "11.0.0.1", "address-not-allowed"),
        (ALLOW, "2001:db9::1", "address-not-allowed"),
        (ALLOW, "64:ff9b::10.0.0.1", "address-not-allowed"),
        (ALLOW, None, "unknown-address"),
        (ALLOW, "testclient", "unknown-address"),
        (ALLOW, "10.0.0.01", "unknown-address"),
        (DENY, "10.0.0.1", ""),
        (DENY, "11.0.0.1", ""),
        (DENY, "2001:db8::1", ""),
        (DENY, None, ""),
        (DENY, "testclient", ""),
        (DENY, "10.1.0.1", "denied-address"),
        (DENY, "::ffff:10.1.0.1", "denied-address"),
        (DENY, "::ffff:0a01:0001", "denied-address"),
        (DENY, "2001:DB8:BAD::1%eth0", "denied-address"),
        (DENY, "2001:db8:bad:0::", "denied-address"),
        (BOTH, "10.0.0.1", ""),
        (BOTH, "10.1.0.1", "denied-address"),
        (BOTH, "11.0.0.1", "address-not-allowed"),
        (BOTH, None, "unknown-address"),
        ({"allow": []}, "10.0.0.1", "address-not-allowed"),
        ({"allow": []}, None, "unknown-address"),
        ({"allow": ["0.0.0.0/0", "::/0"]}, "203.0.113.9", ""),
        ({"allow": ["0.0.0.0/0", "::/0"]}, None, "unknown-address"),
        ({"allow": ["0.0.0.0/0"]}, "::1", "address-not-allowed"),
        ({"deny": ["0.0.0.0/0"]}, "203.0.113.9", "denied-address"),
        ({"allow": ["10.0.0.1"], "deny": ["10.0.0.1"]}, "10.0.0.1", "denied-address"),
    ],
)
def test_who_is_let_in(lists: dict[str, Any], peer: str | None, expected: str) -> None:
    assert reason(IPFilter(**lists)(request(peer))) == expected


def test_a_refusal_says_what_and_not_why() -> None:
    answers = [IPFilter(**BOTH)(request(peer)) for peer in ("10.1.0.1", "11.0.0.1", None)]
    bodies = []
    for answer in answers:
        assert answer is not None
        assert answer.refusal is not None
        assert (answer.status, answer.refusal.cause) == (403, Cause.ADDRESS)
        assert answer.headers.get("cache-control") == "no-store"
        assert answer.headers.get("retry-after") is None
        assert isinstance(answer.body, bytes)
        body = json.loads(answer.body)
        del body["instance"]
        bodies.append(body)
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0]["cause"] == "address"
    assert [answer.refusal.client for answer in answers if answer and answer.refusal] == ["10.1.0.1", "11.0.0.1", ""]


@pytest.mark.parametrize(
    ("path", "raw", "expected"),
    [
        ("/admin", None, "address-not-allowed"),
        ("/admin/", None, "address-not-allowed"),
        ("/admin/x", b"/admin/x", "address-not-allowed"),
        ("/reports/7", None, "address-not-allowed"),
        ("/reports/7/", None, "address-not-allowed"),
        ("/", None, ""),
        ("", None, ""),
        ("/administrator", None, ""),
        ("/ADMIN", None, ""),
        ("/reports", None, ""),
        # Wherever it may lead: nobody knows whether the rule holds for it.
        ("//admin", None, "ambiguous-path"),
        ("/x/../admin", None, "ambiguous-path"),
        ("/admin;x", None, "ambiguous-path"),
        ("/\\admin", None, "ambiguous-path"),
        ("/x/admin", b"/x%2fadmin", "ambiguous-path"),
        ("*", None, "ambiguous-path"),
    ],
)
def test_a_filter_for_some_paths(path: str, raw: bytes | None, expected: str) -> None:
    guard = IPFilter(allow=["10.0.0.0/8"], paths=["/admin/*", "/reports/{id}"])
    assert reason(guard(request("192.0.2.1", path, raw))) == expected
    if expected != "ambiguous-path":
        assert guard(request("10.0.0.1", path, raw)) is None


def test_an_ambiguous_path_is_a_bad_request_even_from_who_is_allowed() -> None:
    answer = IPFilter(allow=["10.0.0.0/8"], paths="/admin/*")(request("10.0.0.1", "//admin"))
    assert answer is not None
    assert answer.refusal is not None
    assert (answer.status, answer.refusal.cause) == (400, Cause.REQUEST)


def test_a_filter_for_all_paths_does_not_look_at_them() -> None:
    guard = IPFilter(allow=["10.0.0.0/8"])
    assert guard(request("10.0.0.1", "//admin/../x")) is None
    assert reason(guard(request("192.0.2.1", "//admin/../x"))) == "address-not-allowed"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "would filter nothing"),
        ({"deny": []}, "would filter nothing"),
        ({"allow": None, "deny": ()}, "would filter nothing"),
        ({"deny": "10.0.0.0/8"}, "are a list"),
        ({"allow": "10.0.0.0/8"}, "are a list"),
        ({"deny": None}, "are a list"),
        ({"allow": ["10.0.0.1/8"]}, "did you mean '10.0.0.0/8'?"),
        ({"deny": ["10.0.0.0/8", "nonsense"]}, "'nonsense' is not a network"),
        ({"deny": ["*"]}, "is not a network"),
        ({"allow": [float("nan")]}, "nan is not a network"),
        ({"deny": ["10.0.0.0/8"], "paths": []}, "empty"),
        ({"deny": ["10.0.0.0/8"], "paths": ["admin"]}, "begins with '/'"),
        ({"deny": ["10.0.0.0/8"], "paths": ["/admin*"]}, "stands alone"),
    ],
)
def test_a_wrong_setting_stops_the_start(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        IPFilter(**settings)
    assert says in str(raised.value)


def test_an_unknown_option_stops_the_start() -> None:
    with pytest.raises(TypeError):
        IPFilter(block=["10.0.0.0/8"])


def test_lists_are_replaced_while_it_runs() -> None:
    guard = IPFilter(deny=["10.0.0.0/8"])
    assert reason(guard(request("10.0.0.1"))) == "denied-address"
    guard.replace(deny=["11.0.0.0/8"])
    assert guard(request("10.0.0.1")) is None
    assert reason(guard(request("11.0.0.1"))) == "denied-address"
    guard.replace(allow=["11.0.0.0/8"])
    assert guard(request("11.0.0.1")) is None
    assert reason(guard(request("10.0.0.1"))) == "address-not-allowed"


def test_the_last_entry_of_a_deny_list_can_be_lifted() -> None:
    guard = IPFilter(deny=["10.0.0.1"])
    guard.replace(deny=[])
    assert guard(request("10.0.0.1")) is None


@pytest.mark.parametrize("lists", [{"allow": ["x"]}, {"deny": ["x"]}, {"allow": ["11.0.0.0/8"], "deny": ["x"]}])
def test_a_bad_list_changes_nothing(lists: dict[str, Any]) -> None:
    guard = IPFilter(allow=["10.0.0.0/8"], deny=["10.1.0.0/16"])
    with pytest.raises(ConfigurationError):
        guard.replace(**lists)
    assert guard(request("10.0.0.1")) is None
    assert reason(guard(request("10.1.0.1"))) == "denied-address"
    assert reason(guard(request("11.0.0.1"))) == "address-not-allowed"


def test_no_request_sees_one_new_list_and_one_old() -> None:
    """Either pair alone refuses this address; the new allow list with the old deny list would not."""
    guard = IPFilter(allow=["11.0.0.0/8"], deny=["12.0.0.0/8"])
    pairs = [{"allow": ["11.0.0.0/8"], "deny": ["12.0.0.0/8"]}, {"allow": ["10.0.0.0/8"], "deny": ["10.0.0.1"]}]
    done = threading.Event()

    def swap() -> None:
        for turn in range(300):
            guard.replace(**pairs[turn % 2])
        done.set()

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(reason(guard(request("10.0.0.1"))))
    thread.join()
    assert seen <= {"address-not-allowed", "denied-address"}


def test_its_name_is_shown() -> None:
    assert repr(IPFilter(deny=["10.0.0.1"], name="office")) == "<IPFilter office>"


# -- faults that others had, in whole apps --------------------------------------------------------------------


def ask_both(guard: IPFilter, ask: Ask, **options: Any) -> Answer:
    """The answer, which both worlds give."""
    ours = ask_asgi(Keyguard(guard, **options).asgi(asgi_app), ask)
    theirs = ask_wsgi(Keyguard(guard, **options).wsgi(wsgi_app), ask)
    assert ours.status == theirs.status
    return ours


HIDING = {"junk of any length": "x" * 20_000, "an open quote": 'for="', "an unknown": "unknown", "commas": "," * 9000}


@pytest.mark.parametrize("junk", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize(("header", "added"), [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9")])
def test_a_denied_caller_cannot_become_unknown(junk: str, header: str, added: str) -> None:
    guard = IPFilter(deny=["203.0.113.0/24"])
    for headers in [((header, f"{junk}, {added}"),), ((header, junk), (header, added))]:
        ask = Ask(client="10.0.0.1", headers=headers)
        assert ask_both(guard, ask, trusted_proxies=["10.0.0.0/8"], forwarded_header=header).status == 403


def test_cve_2026_39409_a_denied_ipv4_address_is_denied_on_a_socket_for_both_families() -> None:
    for client in ("203.0.113.9", "::ffff:203.0.113.9", "::ffff:cb00:7109"):
        assert ask_both(IPFilter(deny=["203.0.113.0/24"]), Ask(client=client)).status == 403
        assert ask_both(IPFilter(allow=["203.0.113.0/24"]), Ask(client=client)).status == 200


def test_cve_2025_46814_an_allowed_address_cannot_be_claimed_in_a_header() -> None:
    claims = ("x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip", "true-client-ip", "x-client-ip")
    for name in claims:
        for value in ("127.0.0.1", "203.0.113.9, 127.0.0.1", "for=127.0.0.1"):
            assert ask_both(IPFilter(allow=["127.0.0.1"]), Ask(headers=((name, value),))).status == 403


@pytest.mark.parametrize("target", ["/x%2Fadmin", "/x%5cadmin", "/x/%2e%2e/admin", "//admin", "/admin;x", "/admin%00"])
def test_cve_2021_29492_a_path_spelled_in_two_ways_does_not_pass_a_rule_for_one(target: str) -> None:
    assert ask_both(IPFilter(allow=["10.0.0.0/8"], paths=["/admin/*"]), Ask(target)).status == 400


@pytest.mark.parametrize("target", ["/admin", "/admin/x"])
def test_cve_2025_29927_no_header_of_a_request_turns_a_guard_off(target: str) -> None:
    guard = IPFilter(allow=["10.0.0.0/8"], paths=["/admin/*"])
    for name, value in [
        ("x-middleware-subrequest", "middleware:middleware:middleware:middleware:middleware"),
        ("x-original-url", "/"),
        ("x-rewrite-url", "/"),
        ("x-forwarded-prefix", "/admin"),
        ("x-http-method-override", "OPTIONS"),
        ("x-forwarded-host", "internal"),
        ("keyguard", "off"),
        ("x-keyguard", "off"),
    ]:
        assert ask_both(guard, Ask(target, headers=((name, value),))).status == 403


@pytest.mark.parametrize("host", ["example.test/public?x=", "example.test/public#", "x/../public", "/", "", "a@b:c"])
def test_cve_2026_48710_the_host_has_no_part_in_the_path(host: str) -> None:
    guard = IPFilter(allow=["10.0.0.0/8"], paths=["/admin/*"])
    assert ask_both(guard, Ask("/admin/x", headers=(("host", host),), host=False)).status == 403
    assert ask_both(guard, Ask("/public", headers=(("host", "example.test/admin/x?"),), host=False)).status == 200


def test_a_mounted_app_is_filtered_on_its_own_paths() -> None:
    guard = IPFilter(allow=["10.0.0.0/8"], paths=["/admin/*"])
    assert ask_both(guard, Ask("/api/admin/x", root="/api")).status == 403
    assert ask_both(guard, Ask("/admin/x", root="/api")).status == 403
    assert ask_both(guard, Ask("/api/x", root="/api")).status == 200


def test_what_is_known_to_pass_is_bounded_and_forgotten_with_its_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyguard.guards.ip_filter._KEPT", 10)
    guard = IPFilter(deny=["192.0.2.128/25"])
    for _ in range(3):
        for number in range(256):
            assert reason(guard(request(f"192.0.2.{number}"))) == ("denied-address" if number > 127 else "")
            assert len(guard._lists[2]) <= 10
    guard.replace(deny=["192.0.2.0/24"])
    assert reason(guard(request("192.0.2.127"))) == "denied-address"
    guard.replace(allow=["192.0.2.0/24"])
    assert not guard(request("192.0.2.127"))
    guard.replace(allow=["192.0.2.0/26"])
    assert reason(guard(request("192.0.2.127"))) == "address-not-allowed"
