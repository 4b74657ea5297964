"""One process of an app that calls a provider all the time, over a socket, until it is told to stop.

    python -m tests.upstream.sockets.worker '{"way": "pool", "url": ..., "store": ..., "keys": {...}, "tasks": 4}'

It writes `ready`, waits for a line, goes on until the next line, and writes what it was answered, as JSON; and how late
its event loop was, in seconds, for nineteen of twenty times that it slept.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from keyguard import Key, KeyPool

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
PATH = "/v1/chat/completions"

Ask = Callable[[], Awaitable[httpx2.Response]]


def pool_of(settings: dict[str, Any]) -> KeyPool:
    keys = [Key(name, secret, group=group) for name, (secret, group) in settings["keys"].items()]
    return KeyPool.openai(
        keys, name="sockets", store=settings["store"], origin=settings["url"], max_wait=30, workers=settings["workers"]
    )


class PlainRetries:
    """A model of what clients do without a pool: keys in turn, and each request is tried again with its own key.

    It is tried three times; it waits as the answer says, else 0.5 s, then 1 s, less up to a quarter.
    """

    def __init__(self, client: httpx2.AsyncClient, keys: list[str]) -> None:
        self.client = client
        self.keys = keys
        self.turn = random.randrange(len(keys))

    async def ask(self) -> httpx2.Response:
        self.turn += 1
        headers = {"authorization": f"Bearer {self.keys[self.turn % len(self.keys)]}"}
        answer = await self.client.post(PATH, json=BODY, headers=headers)
        for number in range(2):
            if answer.status_code < 400:
                break
            told = answer.headers.get("retry-after-ms")
            await asyncio.sleep(float(told) / 1000 if told else 0.5 * 2**number * random.uniform(0.75, 1))
            answer = await self.client.post(PATH, json=BODY, headers=headers)
        return answer


async def work(settings: dict[str, Any]) -> dict[str, Any]:
    """Ask until a line comes, and return the answers by status, and how late it was."""
    seen: Counter[str] = Counter()
    pool: KeyPool | None = None
    if settings["way"] == "pool":
        pool = pool_of(settings)
        client = httpx2.AsyncClient(base_url=settings["url"], transport=pool.async_transport(), timeout=60)
        headers = {"authorization": f"Bearer {pool.placeholder}"}
    else:
        client = httpx2.AsyncClient(base_url=settings["url"], timeout=60)
        model = PlainRetries(client, [secret for secret, _ in settings["keys"].values()])

    async def ask() -> httpx2.Response:
        return await (client.post(PATH, json=BODY, headers=headers) if pool else model.ask())

    async with client:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        tasks = [asyncio.create_task(_ask_on(ask, seen)) for _ in range(settings["tasks"])]
        late: list[float] = []
        tasks.append(asyncio.create_task(_look_at_the_clock(late)))
        await asyncio.to_thread(sys.stdin.readline)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if pool is not None:
        pool.close()
    return {"seen": seen, "late": sorted(late)[len(late) * 19 // 20]}


async def _look_at_the_clock(late: list[float]) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.02)
        late.append(time.monotonic() - began - 0.02)


async def _ask_on(ask: Ask, seen: Counter[str]) -> None:
    while True:
        try:
            answer = await ask()
            seen[str(answer.status_code)] += 1
            if answer.status_code >= 400:
                await asyncio.sleep(0.05)  # as any app does that was told no
        except httpx2.HTTPError as error:
            seen[type(error).__name__] += 1
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(json.loads(sys.argv[1])))), flush=True)
