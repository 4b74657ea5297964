"""The tables in PostgreSQL, how they came to be, and the statements on them.

Rules:
- A migration is one step from a layout to the next; steps are added, never changed.
- Every name says where it is from: functions, operators and types of `pg_catalog`, tables of our schema. The
  `search_path` of the role decides what a name alone means, and whoever may create something in a schema of it could
  have a function, operator or type of their own run with our rights (CVE-2018-1058).
- Nothing is set for longer than a transaction, and no statement is prepared: behind a pooler, the next transaction on
  this connection may be somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

_MIGRATIONS = [
    # 1: values and counters. Room is left in the pages, so that a counter is updated in place (HOT).
    """
    CREATE TABLE {schema}.entries (
        key pg_catalog.bytea PRIMARY KEY, value pg_catalog.bytea NOT NULL, expires pg_catalog.int8 NOT NULL
    ) WITH (fillfactor = 70);
    CREATE UNLOGGED TABLE {schema}.counters (
        key pg_catalog.bytea PRIMARY KEY, value pg_catalog.bytea NOT NULL, expires pg_catalog.int8 NOT NULL
    ) WITH (fillfactor = 70);
    CREATE UNLOGGED TABLE {schema}.decisions (token pg_catalog.bytea PRIMARY KEY, expires pg_catalog.int8 NOT NULL);
    """,
]
VERSION = len(_MIGRATIONS)

_LOCK = 0x6B657967  # "keyg"
_CALLED_OFF = 60_000_000  # microseconds for which it is known
_NOW = (
    "(extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"
)  # fmt: skip


def create(connection: psycopg.Connection[Any], schema: str) -> tuple[int, int]:
    """Bring the tables to this layout, in one transaction. Returns the layouts before and after; 0 is none."""
    name = sql.Identifier(schema)
    connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [_LOCK])
    there = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) %s::pg_catalog.name"
    if connection.execute(there, [schema]).fetchone() is None:
        # Else not even IF NOT EXISTS: it asks for the right to make schemas, which the app's own role may lack.
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
    connection.execute(
        sql.SQL("CREATE TABLE IF NOT EXISTS {}.version (version pg_catalog.int4 NOT NULL)").format(name)
    )  # fmt: skip
    row = connection.execute(sql.SQL("SELECT version FROM {}.version").format(name)).fetchone()
    before = 0 if row is None else int(row[0])
    for migration in _MIGRATIONS[before:]:
        connection.execute(sql.SQL(migration).format(schema=name))
    if row is None:
        connection.execute(sql.SQL("INSERT INTO {}.version VALUES (%s)").format(name), [VERSION])
    elif before < VERSION:
        connection.execute(sql.SQL("UPDATE {}.version SET version = %s").format(name), [VERSION])
    connection.commit()
    return before, max(before, VERSION)


def other_layout(version: int) -> str:
    """Return what to tell if the tables have another layout than this one."""
    todo = "run `keyguard store migrate`" if version < VERSION else "this keyguard is older than the tables"
    return f"the tables have layout {version}, not {VERSION}: {todo}"


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements of a store on its tables."""

    version: sql.Composed
    begin: sql.Composed
    wait: sql.Composed
    wait_for_rows: dict[str, sql.Composed]
    read: sql.Composed
    hold: sql.Composed
    write: dict[str, sql.Composed]
    delete: dict[str, sql.Composed]
    purge: dict[str, sql.Composed]
    next: dict[str, sql.Composed]
    dump: sql.Composed
    some: sql.Composed
    remember: sql.Composed
    call_off: sql.Composed
    forget: sql.Composed


def statements(schema: str) -> Statements:
    """Return the statements for the tables in `schema`."""
    name = sql.Identifier(schema)

    def one(text: str) -> sql.Composed:
        return sql.SQL(text.replace(" = ", " OPERATOR(pg_catalog.=) ")).format(s=name)

    def each(text: str) -> dict[str, sql.Composed]:
        return {table: one(text.replace("TABLE", f"{{s}}.{table}")) for table in ("entries", "counters")}

    keys = "::pg_catalog.bytea[]"
    after = "WHERE key OPERATOR(pg_catalog.>) %(start)s::pg_catalog.bytea ORDER BY key"
    # Rows that somebody is writing are left alone.
    expired = (
        f"SELECT mine.key FROM TABLE AS mine JOIN (SELECT key FROM TABLE {after} LIMIT 500) AS stretch "
        "ON stretch.key = mine.key WHERE mine.expires OPERATOR(pg_catalog.<=) %(now)s FOR UPDATE OF mine SKIP LOCKED"
    )
    return Statements(
        version=one("SELECT version FROM {s}.version"),
        # The beginning of a transaction: how long it may take, and the locks of keys that it gets without waiting.
        # Returns those that somebody else holds.
        begin=one(
            "SELECT pg_catalog.set_config('statement_timeout', %(wait)s, true), "
            "pg_catalog.set_config('lock_timeout', %(lock)s, true), "
            # Or a process that vanishes in the middle of a decision would keep its locks.
            "pg_catalog.set_config('idle_in_transaction_session_timeout', %(idle)s, true), "
            "ARRAY(SELECT place FROM pg_catalog.unnest(%(places)s::pg_catalog.int8[]) AS place "
            "WHERE NOT pg_catalog.pg_try_advisory_xact_lock(place))"
        ),
        wait=one(
            "SELECT pg_catalog.pg_advisory_xact_lock(place) FROM pg_catalog.unnest(%s::pg_catalog.int8[]) AS place"
        ),
        wait_for_rows=each(f"SELECT 1 FROM TABLE WHERE key = ANY (%s{keys}) ORDER BY key FOR UPDATE"),
        # The time comes first, as the expiry of no key.
        read=one(
            f"SELECT NULL::pg_catalog.bytea, NULL::pg_catalog.bytea, {_NOW} UNION ALL "
            f"SELECT key, value, expires FROM {{s}}.entries WHERE key = ANY (%(entries)s{keys}) UNION ALL "
            f"SELECT key, value, expires FROM {{s}}.counters WHERE key = ANY (%(counters)s{keys})"
        ),
        # The same, and locks the rows. The last column tells the table, by its number; two more is that a row is
        # there: those that somebody has locked by hand come back so alone. From here on only writing could wait for
        # a lock, and it may not wait for long.
        hold=one(
            "WITH entries AS (SELECT key, value, expires FROM {s}.entries "
            f"WHERE key = ANY (%(entries)s{keys}) FOR UPDATE SKIP LOCKED), "
            "counters AS (SELECT key, value, expires FROM {s}.counters "
            f"WHERE key = ANY (%(counters)s{keys}) FOR UPDATE SKIP LOCKED) "
            "SELECT NULL::pg_catalog.bytea, pg_catalog.set_config('lock_timeout', %(brief)s, true)::pg_catalog.bytea, "
            f"{_NOW}, 0 UNION ALL SELECT key, value, expires, 0 FROM entries UNION ALL "
            "SELECT key, value, expires, 1 FROM counters UNION ALL "
            f"SELECT key, NULL, NULL, 2 FROM {{s}}.entries WHERE key = ANY (%(entries)s{keys}) UNION ALL "
            f"SELECT key, NULL, NULL, 3 FROM {{s}}.counters WHERE key = ANY (%(counters)s{keys})"
        ),
        write=each(
            "INSERT INTO TABLE AS old (key, value, expires) SELECT * FROM ROWS FROM ("
            f"pg_catalog.unnest(%s{keys}), pg_catalog.unnest(%s{keys}), pg_catalog.unnest(%s::pg_catalog.int8[])) "
            "ON CONFLICT (key) DO UPDATE SET value=excluded.value, expires=excluded.expires"
        ),
        delete=each(f"DELETE FROM TABLE WHERE key = ANY (%s{keys})"),
        purge=each(f"DELETE FROM TABLE WHERE key = ANY ({expired})"),
        next=each(f"SELECT key FROM TABLE {after} OFFSET 499 LIMIT 1"),
        dump=one(
            f"SELECT {_NOW}, key, value, expires FROM ("
            "SELECT * FROM {s}.entries UNION ALL SELECT * FROM {s}.counters) AS entries "
            "WHERE substring(key FOR %(length)s) = %(start)s::pg_catalog.bytea ORDER BY key"
        ),
        some=one(
            f"SELECT key, value FROM {{s}}.entries WHERE key OPERATOR(pg_catalog.>=) %(start)s::pg_catalog.bytea "
            "AND key OPERATOR(pg_catalog.<) %(end)s::pg_catalog.bytea "
            f"AND expires OPERATOR(pg_catalog.>) coalesce(%(now)s, {_NOW}) ORDER BY key LIMIT %(most)s"
        ),
        remember=one("INSERT INTO {s}.decisions VALUES (%s, %s)"),
        call_off=one(
            f"INSERT INTO {{s}}.decisions VALUES (%s, {_NOW} OPERATOR(pg_catalog.+) {_CALLED_OFF}) "
            "ON CONFLICT DO NOTHING RETURNING 1"
        ),
        forget=one("DELETE FROM {s}.decisions WHERE expires OPERATOR(pg_catalog.<=) %s"),
    )
