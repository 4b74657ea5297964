"""Requests that their caller gives up: whatever was awaited, nothing stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio

from keyguard.upstream.transports.httpx import AsyncPoolTransport
from tests.upstream.transports.worlds import ASKED, URL, WORLDS, Reply, Site, World, a_pool, by_key, dry, ok

AWAITED = [world for world in WORLDS if world.awaited]
EVENTS = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}

POINTS: dict[str, Callable[[], Reply]] = {
    "head": lambda: Reply(hangs=True),
    "body of an error": lambda: Reply(429, [b"{", ...], JSON),
    "first event": lambda: Reply(200, [b": wait\n\n", ...], EVENTS),
    "body of a success": lambda: Reply(200, [b"{", ...], JSON),
    "stream": lambda: Reply(200, [b"data: 1\n\n", ...], EVENTS),
}


async def cancelled(world: World, transport: AsyncPoolTransport, reached: Callable[[], bool]) -> None:
    """Send a request, and cancel it when it has come so far."""
    async with world.family.AsyncClient(transport=transport) as client:
        task = asyncio.create_task(client.post(URL, json=ASKED))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert reached()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("world", AWAITED, ids=str)
@pytest.mark.parametrize("point", POINTS)
def test_the_response_is_closed_and_the_key_can_be_used(world: World, point: str) -> None:
    pool = a_pool()
    for _ in range(6):  # more than may be under way at once while the limits are not known
        reply = POINTS[point]()
        site = world.site(by_key(A=reply))
        asyncio.run(cancelled(world, AsyncPoolTransport(pool, transport=site), lambda site=site: site.hanging > 0))
        assert reply.closed or point == "head"
    site = world.site(by_key(A=ok()))
    assert world.ask(pool, site).status_code == 200


@pytest.mark.parametrize("world", AWAITED, ids=str)
def test_who_waits_for_a_key_leaves_the_line(world: World) -> None:
    pool = a_pool(max_wait=1000)
    site = world.site(by_key(A=dry(), B=dry()))
    asyncio.run(cancelled(world, AsyncPoolTransport(pool, transport=site), lambda: pool.parts.waiting > 0))
    assert site.keys == ["sk-A", "sk-B"]
    assert all(reply.closed for reply in site.replies)
    assert pool.parts.waiting == 0


@pytest.mark.parametrize("world", AWAITED, ids=str)
def test_trio(world: World) -> None:
    pool = a_pool()

    async def asked(site: Site) -> Any:
        async with world.family.AsyncClient(transport=AsyncPoolTransport(pool, transport=site)) as client:
            return await client.post(URL, json=ASKED)

    site = world.site(by_key(A=dry(), B=ok()))
    assert trio.run(asked, site).status_code == 200
    assert site.keys == ["sk-A", "sk-B"]
