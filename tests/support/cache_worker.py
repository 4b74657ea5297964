"""A process of an app behind a shared cache, for tests of several: `python -m tests.support.cache_worker`.

Each line that it reads is a list of a store's URL, how responses may be cached, milliseconds that the app takes, a
count and a file for notes. It says "ready", waits for a line, sends so many requests at once, and prints what became
of them as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from keyguard import Keyguard, ResponseCache
from keyguard.stores import open_store
from tests.support.harness import Ask, aask


async def serve(url: str, how: str, seconds: float, count: int, notes: Path) -> dict[str, Any]:
    # Time enough for a machine that is busy; what is asked too late would be a miss.
    store: Any = open_store(url)
    stack = Keyguard(ResponseCache(coalesce=20 if how != "short" else 1), store=store)
    calls = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        if scope["path"] == "/x":
            calls += 1
            with notes.open("a") as file:
                file.write(f"{time.monotonic()}\n")
            await asyncio.sleep(seconds)  # the handler whose time is the subject
        headers = [(b"cache-control", b"private" if how == "private" else b"max-age=60"), (b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})

    asgi = stack.asgi(app)
    await aask(asgi, Ask("/warm"))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def one() -> tuple[float, str]:
        began = time.monotonic()
        answer = await aask(asgi, Ask("/x"), lint=False)
        assert (answer.status, answer.body) == (200, b"hello")
        return time.monotonic() - began, answer.get("cache-status") or ""

    found = await asyncio.gather(*[one() for _ in range(count)])
    if hasattr(store, "aclose"):
        await store.aclose()
    store.close()
    return {
        "calls": calls,
        "slowest": max(seconds for seconds, _ in found),
        "statuses": sorted({text for _, text in found}),
        "errors": stack.cache.stats().errors,
    }


if __name__ == "__main__":
    for line in iter(sys.stdin.readline, ""):
        url, how, milliseconds, count, notes = json.loads(line)
        print(json.dumps(asyncio.run(serve(url, how, milliseconds / 1000, count, Path(notes)))), flush=True)
