"""Servers that many tests share, started when the first one asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.servers import Postgres, RedisCluster, RedisServer, shared


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked `alone` in a process of its own.

    A fork in C is for processes in which nothing else goes on: a lock of Python's own that another thread held would be
    held for ever in the child. The threads of other tests take such locks at any time.
    """
    if pyfuncitem.get_closest_marker("alone") is None or "KEYGUARD_ALONE" in os.environ:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    done = subprocess.run(
        command,
        env={**os.environ, "KEYGUARD_ALONE": "1"},
        cwd=pyfuncitem.config.rootpath,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return True


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
