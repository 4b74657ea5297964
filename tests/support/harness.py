"""One request, two worlds: the same `Ask` goes through an ASGI app and a WSGI app, each between protocol linters."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from werkzeug.middleware.lint import LintMiddleware

from tests.support.asgi_lint import ASGILint
from tests.support.loops import run_alone


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


@dataclass(frozen=True)
class Ask:
    """A request as it comes over the wire."""

    target: str = "/"
    headers: tuple[tuple[str | bytes, str | bytes], ...] = ()
    method: str = "GET"
    client: str | None = "198.51.100.1"
    root: str = ""
    """The prefix that the app is mounted under; `target` starts with it."""
    version: str = "1.1"
    host: bool = True
    body: bytes = b""

    def fields(self) -> list[tuple[bytes, bytes]]:
        fields = [(as_bytes(name).lower(), as_bytes(value)) for name, value in self.headers]
        return [(b"host", b"example.test"), *fields] if self.host else fields

    def scope(self) -> dict[str, Any]:
        raw, _, query = self.target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": self.version,
            "method": self.method,
            "scheme": "http",
            "path": unquote(raw),
            "raw_path": raw.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": self.root,
            "headers": self.fields(),
            "client": None if self.client is None else (self.client, 40000),
            "server": ("example.test", 80),
            "state": {},
        }

    def environ(self) -> dict[str, Any]:
        raw, _, query = self.target.partition("?")
        path = unquote_to_bytes(raw).decode("latin-1")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": self.root,
            "PATH_INFO": path[len(self.root) :] if path.startswith(self.root) else path,
            "QUERY_STRING": query,
            "REQUEST_URI": self.target,
            "SERVER_NAME": "example.test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": f"HTTP/{self.version}",
            "REMOTE_ADDR": self.client or "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(self.body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.fields():
            variable = name.decode("latin-1").upper().replace("-", "_")
            if variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                variable = "HTTP_" + variable
            text = value.decode("latin-1")
            environ[variable] = f"{environ[variable]},{text}" if variable in environ else text
        return environ


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    chunks: list[bytes] = field(default_factory=list, compare=False)

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


# -- apps that say what they saw ----------------------------------------------------------------------------

BODY = b"hello"
FIELDS = [("content-type", "text/plain"), ("content-length", "5"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]


async def asgi_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    headers = [(name.encode(), value.encode()) for name, value in FIELDS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else BODY})


def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", list(FIELDS))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [BODY]


# -- asking -------------------------------------------------------------------------------------------------


def ask_asgi(app: Any, ask: Ask, *, lint: bool = True) -> Answer:
    return run_alone(aask(app, ask, lint=lint))


async def aask(app: Any, ask: Ask, *, lint: bool = True) -> Answer:
    messages: list[dict[str, Any]] = []
    bodies = [{"type": "http.request", "body": ask.body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.Event().wait()  # the client stays
        return bodies.pop(0)

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    await (ASGILint(app) if lint else app)(ask.scope(), receive, send)
    heads = [m for m in messages if m["type"] == "http.response.start"]
    chunks = [m.get("body", b"") for m in messages if m["type"] == "http.response.body"]
    assert len(heads) == 1, messages
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in heads[0]["headers"]]
    return Answer(heads[0]["status"], headers, b"".join(chunks), chunks)


def ask_wsgi(app: Any, ask: Ask, *, lint: bool = True) -> Answer:
    heads: list[tuple[str, list[tuple[str, str]]]] = []
    chunks: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info is None:
            assert not heads, "start_response twice"
        heads.append((status, headers))
        return chunks.append

    iterable = (LintMiddleware(app) if lint else app)(ask.environ(), start_response)
    try:
        chunks.extend(iterable)
    finally:
        if hasattr(iterable, "close"):
            iterable.close()
    status, pairs = heads[-1]
    return Answer(int(status[:3]), [(name.lower(), value.strip()) for name, value in pairs], b"".join(chunks), chunks)
