"""The rows of an SQLite file: operations on them, in a transaction that others begin and end.

Expired rows are deleted a stretch of the table at a time: an index on the expiry would slow every write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from keyguard.ops import Authenticate, Op, Read, Settle, Take
from keyguard.stores.sqlite.cached import PREFIX, Cached
from keyguard.stores.sqlite.turns import Kind

NEVER = 2**63 - 1
"""The expiry of what has none."""
_PURGE_EVERY = 100  # transactions
_PURGE_ROWS = 250  # looked at each time: more than so many transactions usually add

_GET = "SELECT value FROM entries WHERE key = ? AND expires > ?"
_PUT = "REPLACE INTO entries VALUES (?, ?, ?)"
_DELETE = "DELETE FROM entries WHERE key = ?"
_NEXT = "SELECT key, expires FROM entries WHERE key > ? ORDER BY key LIMIT ?"


class Writes(Exception):
    """An operation that was expected to read alone has something to write."""


class Rows:
    """Keys, counters and cached responses of one file. All of it runs in the store's transactions."""

    def __init__(self, cached: Cached) -> None:
        self._cached = cached
        self._until_purge = _PURGE_EVERY
        self._purged_to = ""

    def tidy(self, connection: sqlite3.Connection, now: int) -> None:
        """End a transaction that writes: delete some of what has expired, and make room in the cache."""
        self._until_purge -= 1
        if self._until_purge <= 0:
            self._purge(connection, now)
        if self._cached.wrote:
            self._cached.tidy(connection, now)

    def _purge(self, connection: sqlite3.Connection, now: int) -> None:
        """Delete what has expired, a stretch of the table at a time: an index on the expiry would slow every write."""
        self._until_purge = _PURGE_EVERY
        rows = connection.execute(_NEXT, (self._purged_to, _PURGE_ROWS)).fetchall()
        connection.executemany(_DELETE, [(key,) for key, expires in rows if expires <= now])
        self._purged_to = rows[-1][0] if len(rows) == _PURGE_ROWS else ""

    def run(self, connection: sqlite3.Connection, op: Op[Any], now: int, kind: Kind) -> Any:
        if kind is not Kind.DECIDING and any(key.startswith(PREFIX) for key in op.keys):
            return self._run_on_cached(connection, op, now)
        values: list[bytes | None] = []
        for key in op.keys:
            row = connection.execute(_GET, (key, now)).fetchone()
            values.append(None if row is None else row[0])
        result, changes = op.apply(values, now)
        if changes and kind is Kind.READING:
            raise Writes
        for key, value, ttl, _ in changes:
            if value is None:
                connection.execute(_DELETE, (key,))
            else:
                connection.execute(_PUT, (key, value, NEVER if ttl is None else now + ttl))
        return result

    def _run_on_cached(self, connection: sqlite3.Connection, op: Op[Any], now: int) -> Any:
        """Run an operation some of whose keys are those of cached responses."""
        values: list[bytes | None] = []
        for key in op.keys:
            if key.startswith(PREFIX):
                values.append(self._cached.get(connection, key, now))
            else:
                row = connection.execute(_GET, (key, now)).fetchone()
                values.append(None if row is None else row[0])
        result, changes = op.apply(values, now)
        for key, value, ttl, _ in changes:
            expires = NEVER if ttl is None else now + ttl
            if key.startswith(PREFIX):
                self._cached.put(connection, key, value, expires, now)
            elif value is None:
                connection.execute(_DELETE, (key,))
            else:
                connection.execute(_PUT, (key, value, expires))
        return result


def kind_of(ops: Sequence[Op[Any]]) -> Kind:
    """Return what a transaction with these operations is for."""
    if len(ops) == 1 and ops[0].__class__ is Take:
        return Kind.DECIDING
    # Only a wrong key is charged. So a caller with a right one does not wait for those who write.
    if all(isinstance(op, (Read, Authenticate)) for op in ops):
        return Kind.READING
    if all(isinstance(op, Settle) for op in ops):
        return Kind.SETTLING
    return writing(ops)


def writing(ops: Sequence[Op[Any]]) -> Kind:
    """Return the same of operations that are known to write."""
    cached = any(key.startswith(PREFIX) for op in ops for key in op.keys)
    return Kind.CACHING if cached else Kind.DECIDING
