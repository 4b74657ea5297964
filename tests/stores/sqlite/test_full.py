"""A disk that cached responses have filled: they make room, and keys and counters go on to be what they were."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard, RateLimit, ResponseCache
from keyguard.errors import StoreError
from keyguard.guards.cache.shared_ops import Purge, Stamp
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.sqlite import SQLiteStore
from keyguard.stores.sqlite import store as sqlite_module
from tests.guards.cache.test_sqlite import MIB, put
from tests.support.harness import Ask, ask_wsgi

HOUR = 3_600_000_000
LIMIT = window(1000, HOUR, "1000/hour")


def take(store: Any, caller: str, cost: int = 1) -> int:
    return int(store.execute([Take([Demand("d", f"rl:full|{caller}", LIMIT, cost)])])[0].takings[0][2])


def small(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    """No file may have more pages: SQLite says what it says of a full disk."""
    connect = sqlite3.connect

    def connecting(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connecting)


def fill(store: SQLiteStore) -> int:
    """Store responses until there is no more room. Returns how often one was not stored."""
    failed = 0
    for number in range(400):
        try:
            put(store, number, os.urandom(20_000))
        except StoreError:
            failed += 1
    return failed


def test_decisions_go_on_when_the_cache_has_filled_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small(monkeypatch, 600)  # 2.4 MB
    store = SQLiteStore(tmp_path / "k.db", timeout=5, cache_bytes=64 * MIB)
    guard = Keyguard(APIKeys(), store=store)
    keys = [guard.keys.issue("acme").key.reveal() for _ in range(20)]
    assert [take(store, f"early-{number}") for number in range(20)] == [999] * 20
    assert fill(store) > 0
    assert [take(store, f"caller-{number}") for number in range(2000)] == [999] * 2000
    assert [take(store, f"early-{number}") for number in range(20)] == [998] * 20
    fill(store)
    assert [take(store, f"caller-{number}") for number in range(2000)] == [998] * 2000
    app = guard.wsgi(lambda environ, start: [start("200 OK", []), [b"x"]][1])
    assert [ask_wsgi(app, Ask("/", (("X-API-Key", key),)), lint=False).status for key in keys] == [200] * 20
    assert any("cached responses make room" in record.getMessage() for record in caplog.records)
    with sqlite3.connect(tmp_path / "k.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    store.close()


def test_a_stack_with_a_cache_is_in_order_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    small(monkeypatch, 300)
    store = SQLiteStore(tmp_path / "k.db", timeout=5, cache_bytes=64 * MIB)
    guard = Keyguard(RateLimit("1000/hour", by="ip"), ResponseCache(ttl=600), store=store)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [os.urandom(30_000)]

    guarded = guard.wsgi(app)
    for number in range(300):
        answer = ask_wsgi(guarded, Ask(f"/{number}"), lint=False)
        assert answer.status == 200
        assert answer.get("ratelimit") is not None
    assert (guard.health.ok, guard.health.failures) == (True, 0)
    (limit,) = guard.guards[:1]
    rule = limit.rules[0]  # type: ignore[attr-defined]
    taken = store.execute([Take([Demand("", f"{rule.prefix}198.51.100.1", rule.limit, 0)])])[0]
    assert taken.takings[0][2] == 700
    store.close()


def test_the_last_of_the_disk_is_for_keys_and_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses are not stored any more; what voids those that are there is."""
    free = [200 * MIB]
    monkeypatch.setattr(sqlite_module, "spare", lambda folder: free[0])
    store = SQLiteStore(tmp_path / "k.db", timeout=5, cache_bytes=256 * MIB)

    def entries() -> int:
        return sum(len(value) == 20_000 for _, value in store.scan("rc:"))

    assert fill(store) == 0
    assert entries() == 400
    free[0] = 15 * MIB
    for number in range(400, 800):
        put(store, number, os.urandom(20_000))
    before = entries()
    assert before < 400 + 4 * MIB // 20_000 + 1, "so much may be written before the disk is looked at"
    for number in range(800, 900):
        put(store, number, os.urandom(20_000))
    assert entries() == before
    store.execute([Purge(["tag"]), Stamp("rc:x|!")])
    assert {"rc:purges|v", "rc:x|!"} <= {key for key, _ in store.scan("rc:")}
    assert take(store, "caller") == 999
    free[0] = 200 * MIB
    put(store, 900, os.urandom(20_000))
    assert entries() == before + 1
    store.close()
