"""Counters that an earlier keyguard left in a store are read: byte by byte as it wrote them, and where it put them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keyguard.clock import SECOND
from keyguard.ops import Demand, Settle, Take, Taken
from keyguard.ops.holds import Holds, held_key
from keyguard.rates import Limit, Slots, credits, quota, smooth, window
from keyguard.rates.strikes import Strikes
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.servers import Postgres, RedisServer

CLOCK = ManualClock()
EARLIER: list[tuple[Limit, str, str, int, int]] = [
    (window(3, 60 * SECOND, "3/minute"), "00809828176506000080982817650600", "counters", 60_000_000, 1),
    (
        window(100, 3600 * SECOND, "100/hour"),
        "530024f40000000000020000000000000002000000",
        "entries",
        3_712_500_000,
        98,
    ),
    (smooth("7/minute", burst=5), "4a149e2917650600", "counters", 17_142_858, 3),
    (quota("9/month", tz="Europe/Berlin"), "001cb598656606000200000000000000", "entries", 1_436_400_000_000, 7),
    (credits(9, refill=quota("5/day")), "00c0d291246506000700000000000000", "entries", 630_720_000_000_000, 7),
]
"""A limit, the state of two units taken at the time of `CLOCK`, its table in PostgreSQL, how long it lives, and what is
left."""


BANS = Strikes(2, 60 * SECOND, "2/minute", 600 * SECOND, 86_400 * SECOND)
SLOTS = Slots(2)
LEASE = 10 * SECOND
BANNED = "008098281765060000c65b4c1765060001000000"
"""The state after three strikes."""
HELD = "80969800000000000180982817650600" + "".join(
    f"{number}8098281765060001000000000000008016312917650600" for number in ("00", "01")
)
"""The state of two slots in use."""


def key_of(limit: Limit) -> str:
    return f"rl:earlier:{limit.code}|x"


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store with the counters of an earlier keyguard, put there by other means than its own."""
    rows = [(key_of(limit), state, table, ttl) for limit, state, table, ttl, _ in EARLIER]
    rows += [(key_of(BANS), BANNED, "entries", 87_000 * SECOND), (held_key(key_of(SLOTS)), HELD, "counters", LEASE)]
    ends = [(key, bytes.fromhex(state), table, CLOCK() + ttl) for key, state, table, ttl in rows]
    if request.param == "sqlite":
        path = tmp_path / "earlier.db"
        with closing(SQLiteStore(path, 5.0, clock=CLOCK)) as opened:
            with closing(sqlite3.connect(path)) as connection:
                rows = [(key, state, expires) for key, state, _, expires in ends]
                connection.executemany("INSERT INTO entries (key, value, expires) VALUES (?, ?, ?)", rows)
                connection.commit()
            yield opened
    elif request.param == "redis":
        server: RedisServer = request.getfixturevalue("valkey")
        with closing(RedisStore(server.url, namespace=f"earlier{tmp_path.name}", timeout=1, clock=CLOCK)) as opened:
            client = server.client()
            for key, state, _, expires in ends:
                field = key.partition("|")[0]
                client.hset(f"{opened.namespace}:c:{{x}}", field, expires.to_bytes(8, "little") + state)
            yield opened
            opened.clear()
    else:
        database: Postgres = request.getfixturevalue("postgres")
        with closing(PostgresStore(database.url, schema="earlier", timeout=1, clock=CLOCK)) as opened:
            opened.migrate()
            for key, state, table, expires in ends:
                database.query(f"INSERT INTO earlier.{table} VALUES (%s, %s, %s)", key.encode(), state, expires)
            yield opened
            database.query("DROP SCHEMA earlier CASCADE")


def test_they_are_written_as_they_were() -> None:
    """So workers of the version before, on one store with ours, read what we write."""
    for limit, state, _, ttl, _ in EARLIER:
        assert limit.take(None, CLOCK(), 2)[:2] == (bytes.fromhex(state), ttl)
    strikes, _ = BANS.charge(None, CLOCK(), 2)
    assert BANS.charge(strikes, CLOCK(), 1) == (bytes.fromhex(BANNED), 87_000 * SECOND)
    holds = Holds(None, CLOCK())
    assert [holds.add(1, LEASE, CLOCK()) for _ in range(2)] == [0, 1]
    assert holds.change("k", CLOCK())[1:3] == (bytes.fromhex(HELD), LEASE)


def test_they_are_read_and_go_on(store: Any) -> None:
    for limit, _, _, _, left in EARLIER:
        asked = Take([Demand("", key_of(limit), limit, 0)])
        assert store.execute([asked])[0].takings[0][2] == left
        (taken,) = store.execute([Take([Demand("", key_of(limit), limit)])])
        assert (taken.refused, taken.takings[0][2]) == (False, left - 1)
        store.execute([Settle(taken)])
        assert store.execute([asked])[0].takings[0][2] == left
    found = [key for key, _ in store.scan("rl:earlier:")]
    others = [key_of(BANS), held_key(key_of(SLOTS))]
    assert sorted(found) == sorted([*others, *(key_of(limit) for limit, *_ in EARLIER)])


def test_bans_and_slots_in_use_are_read_and_go_on(store: Any) -> None:
    (banned,) = store.execute([Take([Demand("", key_of(BANS), BANS, 0)])])
    assert (banned.refused, banned.takings[0][4]) == (True, 600 * SECOND)
    slot = Demand("", key_of(SLOTS), SLOTS, 1, LEASE)
    (full,) = store.execute([Take([slot])])
    assert (full.refused, *full.held) == (True, 2)
    # One of both is over: its process tells so by the number that the slot had.
    store.execute([Settle(Taken([slot], [(None, LEASE, 1, 0, 0)], CLOCK(), False))])
    (free,) = store.execute([Take([slot])])
    assert not free.refused
