"""Requests as a server would hand them to an app, of one caller or of many who take turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

CLIENT = "198.51.100.1"

_FIELDS = [
    (b"host", b"api.example.test"),
    (b"user-agent", b"bench/1.0"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"x-request-start", b"1700000000"),
]


def scope_with(key: str | None) -> dict[str, Any]:
    headers = [*_FIELDS, (b"x-api-key", key.encode())] if key else list(_FIELDS)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/hello",
        "raw_path": b"/hello",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": (CLIENT, 40000),
        "server": ("api.example.test", 80),
    }


def environ_with(key: str | None) -> dict[str, Any]:
    import io
    import sys

    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/hello",
        "QUERY_STRING": "",
        "SERVER_NAME": "api.example.test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": CLIENT,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in _FIELDS:
        environ["HTTP_" + name.decode().upper().replace("-", "_")] = value.decode()
    if key:
        environ["HTTP_X_API_KEY"] = key
    return environ


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def run_asgi(app: Any, scope: dict[str, Any], count: int, expected: int = 200) -> None:
    status = 0

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    for _ in range(count):
        fresh = dict(scope)
        fresh["state"] = {}
        await app(fresh, receive, send)
        if status != expected:
            raise SystemExit(f"expected {expected}, got {status}")


def run_wsgi(app: Any, environ: dict[str, Any], count: int, expected: int = 200) -> None:
    statuses: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        statuses[:] = [status]

    for _ in range(count):
        iterable = app(dict(environ), start_response)
        for _ in iterable:
            pass
        if hasattr(iterable, "close"):
            iterable.close()
        if int(statuses[0][:3]) != expected:
            raise SystemExit(f"expected {expected}, got {statuses[0]}")


def _addresses(callers: int) -> list[str]:
    return [f"198.51.{number >> 8}.{number & 255}" for number in range(callers)]


def asgi_run(app: Any, keys: list[str], callers: int, expected: int) -> Callable[[int], Any]:
    scopes = []
    for place, address in enumerate(_addresses(callers)):
        scope = scope_with(keys[place] if keys else None)
        scope["client"] = (address, 40000)
        scopes.append(scope)
    turn = itertools.cycle(scopes)
    status = 0

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    async def run(count: int) -> None:
        for _ in range(count):
            scope = dict(next(turn))
            scope["state"] = {}
            await app(scope, receive, send)
            if status != expected:
                raise SystemExit(f"expected {expected}, got {status}")

    return run


def wsgi_run(app: Any, keys: list[str], callers: int, expected: int) -> Callable[[int], Any]:
    environs = []
    for place, address in enumerate(_addresses(callers)):
        environ = environ_with(keys[place] if keys else None)
        environ["REMOTE_ADDR"] = address
        environs.append(environ)
    turn = itertools.cycle(environs)
    return lambda count: [run_wsgi(app, next(turn), 1, expected) for _ in range(count)]
