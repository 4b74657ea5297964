"""Servers that many tests share, started when the first one asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Postgres, RedisCluster, RedisServer, shared


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    yield from shared(RedisServer)


@pytest.fixture(scope="session")
def redis6() -> Iterator[RedisServer]:
    yield from shared(lambda: RedisServer("redis6"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[RedisCluster]:
    yield from shared(RedisCluster)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    yield from shared(Postgres)
