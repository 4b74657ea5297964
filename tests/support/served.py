"""Apps for real servers, each started in a process of its own by `test_servers.py`. KEYGUARD_STORE names the store."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator
from typing import Any

from keyguard import Forward, Keyguard, RateLimit, Request, Response, path

STORE = os.environ.get("KEYGUARD_STORE", "memory://")
CHUNK = b"x" * 65536
CHUNKS = 3200  # of 64 KiB: 200 MB


async def counting(request: Request, forward: Forward) -> Response:
    """A guard that sees the head, changes it, and has something to do at the end."""
    request.at_end(lambda: ended.append(1))
    response = await forward(request)
    response.headers.set("X-Guarded", "yes")
    return response


ended: list[int] = []
guard = Keyguard(counting, RateLimit("100/hour", by="ip", exempt=path("/process")), store=STORE)


def peak() -> bytes:
    """The most memory this process has held, in KiB."""
    return b"%d" % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": "echo " + message["text"]})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    asked = scope["path"]
    if asked == "/big":
        for _ in range(CHUNKS):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    elif asked == "/events":
        import asyncio

        await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
        await asyncio.sleep(0.8)
    body = {"/peak": peak(), "/ended": b"%d" % len(ended)}.get(asked, b"end")
    await send({"type": "http.response.body", "body": body})


asgi = guard.asgi(bare_asgi)


def bare_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    asked = environ["PATH_INFO"]
    if asked == "/big":
        return (CHUNK for _ in range(CHUNKS))
    if asked == "/events":
        return _events()
    if asked == "/process":
        time.sleep(0.01)  # long enough for another worker to take the next request
    bodies = {"/peak": peak(), "/ended": b"%d" % len(ended), "/process": b"%d" % os.getpid()}
    return [bodies.get(asked, b"end")]


def _events() -> Iterator[bytes]:
    yield b"data: first\n\n"
    time.sleep(0.8)
    yield b"end"


wsgi = guard.wsgi(bare_wsgi)


def waitress(port: str) -> None:
    """Serve the WSGI app with sixteen threads, and no buffering of waitress's own: ours is what is looked for."""
    from waitress import serve

    serve(wsgi, host="127.0.0.1", port=int(port), threads=16, outbuf_high_watermark=65536, send_bytes=1)


if __name__ == "__main__":
    import sys

    waitress(sys.argv[1])
