"""The tables in PostgreSQL, how they came to be, and the statements on them.

A migration is one step from a layout to the next; steps are added, never changed.
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
        key bytea PRIMARY KEY, value bytea NOT NULL, expires bigint NOT NULL
    ) WITH (fillfactor = 70);
    CREATE UNLOGGED TABLE {schema}.counters (
        key bytea PRIMARY KEY, value bytea NOT NULL, expires bigint NOT NULL
    ) WITH (fillfactor = 70);
    CREATE UNLOGGED TABLE {schema}.decisions (token bytea PRIMARY KEY, expires bigint NOT NULL);
    """,
]
VERSION = len(_MIGRATIONS)

_LOCK = 0x6B657967  # "keyg"
_CALLED_OFF = 60_000_000  # microseconds for which it is known
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


def create(connection: psycopg.Connection[Any], schema: str) -> tuple[int, int]:
    """Bring the tables to this layout, in one transaction. Returns the layouts before and after; 0 is none."""
    name = sql.Identifier(schema)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is None:
        # Else not even IF NOT EXISTS: it asks for the right to make schemas, which the app's own role may lack.
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
    connection.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {}.version (version integer NOT NULL)").format(name))
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
    """What to tell where the tables have another layout than this one."""
    todo = "run `keyguard store migrate`" if version < VERSION else "this keyguard is older than the tables"
    return f"the tables have layout {version}, not {VERSION}: {todo}"


@dataclass(frozen=True, slots=True)
class Statements:
    """What a store says to its tables."""

    version: sql.Composed
    lock: sql.Composed
    read: sql.Composed
    write: dict[str, sql.Composed]
    delete: dict[str, sql.Composed]
    purge: dict[str, sql.Composed]
    next: dict[str, sql.Composed]
    dump: sql.Composed
    remember: sql.Composed
    call_off: sql.Composed
    forget: sql.Composed


def statements(schema: str) -> Statements:
    """The statements for the tables in `schema`."""
    name = sql.Identifier(schema)

    def one(text: str) -> sql.Composed:
        return sql.SQL(text).format(s=name)

    def each(text: str) -> dict[str, sql.Composed]:
        return {table: one(text.replace("TABLE", f"{{s}}.{table}")) for table in ("entries", "counters")}

    stretch = "SELECT key FROM TABLE WHERE key > %(start)s ORDER BY key LIMIT 500"
    # What somebody is writing is left alone.
    lapsed = f"SELECT key FROM TABLE AS mine JOIN ({stretch}) AS stretch USING (key) WHERE expires <= %(now)s"
    return Statements(
        # What a connection is told first. Not when it starts: poolers take no options then.
        version=one(
            "SELECT version, set_config('statement_timeout', %(wait)s, false), "
            "set_config('lock_timeout', %(wait)s, false), "
            # Or a process that vanishes in the middle of a decision would keep its locks.
            "set_config('idle_in_transaction_session_timeout', %(idle)s, false) FROM {s}.version"
        ),
        lock=one("SELECT pg_advisory_xact_lock(place) FROM unnest(%s::bigint[]) AS place"),
        # A row comes back in any case, with the time.
        read=one(
            f"SELECT {_NOW}, found.* FROM (SELECT 1) AS one LEFT JOIN ("
            "SELECT key, value, expires FROM {s}.entries WHERE key = ANY(%(keys)s) UNION ALL "
            "SELECT key, value, expires FROM {s}.counters WHERE key = ANY(%(keys)s)) AS found ON true"
        ),
        write=each(
            "INSERT INTO TABLE AS old (key, value, expires) "
            "SELECT * FROM unnest(%s::bytea[], %s::bytea[], %s::bigint[]) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires"
        ),
        delete=each("DELETE FROM TABLE WHERE key = ANY(%s)"),
        purge=each(f"DELETE FROM TABLE WHERE key IN ({lapsed} FOR UPDATE OF mine SKIP LOCKED)"),
        next=each("SELECT key FROM TABLE WHERE key > %(start)s ORDER BY key OFFSET 499 LIMIT 1"),
        dump=one(
            f"SELECT {_NOW}, key, value, expires FROM ("
            "SELECT * FROM {s}.entries UNION ALL SELECT * FROM {s}.counters) AS entries "
            "WHERE substring(key FOR %(length)s) = %(start)s ORDER BY key"
        ),
        remember=one("INSERT INTO {s}.decisions VALUES (%s, %s)"),
        call_off=one(
            f"INSERT INTO {{s}}.decisions VALUES (%s, {_NOW} + {_CALLED_OFF}) ON CONFLICT DO NOTHING RETURNING 1"
        ),
        forget=one("DELETE FROM {s}.decisions WHERE expires <= %s"),
    )
