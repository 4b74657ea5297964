"""Names of request fields with an underscore: the app never reads one as a field that guards and proxies know."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

import keyguard.asgi
import keyguard.wsgi
from keyguard import (
    APIKeys,
    ConfigurationError,
    Identity,
    IPFilter,
    Keyguard,
    RateLimit,
    Request,
    Response,
    ResponseCache,
)
from keyguard.drivers.field_names import odd
from keyguard.testing import ManualClock, play
from tests.drivers.test_asgi_driver import websocket
from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi
from tests.support.neighbours import BRIDGES, Bridge, to_wsgi


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The request's fields, as a WSGI app sees them."""
    seen = {
        name: value
        for name, value in environ.items()
        if name.startswith(("HTTP_", "CONTENT_")) and isinstance(value, str) and name != "HTTP_HOST"
    }
    start_response("200 OK", [("Content-Type", "application/json"), ("Cache-Control", "max-age=60")])
    return [json.dumps(seen).encode()]


def nothing(request: Request) -> Response | None:
    return None


def lookup(key: str) -> Identity | None:
    return Identity(key, key_id=key) if key.startswith("of-") else None


def seen_by(app: Any, *headers: tuple[str | bytes, str | bytes], **options: Any) -> Any:
    return json.loads(ask_asgi(app, Ask("/", headers, **options), lint=False).body)


FOLDED = [
    "X_Forwarded_Host", "X_Forwarded-Host", "x-forwarded_host", "X_API_Key", "X_HTTP_Method_Override",
    "X_Forwarded_For", "Content_Length", "Content_Type", "Transfer_Encoding", "Authorization_", "_Cookie",
    "Remote_User", "X_Forwarded_User", "Proxy_Authorization", "X_Original_URL", "__", "_",
]  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_an_app_inside_a_bridge_reads_no_field_with_an_underscore(bridge: Bridge, name: str) -> None:
    assert seen_by(Keyguard(nothing).asgi(bridge(echo)), (name, "forged")) == {}
    # No guards at all: it is the stack that takes them off.
    assert seen_by(Keyguard().asgi(bridge(echo)), (name, "forged")) == {}


@pytest.mark.parametrize("first", [True, False])
def test_of_two_spellings_only_the_right_one_counts_wherever_it_stands(bridge: Bridge, first: bool) -> None:
    pairs: list[tuple[str | bytes, str | bytes]] = [("X-Forwarded-Host", "right"), ("X_Forwarded_Host", "forged")]
    assert seen_by(Keyguard().asgi(bridge(echo)), *(pairs if first else pairs[::-1])) == {
        "HTTP_X_FORWARDED_HOST": "right"
    }


def test_names_that_upper_case_folds_are_no_other_field_either(bridge: Bridge) -> None:
    """`ß` is `SS` in upper case; a name is a token (RFC 9110, section 5.6.2), and holds no such letter."""
    forged: list[tuple[str | bytes, str | bytes]] = [
        (b"cf-acce\xdf-jwt-assertion", b"forged"), (b"x-\xb5", b"forged"), (b"x-api-key ", b"forged"),
        (b"x-api-key\t", b"forged"), (b"x api key", b"forged"), (b"", b"forged"), (b"x:y", b"forged"),
    ]  # fmt: skip
    assert set(seen_by(Keyguard().asgi(bridge(echo)), *forged)) <= {"HTTP_"}


def test_lines_that_differ_by_case_are_one_field() -> None:
    seen: list[str | None] = []

    def look(request: Request) -> Response | None:
        seen.append(request.header("x-forwarded-for"))
        return None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(str(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    class Capital(Ask):
        def fields(self) -> list[tuple[bytes, bytes]]:
            return [(b"X-Forwarded-For", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2"), (b"X_Forwarded_For", b"3")]

    ask_asgi(Keyguard(look).asgi(app), Capital(), lint=False)
    assert seen == ["1.1.1.1,2.2.2.2", "[(b'x-forwarded-for', b'1.1.1.1'), (b'x-forwarded-for', b'2.2.2.2')]"]


def test_headers_that_are_no_list_are_read_once() -> None:
    """An ASGI server may give any iterable."""
    app = Keyguard(APIKeys(lookup=lookup)).asgi(BRIDGES["a2wsgi"](echo))

    class Once(Ask):
        def scope(self) -> dict[str, Any]:
            scope = super().scope()
            return {**scope, "headers": iter(scope["headers"])}

    assert ask_asgi(app, Once("/", (("X-API-Key", "of-ada"), ("X_API_Key", "of-bob"))), lint=False).status == 200


def test_a_key_in_a_field_with_an_underscore_is_none(bridge: Bridge) -> None:
    app = Keyguard(APIKeys(lookup=lookup)).asgi(bridge(echo))
    assert ask_asgi(app, Ask("/", (("X_API_Key", "of-ada"),)), lint=False).status == 401
    right = Ask("/", (("X-API-Key", "of-ada"), ("X_API_Key", "of-bob")))
    assert json.loads(ask_asgi(app, right, lint=False).body) == {"HTTP_X_API_KEY": "of-ada"}


def test_a_websocket_s_handshake_is_cleaned_too() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append([name for name, _ in scope["headers"]])
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        headers = [*scope["headers"], (b"x_api_key", b"forged"), (b"X-Kept", b"1")]
        await Keyguard(nothing).asgi(app)({**scope, "headers": headers}, receive, send)

    websocket(asked)
    assert b"x-kept" in seen[0]
    assert b"x_api_key" not in seen[0]


def test_one_request_does_not_poison_what_others_get(bridge: Bridge) -> None:
    """The story of this file: an app that builds its links of `X-Forwarded-Host`, and a cache around it."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Cache-Control", "public, max-age=60"), ("Content-Type", "text/plain")])
        return [f"https://{environ.get('HTTP_X_FORWARDED_HOST', environ['HTTP_HOST'])}/".encode()]

    guarded = Keyguard(ResponseCache(), clock=ManualClock()).asgi(bridge(app))
    for name in ("X_Forwarded_Host", "x_forwarded-host", "X-Forwarded_Host"):
        assert ask_asgi(guarded, Ask("/", ((name, "evil.test"),)), lint=False).body == b"https://example.test/"
    assert ask_asgi(guarded, Ask("/"), lint=False).body == b"https://example.test/"


# -- keyguard inside of the bridge ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDED)
def test_a_layer_inside_a2wsgi_puts_the_environ_right(name: str) -> None:
    app = BRIDGES["a2wsgi"](Keyguard(nothing).wsgi(echo))
    assert seen_by(app, (name, "forged")) == {}
    assert seen_by(app, ("X-Forwarded-Host", "right"), (name, "forged"), ("Content-Type", "text/plain")) == {
        "HTTP_X_FORWARDED_HOST": "right",
        "CONTENT_TYPE": "text/plain",
    }


def test_a_layer_inside_a2wsgi_believes_the_proxy_alone() -> None:
    allowed = Keyguard(IPFilter(allow=["192.0.2.0/24"]), trusted_proxies=["10.0.0.0/8"])
    app = BRIDGES["a2wsgi"](allowed.wsgi(echo))
    said = ("X-Forwarded-For", "203.0.113.7")
    forged = ("X_Forwarded_For", "192.0.2.7")
    for headers in ((said, forged), (forged, said), (said,), (forged,)):
        assert ask_asgi(app, Ask("/", headers, client="10.0.0.1"), lint=False).status == 403
    told = Ask("/", (("X-Forwarded-For", "192.0.2.7"),), client="10.0.0.1")
    assert ask_asgi(app, told, lint=False).status == 200


@pytest.mark.parametrize("kind", ["asgiref", "starlette"])
def test_a_layer_inside_another_bridge_says_that_it_cannot_know(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyguard.drivers.field_names._told", set())
    inside = Keyguard(nothing).wsgi(echo)
    seen_by(Keyguard().asgi(BRIDGES[kind](inside)))  # a layer outside has taken them off
    assert caplog.text == ""
    app = BRIDGES[kind](Keyguard(nothing).wsgi(echo))
    for _ in range(3):
        seen_by(app)
    assert caplog.text.count("a bridge from ASGI, or hypercorn, makes one variable of") == 1


def test_an_app_may_name_such_a_field_in_vary_and_it_tells_nothing_apart() -> None:
    """The app cannot see it: all callers have the same, none."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Cache-Control", "max-age=60"), ("Vary", "X_Mine, X-Mine")])
        return [environ.get("HTTP_X_MINE", "none").encode()]

    guard = Keyguard(ResponseCache(), clock=ManualClock())
    guarded = guard.asgi(BRIDGES["a2wsgi"](app))
    asks = [Ask("/", headers) for headers in ((), (("X_Mine", "1"),), (("X-Mine", "2"),), (("X_Mine", "3"),))]
    assert [ask_asgi(guarded, asked, lint=False).body for asked in asks] == [b"none", b"none", b"2", b"none"]
    assert guard.cache.stats().hits == 2
    # A server that folds is one field for the app, and for the cache.
    asks = [Ask("/wsgi", headers) for headers in ((), (("X_Mine", "1"),), (("X-Mine", "2"),), (("X_Mine", "1"),))]
    assert [ask_wsgi(guard.wsgi(app), asked).body for asked in asks] == [b"none", b"1", b"2", b"1"]


def test_a_layer_inside_a_bridge_to_asgi_tells_of_a_server_that_folds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyguard.drivers.field_names._told", set())

    class FromGranian(Ask):
        def environ(self) -> dict[str, Any]:
            return {**super().environ(), "SERVER_SOFTWARE": "Granian"}

    ask_wsgi(to_wsgi(Keyguard(nothing).asgi(asgi_app)), FromGranian(), lint=False)
    assert "granian makes one variable of" in caplog.text


# -- the setting ------------------------------------------------------------------------------------------------------


def test_fields_that_the_app_wants_are_kept() -> None:
    app = Keyguard(nothing, underscores=["Tenant_ID"]).asgi(BRIDGES["asgiref"](echo))
    assert seen_by(app, ("tenant_id", "7"), ("other_id", "8")) == {"HTTP_TENANT_ID": "7"}
    limit = RateLimit("1/minute", by=lambda request: request.header("tenant_id"))
    guard = Keyguard(limit, underscores=["tenant_id"])
    for sent, status in (("7", 200), ("7", 429), ("8", 200)):
        headers = (("tenant_id", sent),)
        assert ask_asgi(guard.asgi(BRIDGES["asgiref"](echo)), Ask("/", headers), lint=False).status == status
    assert [play(guard, headers={"tenant_id": "9"}).status for _ in range(2)] == [200, 429]


def test_a_guard_that_reads_what_is_taken_off_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    """And not that nobody sent it: a limit by it would apply to nobody."""
    guard = Keyguard(RateLimit("1/minute", by=lambda request: request.header("tenant_id")))
    assert ask_asgi(guard.asgi(BRIDGES["a2wsgi"](echo)), Ask("/", (("tenant_id", "7"),)), lint=False).status == 503
    assert ask_wsgi(guard.wsgi(echo), Ask("/")).status == 503
    assert caplog.text.count("keep it by Keyguard(..., underscores=['tenant_id'])") == 2


@pytest.mark.parametrize(
    ("guards", "options", "words"),
    [
        ((), {"underscores": "tenant_id"}, "is a list of names"),
        ((), {"underscores": ["tenant-id"]}, "with an underscore in them"),
        ((), {"underscores": ["tenant_id:"]}, "with an underscore in them"),
        ((), {"underscores": [7]}, "with an underscore in them"),
        ((), {"underscores": ["X_Forwarded_For"]}, "others would read it as 'x-forwarded-for'"),
        ((APIKeys(),), {"underscores": ["x_api_key"]}, "others would read it as 'x-api-key'"),
        ((APIKeys(sources=["api_key"]),), {}, r"name it in underscores=\['api_key'\] as well"),
    ],
)
def test_a_setting_that_cannot_work_does_not_start(guards: Any, options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Keyguard(*guards, **options)


def test_a_key_may_stand_in_a_field_with_an_underscore_that_is_kept() -> None:
    guard = Keyguard(APIKeys(lookup=lookup, sources=["api_key"]), underscores=["api_key"])
    for headers, status in ([(("API_Key", "of-ada"),), 200], [(("API-Key", "of-ada"),), 401]):
        assert ask_asgi(guard.asgi(BRIDGES["a2wsgi"](echo)), Ask("/", headers), lint=False).status == status


def test_layers_that_would_keep_different_fields_do_not_start() -> None:
    inside = keyguard.asgi.RateLimit(BRIDGES["a2wsgi"](echo), "1/second", underscores=["a_b"])
    with pytest.raises(ConfigurationError, match="differ in underscores"):
        keyguard.asgi.IPFilter(inside, deny=["10.0.0.0/8"])
    keyguard.asgi.IPFilter(inside, deny=["10.0.0.0/8"], underscores=["A_b"])


def test_fields_as_they_should_be_are_left_alone() -> None:
    assert not odd([b"host", b"x-a.b!c"])
    assert not odd([])
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await asgi_app(scope, receive, send)

    headers = [(b"host", b"x"), (b"accept", b"*/*"), (b"accept", b"text/plain")]

    class Given(Ask):
        def fields(self) -> list[tuple[bytes, bytes]]:
            return headers

    ask_asgi(Keyguard(nothing).asgi(app), Given())
    assert seen[0] is headers
