"""Every statement of PostgreSQL is held to its meaning, as scripts and statements are in `test_mutants.py`.

A mutant that the server does not take for a statement is not tried. Those of statements that an answer hangs on are
shown to `check_store`; what one process alone cannot see, and what nobody waits for, is looked at directly: keys that
others hold, what a transaction leaves behind, the server's own time, what has lapsed, and commits of unknown fate.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import fields, replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from keyguard.clock import SECOND, Clock
from keyguard.errors import StoreError
from keyguard.ops import Change, Demand, Put, Read, Take, is_counter
from keyguard.rates import window
from keyguard.stores.postgres import PostgresStore, store
from keyguard.stores.postgres.names import lock_of
from keyguard.stores.postgres.schema import Statements, statements
from keyguard.stores.postgres.upkeep import Upkeep
from keyguard.testing import ManualClock, check_store
from tests.support import mutants
from tests.support.mutants import Mutant
from tests.support.servers import Postgres, wait_until

pytestmark = pytest.mark.slow

SCHEMA = "mutants"
STEPS = 60
MINUTE = 60 * SECOND
TRIED = {"hold": 6, "read": 4}
AT_MOST = 4

CHANGES_NOTHING: list[tuple[str, str]] = [
    (
        r"wait_for_rows.*--> .*(DESC|\)  )",
        "the order of waiting for rows that somebody locks by hand: of two who block each other one is decided again",
    ),
    (r"wait_for_rows.*--> .*SELECT 2|call_off.*--> .*RETURNING 2", "a number that nobody reads"),
    (r"hold.*--> .*int8, 1 UNION", "a mark on the row that tells the time"),
    (r"hold.*--> .* AS \(SELECT value, key,", "the order of columns that are asked for by name"),
    (r"next.*--> .*OFFSET 499 LIMIT 2", "one row is read of them"),
    (r"call_off.*--> .*60000001", "one microsecond of a minute"),
]
"""Patterns of mutants, and why a mistake there is none."""


def texts() -> dict[str, str]:
    """The statements by name, with signs as they are written by hand."""
    found = {}
    for field in fields(Statements):
        made = getattr(statements(SCHEMA), field.name)
        for table, one in made.items() if isinstance(made, dict) else [("", made)]:
            plain = re.sub(r"OPERATOR\(pg_catalog\.(\S+?)\)", r"\1", one.as_string())
            found[f"{field.name}.{table}".rstrip(".")] = plain
    return found


def with_one(mutant: Mutant) -> Callable[[str], Statements]:
    """What makes the statements, with a mutant among them."""
    field, _, table = mutant.file.partition(".")
    text: Any = mutant.text
    instead = sql.Composed([sql.SQL(text)])

    def made(schema: str) -> Statements:
        found = statements(schema)
        return replace(found, **{field: {**getattr(found, field), table: instead} if table else instead})

    return made


class Database:
    """A server with the tables, and a connection to look at them."""

    def __init__(self, server: Postgres) -> None:
        self.url = f"{server.url}?application_name={SCHEMA}"
        with closing(PostgresStore(self.url, schema=SCHEMA)) as made:
            made.migrate()
        self.admin = self.connect(autocommit=True)
        self.admin.execute("SET lock_timeout = 0")

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self.url, application_name="by hand", options=f"-c search_path={SCHEMA} -c lock_timeout=2s", **options
        )

    def ask(self, text: str, *parameters: Any) -> list[Any]:
        cursor = self.admin.execute(text, parameters)
        return cursor.fetchall() if cursor.description else []

    def opened(self, clock: Clock | None = None, **settings: Any) -> PostgresStore:
        """A store without keys."""
        self.ask("TRUNCATE entries, counters, decisions")
        return PostgresStore(self.url, schema=SCHEMA, timeout=1, clock=clock, **settings)

    def takes(self, text: str) -> bool:
        """Whether it is a statement to the server."""
        numbers = itertools.count(1)
        words = re.sub(r"%(\(\w+\))?s", lambda _: f"${next(numbers)}", text)
        return self.admin.pgconn.prepare(b"", words.encode()).status == psycopg.pq.ExecStatus.COMMAND_OK


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[Database]:
    found = Database(postgres)
    yield found
    found.ask(f"DROP SCHEMA {SCHEMA} CASCADE")
    found.admin.close()


# -- what is looked at -----------------------------------------------------------------------------------------------


def check_operations(database: Database) -> None:
    check_store(database.opened, steps=STEPS)


HELD = {"entries": "k|{}", "counters": "rl:win60000000|{}"}
WAITER = f"SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = '{SCHEMA}'"
LEFT = (
    "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), "
    "current_setting('idle_in_transaction_session_timeout'), "
    "(SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory')"
)


class Counted(Put):
    """Writes what is a short limit's state, so that it stands in the table of those."""

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bool, Sequence[Change]]:
        result, changes = super().apply(old, now)
        return result, [(key, value, ttl, SHORT) for key, value, ttl, _ in changes]


SHORT = window(5, MINUTE, "5/minute")


def put(key: str, value: bytes | None, ttl: int | None = None, *, expected: Any = ...) -> Put:
    return (Counted if is_counter(key) else Put)(key, value, ttl, expected=expected)


def check_turns(database: Database) -> None:
    """A key that somebody holds is waited for, alone, before it is read; afterwards nothing is set or locked."""
    with closing(database.opened(max_connections=2)) as asked:
        for table, names in HELD.items():
            mine, other = (names.format(word) for word in ("mine", "other"))
            asked.execute([put(key, b"first", MINUTE) for key in (mine, other)])
            by_row = f"UPDATE {table} SET value = 'changed' WHERE key = %s"
            by_lock = "SELECT pg_advisory_xact_lock_shared(%s)"
            with database.connect() as another:
                another.execute(by_row, [other.encode()])
                for text, word in ((by_row, mine.encode()), (by_lock, lock_of(mine.encode()))):
                    with database.connect() as holder:
                        holder.execute(text, [word])
                        _check_turn(database, asked, mine, holder)
        assert asked._loop is not None
        left = asyncio.run_coroutine_threadsafe(_left(asked), asked._loop).result(30)
        assert left
        assert set(left) == {("0", "0", "0", 0)}


def _check_turn(database: Database, asked: PostgresStore, mine: str, holder: psycopg.Connection[Any]) -> None:
    decisions = asked._decisions
    assert decisions is not None
    made = decisions._done
    future = asked._submit([put(mine, b"again", MINUTE, expected=b"changed")])
    try:
        waiting = wait_until(
            lambda: database.ask(WAITER) or future.done() or decisions._done > made + 50, "somebody who waits", 30
        )
        assert not future.done()
        assert decisions._done <= made + 50, "it waits, instead of asking again and again"
        assert all(query.startswith("SELECT") for (query,) in waiting), "and before anything is read"
        holder.commit()
        assert future.result(30) == [True]
        asked.execute([put(mine, b"changed", MINUTE)])
    finally:
        future.cancel()


async def _left(asked: PostgresStore) -> list[Any]:
    """What is set on connections that lie idle, and how many locks they hold."""
    assert asked._decisions is not None
    return [await (await line.connection.execute(LEFT)).fetchone() for line in asked._decisions._idle]


def check_server_time(database: Database) -> None:
    """By the server's own clock."""
    with closing(database.opened()) as asked:
        limit = window(50, MINUTE, "50/minute")
        (taken,) = asked.execute([Take([Demand("d", f"rl:{limit.code}|a", limit)])])
        assert abs(taken.at / SECOND - time.time()) < 60
        asked.execute([Put("k|ttl", b"x", 20 * SECOND)])
        assert asked.execute([Read("k|ttl")]) == [(b"x",)]
        assert asked.execute([Put("k|ttl", b"y", 20 * SECOND, expected=b"x")]) == [True]
        ((key, value, ttl),) = asked.dump("k|")
        assert (key, value) == ("k|ttl", b"y")
        assert 0 < ttl <= 20 * SECOND


def check_some(database: Database) -> None:
    """So many values at most of those that begin with a text and live, in their order: by a clock, and the server's."""
    clock = ManualClock()
    for time_of in (clock, None):
        with closing(database.opened(clock=time_of)) as asked:
            now = clock() if time_of is not None else int(time.time() * SECOND)
            database.ask("TRUNCATE entries, counters, decisions")
            rows = {"k|b": now + MINUTE, "k|": now + MINUTE, "k|a": now, "k|c": now + 2 * MINUTE, "l|": now + MINUTE}
            for key, expires in rows.items():
                database.ask("INSERT INTO entries VALUES (%s, %s, %s)", key.encode(), b"v" + key.encode(), expires)
            database.ask("INSERT INTO entries VALUES (%s, '', %s)", b"k|\xff", now + MINUTE)
            found = [(key, b"v" + key.encode()) for key in ("k|", "k|b", "k|c")]
            assert asked.some("k|", 3) == (found, True)
            assert asked.some("k|", 2) == (found[:2], False)


def check_deletes(database: Database) -> None:
    """What is deleted is gone, and nothing else."""
    with closing(database.opened()) as asked:
        for table, names in HELD.items():
            mine, other = (names.format(word) for word in ("mine", "other"))
            asked.execute([put(key, b"a value.", MINUTE) for key in (mine, other)])
            asked.execute([put(mine, None)])
            assert database.ask(f"SELECT key FROM {table}") == [(other.encode(),)]


def check_upkeep(database: Database) -> None:
    """What has lapsed is deleted, a stretch at a time; commits of unknown fate are settled."""
    with closing(database.opened()) as asked:
        limit = window(50, MINUTE, "50/minute")
        (taken,) = asked.execute([Take([Demand("d", f"rl:{limit.code}|a", limit)])])
        asyncio.run(_check_doubts(database, asked._sql, taken))
        asyncio.run(_check_purge(database, asked._sql))


async def _check_doubts(database: Database, made: Statements, taken: Any) -> None:
    ((token, expires),) = database.ask("SELECT token, expires FROM decisions")
    assert 50 * SECOND < expires - taken.at < 70 * SECOND
    upkeep = Upkeep(made)
    upkeep.doubt(token, [taken])
    upkeep.doubt(b"other", [])
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        for _ in range(2):  # asked once more, nothing has changed
            await upkeep.next()(connection)
            assert upkeep.take_back() == [taken]
            upkeep.doubt(token, [taken])
        ((expires,),) = database.ask("SELECT expires FROM decisions WHERE token = 'other'")
        assert 30 < expires / SECOND - time.time() < 90
        with suppress(psycopg.errors.UniqueViolation):
            await connection.execute(made.remember, [b"other", 1])
            raise AssertionError("what was called off was done")


async def _check_purge(database: Database, made: Statements) -> None:
    now, held = 1_000_000, b"00007"
    table = {f"{n:05d}".encode(): now + (-1, 0, 1)[n % 3] for n in range(1700)}
    rows = [*table.items()]
    random.Random(1).shuffle(rows)
    names, ends = [list(column) for column in zip(*rows, strict=True)]
    database.ask("TRUNCATE entries, counters, decisions")
    for name in HELD:
        database.ask(
            f"INSERT INTO {name} SELECT key, '', n FROM unnest(%s::bytea[], %s::int8[]) AS new (key, n)", names, ends
        )
    database.ask("INSERT INTO decisions SELECT n::text::bytea, n FROM generate_series(%s, %s) AS n", now - 1, now + 1)
    upkeep, start = Upkeep(made), b""
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        with database.connect() as holder:
            for name in HELD:
                holder.execute(f"SELECT 1 FROM {name} WHERE key = %s FOR UPDATE", [held])
            for _ in range(4):
                upkeep.saw(now, 1000)
                await connection.execute("SET LOCAL lock_timeout = '500ms'")
                await upkeep.next()(connection)
                await connection.commit()
                for key in sorted(key for key in table if key > start)[:500]:
                    if table[key] <= now and key != held:
                        del table[key]
                later = sorted(key for key in table if key > start)
                start = later[499] if len(later) > 499 else b""
                assert upkeep._purged_to == dict.fromkeys(HELD, start)
                for name in HELD:
                    assert database.ask(f"SELECT key, expires FROM {name} ORDER BY key") == sorted(table.items())
    assert database.ask("SELECT expires FROM decisions") == [(now + 1,)]


CHECKS = (check_upkeep, check_some, check_server_time, check_turns, check_deletes, check_operations)
FIRST = {
    **dict.fromkeys(("version", "read", "hold", "write", "dump"), (check_server_time, check_operations)),
    "delete": (check_deletes, check_operations),
    "some": (check_some,),
    **dict.fromkeys(("begin", "wait", "wait_for_rows"), (check_turns,)),
}
"""What the mistakes of a statement are shown to before the other checks."""
OTHERS = {"no row is locked", "a locked row is waited for", "set for the whole session"}
"""Mistakes that others suffer from: they are shown to the one about turns first."""


def noticed(database: Database, mutant: Mutant) -> bool:
    """Whether a mistake is noticed."""
    first = (check_turns,) if mutant.rule in OTHERS else FIRST.get(mutant.file.partition(".")[0], ())
    try:
        for check in dict.fromkeys((*first, *CHECKS)):
            check(database)
    except (AssertionError, StoreError, psycopg.Error, KeyError, TypeError, ValueError, IndexError):
        return True
    return False


# -- the tests --------------------------------------------------------------------------------------------------------


# What a wrong statement breaks may be left as it is.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("statement", texts())
def test_every_statement_of_postgres(statement: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    all_made = mutants.of_sql(statement, texts()[statement], mutants.POSTGRES)
    made = [one for one in all_made if database.takes(one.text) and mutants.survivors([one], CHANGES_NOTHING)]
    assert len(made) >= 3
    alive = []
    for mutant in mutants.sample(made, TRIED.get(statement, AT_MOST)):
        monkeypatch.setattr(store, "statements", with_one(mutant))
        if not noticed(database, mutant):
            alive.append(mutant)
    assert mutants.survivors(alive, CHANGES_NOTHING) == ""


def test_the_statements_of_postgres_pass_as_they_are(database: Database) -> None:
    for check in CHECKS:
        check(database)
