"""A client that awaits is given one transport, and one that does not the other: whoever mixes them up is told."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import pytest

from keyguard import ConfigurationError, Key, KeyPool

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("entered", [True, False], ids=["entered", "not entered"])
def test_the_transport_of_the_other_kind_says_which_is_right(library: Any, entered: bool) -> None:
    pool = KeyPool.generic([Key("a", "sk-a")], origin=URL)

    async def awaited() -> None:
        client = library.AsyncClient(transport=pool.transport())
        if entered:
            await client.__aenter__()
        await client.get(URL)

    def not_awaited() -> None:
        client = library.Client(transport=pool.async_transport())
        if entered:
            client.__enter__()
        client.get(URL)

    with pytest.raises(TypeError, match=r"given pool\.async_transport\(\)"):
        asyncio.run(awaited())
    with pytest.raises(TypeError, match=r"given pool\.transport\(\)"):
        not_awaited()


def test_an_option_that_there_is_not_stops_the_start() -> None:
    pool = KeyPool.generic([Key("a", "sk-a")], origin=URL)
    wrong: Any = {"prxy": "http://127.0.0.1:8"}
    for make in (pool.transport, pool.async_transport):
        with pytest.raises(ConfigurationError, match=r"a transport has no option 'prxy'; it has .*proxy"):
            make(**wrong)
