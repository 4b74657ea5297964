"""A protocol linter for ASGI, as werkzeug's `LintMiddleware` is one for WSGI: it stands between server and app.

It checks both sides of the HTTP, websocket and lifespan protocols (ASGI specification 3.0, HTTP & WebSocket 2.4) and
raises `AssertionError` for what a server or an app must not do.
"""

from __future__ import annotations

from typing import Any

_SCOPE = {
    "http": ("http_version", "method", "scheme", "path", "query_string", "headers"),
    "websocket": ("http_version", "scheme", "path", "query_string", "headers"),
    "lifespan": (),
}


class ASGILint:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        kind = scope["type"]
        assert kind in _SCOPE, f"unknown scope type {kind}"
        for key in _SCOPE[kind]:
            assert key in scope, f"the scope lacks {key}"
        if "headers" in scope:
            _check_headers(scope["headers"])
        session = {"http": _HTTP, "websocket": _WebSocket, "lifespan": _Lifespan}[kind](scope)

        async def linted_receive() -> Any:
            message = await receive()
            session.received(message)
            return message

        async def linted_send(message: Any) -> None:
            assert isinstance(message, dict), "a message is a dict"
            session.sent(message)
            await send(message)

        await self.app(scope, linted_receive, linted_send)
        session.returned()


class _HTTP:
    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.state = "idle"
        self.length: int | None = None
        self.bytes = 0

    def received(self, message: dict[str, Any]) -> None:
        assert message["type"] in ("http.request", "http.disconnect"), message

    def sent(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            assert self.state == "idle", "a second response head"
            assert type(message["status"]) is int
            assert 100 <= message["status"] <= 999
            self.status = message["status"]
            headers = message.get("headers", ())
            _check_headers(headers)
            lengths = [value for name, value in headers if name == b"content-length"]
            assert len(lengths) <= 1, "two Content-Length"
            if lengths:
                assert self.status not in (204, 304), "Content-Length where none may be"
                self.length = int(lengths[0])
            self.state = "started"
        elif kind == "http.response.body":
            assert self.state == "started", f"a body part while {self.state}"
            body = message.get("body", b"")
            assert isinstance(body, bytes), "a body is bytes"
            self.bytes += len(body)
            if not message.get("more_body", False):
                self.state = "done"
                if self.scope["method"] == "HEAD" or self.status in (204, 304):
                    assert self.bytes == 0, "a body where none may be"
                elif self.length is not None:
                    assert self.bytes == self.length, "the body is not as long as Content-Length says"

    def returned(self) -> None:
        assert self.state == "done", f"the app returned while the response was {self.state}"


class _WebSocket:
    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.state = "idle"
        self.connected = False

    def received(self, message: dict[str, Any]) -> None:
        assert message["type"] in ("websocket.connect", "websocket.receive", "websocket.disconnect"), message
        self.connected = True

    def sent(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        assert self.connected, f"{kind} before websocket.connect was received"
        if kind == "websocket.accept":
            assert self.state == "idle", "accepted twice"
            _check_headers(message.get("headers", ()))
            self.state = "open"
        elif kind == "websocket.send":
            assert self.state == "open", f"a message while {self.state}"
        elif kind == "websocket.close":
            assert self.state in ("idle", "open"), f"a close while {self.state}"
            self.state = "closed"
        elif kind == "websocket.http.response.start":
            assert self.state == "idle"
            assert "websocket.http.response" in self.scope.get("extensions", {}), "an extension that is not offered"
            _check_headers(message["headers"])
            self.state = "denied"
        elif kind == "websocket.http.response.body":
            assert self.state == "denied"
            if not message.get("more_body", False):
                self.state = "closed"

    def returned(self) -> None:
        pass


class _Lifespan:
    def __init__(self, scope: dict[str, Any]) -> None:
        pass

    def received(self, message: dict[str, Any]) -> None:
        assert message["type"] in ("lifespan.startup", "lifespan.shutdown"), message

    def sent(self, message: dict[str, Any]) -> None:
        assert message["type"].startswith("lifespan."), message

    def returned(self) -> None:
        pass


def _check_headers(headers: Any) -> None:
    for pair in headers:
        assert len(pair) == 2, "a header is a pair"
        name, value = pair
        assert isinstance(name, bytes), "a header name is bytes"
        assert isinstance(value, bytes), "a header value is bytes"
        assert name == name.lower(), f"the header name {name!r} is not lower case"
        assert name, "an empty header name"
        assert not set(name + value) & set(b"\r\n\0"), f"the header {name!r} holds CR, LF or NUL"
