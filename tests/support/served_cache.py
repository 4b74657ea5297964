"""An app behind a response cache for real servers, in both worlds; `test_cache_servers.py` starts it."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from keyguard import Keyguard, ResponseCache
from keyguard.drivers.asgi import background

background._PATIENCE = float(os.environ.get("PATIENCE", background._PATIENCE))
guard = Keyguard(ResponseCache(), store=os.environ.get("KEYGUARD_STORE", "memory://"))
calls: Counter[str] = Counter()
"""For each path and query how often it was asked for; and with `done:` before it, how often that has slept."""

BODY = b"abcdefghijklmnopqrstuvwxyz"
MEBIBYTE = b"x" * 1024 * 1024
BIG = int(os.environ.get("BIG_MIB", "200"))
SLOW = 0.6  # seconds

Plan = tuple[int, list[tuple[str, str]], list[Any]]
"""Status, fields, and the body in parts; a number among them is a pause in seconds."""


def plan(method: str, path: str, query: str, condition: str | None) -> Plan:
    """What to answer."""
    target = f"{path}?{query}" if query else path
    calls[target] += 1
    number = b"%d" % calls[target]
    fresh = [("Cache-Control", "max-age=60")]
    if path == "/item":
        fields = [("Cache-Control", "max-age=60"), ("ETag", '"v1"'), ("Content-Type", "text/plain")]
        if condition == '"v1"':
            return 304, fields, []
        return 200, [*fields, ("Content-Length", "26")], [BODY]
    if path == "/streamed":
        return 200, fresh, [BODY[:13], BODY[13:]]
    if path == "/one":
        return 200, fresh, [BODY]
    if path == "/private":
        return 200, [("Cache-Control", "private")], [BODY]
    if path == "/big":
        return 200, fresh, [MEBIBYTE] * BIG
    if path == "/events":
        return 200, [*fresh, ("Content-Type", "text/event-stream")], [b"data: first\n\n", 1.0, b"end"]
    if path == "/parts":
        sized = [("Content-Length", str(9 * 100_000))] if query == "sized" else []
        return 200, [*fresh, *sized], [part for _ in range(9) for part in (MEBIBYTE[:100_000], 0.03)]
    if path == "/slow":
        return 200, fresh, [SLOW, number]
    if path == "/swr":
        return 200, [("Cache-Control", "max-age=0, stale-while-revalidate=60")], [SLOW, number]
    if path == "/hangs":
        return (
            200,
            [("Cache-Control", "max-age=0, stale-while-revalidate=60")],
            [0.0 if number == b"1" else 60.0, number],
        )
    if path == "/pid":
        return 200, fresh if query else [("Cache-Control", "no-store")], [0.01, b"%d" % os.getpid()]
    if path == "/calls":
        return 200, [("Cache-Control", "no-store")], [b"%d" % calls[query]]
    if path == "/peak":
        return 200, [("Cache-Control", "no-store")], [b"%d" % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    return 404, [("Content-Length", "0")], []


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/purge":
        await guard.cache.apurge(scope["query_string"].decode())
    condition = dict(scope["headers"]).get(b"if-none-match")
    status, fields, parts = plan(
        scope["method"], scope["path"], scope["query_string"].decode(), condition and condition.decode()
    )
    if parts and isinstance(parts[0], float):
        await asyncio.sleep(parts.pop(0))
        calls[f"done:{scope['path']}"] += 1
    raw = [(name.lower().encode(), value.encode()) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    for part in [] if scope["method"] == "HEAD" else parts:
        if isinstance(part, bytes):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        else:
            await asyncio.sleep(part)
    await send({"type": "http.response.body", "body": b""})


def bare_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/purge":
        guard.cache.purge(environ["QUERY_STRING"])
    status, fields, parts = plan(
        environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], environ.get("HTTP_IF_NONE_MATCH")
    )
    if parts and isinstance(parts[0], float):
        time.sleep(parts.pop(0))
        calls[f"done:{environ['PATH_INFO']}"] += 1
    start_response(f"{status} Status", fields)
    if environ["REQUEST_METHOD"] == "HEAD":
        return []
    return parts if len(parts) < 2 else _flowing(parts)


def _flowing(parts: list[Any]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
        else:
            time.sleep(part)


asgi = guard.asgi(bare_asgi)
wsgi = guard.wsgi(bare_wsgi)


if __name__ == "__main__":
    import sys

    from waitress import serve

    serve(
        wsgi,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        threads=110,
        connection_limit=300,
        outbuf_high_watermark=65536,
        send_bytes=1,
    )
