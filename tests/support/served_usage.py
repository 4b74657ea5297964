"""Apps with a ledger, for real servers, each started in a process of its own.

KEYGUARD_STORE names the store, and KEYGUARD_LEDGER that of the ledger, if it lies elsewhere. It is written each
KEYGUARD_EVERY seconds: a minute by default, so that within a test only an end writes it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any

from keyguard import APIKeys, Identity, Keyguard, RateLimit, Usage

if "KEYGUARD_STOPS" in os.environ:  # as `docs/usage.md` has it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

guard = Keyguard(
    APIKeys(lookup=lambda key: Identity(key, key_id=key)),
    RateLimit("4/hour", by="key"),
    store=os.environ["KEYGUARD_STORE"],
    usage=Usage(os.environ.get("KEYGUARD_LEDGER"), every=float(os.environ.get("KEYGUARD_EVERY", "60"))),
)
PAUSE = 0.005  # seconds that the app takes, so that another worker takes the next request


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    fields = [(b"content-length", b"0"), (b"x-pid", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b""})


def _wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    time.sleep(PAUSE)
    if environ["PATH_INFO"] == "/close":
        guard.close()  # as a hook of the server's own does
    start_response("200 OK", [("Content-Length", "0"), ("X-Pid", str(os.getpid()))])
    return [b""]


asgi = guard.asgi(_asgi)
wsgi = guard.wsgi(_wsgi)
