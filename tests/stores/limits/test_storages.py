"""What the storages of the `limits` library can keep, and cannot: a real memcached, and what else can be had."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from limits.errors import StorageError
from limits.storage import MemcachedStorage, MemoryStorage, MongoDBStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter

from keyguard import ConfigurationError, Keyguard, RateLimit, StoreError, smooth
from keyguard.errors import StoreBusy
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.rates.window import WindowLog
from keyguard.stores.limits import LimitsStore
from keyguard.testing import play
from tests.support.servers import RedisServer, debian, free_port, wait_until

SECOND = 1_000_000
DAY = 86400 * SECOND


@pytest.fixture(scope="module")
def memcached() -> Iterator[int]:
    port = free_port()
    words = [debian("memcached", "memcached"), "-l", "127.0.0.1", "-p", str(port), "-u", "nobody", "-U", "0"]
    server = subprocess.Popen(words)
    asking = MemcachedStorage(f"memcached://127.0.0.1:{port}", connect_timeout=1)
    try:
        wait_until(asking.check, "memcached")
        asking.storage.close()  # type: ignore[attr-defined]
        yield port
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(params=["memcached", "memory", "redis"])
def storage(request: pytest.FixtureRequest) -> Any:
    if request.param == "memcached":
        return MemcachedStorage(f"memcached://127.0.0.1:{request.getfixturevalue('memcached')}")
    if request.param == "memory":
        return MemoryStorage()
    server: RedisServer = request.getfixturevalue("valkey")
    server.ask("FLUSHALL")
    return RedisStorage(server.url)


@pytest.fixture
def store(storage: Any) -> Iterator[LimitsStore]:
    opened = LimitsStore(storage, timeout=1)
    yield opened
    opened.close()


NAMES = {
    "blanks": "two words",
    "a tab and a line": "a\tb\r\nflush_all\r\n",
    "long": "x" * 10_000,
    "not ASCII": "käse 🧀",
    "half a surrogate": "\ud800",
    "NUL": "a\0b",
    "empty": "",
    "slashes": "a/b",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds_are_counted_each_by_itself(name: str, store: LimitsStore) -> None:
    """A blank, or 250 bytes, made memcached refuse each call; and a call was an outage."""
    limit = window(2, 60 * SECOND, "2/minute")
    refused = []
    for bucket in (NAMES[name], NAMES[name] + "!", NAMES[name].replace("/", "//")):
        take = Take([Demand("d", f"rl:{name}|{bucket}", limit)])
        refused.append([store.execute([take])[0].refused for _ in range(3)])
    assert refused[:2] == [[False, False, True]] * 2
    assert name != "slashes" or refused[2] == [False, False, True]


def test_a_guard_and_a_caller_with_blanks_in_their_names(store: LimitsStore) -> None:
    stack = Keyguard(
        RateLimit("2/minute", by=lambda request: request.header("x-who"), name="per customer " + "n" * 250), store=store
    )
    for who in ("acme corp", "a" * 300):
        statuses = [play(stack, headers={"X-Who": who}).status for _ in range(3)]
        assert statuses == [200, 200, 429]
    assert stack.health.ok


@pytest.mark.parametrize("days", [1, 14, 15])
def test_limits_of_days_hold(days: int, store: LimitsStore) -> None:
    stack = Keyguard(RateLimit(f"2/{days} days", name=f"days{days}"), store=store)
    assert [play(stack).status for _ in range(4)] == [200, 200, 429, 429]


LONG = ["2/16 days", "2/31 days", "100/400 days"]


@pytest.mark.parametrize("rate", LONG)
def test_what_memcached_would_take_for_a_date_does_not_start(rate: str, memcached: int) -> None:
    """It admitted everything: what is to live for more than 30 days is a date there, which has passed."""
    store = LimitsStore(MemcachedStorage(f"memcached://127.0.0.1:{memcached}"))
    for guard in (
        RateLimit(rate, name="alone"),
        RateLimit(f"5/minute; {rate}", name="several"),
        RateLimit(plans={"free": "1/minute", "pro": rate}, by="ip", default="free", name="plans"),
    ):
        with pytest.raises(ConfigurationError, match=r"memcached keeps what .* for no more than 15 days"):
            store.limitations([rule.limit for rule in guard.all_rules], keys=False)
    with pytest.raises(ConfigurationError, match="no more than 15 days"):
        Keyguard(RateLimit(rate), store=store)
    chosen = Keyguard(RateLimit(lambda request: rate, name="chosen"), store=store)
    assert [play(chosen).status for _ in range(3)] == [503] * 3, "nor is it admitted where a function chooses it"
    store.close()


@pytest.mark.parametrize("rate", LONG)
@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_others_keep_it(rate: str, kind: str, request: pytest.FixtureRequest) -> None:
    storage = MemoryStorage() if kind == "memory" else RedisStorage(request.getfixturevalue("valkey").url)
    store = LimitsStore(storage, timeout=1)
    stack = Keyguard(RateLimit(rate, name=f"long {rate}"), store=store)
    statuses = [play(stack).status for _ in range(int(rate.partition("/")[0]) + 2)]
    assert statuses.count(200) == int(rate.partition("/")[0])
    store.close()


class Doubled(WindowLog):
    """A limit with a meaning of its own."""


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (smooth("5/second"), "cannot pace evenly"),
        (window(5, SECOND // 5, "5/0.2 seconds"), "whole seconds"),
        (window(5, 3 * SECOND // 2, "5/1.5 seconds"), "whole seconds"),
        (Doubled(5, 60 * SECOND, "5/minute"), "cannot keep"),
    ],
)
def test_what_no_storage_can_keep_does_not_start(limit: Any, words: str) -> None:
    store = LimitsStore(MemoryStorage())
    with pytest.raises(ConfigurationError, match=words):
        Keyguard(RateLimit(limit), store=store)
    chosen = Keyguard(RateLimit(lambda request: limit, name="chosen"), store=store)
    assert play(chosen).status == 503
    store.close()


def test_a_document_of_mongodb_holds_so_many_moments() -> None:
    store = LimitsStore(Mongo())
    with pytest.raises(ConfigurationError, match="no more than 1000000 units"):
        Keyguard(RateLimit("1000001/day"), store=store)
    Keyguard(RateLimit("1000000/day"), store=store)


class Mongo(MongoDBStorage):
    """MongoDB as the library reads it: the oldest of no moments is none."""

    STORAGE_SCHEME = None
    base_exceptions = ValueError

    def __init__(self) -> None:
        self._storage = None

    def __del__(self) -> None:
        pass

    def get_moving_window(self, key: str, limit: int, expiry: int) -> Any:
        return None, 0


def test_moments_that_have_all_lapsed_are_no_fault() -> None:
    """MongoDB deletes them a minute late, and the library adds to the oldest, of which there is none."""
    store = LimitsStore(Mongo(), timeout=1)
    taken = store.execute([Take([Demand("d", "rl:a|b", window(5, 60 * SECOND, "5/minute"), 0)])])[0]
    assert taken.takings[0][1:] == (60 * SECOND, 5, 0, 0)
    store.close()


def test_an_edited_limit_keeps_its_counters(store: LimitsStore) -> None:
    def statuses(rate: str) -> list[int]:
        restarted = LimitsStore(store.storage, timeout=1)
        stack = Keyguard(RateLimit(rate, name="edited"), store=restarted)
        found = [play(stack).status for _ in range(2)]
        restarted.close()
        return found

    assert statuses("2/hour") == [200, 200]
    assert statuses("3/hour") == [200, 429]
    assert statuses("1/hour") == [429, 429]


def test_never_more_than_the_limit_among_threads(store: LimitsStore) -> None:
    stack = Keyguard(RateLimit("20/hour", name="threads"), store=store)
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: play(stack).status, range(60)))
    assert statuses.count(200) <= 20
    assert set(statuses) <= {200, 429}


class Slow(MemoryStorage):
    STORAGE_SCHEME = None

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        time.sleep(0.12)
        return super().get_moving_window(key, limit, expiry)


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_queue_of_one_s_own_is_no_outage(world: str) -> None:
    """200 at once, and sixteen of them have their turn at a time."""
    store = LimitsStore(Slow(), timeout=1)  # less than they take together, and far more than each of them
    stack = Keyguard(RateLimit("10/hour", name="own load"), store=store)
    if world == "threads":
        with ThreadPoolExecutor(200) as threads:
            statuses = list(threads.map(lambda _: play(stack).status, range(200)))
        assert set(statuses) <= {200, 429, 503}
        assert statuses.count(200) <= 10
    else:
        take = Take([Demand("d", "rl:own|load", window(10, 3600 * SECOND, "10/hour"))])

        async def story() -> list[Any]:
            return await asyncio.gather(*[store.aexecute([take]) for _ in range(200)], return_exceptions=True)

        found = asyncio.run(story())
        failures = [one for one in found if isinstance(one, BaseException)]
        assert failures
        assert all(isinstance(one, StoreBusy) for one in failures)
    assert stack.health.ok
    store.close()


def test_a_storage_that_hangs_is_out_of_order_for_those_in_the_queue_as_well() -> None:
    hangs = threading.Event()

    class Hangs(MemoryStorage):
        STORAGE_SCHEME = None

        def get_moving_window(self, key: str, limit: int, expiry: int) -> Any:
            hangs.wait(30)
            return super().get_moving_window(key, limit, expiry)

    store = LimitsStore(Hangs())
    take = Take([Demand("d", "rl:hangs|x", window(10, 3600 * SECOND, "10/hour"))])

    def ask(_: int) -> BaseException | None:
        try:
            store.execute([take])
        except BaseException as error:
            return error
        return None

    with ThreadPoolExecutor(40) as threads:
        failures = list(threads.map(ask, range(40)))
    hangs.set()
    assert all(isinstance(failure, StoreError) and not isinstance(failure, StoreBusy) for failure in failures)
    store.close()


def test_a_storage_that_wraps_its_exceptions_is_a_fault_too() -> None:
    storage = MemcachedStorage(
        f"memcached://127.0.0.1:{free_port()}", wrap_exceptions=True, timeout=0.5, connect_timeout=0.5
    )
    assert FixedWindowRateLimiter(storage)
    store = LimitsStore(storage, timeout=1)
    with pytest.raises(StoreError) as caught:
        store.execute([Take([Demand("d", "rl:a|b", window(5, 60 * SECOND, "5/minute"))])])
    assert isinstance(caught.value.__cause__, (StorageError, OSError))
    store.close()


def test_a_memory_of_each_process_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    store = LimitsStore(MemoryStorage())
    Keyguard(RateLimit("5/minute"), store=store, workers=3)
    assert "3 processes serve this app, and <LimitsStore MemoryStorage" in caplog.text
    store.close()
