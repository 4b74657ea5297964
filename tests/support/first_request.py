"""The first requests to an app behind the usual guards: prints the statuses, and the modules loaded for them.

A program, since it is about what an interpreter has loaded: `python -m tests.support.first_request asgi`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from wsgiref.util import setup_testing_defaults

from keyguard import APIKeys, Ban, Concurrency, IPFilter, Keyguard, Overload, RateLimit, ResponseCache, Usage

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    Ban(after="100/minute"),
    Overload(),
    APIKeys(),
    RateLimit("10/minute", by="key"),
    RateLimit("2/minute", by="key", name="few"),
    Concurrency(3, by="key"),
    ResponseCache(),
    usage=Usage(),
)
KEY = guard.keys.issue("alice").key.reveal()
REQUESTS = [
    ("192.0.2.1", KEY),
    ("192.0.2.1", "kg_live_none"),
    ("203.0.113.9", KEY),
    ("192.0.2.1", KEY),
    ("192.0.2.1", KEY),
]


async def app(scope: Any, receive: Any, send: Any) -> None:
    guard.here()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    guard.here()
    start_response("200 OK", [])
    return [b"ok"]


async def through_asgi(layer: Any) -> list[int]:
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    for address, key in REQUESTS:
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
        }
        scope |= {"root_path": "", "query_string": b"", "client": (address, 5000), "server": ("localhost", 80)}
        headers = [(b"host", b"localhost"), (b"x-api-key", key.encode())]
        await layer({**scope, "asgi": {"version": "3.0"}, "headers": headers}, receive, send)
    return statuses


def through_wsgi(layer: Any) -> list[int]:
    statuses: list[int] = []
    for address, key in REQUESTS:
        environ: dict[str, Any] = {"REMOTE_ADDR": address, "HTTP_X_API_KEY": key}
        setup_testing_defaults(environ)
        body = layer(environ, lambda status, headers, failed=None: statuses.append(int(status[:3])))
        b"".join(body)
        getattr(body, "close", lambda: None)()
    return statuses


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    layer = guard.asgi(app) if sys.argv[1] == "asgi" else guard.wsgi(wsgi_app)
    before = {*sys.modules}
    statuses = loop.run_until_complete(through_asgi(layer)) if sys.argv[1] == "asgi" else through_wsgi(layer)
    after = {*sys.modules} - before
    loop.close()
    print(*sorted({*statuses}))
    print(*sorted(name for name in after if name.startswith("keyguard")))
