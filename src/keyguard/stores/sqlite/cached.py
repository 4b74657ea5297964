"""The part of an SQLite file that cached responses may fill: so many bytes, the least recently used out first.

Rules:
- They have a table of their own: whatever is asked for, keys and counters neither lose their room nor their speed.
- Responses leave by pool: all that is stored of a URI, together with the mark that voids it. So a response that
  was invalidated does not come back because its mark has gone. Marks of tags and paths never leave so.
- A hit writes nothing. Its use is noted in memory, each key once a minute, and written when something else is,
  or once a minute.
- The last of the disk is for keys and counters: with less than `_SPARE` free, no more responses are stored. Marks
  that void them and lists of them still are.
- If the disk is full all the same, or SQLite's own bound on the file is reached, cached responses make room for
  decisions, a quarter of what they fill at a time; from then on they fill no more than what is left to them.
- Triggers count the bytes, so the sum is right whichever process writes. They are an estimate on the high side; a file
  keeps the room that it once had.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from keyguard.logs import logger

log = logger("keyguard.stores")

PREFIX = "rc:"
"""The beginning of the keys of cached responses."""

_KEPT = "rc:purges|"
_MINUTE = 60_000_000
_TOUCHES = 500  # written at a time; what is used less often than so many others may leave
_NOTED = 10_000
_SMALL = 900  # bytes: marks, lists and the like
_SPARE = 16 * 1024 * 1024  # bytes; SQLite's log takes some 4 MiB of it
_MIN = 64 * 1024  # bytes that are worth making room of
_POOLS = 64  # evicted by one transaction: more than it can have filled
_PURGE_EVERY = 100  # transactions that write
_PURGE_ROWS = 250

# Measured: the key stands in the table and in its index; pages are two thirds full; what is longer than a page begins
# on one of its own.
_COST = (
    "(CASE WHEN length({0}.value) > 900 THEN (length({0}.value) / 4096 + 2) * 4096 ELSE length({0}.value) + 550 END)"
)

SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS cached (
        key TEXT NOT NULL UNIQUE,
        expires INTEGER NOT NULL,  -- microseconds since the Unix epoch
        used INTEGER NOT NULL,  -- minutes
        value BLOB NOT NULL
    )
    """,
    "CREATE INDEX IF NOT EXISTS cached_used ON cached (used)",
    "CREATE TABLE IF NOT EXISTS cached_bytes (bytes INTEGER NOT NULL)",
    "INSERT INTO cached_bytes SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM cached_bytes)",
    f"""
    CREATE TRIGGER IF NOT EXISTS cached_in AFTER INSERT ON cached BEGIN
        UPDATE cached_bytes SET bytes = bytes + {_COST.format("new")};
    END
    """,
    f"""
    CREATE TRIGGER IF NOT EXISTS cached_out AFTER DELETE ON cached BEGIN
        UPDATE cached_bytes SET bytes = bytes - {_COST.format("old")};
    END
    """,
    f"""
    CREATE TRIGGER IF NOT EXISTS cached_change AFTER UPDATE OF value ON cached BEGIN
        UPDATE cached_bytes SET bytes = bytes - {_COST.format("old")} + {_COST.format("new")};
    END
    """,
    # An earlier layout has them here: they are only copies.
    f"DELETE FROM entries WHERE key >= '{PREFIX}' AND key < 'rc;'",
)
_GET = "SELECT value, used FROM cached WHERE key = ? AND expires > ?"
_PUT = (
    "INSERT INTO cached (key, expires, used, value) VALUES (?, ?, ?, ?) ON CONFLICT (key) "
    "DO UPDATE SET expires = excluded.expires, used = excluded.used, value = excluded.value"
)
_DELETE = "DELETE FROM cached WHERE key = ?"
_TOUCH = "UPDATE cached SET used = ? WHERE key = ? AND used < ?"
_BYTES = "SELECT bytes FROM cached_bytes"
_OLDEST = "SELECT key FROM cached ORDER BY used, rowid LIMIT 1"
_DELETE_POOL = "DELETE FROM cached WHERE key >= ? AND key < ?"
_NEXT = "SELECT key, expires FROM cached WHERE key > ? ORDER BY key LIMIT ?"


class Cached:
    """The cached responses of one file, within `max_bytes` bytes. All of it runs in the store's transactions.

    `spare` tells how many bytes of the disk are free.
    """

    def __init__(self, max_bytes: int, spare: Callable[[], int]) -> None:
        self.max_bytes = max_bytes
        self._spare = spare
        self._left = 0
        """Bytes that may be written before the disk is looked at again."""
        self.wrote = False
        """Whether this transaction has written something: then `tidy` ends it."""
        self._read: set[str] = set()
        self._written_at = 0
        self._until_purge = _PURGE_EVERY
        self._purged_to = ""

    def get(self, connection: sqlite3.Connection, key: str, now: int) -> bytes | None:
        row = connection.execute(_GET, (key, now)).fetchone()
        if row is None:
            return None
        if row[1] < now // _MINUTE and len(self._read) < _NOTED:
            self._read.add(key)
        value: bytes = row[0]
        return value

    def put(self, connection: sqlite3.Connection, key: str, value: bytes | None, expires: int, now: int) -> None:
        self.wrote = True
        # So large a response would only push the others out.
        if value is None or len(value) > self.max_bytes // 4 or not self._fits(len(value)):
            connection.execute(_DELETE, (key,))
        else:
            connection.execute(_PUT, (key, expires, now // _MINUTE, value))

    def _fits(self, size: int) -> bool:
        """Tell whether the disk has room for a value, and for keys and counters besides."""
        if size <= _SMALL:
            return True
        self._left -= size
        if self._left < 0:
            self._left = min(max(0, self._spare() - _SPARE) // 2, _SPARE // 4) - size
        return self._left >= 0

    def due(self, now: int) -> bool:
        """Tell whether what was read is to be written although nothing else is: once a minute."""
        if not self._read or now // _MINUTE == self._written_at:
            return False
        self._written_at = now // _MINUTE
        return True

    def note_use(self, connection: sqlite3.Connection, now: int) -> None:
        """Write what was read, in a transaction of its own, if that can be done just now: it is not worth an error."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            self.tidy(connection, now)
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def tidy(self, connection: sqlite3.Connection, now: int) -> None:
        """Write what was used, and make room."""
        self.wrote = False
        minute = now // _MINUTE
        if self._read:
            keys = [self._read.pop() for _ in range(min(_TOUCHES, len(self._read)))]
            connection.executemany(_TOUCH, [(minute, key, minute) for key in keys])
        self._until_purge -= 1
        if self._until_purge <= 0:
            self._purge(connection, now)
        for _ in range(_POOLS):
            (size,) = connection.execute(_BYTES).fetchone()
            if size <= self.max_bytes:
                return
            row = connection.execute(_OLDEST).fetchone()
            if row is None:
                return
            pool = row[0].partition("|")[0] + "|"
            if pool == _KEPT:
                connection.execute(_TOUCH, (minute + 1, row[0], minute + 1))
            else:
                connection.execute(_DELETE_POOL, (pool, pool + "\U0010ffff"))

    def give_way(self, connection: sqlite3.Connection, now: int) -> bool:
        """Make room for what is not a copy, in a transaction of its own. Returns whether there was anything to give."""
        connection.execute("BEGIN IMMEDIATE")
        (size,) = connection.execute(_BYTES).fetchone()
        given = bool(size >= _MIN)
        if given:
            self.max_bytes = min(self.max_bytes, size * 3 // 4)
            self._read.clear()
            self.tidy(connection, now)
            log.warning(
                "SQLite: the disk is full; cached responses make room for keys and counters: %d KiB from now on",
                self.max_bytes // 1024,
            )
        connection.execute("COMMIT")
        return given

    def _purge(self, connection: sqlite3.Connection, now: int) -> None:
        """Delete what has expired, a stretch of the table at a time."""
        self._until_purge = _PURGE_EVERY
        rows = connection.execute(_NEXT, (self._purged_to, _PURGE_ROWS)).fetchall()
        connection.executemany(_DELETE, [(key,) for key, expires in rows if expires <= now])
        self._purged_to = rows[-1][0] if len(rows) == _PURGE_ROWS else ""
