"""Apps for real servers, each started in a process of its own. KEYGUARD_STORE names the store."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from typing import Any

from keyguard import Keyguard, RateLimit, ResponseCache

logging.basicConfig(level=logging.WARNING)
STORE = os.environ.get("KEYGUARD_STORE", "memory://")

# -- what the app sees of the request's fields ---------------------------------------------------------------------

plain = Keyguard(RateLimit("1000000/hour", name="plain"), store=STORE)


def _echo_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    body = json.dumps({name: str(value) for name, value in environ.items() if name.startswith("HTTP_")}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def _echo_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = json.dumps([[name.decode(), value.decode()] for name, value in scope["headers"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def _bridged() -> Any:
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(_echo_wsgi)


echo_wsgi = plain.wsgi(_echo_wsgi)
echo_asgi = plain.asgi(_echo_asgi)
echo_bridged = plain.asgi(_bridged())

# -- a hundred for each address --------------------------------------------------------------------------------------

limited = Keyguard(RateLimit("100/hour", by="ip", name="limited"), store=STORE)
limited_asgi = limited.asgi(_echo_asgi)
limited_wsgi = limited.wsgi(_echo_wsgi)

# -- a cache for an app that says nothing ------------------------------------------------------------------------------

cached = Keyguard(ResponseCache(ttl=60), store=STORE)
cached_asgi = cached.asgi(_echo_asgi)
cached_wsgi = cached.wsgi(_echo_wsgi)

# -- both: the page is cached ------------------------------------------------------------------------------------------


def _by_path(page: Any, rest: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (page if scope.get("path") == "/page" else rest)(scope, receive, send)

    return app


told_asgi = _by_path(cached_asgi, echo_asgi)
told_bridged = _by_path(cached_asgi, echo_bridged)


def told_wsgi(environ: dict[str, Any], start_response: Any) -> Any:
    return (cached_wsgi if environ["PATH_INFO"] == "/page" else echo_wsgi)(environ, start_response)


# -- one asks, the others wait -----------------------------------------------------------------------------------------

calls = 0
waiting = Keyguard(
    RateLimit("150/hour", by="ip", name="counted", paths=["/counted"]), ResponseCache(coalesce=60), store=STORE
)


def _slow_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    global calls
    path = environ["PATH_INFO"]
    if path.startswith("/slow"):
        calls += 1
        time.sleep(1.0)
    elif path == "/counted":
        time.sleep(0.001)
    cached = path.startswith("/slow")
    fields = [("Cache-Control", "max-age=600, stale-while-revalidate=600" if cached else "no-store")]
    body = json.dumps({"calls": calls, "pid": os.getpid()}).encode()
    start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
    return [body]


waiting_wsgi = waiting.wsgi(_slow_wsgi)
