"""The middleware of aiohttp's client."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from keyguard.testing import FakeProvider
from keyguard.testing.provider import Answer, Reset, Stall
from keyguard.upstream.keys import PLACEHOLDER
from keyguard.upstream.pool import KeyPool
from tests.upstream.transports.worlds import ASKED, a_pool

PATH = "/v1/chat/completions"
BOTH = {"Authorization": f"Bearer {PLACEHOLDER}", "x-api-key": PLACEHOLDER}


def played(pool: KeyPool, story: Callable[[aiohttp.ClientSession], Awaitable[None]], **wishes: Any) -> None:
    """Run a story with a session that asks through a pool."""

    async def run() -> None:
        async with aiohttp.ClientSession(middlewares=(pool.aiohttp(options=wishes or None),)) as session:
            await story(session)

    asyncio.run(run())


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_key_runs_dry_and_then_all_do(provider: FakeProvider, url: str, gzipped: bool) -> None:
    refusal = provider.error("exhausted", wait=300)
    refusal = Answer(refusal.status, refusal.headers, refusal.body, gzipped=gzipped)
    provider.script("sk-A", [refusal])

    async def story(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{url}{PATH}?key={PLACEHOLDER}", json=ASKED, headers=BOTH) as response:
            assert (await response.json())["usage"]
            assert (response.keyguard.key, response.keyguard.attempts) == ("b", 2)
            assert response.request_info.headers["x-api-key"] == PLACEHOLDER
            assert "sk-B" not in str(response.request_info)
        assert dict(provider.hits) == {"sk-A": 1, "sk-B": 1}
        provider.script("sk-B", [refusal])
        for _ in range(2):
            async with session.post(f"{url}{PATH}", json=ASKED) as response:
                assert response.status == 429
                assert (await response.json(content_type=None))["error"]["message"]
                assert response.headers["x-should-retry"] == "false"
                assert int(response.headers["retry-after"]) > 200
                assert response.keyguard.cause == "exhausted"
                assert provider.hits["sk-B"] == 2
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await session.post(f"{url}{PATH}", json=ASKED, raise_for_status=True)
        assert caught.value.headers is not None
        assert caught.value.headers["x-keyguard-exhaustion"]

    played(a_pool(origin=url), story)
    assert provider.saw(PLACEHOLDER) == []


@pytest.mark.parametrize("name", list(BOTH))
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_another_origin_takes_no_key_along(
    provider: FakeProvider, url: str, other: FakeProvider, elsewhere: str, name: str, status: int
) -> None:
    provider.script("sk-A", [Answer(status, {"location": f"{elsewhere}/there?key={PLACEHOLDER}"})])

    async def story(session: aiohttp.ClientSession) -> None:
        session.headers[name] = BOTH[name]
        async with session.post(f"{url}{PATH}", json=ASKED) as response:
            assert response.status == 401

    played(a_pool(origin=url), story)
    assert dict(provider.hits) == {"sk-A": 1}
    assert dict(other.hits) == {"": 1}
    assert other.saw("sk-A") == other.saw(PLACEHOLDER) == []


@pytest.mark.parametrize(
    ("headers", "body", "left"),
    [({}, b"x" * 200_000, b"x" * 200_000), ({}, b"", b""), ({"content-encoding": "gzip"}, b"not gzip", None)],
    ids=["long", "none", "no gzip"],
)
def test_bodies_of_errors_can_be_read(
    provider: FakeProvider, url: str, headers: dict[str, str], body: bytes, left: bytes | None
) -> None:
    provider.script("sk-A", [Answer(400, headers, body)])

    async def story(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{url}{PATH}", json=ASKED) as response:
            assert response.status == 400
            if left is None:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            else:
                assert b"".join([chunk async for chunk in response.content.iter_any()]) == left

    played(a_pool(origin=url), story)


def test_an_error_that_nobody_should_send(provider: FakeProvider, url: str) -> None:
    provider.script("sk-A", [Answer(400, {}, b"x" * 2_000_000)])

    async def story(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{url}{PATH}", json=ASKED) as response:
            with pytest.raises(aiohttp.ClientPayloadError, match="1 MiB"):
                await response.read()

    played(a_pool(origin=url), story)


def test_what_was_sent_is_not_sent_again(provider: FakeProvider, url: str) -> None:
    provider.script("sk-A", [Reset()])

    async def story(session: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientError) as caught:
            await session.post(f"{url}{PATH}", json=ASKED, headers=BOTH)
        told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert "sk-A" not in told

    played(a_pool(origin=url), story)
    assert dict(provider.hits) == {"sk-A": 1}


def test_a_body_that_is_made_while_it_is_sent_is_sent_once(provider: FakeProvider, url: str) -> None:
    async def made() -> AsyncIterator[bytes]:
        yield b"{}"

    provider.script("sk-A", [provider.error("exhausted", wait=300)])

    async def story(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{url}{PATH}", data=made()) as response:
            assert response.status == 429

    played(a_pool(origin=url), story)
    assert dict(provider.hits) == {"sk-A": 1}


def test_time_limits_and_connections_that_are_not_made(provider: FakeProvider, url: str) -> None:
    provider.script("sk-A", [Stall()])

    async def story(session: aiohttp.ClientSession) -> None:
        with pytest.raises(TimeoutError):
            await session.post(f"{url}{PATH}", json=ASKED, timeout=aiohttp.ClientTimeout(total=0.2))
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post("http://127.0.0.1:9/", json=ASKED)

    played(a_pool(origin=[url, "http://127.0.0.1:9"]), story, max_wait=0)
    assert dict(provider.hits) == {"sk-A": 1}
