"""Apps for real servers, each started in a process of its own. KEYGUARD_STORE or KEYGUARD_STORES names the stores."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
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

calls: Counter[str] = Counter()
"""How often the slow page of each store was made."""
released: set[str] = set()


def _slow_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    _, kind, page = environ["PATH_INFO"].split("/")
    if page == "slow":  # until another request releases it
        calls[kind] += 1
        end = time.monotonic() + 30
        while kind not in released and time.monotonic() < end:
            time.sleep(0.01)
    elif page == "release":
        released.add(kind)
    elif page == "counted":
        time.sleep(0.001)
    fields = [("Cache-Control", "max-age=600, stale-while-revalidate=600" if page == "slow" else "no-store")]
    body = json.dumps({"calls": calls[kind], "released": kind in released}).encode()
    start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
    return [body]


COUNTED = os.environ.get("KEYGUARD_COUNTED", "150")
"""How many requests to `counted` an address has on each store."""
waiting = {
    kind: Keyguard(
        RateLimit(f"{COUNTED}/hour", by="ip", name="counted", paths=[f"/{kind}/counted"]),
        ResponseCache(coalesce=60),
        store=store,
    ).wsgi(_slow_wsgi)
    for store in os.environ.get("KEYGUARD_STORES", "").split()
    for kind in [store.partition(":")[0]]
}
"""What each store guards stands below a path of its own."""


def waiting_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    answer: Iterable[bytes] = waiting[environ["PATH_INFO"].split("/")[1]](environ, start_response)
    return answer
