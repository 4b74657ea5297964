"""An app with everything that a driver has to bring to an end, on every store that KEYGUARD_STORES names.

One stack for each store, one around the other; each keeps the answers below a path of its own. Beside them stands what
tells how a request has come: `served_neighbours.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from keyguard import APIKeys, Forward, Identity, Keyguard, RateLimit, Request, Response, ResponseCache, path
from tests.support import served_neighbours

logging.basicConfig(level=logging.WARNING)
FRESH = {"Content-Type": "text/plain", "Cache-Control": "public, max-age=600"}
STALE = {**FRESH, "Cache-Control": "public, max-age=0, stale-while-revalidate=600"}
"""Refreshed in the background whenever it is asked for."""


async def _settling(request: Request, forward: Forward) -> Response:
    request.at_end(lambda: None)
    return await forward(request)


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    fields = FRESH if scope["path"].endswith("fresh") else STALE
    head = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"x"})


def _wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    fields = FRESH if environ["PATH_INFO"].endswith("fresh") else STALE
    start_response("200 OK", list(fields.items()))
    return [b"x"]


STORES = {store.partition(":")[0]: store for store in os.environ["KEYGUARD_STORES"].split()}
KEPT = tuple(f"/{kind}/" for kind in STORES)
asgi_stacks: Any = _asgi
wsgi_stacks: Any = _wsgi
for kind, store in STORES.items():
    guard = Keyguard(
        _settling,
        APIKeys(lookup=lambda key: Identity(key), optional=True),
        RateLimit("1000000/hour", by="ip", name=kind),
        ResponseCache(when=path(f"/{kind}/*"), name=kind),
        store=store,
    )
    asgi_stacks, wsgi_stacks = guard.asgi(asgi_stacks), guard.wsgi(wsgi_stacks)


def _beside(told: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept = scope["type"] == "lifespan" or scope["path"].startswith(KEPT)
        await (asgi_stacks if kept else told)(scope, receive, send)

    return app


asgi = _beside(served_neighbours.told_bridged)
asgi_on_trio = _beside(served_neighbours.told_asgi)


def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
    kept = environ["PATH_INFO"].startswith(KEPT)
    return (wsgi_stacks if kept else served_neighbours.told_wsgi)(environ, start_response)
