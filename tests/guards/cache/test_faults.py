"""The store of a shared cache fails: that is a miss and never an error, costs no request more than its time budget,
opens no circuit breaker of keys and limits, and is over within a second of the store's return."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from keyguard.stores.postgres import PostgresStore
from keyguard.testing import ManualClock
from tests.stores.postgres import test_faults as test_postgres_faults
from tests.stores.redis import test_faults as test_redis_faults
from tests.stores.sqlite import test_faults as test_sqlite_faults
from tests.support.cached import Node
from tests.support.faulty import LONG, PATIENCE, noise, passed, soon
from tests.support.servers import Postgres, Proxy, RedisCluster, RedisServer, wait_until

# An event loop that cancels a connection which is just being made leaves its socket to the garbage collector.
pytestmark = pytest.mark.slow  # real servers, and what they need to start, stop and be waited for

WORLDS = ("asgi", "wsgi")
READABLE = ("out of memory", "read-only", "locked by another process")
"""There what is stored is still served."""

Fault = Callable[[], AbstractContextManager[None]]


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    yield
    gc.collect()


class Site:
    """Two processes with a cache on one store, which fails."""

    def __init__(self, url: str, world: str) -> None:
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.one, self.two = (Node(url, world, self.runner, self.clock, local_ttl=0) for _ in range(2))
        self.paths = (f"/{number}" for number in itertools.count())
        passed(time.monotonic())

    def ask(self, node: Node, path: str) -> tuple[bytes, str]:
        began = time.monotonic()
        found = node.get(path)
        assert passed(began) < PATIENCE + noise()
        return found

    def shares(self) -> bool:
        """Whether what one stores the other serves, as of now."""
        path = next(self.paths)
        self.ask(self.one, path)
        return self.ask(self.two, path)[1] == "hit"

    def recovers(self) -> float:
        """Seconds until what one stores the other serves."""
        began = time.monotonic()
        while not self.shares():  # which fails if it has waited too long
            assert time.monotonic() < began + LONG, "the store does not answer"
            time.sleep(0.01)
        return passed(began)

    def suffers(self, fault: Fault, *, readable: bool = False) -> None:
        self.recovers()
        for _ in range(3):
            wait_until(
                lambda: [self.ask(node, "/stored")[1] for node in (self.one, self.two)][1] == "hit", "it to be stored"
            )
            with fault():
                calls = self.one.calls + self.two.calls
                hits = 0
                for _ in range(12):
                    self.ask(self.one, next(self.paths))
                    hits += self.ask(self.two, "/stored")[1] == "hit"
                    self.one.ask("/stored?", "POST")
                assert self.one.calls + self.two.calls >= calls + 24 - hits
            seconds = self.recovers()
            if seconds < soon() and (hits >= 11 or not readable):  # one may have met a connection that was just closed
                break
        else:
            raise AssertionError(f"recovered after {seconds} s; {hits} of 12 were still served what was stored")
        assert self.one.stack.health.ok
        assert self.one.stack.health.failures == 0

    def close(self) -> None:
        for node in (self.one, self.two):
            node.close()
        self.runner.close()


@contextmanager
def site(url: str, world: str) -> Iterator[Site]:
    made = Site(url, world)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def started() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(started: RedisServer) -> RedisServer:
    """Nobody has stored anything there."""
    started.ask("FLUSHALL")
    return started


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[Postgres]:
    with Postgres("-c", "max_connections=20") as started:
        PostgresStore(started.url).migrate()
        yield started


BOTH = ("stopped", "replies lost", "out of memory")
"""What can still be read, what is waited for, and what is known at once; how else Redis fails the worlds are told by
the same code, which is tried in both with keys and limits."""


def worlds(faults: Iterable[str]) -> list[tuple[str, str]]:
    """Each fault in one world, and some in both."""
    return [
        (fault, world)
        for number, fault in enumerate(faults)
        for world in WORLDS
        if fault in BOTH or world == WORLDS[number % 2]
    ]


@pytest.mark.parametrize(("fault", "world"), worlds(test_redis_faults.FAULTS))
def test_redis(fault: str, world: str, redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy, site(f"redis://127.0.0.1:{proxy.port}/0", world) as made:
        made.suffers(lambda: test_redis_faults.FAULTS[fault](redis_server, proxy), readable=fault in READABLE)
        proxy.mode = ""


@pytest.mark.parametrize(("fault", "world"), worlds(test_sqlite_faults.FAULTS))
def test_sqlite(fault: str, world: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "keyguard.db"

    with site(f"sqlite:///{path}", world) as made:

        @contextmanager
        def noticed() -> Iterator[None]:
            with test_sqlite_faults.FAULTS[fault](path):
                time.sleep(1.01)  # it looks once a second whether the file is still the same
                for node in (made.one, made.two):
                    node.get("/first")  # which closes a file that has gone, and waits for the disk to have it all
                yield

        made.suffers(noticed, readable=fault in READABLE)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "world"), [("replies cut", "asgi"), ("stopped", "wsgi")])
def test_postgresql(fault: str, world: str, postgres_server: Postgres) -> None:
    with Proxy(postgres_server.port) as proxy:
        url = postgres_server.url.replace(f":{postgres_server.port}", f":{proxy.port}")
        with site(url, world) as made:
            made.suffers(lambda: test_postgres_faults.FAULTS[fault](postgres_server, proxy))
            proxy.mode = ""


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_a_cluster_that_stands_still(world: str, cluster: RedisCluster) -> None:
    @contextmanager
    def stopped() -> Iterator[None]:
        for node in cluster.nodes:
            node.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for node in cluster.nodes:
                node.signal(signal.SIGCONT)

    with site(f"{cluster.url}?namespace=cache_faults_{world}", world) as made:
        made.suffers(stopped)


@pytest.mark.parametrize("world", WORLDS)
def test_a_store_that_fails_between_the_look_and_the_answer(world: str, redis_server: RedisServer) -> None:
    """It answers who asks, and has gone when the response is to be written: the client gets it all the same."""
    with Proxy(redis_server.port) as proxy, site(f"redis://127.0.0.1:{proxy.port}/0", world) as made:
        made.recovers()

        def fail() -> None:
            proxy.mode = "drop"

        made.one.meanwhile = fail
        body, how = made.ask(made.one, "/x")
        assert (body, how) == (b"%s %d" % (made.one.store_name, made.one.calls), "fwd=uri-miss")
        proxy.mode = ""
        made.one.meanwhile = lambda: None
        assert made.recovers() < soon()
        assert made.one.stack.cache.stats().errors > 0


def test_a_flood_while_the_store_stands_still_keeps_to_its_budget(redis_server: RedisServer, caplog: Any) -> None:
    """Each outage is logged once for reading and once for writing, and threads do not pile up."""
    caplog.set_level(logging.ERROR, "keyguard")
    with site(redis_server.url, "wsgi") as made:
        made.recovers()
        redis_server.signal(signal.SIGSTOP)
        slow: list[float] = []

        def hammer(number: int) -> None:
            for step in range(10):
                began = time.monotonic()
                made.one.get(f"/{number}/{step}")
                slow.append(passed(began))

        threads = [threading.Thread(target=hammer, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        redis_server.signal(signal.SIGCONT)
        assert len(slow) == 160
        assert max(slow) < PATIENCE + noise()
        assert made.recovers() < soon()
    assert len([record for record in caplog.records if "out of order" in record.getMessage()]) <= 4
