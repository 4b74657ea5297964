"""An app with everything that a driver has to bring to an end, on every store that KEYGUARD_STORES names.

One stack for each store, one around the other; each keeps the answers below a path of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from keyguard import APIKeys, Forward, Identity, Keyguard, RateLimit, Request, Response, ResponseCache, path

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


asgi: Any = _asgi
wsgi: Any = _wsgi
for store in os.environ["KEYGUARD_STORES"].split():
    kind = store.partition(":")[0]
    guard = Keyguard(
        _settling,
        APIKeys(lookup=lambda key: Identity(key), optional=True),
        RateLimit("1000000/hour", by="ip", name=kind),
        ResponseCache(when=path(f"/{kind}/*"), name=kind),
        store=store,
    )
    asgi, wsgi = guard.asgi(asgi), guard.wsgi(wsgi)
