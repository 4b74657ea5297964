"""Processes that share a cache, on each kind of store and in each world."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cached import SHARED, Nodes, store_url


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(params=[f"{kind}-{world}" for kind in SHARED for world in ("asgi", "wsgi")])
def nodes(request: pytest.FixtureRequest, tmp_path: Path, runner: asyncio.Runner) -> Iterator[Nodes]:
    kind, _, world = request.param.partition("-")
    with store_url(kind, request, tmp_path) as url:
        made = Nodes(kind, world, url, runner)
        yield made
        made.close()
