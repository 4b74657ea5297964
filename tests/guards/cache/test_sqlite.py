"""Cached responses in an SQLite file: so many bytes whatever is asked, the least recently used out first; and keys and
counters do not notice."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keyguard import ConfigurationError, Keyguard, ResponseCache
from keyguard.guards.cache.shared_ops import Purge, Stamp
from keyguard.ops import CompareAndSet, Demand, Op, Put, Read, ReadWithTime, Take
from keyguard.rates import window
from keyguard.stores import open_store
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, Reference, play

MIB = 1024 * 1024
HOUR = 3600 * 1_000_000
LIMIT = window(1000, HOUR, "1000/hour")
TAKE = Take([Demand("limit", "rl:x:3600000000|caller", LIMIT)])


def pool(number: int) -> str:
    return f"rc:{number:032x}"


def put(store: SQLiteStore, number: int, value: bytes) -> None:
    """As a miss writes: an entry and the list of variants."""
    store.execute(
        [
            Put(f"{pool(number)}|v{number:032x}w{number:032x}", value, HOUR),
            Put(f"{pool(number)}|i{number:032x}", b'[["w0123456789abcdef0123456789abcdef",[],1800000000000000]]', HOUR),
        ]
    )


def query(path: Path, text: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(text, values).fetchall()


def counted(path: Path) -> tuple[int, int]:
    """The sum that the file keeps, and the sum anew."""
    ((kept,),) = query(path, "SELECT bytes FROM cached_bytes")
    ((anew,),) = query(
        path,
        "SELECT coalesce(sum(CASE WHEN length(value) > 900 THEN (length(value) / 4096 + 2) * 4096 "
        "ELSE length(value) + 550 END), 0) FROM cached",
    )
    return kept, anew


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "count"),
    [((300,), 6000), ((1500,), 3000), ((20_000,), 600), ((100, 800, 3000, 5000, 50_000, 200_000), 600)],
)
def test_the_file_stays_within_its_bound_whatever_is_asked(sizes: tuple[int, ...], count: int, tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    store = SQLiteStore(path, cache_bytes=2 * MIB)
    store.execute([CompareAndSet({"key|a": None}, {"key|a": b"kept"}), TAKE])
    draw = random.Random(1)
    for number in range(count):
        put(store, draw.getrandbits(100), draw.randbytes(draw.choice(sizes)))
        if number % 100 == 0:
            kept, anew = counted(path)
            assert kept == anew <= 2 * MIB
    assert path.stat().st_size < 2.4 * MIB
    rows = query(path, "SELECT count(*), sum(length(value)) FROM cached")
    assert rows[0][0] > 10
    assert store.execute([Read("key|a")]) == [(b"kept",)]
    assert store.execute([TAKE])[0].takings[0][2] == 998
    store.close()


def test_the_least_recently_used_leave_first(tmp_path: Path) -> None:
    """One process writes, another one reads some entries again and again, and writes nothing else."""
    clock = ManualClock()
    writer = SQLiteStore(tmp_path / "k.db", cache_bytes=MIB, clock=clock)
    reader = SQLiteStore(tmp_path / "k.db", cache_bytes=MIB, clock=clock)
    for number in range(20):
        put(writer, number, b"x" * 3000)
    for number in range(20, 600):
        if number % 20 == 0:
            clock.advance(61)
            for hot in range(10):
                reader.execute([ReadWithTime(f"{pool(hot)}|v{hot:032x}w{hot:032x}", f"{pool(hot)}|i{hot:032x}")])
        put(writer, number, b"x" * 3000)

    def held(number: int) -> bool:
        ((_, (value,)),) = reader.execute([ReadWithTime(f"{pool(number)}|v{number:032x}w{number:032x}")])
        return value is not None

    assert all(held(number) for number in range(10))
    assert not any(held(number) for number in range(10, 300))
    assert held(599)
    reader.close()
    writer.close()


def test_a_hit_writes_nothing_but_once_a_minute(tmp_path: Path) -> None:
    clock = ManualClock()
    store = SQLiteStore(tmp_path / "k.db", clock=clock)
    put(store, 1, b"x")
    look = ReadWithTime(f"{pool(1)}|v{1:032x}w{1:032x}")
    clock.advance(61)
    store.execute([look])
    assert store._file.connection is not None
    before = store._file.connection.total_changes
    for _ in range(100):
        store.execute([look])
        clock.advance(0.5)
    assert store._file.connection.total_changes == before
    clock.advance(60)
    store.execute([look])
    assert store._file.connection.total_changes == before + 1
    store.close()


def test_what_voids_an_entry_leaves_with_it_and_purges_stay(tmp_path: Path) -> None:
    clock = ManualClock()
    store = SQLiteStore(tmp_path / "k.db", cache_bytes=MIB, clock=clock)
    store.execute([Purge(["tag"])])
    for number in range(10):
        put(store, number, b"x" * 3000)
        store.execute([Stamp(f"{pool(number)}|!")])
    for number in range(10, 400):
        put(store, number, b"x" * 3000)
        if number % 10 == 0:
            clock.advance(61)
            marks = {key.partition("|")[0] for key, _ in store.scan("rc:") if key.endswith("|!")}
            entries = {key.partition("|")[0] for key, _ in store.scan("rc:") if "|v" in key and "purges" not in key}
            assert entries & {pool(number) for number in range(10)} <= marks
    assert not marks
    assert {"rc:purges|log", "rc:purges|v"} <= {key for key, _ in store.scan("rc:")}
    store.close()


def test_one_that_is_a_quarter_of_the_room_is_not_kept(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "k.db", cache_bytes=MIB)
    put(store, 1, b"small")
    put(store, 2, b"x" * (MIB // 4 + 1))
    put(store, 3, b"old")
    put(store, 3, b"x" * (MIB // 4 + 1))
    keys = [key for key, _ in store.scan("rc:") if "|v" in key]
    assert keys == [f"{pool(1)}|v{1:032x}w{1:032x}"]
    store.close()


def test_the_sum_is_right_after_anything(tmp_path: Path) -> None:
    clock = ManualClock()
    path = tmp_path / "k.db"
    store = SQLiteStore(path, cache_bytes=MIB, clock=clock)
    draw = random.Random(2)
    for _ in range(1500):
        number = draw.randrange(40)
        value = draw.choice([None, b"", draw.randbytes(draw.choice([10, 950, 5000, 100_000]))])
        store.execute([Put(f"{pool(number)}|{draw.choice('viml!')}", value, draw.choice([1, 10, 1000]) * 1_000_000)])
        if draw.random() < 0.1:
            clock.advance(draw.random() * 10)
    kept, anew = counted(path)
    assert 0 < kept == anew <= MIB
    clock.advance(2000)
    for _ in range(200):
        store.execute([Put("rc:last|x", draw.randbytes(4), HOUR)])
    assert [key for key, _ in query(path, "SELECT key, 1 FROM cached")] == ["rc:last|x"]  # what has lapsed has left
    assert counted(path) == (554, 554)
    store.close()


def test_the_table_means_what_any_store_means(tmp_path: Path) -> None:
    clock = ManualClock()
    store, reference = SQLiteStore(tmp_path / "k.db", clock=clock), Reference(clock)
    draw = random.Random(3)
    keys = [f"{pool(number)}|{kind}" for number in range(3) for kind in "vi"] + ["rc:purges|v", "rd|x", "rb|x", "rc"]
    for _ in range(1500):
        chosen = draw.sample(keys, draw.randint(1, 3))
        ops: list[Op[Any]] = [
            ReadWithTime(*chosen),
            Put(chosen[0], draw.choice([None, b"", b"a", b"b" * 5000]), draw.choice([None, 1, 2_000_000, HOUR])),
            CompareAndSet({key: draw.choice([None, b"a"]) for key in chosen}, {chosen[0]: b"c"}),
            Purge(["tag"]),
        ]
        batch = draw.sample(ops, draw.randint(1, 3))
        assert store.execute(batch) == reference.execute(batch)
        if draw.random() < 0.2:
            assert store.scan("r") == reference.scan("r")
            clock.advance(draw.choice([0.5, 61, 3600]))
    store.close()


def test_a_file_of_the_first_layout_is_brought_to_the_second(tmp_path: Path) -> None:
    """By workers that start together, too. Keys and counters stay; cached responses were only copies."""
    path = tmp_path / "k.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE entries (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, expires INTEGER NOT NULL) "
            "WITHOUT ROWID"
        )
        never = 2**63 - 1
        rows = [("key|a", b"k", never), ("rc:x|v", b"c", never), ("rd|x", b"d", never)]
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
        connection.execute("PRAGMA user_version = 1")
    children = []
    for _ in range(6):
        child = os.fork()
        if not child:
            code = 1
            try:
                store = SQLiteStore(path, timeout=5)
                code = int(store.execute([Read("key|a", "rc:x|v", "rd|x")]) != [(b"k", None, b"d")])
                store.close()
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert query(path, "PRAGMA user_version") == [(2,)]
    assert query(path, "SELECT count(*) FROM cached_bytes") == [(1,)]


def test_the_option_is_part_of_the_url(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/k.db?cache_bytes=1048576&timeout=0.5")
    assert isinstance(store, SQLiteStore)
    assert store.timeout == 0.5
    for number in range(10):
        put(store, number, b"x" * 200_000)
    assert len([key for key, _ in store.scan("rc:") if "|v" in key]) < 6
    store.close()
    for wrong in ("0", "1048575", "1e9", "-1", "lots", "1.5"):
        with pytest.raises(ConfigurationError, match="cache_bytes is a"):
            open_store(f"sqlite:///{tmp_path}/k.db?cache_bytes={wrong}")


def test_distinct_urls_through_the_cache_stay_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    store = SQLiteStore(path, timeout=1, cache_bytes=MIB)
    stack = Keyguard(ResponseCache(ttl=600), store=store)
    for number in range(1500):
        assert play(stack, f"/{number}").status == 200
    kept, anew = counted(path)
    assert kept == anew <= MIB
    assert path.stat().st_size < 1.4 * MIB
    assert (play(stack, "/1499").header("cache-status") or "").startswith("keyguard; hit")
    store.close()
