"""An app that holds requests until it is told to let them go, behind a guard against overload, for real servers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from keyguard import Keyguard, Overload

guard = Keyguard(Overload(max_in_flight=3, health=["/release", "/seen"]))
held = asyncio.Event()
held_threads = threading.Event()


def told() -> bytes:
    return json.dumps(asdict(guard.overload.stats())).encode()


async def holding(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/release":
        held.set()
    elif scope["path"] == "/wait":
        await held.wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": told()})


def holding_threads(environ: Any, start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/release":
        held_threads.set()
    elif environ["PATH_INFO"] == "/wait":
        held_threads.wait(120)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [told()]


asgi = guard.asgi(holding)
wsgi = guard.wsgi(holding_threads)
