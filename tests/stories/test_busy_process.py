"""A process that is busy itself is not a store that fails: its threads and event loop come late, the answers do not.

Among threads that compute, each of them waits long for its turn, and longer than any store may take. If that were
counted as the store's time, a loaded app would call its store out of order, and refuse valid keys for it.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard, RateLimit
from keyguard.drivers import interpreter as engine
from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import Demand, Read, Take
from keyguard.rates import window
from keyguard.stores.circuit_breaker import CircuitBreaker
from keyguard.stores.memory import MemoryStore
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.redis import sync_connection as links
from keyguard.stores.sqlite import SQLiteStore
from keyguard.stores.sqlite import store as sqlite_module
from keyguard.stores.sqlite import turns as sqlite_turns
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_wsgi, wsgi_app
from tests.support.servers import Postgres, RedisServer, wait_until

TAKE = Take([Demand("d", "rl:busy|x", window(1000, 3_600_000_000, "1000/hour"))])


def left(store: Any) -> int:
    """Take one unit, and say how many are left."""
    return int(store.execute([TAKE])[0].takings[0][2])


def compute(until: threading.Event) -> None:
    while not until.is_set():
        sum(range(10_000))


@contextmanager
def crowd() -> Iterator[None]:
    """Three threads that compute. Whoever else wants to run waits for its turn longer than a store may take.

    That is long enough for a server to answer within the store's time on a machine that has other work.
    """
    done = threading.Event()
    threads = [threading.Thread(target=compute, args=(done,)) for _ in range(3)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.15)
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        sys.setswitchinterval(before)
        done.set()
        for thread in threads:
            thread.join()


TIMEOUT = 0.4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgresql"])
def test_keys_and_limits_hold_in_a_process_whose_threads_compute(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for _ in range(2):  # a machine may be so busy that a server does not answer in time, but not twice
        if kind == "sqlite":
            store: Any = SQLiteStore(tmp_path / "k.db", timeout=TIMEOUT)
        elif kind == "redis":
            store = RedisStore(request.getfixturevalue("valkey").url, namespace="busy", timeout=TIMEOUT)
        else:
            store = PostgresStore(request.getfixturevalue("postgres").url, schema="busy", timeout=TIMEOUT)
            store.migrate()
        guard = Keyguard(APIKeys(), RateLimit("1000/hour", by="key"), store=store)
        app = guard.wsgi(wsgi_app)
        ask = Ask("/", (("X-API-Key", guard.keys.issue("user").key.reveal()),))
        with crowd():
            answer = ask_wsgi(app, ask)
        health = guard.health
        store.close()
        if answer.status == 200 and answer.get("ratelimit") is not None and health.failures == 0:
            return
    raise AssertionError(f"{answer}, {health}")


# -- a request's time --------------------------------------------------------------------------------------------


class Slow:
    """A store that takes so many seconds for each operation."""

    timeout = 0.075

    def __init__(self, time: list[float]) -> None:
        self.memory = MemoryStore(clock=ManualClock())
        self.time = time
        self.takes = 0.0
        self.asked: list[str] = []

    def execute(self, ops: Any) -> list[Any]:
        self.asked.append(type(ops[0]).__name__)
        self.time[0] += self.takes
        return self.memory.execute(ops)

    def scan(self, prefix: str) -> Any:
        return self.memory.scan(prefix)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    time = [1000.0]
    monkeypatch.setattr(engine, "monotonic", lambda: time[0])
    return Slow(time)


def stack(store: Any) -> tuple[Any, Ask]:
    guard = Keyguard(RateLimit("9/hour", by="ip"), APIKeys(), RateLimit("1/hour", by="key"), store=store)
    ask = Ask("/", (("X-API-Key", guard.keys.issue("acme").key.reveal()),))
    return guard.wsgi(wsgi_app), ask


def test_a_request_that_came_late_to_its_first_answer_is_still_decided(slow: Slow) -> None:
    app, ask = stack(slow)
    slow.asked.clear()
    slow.takes = 0.03
    assert ask_wsgi(app, ask).status == 200
    assert slow.asked == ["Take", "Authenticate", "Take"]
    app, ask = stack(slow)
    slow.asked.clear()
    slow.takes = 3.0  # this is not the store: it would have failed
    answer = ask_wsgi(app, ask)
    assert (answer.status, answer.get("retry-after")) == (503, "1")
    assert json.loads(answer.body)["cause"] == "overload"
    assert slow.asked == ["Take", "Authenticate", "Settle"], "two always fit; there is no time for a third"


def test_what_was_taken_is_given_back_though_the_request_has_no_time_left(slow: Slow) -> None:
    app, ask = stack(slow)
    assert ask_wsgi(app, ask).status == 200
    slow.takes = 0.074
    slow.asked.clear()
    refused = ask_wsgi(app, ask)
    assert refused.status == 429
    assert slow.asked[-1] == "Settle"
    slow.takes = 0.0
    other = Ask("/", (("X-API-Key", "nobody's"),))
    assert ask_wsgi(app, other).status == 401
    units = [window(9, 3_600_000_000, "9/hour").take(state, ManualClock()(), 0)[2] for _, state in slow.scan("rl:ip")]
    assert units == [7]  # of the request that was served, and of the wrong key, which stays charged


# -- the queue of threads before an SQLite file ------------------------------------------------------------------


def test_threads_wait_for_each_other_as_long_as_there_is_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_QUEUE", 30.0)
    monkeypatch.setattr(sqlite_turns, "_LOOK", 0.001)
    store = SQLiteStore(tmp_path / "k.db", timeout=0.01)
    lefts: list[int] = []
    with store._turns.lock:
        thread = threading.Thread(target=lambda: lefts.append(left(store)))
        thread.start()
        began = time.monotonic()
        while time.monotonic() - began < 0.1:  # ten times as long as the file may keep anybody waiting
            store._turns.done += 1  # others of this process are served
        assert lefts == []
    thread.join()
    assert lefts == [999]
    store.close()


def test_where_there_is_none_the_disk_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes first is told that there was no turn; then it is known, and nobody waits for it any more."""
    monkeypatch.setattr(sqlite_module, "_QUEUE", 0.01)
    monkeypatch.setattr(sqlite_turns, "_LOOK", 0.001)
    store = SQLiteStore(tmp_path / "k.db", timeout=0.01)
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())

    def ask() -> StoreError:
        with pytest.raises(StoreError) as failure:
            watched.execute([TAKE])
        return failure.value

    with store._turns.lock:
        assert isinstance(ask(), StoreBusy)
        wait_until(lambda: not isinstance(ask(), StoreBusy), "it to be known")
        assert "has not answered" in watched.health.failure
        assert not watched.health.ok
    monkeypatch.setattr(sqlite_module, "_QUEUE", 30.0)
    assert left(store) == 999
    store.close()


def test_a_queue_that_is_too_long_says_nothing_about_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "_QUEUE", 0.05)
    monkeypatch.setattr(sqlite_turns, "_LOOK", 0.001)
    store = SQLiteStore(tmp_path / "k.db", timeout=0.05)
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())
    raised: list[StoreError] = []

    def ask() -> None:
        with pytest.raises(StoreError, match="other requests of this process") as failure:
            watched.execute([TAKE])
        raised.append(failure.value)

    with store._turns.lock:
        thread = threading.Thread(target=ask)
        thread.start()
        while thread.is_alive():
            store._turns.done += 1
    assert isinstance(raised[0], StoreBusy)
    assert watched.health.ok
    assert watched.execute([Read("key|x")]) == [(None,)]
    store.close()


def test_the_queue_does_not_wait_in_turn_for_a_file_that_another_process_keeps_locked(tmp_path: Path) -> None:
    import sqlite3

    store = SQLiteStore(tmp_path / "k.db", timeout=0.05)
    assert left(store) == 999
    waited: list[float] = []

    def ask() -> None:
        began = time.monotonic()
        with pytest.raises(StoreError, match="other processes kept the file locked"):
            left(store)
        waited.append(time.monotonic() - began)

    with sqlite3.connect(tmp_path / "k.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other.execute("ROLLBACK")
    other.close()
    assert len(waited) == 20
    assert max(waited) < 20 * 0.05 / 2, "each waited for the file once more"
    assert left(store) == 998
    store.close()


# -- replies that are there --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reply_that_has_come_is_read_however_late_its_thread_is_woken(
    valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore(valkey.url, namespace="late", timeout=1)
    assert left(store) == 999
    (connection,) = store._line._threads._idle
    read = connection.socket.read_response

    def read_what_has_come(*args: Any, **options: Any) -> Any:
        assert select.select([connection.socket._sock], [], [], 60)[0]
        return read(*args, **options)

    monkeypatch.setattr(connection.socket, "read_response", read_what_has_come)
    monkeypatch.setattr(links, "monotonic", lambda: time.monotonic() + 60 * next(minutes))
    minutes = iter(range(1000))  # each look at the clock is a minute late
    assert left(store) == 998
    store.close()


@pytest.mark.slow
def test_a_transaction_has_its_time_though_its_thread_is_held_up(postgres: Postgres) -> None:
    store = PostgresStore(postgres.url, schema="held", timeout=0.1)
    store.migrate()
    assert left(store) == 999
    loop = store._loop
    assert loop is not None

    def hold_up() -> None:
        threading.Event().wait(0.05)
        if not done.is_set():
            loop.call_soon(hold_up)

    done = threading.Event()
    loop.call_soon_threadsafe(hold_up)  # a turn of the loop takes half of the time that a decision has
    try:
        assert left(store) == 998
    finally:
        done.set()
    store.close()
