"""A new, empty store of each kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from keyguard.stores import open_store
from keyguard.stores.memory import MemoryStore
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.servers import Postgres, RedisCluster, RedisServer

SHARED = ["sqlite", "redis", "cluster", "postgresql"]
"""Those that processes share, and that can be copied."""
KINDS = ["memory", *SHARED]


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path, name: str = "keys", timeout: int = 1) -> str:
    """The URL of a store that others can open as well."""
    place = re.sub(r"\W", "_", f"{name}_{folder.name}")[:40]
    if kind == "sqlite":
        return f"sqlite:///{folder}/{name}.db?timeout={timeout}"
    if kind == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        url = f"{postgres.url}?schema={place}&timeout={timeout}"
        opened: Any = open_store(url)
        opened.migrate()
        opened.close()
        return url
    server: RedisServer | RedisCluster = request.getfixturevalue("valkey" if kind == "redis" else "cluster")
    return f"{server.url}?namespace={place}&timeout={timeout}"


def store_of(kind: str, request: pytest.FixtureRequest, folder: Path, name: str = "keys") -> Any:
    """A store of that kind, closed when the test has ended."""
    store: Any = MemoryStore() if kind == "memory" else open_store(url_of(kind, request, folder, name))
    if hasattr(store, "close"):
        request.addfinalizer(store.close)
    return store


def on_a_clock(kind: str, request: pytest.FixtureRequest, clock: ManualClock) -> Any:
    """The same, by a manual clock."""
    if kind == "memory":
        return MemoryStore(clock=clock)
    if kind == "sqlite":
        store: Any = SQLiteStore(request.getfixturevalue("tmp_path") / "clock.db", 5.0, clock=clock)
    elif kind == "postgresql":
        store = PostgresStore(request.getfixturevalue("postgres").url).scratch(clock)
    else:
        store = RedisStore(request.getfixturevalue("valkey" if kind == "redis" else "cluster").url).scratch(clock)
    request.addfinalizer(store.close)
    return store
