"""The two apps that show metrics: any path, GET and HEAD, no log-in."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

from keyguard.metrics.exposition import Rendered

_Fields = list[tuple[str, str]]
_ALLOW = "GET, HEAD, OPTIONS"
_LEAST = 1_000  # bytes that are worth compressing


class Shown(Protocol):
    """The totals that the apps show."""

    def render(self, accept: str = "") -> Rendered: ...

    async def arender(self, accept: str = "") -> Rendered: ...


class ASGIMetrics:
    """An ASGI app: it can be mounted, be a route of Starlette's, or stand alone."""

    def __init__(self, metrics: Shown) -> None:
        self._metrics = metrics

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        sent: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            text = value.decode("latin-1")
            sent[name] = f"{sent[name]}, {text}" if name in sent else text
        method = scope["method"]
        shown = await self._metrics.arender(sent.get(b"accept", "")) if method in ("GET", "HEAD") else None
        status, fields, body = _answer(method, shown, sent.get(b"accept-encoding", ""))
        head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        await send({"type": "http.response.start", "status": int(status[:3]), "headers": head})
        await send({"type": "http.response.body", "body": body})


class WSGIMetrics:
    """The same for WSGI."""

    def __init__(self, metrics: Shown) -> None:
        self._metrics = metrics

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        shown = self._metrics.render(environ.get("HTTP_ACCEPT", "")) if method in ("GET", "HEAD") else None
        status, fields, body = _answer(method, shown, environ.get("HTTP_ACCEPT_ENCODING", ""))
        start_response(status, fields)
        return [body]


def _answer(method: str, shown: Rendered | None, accepted: str) -> tuple[str, _Fields, bytes]:
    """Return status, fields and body."""
    fields = [("Cache-Control", "no-store")]
    if shown is None:
        status = "200 OK" if method == "OPTIONS" else "405 Method Not Allowed"
        return status, [*fields, ("Allow", _ALLOW), ("Content-Length", "0")], b""
    body = shown.body
    fields += [("Content-Type", shown.content_type), ("Vary", "Accept, Accept-Encoding")]
    if len(body) >= _LEAST and _takes_gzip(accepted):
        body = gzip.compress(body, 5)
        fields.append(("Content-Encoding", "gzip"))
    if method == "HEAD":
        return "200 OK", fields, b""
    return "200 OK", [*fields, ("Content-Length", str(len(body)))], body


def _takes_gzip(accepted: str) -> bool:
    for member in accepted.lower().split(","):
        coding, _, weight = member.partition(";")
        if coding.strip() == "gzip":
            return weight.strip().removeprefix("q=").strip("0.") != "" if weight else True
    return False
