"""The store of one machine: an SQLite file that its processes share.

Rules:
- Every decision is one `BEGIN IMMEDIATE` transaction, so it is exact across threads and processes. What was committed
  survives the death of any process (WAL, `synchronous=NORMAL`; a power failure may take the last moments).
- One connection a process, behind a lock: SQLite admits one writer anyway, and threads that wait for a lock of ours
  are woken in turn, those that wait for SQLite's are not.
- Time in that queue is not the store's: many threads with much to do wait long for each other. What is waited for
  other processes is, and who is next in the queue does not wait for them once more in vain.
- A connection does not cross a fork: the child leaves the inherited one alone, not even closing it, and opens its own.
- After any error the connection is closed and opened again: the file may have been replaced. It is made at the start
  alone: a store that is gone is a fault, and an empty one in its place would tell every caller that its key is bad.
- An event loop never waits for another process: what cannot be had at once is waited for in a thread.
- Workers that start together on a new file wait for each other, longer than a decision would.
- Cached responses live in a table of their own, within bounds: `sqlite_cache.py`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from keyguard.clock import SECOND, Clock, monotonic, pause, wall_clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.ops import GiveBack, Op, Read, Take, Taken
from keyguard.stores.fork import renew_after_fork
from keyguard.stores.sqlite_cache import PREFIX, SCHEMA, Cached

_LAYOUT = 2  # PRAGMA user_version
_PURGE_EVERY = 100  # transactions
_PURGE_ROWS = 250  # looked at each time: more than so many transactions usually add
_CHECK_EVERY = SECOND
_NEVER = 2**63 - 1
_FIRST_WAIT, _LONGEST_WAIT = 0.0002, 0.005  # seconds
_LEAST_CACHE = 1024 * 1024
_LEAST_TRIES = 8
"""How often a decision tries to get the file at least: a busy process may have slept through its time."""
_STUCK = 0.5
"""Seconds after which a transaction of this process that has not ended shows that the disk does not answer."""
_QUEUE = 2.0
"""Seconds that a request waits at most for the others of its process."""
_START = 10.0  # seconds, for what is done at the start or by operators

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL,
    expires INTEGER NOT NULL  -- microseconds since the Unix epoch
) WITHOUT ROWID
"""
_GET = "SELECT value FROM entries WHERE key = ? AND expires > ?"
_PUT = "REPLACE INTO entries VALUES (?, ?, ?)"
_DELETE = "DELETE FROM entries WHERE key = ?"
_RANGE = (
    "SELECT key, value, expires FROM (SELECT key, value, expires FROM entries UNION ALL "
    "SELECT key, value, expires FROM cached) WHERE key >= ? AND key < ? AND expires > ? ORDER BY key"
)
_NEXT = "SELECT key, expires FROM entries WHERE key > ? ORDER BY key LIMIT ?"

_BUSY = "SQLite: other processes kept the file locked"

_abandoned: list[sqlite3.Connection] = []
"""Connections inherited by a fork. Closing one would touch files and locks that the parent still uses."""


class SQLiteStore:
    """Keys and counters in the file `path`.

    `timeout` is how long, in seconds, a decision waits for other processes before it raises `StoreError`;
    `cache_bytes`, how many bytes of the file cached responses may fill, at least 1 MiB. The file and its tables are
    made where there are none; a file that vanishes later is a fault, until one is there again. Raises
    `ConfigurationError` where the file cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        timeout: float = 0.075,
        *,
        cache_bytes: int = 256 * 1024 * 1024,
        clock: Clock | None = None,
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str) or not name or name.startswith((":", "file:")):
            raise ConfigurationError(
                f"{name!r} is no file that processes can share; use a path, or memory:// for this process alone"
            )
        if not isinstance(timeout, (int, float)) or not 0 < timeout <= 60:
            raise ConfigurationError(f"timeout is a number of seconds, above 0 and at most 60, not {timeout!r}")
        if isinstance(cache_bytes, bool) or not isinstance(cache_bytes, int) or cache_bytes < _LEAST_CACHE:
            raise ConfigurationError(
                f"cache_bytes is a whole number of bytes, at least {_LEAST_CACHE}, not {cache_bytes!r}"
            )
        # Absolute, so that a worker which changes its directory still finds it.
        self._path = Path(name).absolute()
        self.timeout = float(timeout)
        self._clock = clock or wall_clock
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._next_check = 0
        self._until_purge = _PURGE_EVERY
        self._purged_to = ""
        self._cached = Cached(cache_bytes)
        self._lock = threading.Lock()
        self._done = 0  # transactions, ended well or not
        self._gave_up = 0.0  # when other processes were last waited for in vain
        try:
            # Not kept: the connection would be inherited by workers that are forked later.
            self._connect(monotonic() + _START, make=True).close()
        except sqlite3.Error as error:
            raise ConfigurationError(f"cannot use {self._path} as a store: {error}") from error
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<SQLiteStore {self._path}>"

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:
            self._forget()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._connection is not None:
            _abandoned.append(self._connection)
            self._connection = None

    def close(self) -> None:
        """Close this process's connection, when what is under way has ended. The next operation opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations in one transaction, waiting for other processes up to the time-out."""
        return self._execute_since(ops, monotonic())

    def _execute_since(self, ops: Sequence[Op[Any]], asked: float) -> list[Any]:
        self._queue_up(asked)
        try:
            if self._gave_up > asked:
                raise StoreError(_BUSY)
            return self._execute(ops, monotonic() + self.timeout)
        except sqlite3.Error as error:
            if not _busy(error):
                raise StoreError(f"SQLite: {error}") from error
            self._gave_up = monotonic()
            raise StoreError(_BUSY) from error
        finally:
            self._done += 1
            self._lock.release()

    def _queue_up(self, asked: float) -> None:
        """Get the lock, as long as there is progress."""
        done = self._done
        while not self._lock.acquire(timeout=_STUCK):
            if self._done == done:
                raise StoreError(f"SQLite has not answered for {_STUCK} s")
            if monotonic() - asked > _QUEUE:
                error = StoreError(f"SQLite: other requests of this process were first for {_QUEUE} s")
                error.own = True
                raise error
            done = self._done

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """The results, where nobody is in the way; else an awaitable of them, waited for in a thread."""
        asked = monotonic()
        if not self._lock.acquire(blocking=False):
            return self._in_thread(ops, asked)
        try:
            return self._execute(ops, None)
        except sqlite3.OperationalError as error:
            if not _busy(error):
                raise StoreError(f"SQLite: {error}") from error
        except sqlite3.Error as error:
            raise StoreError(f"SQLite: {error}") from error
        finally:
            self._done += 1
            self._lock.release()
        return self._in_thread(ops, asked)

    async def _in_thread(self, ops: Sequence[Op[Any]], asked: float) -> list[Any]:
        work = asyncio.get_running_loop().run_in_executor(None, self._execute_since, ops, asked)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._came_late)
            raise

    def _came_late(self, work: asyncio.Future[list[Any]]) -> None:
        """Who asked has gone: what was charged is given back."""
        if work.cancelled() or work.exception() is not None:
            return
        charges = [GiveBack(taken) for taken in work.result() if isinstance(taken, Taken) and not taken.refused]
        if charges:
            work.get_loop().run_in_executor(None, self._execute_since, charges, monotonic())

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Every living key that starts with `prefix`, in order."""
        return [(key, value) for key, value, _ in self.dump(prefix)]

    def dump(self, prefix: str) -> list[tuple[str, bytes, int | None]]:
        """Every living key that starts with `prefix`, in order, with its value and its microseconds to live."""
        now = self._clock()
        deadline = monotonic() + _START
        try:
            # On a connection of its own: decisions do not wait for a long list.
            connection = self._connect(deadline)
            try:
                # The code point after the last that text can hold ends the range of the prefix.
                rows = self._insist(connection, deadline, _RANGE, (prefix, prefix + "\U0010ffff", now))
                return [(key, value, None if ends == _NEVER else ends - now) for key, value, ends in rows]
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(f"SQLite: {error}") from error

    def scratch(self, clock: Clock) -> SQLiteStore:
        """An empty store in the same folder, for checks. Closing it removes it."""
        return _Scratch(self._path.with_name(f".{self._path.name}.check-{os.urandom(6).hex()}"), 5.0, clock=clock)

    def _connect(self, deadline: float | None, *, make: bool = False) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode={'rwc' if make else 'rw'}",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=32,
            )
        except sqlite3.OperationalError as error:
            if make or self._path.exists():
                raise
            raise sqlite3.OperationalError(f"{self._path} is not there any more") from error
        try:
            self._prepare(connection, deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    # -- all of this runs under the lock ------------------------------------------------------------------

    def _open(self, deadline: float | None) -> sqlite3.Connection:
        connection = self._connect(deadline)
        self._connection, self._inode = connection, self._identify()
        return connection

    def _prepare(self, connection: sqlite3.Connection, deadline: float | None) -> None:
        (mode,) = self._insist(connection, deadline, "PRAGMA journal_mode").fetchone()
        if mode != "wal":
            # Whoever else has the file open, or recovers or closes it, makes this fail, whatever the busy time-out.
            self._insist(connection, deadline, "PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (layout,) = self._insist(connection, deadline, "PRAGMA user_version").fetchone()
        if layout > _LAYOUT:
            raise sqlite3.DatabaseError(f"its layout {layout} is of a newer keyguard; this one knows {_LAYOUT}")
        if layout < _LAYOUT:
            self._insist(connection, deadline, "BEGIN IMMEDIATE")
            for statement in (_SCHEMA, *SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_LAYOUT}")
            connection.execute("COMMIT")

    def _insist(
        self, connection: sqlite3.Connection, deadline: float | None, statement: str, values: Sequence[Any] = ()
    ) -> sqlite3.Cursor:
        """Run a statement, waiting for other processes until `deadline`; not at all where there is none.

        SQLite's own waiting sleeps longer each time, so that under load some process waits for ever; a transaction
        here takes some thirty microseconds, so asking often is better.
        """
        span, tries = _FIRST_WAIT, 0
        while True:
            try:
                return connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                tries += 1
                if deadline is None or not _busy(error) or (monotonic() >= deadline and tries >= _LEAST_TRIES):
                    raise
            pause(span)
            span = min(span * 1.5, _LONGEST_WAIT)

    def _forget(self) -> None:
        try:
            self._close()
        except sqlite3.Error:
            self._connection = None

    def _execute(self, ops: Sequence[Op[Any]], deadline: float | None) -> list[Any]:
        connection = self._connection
        try:
            if connection is None:
                connection = self._open(deadline)
            elif self._replaced():
                self._forget()  # what this connection writes would be lost with the old file
                connection = self._open(deadline)
            # Reading alone needs no lock that others would wait for.
            reading = all(isinstance(op, Read) for op in ops)
            self._insist(connection, deadline, "BEGIN" if reading else "BEGIN IMMEDIATE")
            now = self._clock()
            results = [self._run(connection, op, now) for op in ops]
            self._until_purge -= 1
            if not self._until_purge:
                self._purge(connection, now)
            if self._cached.wrote:
                self._cached.tidy(connection, now)
            connection.execute("COMMIT")
            if reading and self._cached.due(now):
                self._cached.note_use(connection, now)
            return results
        except BaseException as error:
            if isinstance(error, sqlite3.Error) and not _busy(error):
                self._forget()
            elif connection is not None and connection.in_transaction:
                connection.execute("ROLLBACK")
            self._cached.wrote = False
            raise

    def _replaced(self) -> bool:
        now = self._clock()
        if self._next_check - _CHECK_EVERY <= now < self._next_check:
            return False
        self._next_check = now + _CHECK_EVERY
        return self._identify() != self._inode

    def _purge(self, connection: sqlite3.Connection, now: int) -> None:
        """Delete what has lapsed, a stretch of the table at a time: an index on the expiry would slow every write."""
        self._until_purge = _PURGE_EVERY
        rows = connection.execute(_NEXT, (self._purged_to, _PURGE_ROWS)).fetchall()
        connection.executemany(_DELETE, [(key,) for key, expires in rows if expires <= now])
        self._purged_to = rows[-1][0] if len(rows) == _PURGE_ROWS else ""

    def _run(self, connection: sqlite3.Connection, op: Op[Any], now: int) -> Any:
        if op.__class__ is not Take and any(key.startswith(PREFIX) for key in op.keys):
            return self._run_on_cached(connection, op, now)
        values: list[bytes | None] = []
        for key in op.keys:
            row = connection.execute(_GET, (key, now)).fetchone()
            values.append(None if row is None else row[0])
        result, changes = op.apply(values, now)
        for key, value, ttl, _ in changes:
            if value is None:
                connection.execute(_DELETE, (key,))
            else:
                connection.execute(_PUT, (key, value, _NEVER if ttl is None else now + ttl))
        return result

    def _run_on_cached(self, connection: sqlite3.Connection, op: Op[Any], now: int) -> Any:
        """The same, where some of the keys are those of cached responses."""
        values: list[bytes | None] = []
        for key in op.keys:
            if key.startswith(PREFIX):
                values.append(self._cached.get(connection, key, now))
            else:
                row = connection.execute(_GET, (key, now)).fetchone()
                values.append(None if row is None else row[0])
        result, changes = op.apply(values, now)
        for key, value, ttl, _ in changes:
            expires = _NEVER if ttl is None else now + ttl
            if key.startswith(PREFIX):
                self._cached.put(connection, key, value, expires, now)
            elif value is None:
                connection.execute(_DELETE, (key,))
            else:
                connection.execute(_PUT, (key, value, expires))
        return result

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


class _Scratch(SQLiteStore):
    """A file that is removed when it is closed."""

    def close(self) -> None:
        super().close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)


def _busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
