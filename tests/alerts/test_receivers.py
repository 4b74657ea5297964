"""Webhooks and the other receivers: what reaches them, what they may not do to us, and what no log shows."""

from __future__ import annotations

import base64
import json
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
import standardwebhooks
import trustme

from keyguard import AlertMessage, Alerts, ConfigurationError, Webhook, notify, slack
from keyguard.alerts import posting
from keyguard.alerts.addresses import why_inside
from keyguard.alerts.messages import TEST, message_of
from keyguard.alerts.posting import Failed, checked_target, post
from keyguard.alerts.receivers import Gone, receivers_from
from tests.alerts.receiving import OK, Server, answering, served
from tests.alerts.stories import Story
from tests.support.harness import Ask, ask_wsgi

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()


def a_message(**more: Any) -> AlertMessage:
    told = {"type": TEST, "severity": "warning", "subject": "", "limit": "", "facts": {}, "level": 0}
    return message_of({**told, "id": "msg_1", "alert": TEST, "since": 10**15, "at": 10**15, **more})


def hook(server: Server, **settings: Any) -> Webhook:
    return Webhook(server.url, settings.pop("secret", SECRET), allow_local=True, **settings)


# -- what reaches them --------------------------------------------------------------------------------------------


def test_a_webhook_is_one_that_the_library_of_standard_webhooks_verifies() -> None:
    with served() as server:
        hook(server).deliver(a_message())
    (request,) = server.requests
    assert request.line == "POST /hook?token=hush HTTP/1.1"
    told = standardwebhooks.Webhook(SECRET).verify(request.body, request.fields)
    assert told["type"] == "keyguard.test"
    assert told["timestamp"] == "2001-09-09T01:46:40Z"
    assert told["data"]["title"] == "This is a test of keyguard's alerts"
    assert request.fields["webhook-id"] == "msg_1"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(OTHER).verify(request.body, request.fields)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(request.body.replace(b"test", b"best"), request.fields)


def test_two_secrets_sign_both() -> None:
    with served() as server:
        hook(server, secret=[OTHER, SECRET]).deliver(a_message())
    for secret in (SECRET, OTHER):
        standardwebhooks.Webhook(secret).verify(server.requests[0].body, server.requests[0].fields)


def test_markup_and_line_breaks_are_data() -> None:
    odd = '</script>\r\nwebhook-id: 2\x00 "é" \udcff <!channel>'
    message = a_message(type="keyguard.usage.anomaly", subject=odd, facts={"requests": 70, "usual": 3.0, "all": 0})
    with served() as server:
        hook(server).deliver(message)
        slack(server.url, allow_local=True).deliver(message)
    signed, chat = server.requests
    assert standardwebhooks.Webhook(SECRET).verify(signed.body, signed.fields)["data"]["subject"] == odd
    text = json.loads(chat.body)["text"]
    assert "&lt;!channel&gt;" in text
    assert "<" not in text
    assert len(text.splitlines()) == 2


def test_tls_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with served(tls=context) as server:
        with pytest.raises(Failed, match=r"certificate of 127\.0\.0\.1 is not valid"):
            hook(server).deliver(a_message())
        with authority.cert_pem.tempfile() as file:
            monkeypatch.setenv("SSL_CERT_FILE", file)
            hook(server).deliver(a_message())
    assert len(server.requests) == 1


def test_an_answer_before_the_answer_is_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    with served(answering(early + OK)) as server:
        hook(server).deliver(a_message())


# -- what they may not do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", "answers 500"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", "302, and redirects are not followed"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP"),
        (b"", "has not answered with a status"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 500, "has not answered with a status"),
        (b"x" * 100_000, "has not answered with a status"),
    ],
)
def test_what_is_no_delivery(answer: bytes, words: str) -> None:
    with served(answering(answer)) as server, pytest.raises(Failed, match=words) as failed:
        hook(server).deliver(a_message())
    assert "hush" not in str(failed.value)
    assert len(server.requests) == 1


def test_410_says_that_nothing_more_is_wanted() -> None:
    with served(answering(b"HTTP/1.1 410 Gone\r\n\r\n")) as server, pytest.raises(Gone):
        hook(server).deliver(a_message())


def hanging(connection: socket.socket) -> None:
    while connection.recv(65536):  # until we have given up
        pass


def dripping(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" * 100:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def endless_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 ")
    while True:
        connection.sendall(b"1" * 65536)


@pytest.mark.parametrize(
    ("answer", "settings", "words"),
    [
        (hanging, {}, "has not answered within 0.5 seconds"),
        (dripping, {}, "has not answered within 0.5 seconds"),
        (hanging, {"read": False}, "has not answered within 0.5 seconds"),
        (endless_head, {}, "has not answered with a status"),
        (endless, {}, None),  # the status says that it has come, and the rest is not read
    ],
)
def test_nobody_holds_us_up(
    answer: Callable[[socket.socket], None],
    settings: dict[str, Any],
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(posting, "TIME", 0.5)
    begin = time.monotonic()
    with served(answer, **settings) as server:
        if words is None:
            hook(server).deliver(a_message())
        else:
            with pytest.raises(Failed, match=words):
                hook(server).deliver(a_message())
        assert time.monotonic() - begin < 30  # of the 80 seconds of the slowest


def test_a_look_up_that_takes_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "TIME", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: time.sleep(3) or [])
    with pytest.raises(Failed, match="was not found within"):
        post(checked_target("a test", "https://example.com/"), b"", {})


INSIDE = [
    "3fff::1",
    "5f00::1",
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.100.100.200", "100.64.0.1", "192.0.0.192", "198.18.0.1", "203.0.113.9", "224.0.0.1", "255.255.255.255"),
    *("240.0.0.1", "168.63.129.16", "192.88.99.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254"),
    *("fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "2002:7f00:1::"),
    *("2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "not an address"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_of_one_s_own_network_are_refused(address: str) -> None:
    assert why_inside(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::808:808"]
)
def test_others_are_not(address: str) -> None:
    assert why_inside(address) == ""


class Names:
    """A resolver whose answers change."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = [*answers]
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found
        ]


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that are connected to, though none answers."""
    found: list[Any] = []

    def connect(connection: socket.socket, address: Any) -> None:
        found.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "socket", type("Dialling", (socket.socket,), {"connect": connect}))
    return found


def test_a_name_that_leads_inside_is_not_asked(monkeypatch: pytest.MonkeyPatch, dialled: list[Any]) -> None:
    receiver = Webhook("https://hooks.example.com/", SECRET)
    for inside in INSIDE[:-1]:
        monkeypatch.setattr(socket, "getaddrinfo", Names([inside]))
        with pytest.raises(Failed, match=r"hooks\.example\.com has no address of the public network"):
            receiver.deliver(a_message())
    assert dialled == []


def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, dialled: list[Any]
) -> None:
    names = Names(["10.0.0.1", "8.8.8.8", "64:ff9b::808:808"], ["127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    with pytest.raises(Failed, match="takes no connection"):
        Webhook("https://hooks.example.com/", SECRET).deliver(a_message())
    assert dialled == [("8.8.8.8", 443), ("64:ff9b::808:808", 443)]
    assert names.asked == ["hooks.example.com"]


def test_allowing_this_machine_allows_no_other(monkeypatch: pytest.MonkeyPatch, dialled: list[Any]) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["10.0.0.1", "8.8.8.8"]))
    with pytest.raises(Failed, match="no address"):
        Webhook("http://localhost:8000/", SECRET, allow_local=True).deliver(a_message())
    assert dialled == []


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "takes https"),
        ("https://[::1/hush", "hold no IPv6 address"),
        ("https://[hush]/", "(hold no IPv6 address|takes a URL)"),
        ("http://127.0.0.1/", "takes https"),
        ("http://localhost/", "takes https"),
        ("https://127.0.0.1/", "this machine's own"),
        ("https://[::1]/", "this machine's own"),
        ("https://169.254.169.254/latest", "belongs to a link"),
        ("https://10.0.0.1/", "not one of the public network"),
        ("https://[64:ff9b::a00:1]/", "not one of the public network"),
        ("https://2130706433/", "is no address"),
        ("https://127.1/", "is no address"),
        ("https://user:hush@example.com/", "a user or a password"),
        ("https://example.com:99999/hush", "port"),
        ("ftp://example.com/hush", "such as https"),
        ("https:///hush", "such as https"),
        ("https://exa mple.com/", "printable ASCII"),
        ("https://example.com/\r\nX: 1", "printable ASCII"),
        (7, "printable ASCII"),
    ],
)
def test_urls_that_are_wrong_do_not_start(url: Any, words: str) -> None:
    for make in (lambda: Webhook(url, SECRET), lambda: slack(url)):
        with pytest.raises(ConfigurationError, match=words) as error:
            make()
        assert "hush" not in str(error.value)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_" + base64.b64encode(b"short").decode(), "not base64!", 7, []])
def test_secrets_that_are_wrong_do_not_start(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="secret"):
        Webhook("https://example.com/", secret)


def test_receivers_have_names_without_secrets() -> None:
    to = [
        Webhook("https://example.com/hush", SECRET),
        Webhook("https://example.com/hush2", SECRET),
        slack("https://hooks.slack.com/services/hush"),
        notify("mailto://hush:hush@example.com"),
        lambda message: None,
    ]
    named = [one.name for one in receivers_from(to)]
    assert [name.partition(" #")[0] for name in named[:4]] == [
        *("webhook example.com", "webhook example.com", "slack hooks.slack.com", "notify mailto"),
    ]
    assert named[0] != named[1]
    for text in (*named, repr(Alerts(to=to))):
        assert "hush" not in text
        assert SECRET not in text


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ([Webhook("https://example.com/", SECRET)] * 2, "two receivers are called 'webhook example.com #"),
        ([Webhook], "a receiver is"),
        ([print, print], "two receivers are called 'function print'"),
    ],
)
def test_receivers_that_are_wrong_do_not_start(to: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Alerts(to=to)


def test_an_async_function_is_no_receiver() -> None:
    async def tell(message: AlertMessage) -> None: ...

    with pytest.raises(ConfigurationError, match="is async"):
        Alerts(to=[tell])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own, as it is loaded
def test_apprise_is_asked_when_there_is_something_to_tell(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import apprise

    caplog.set_level(logging.DEBUG)

    sent: list[dict[str, Any]] = []

    def tell(self: Any, **message: Any) -> bool:
        sent.append({"to": [type(one).__name__ for one in self], **message})
        return len(sent) > 1

    monkeypatch.setattr(apprise.Apprise, "notify", tell)
    receiver = notify("mailto://user:hush@example.com")
    with pytest.raises(Failed, match="could not deliver"):
        receiver.deliver(a_message())
    receiver.deliver(a_message())
    assert sent[1]["to"] == ["NotifyEmail"]
    assert sent[1]["title"] == "This is a test of keyguard's alerts"
    with pytest.raises(Failed, match="does not know"):
        notify("nothing-of-the-kind://user:hush@example.com/?token=hush").deliver(a_message())
    with pytest.raises(Failed, match="does not know"):
        notify("slack://hush").deliver(a_message())
    assert "hush" not in caplog.text


# -- with a stack ---------------------------------------------------------------------------------------------------


def test_a_failure_is_told_in_the_log_and_tried_again_and_no_secret_is_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes: list[Exception | None] = [RuntimeError("https://example.com/?token=hush"), Failed("it was busy"), None]

    def page(message: AlertMessage) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    story = Story("4/day", receivers=[page])
    with caplog.at_level(logging.DEBUG):
        story.calls("acme", 2)
        (delivery,) = story.guard.alerts.list()[0].notices[0].deliveries
        assert str(delivery).startswith("function ")
        assert (delivery.state, delivery.tries) == ("failed", 1)
        story.rest("7 seconds")
        (delivery,) = story.guard.alerts.list()[0].notices[0].deliveries
        assert (delivery.state, delivery.tries) == ("failed", 2)
        assert delivery.again is not None
        assert delivery.at is not None
        assert 300 <= (delivery.again - delivery.at).total_seconds() <= 360
        assert f", again {delivery.again:%H:%M}" in str(delivery)
        story.rest("6 minutes")
        (delivery,) = story.guard.alerts.list()[0].notices[0].deliveries
        assert (delivery.state, delivery.tries, delivery.again) == ("sent", 3, None)
    assert "RuntimeError" in caplog.text
    assert "it was busy" in caplog.text
    assert "hush" not in caplog.text


def test_what_fails_for_a_day_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[str] = []

    def page(message: AlertMessage) -> None:
        tries.append(message.id)
        raise Failed("no")

    story = Story("4/day", receivers=[page])
    story.calls("acme", 2)
    for _ in range(100):
        story.rest("15 minutes")
    first = story.guard.alerts.list()[-1].notices[0]
    assert tries.count(first.id) == 7
    assert first.deliveries[0].state == "given up"
    assert "is given up" in caplog.text


def test_a_receiver_that_fails_holds_up_no_other() -> None:
    tries: list[str] = []
    told: list[str] = []

    def broken(message: AlertMessage) -> None:
        tries.append(message.id)
        raise Failed("no")

    story = Story("2/day", receivers=[broken, lambda message: told.append(message.subject)])
    for number in range(8):
        story.key(f"tenant {number}")
    for key in story.keys.values():
        ask_wsgi(story.app, Ask(headers=(("X-API-Key", key),)), lint=False)
    story.rest()
    assert sorted(told) == [f"tenant {number}" for number in range(8)]
    assert len(tries) == 1
    story.rest("20 seconds")
    assert len(tries) < 6


def test_quiet_hours_hold_back_until_the_morning() -> None:
    story = Story("4/day", quiet="22:00-09:00 UTC")  # it is eight in the morning
    story.calls("acme", 2)
    assert story.told == []
    assert story.guard.alerts.list()[0].notices[0].deliveries[0].state == "waiting"
    story.rest("61 minutes")
    assert [one.level for one in story.told] == [50]


def test_many_at_once_are_one_message() -> None:
    story = Story("2/day")
    for number in range(25):
        story.key(f"tenant {number}")
    for number in range(25):
        ask_wsgi(story.app, Ask(headers=(("X-API-Key", story.keys[f"tenant {number}"]),)), lint=False)
    story.rest()
    (digest,) = story.told
    assert (digest.type, digest.count, digest.title) == ("keyguard.digest", 25, "25 alerts")
    assert "- tenant 7 has used 50 % of subject:2/day" in digest.text
    assert len(digest.members) == 25
