"""The store of one machine: an SQLite file that its processes share.

Rules:
- Every decision is one `BEGIN IMMEDIATE` transaction, so it is exact across threads and processes. What was committed
  survives the death of any process (WAL, `synchronous=NORMAL`; a power failure may take the last moments).
- One connection a process, behind a lock: SQLite admits one writer anyway, and threads that wait for a lock of ours
  are woken in turn, those that wait for SQLite's are not.
- Time in that queue is not the store's: many threads with much to do wait long for each other. What is waited for
  other processes is, and who is next in the queue does not wait for them once more in vain.
- An event loop never waits for another process: what cannot be had at once is waited for in a thread.
- Workers that start together on a new file wait for each other, longer than a decision would.
- The connection, and what becomes of the file: `sqlite_file.py`. Cached responses live in a table of their own, within
  bounds: `sqlite_cache.py`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from keyguard.clock import Clock, monotonic, wall_clock
from keyguard.errors import ConfigurationError, StoreBusy, StoreError
from keyguard.loops import in_thread, in_trio
from keyguard.ops import GiveBack, Op, Read, Take, Taken
from keyguard.stores.fork import renew_after_fork
from keyguard.stores.sqlite_cache import PREFIX, Cached
from keyguard.stores.sqlite_file import File, busy, insist

_PURGE_EVERY = 100  # transactions
_PURGE_ROWS = 250  # looked at each time: more than so many transactions usually add
_NEVER = 2**63 - 1
_LEAST_CACHE = 1024 * 1024
_STUCK = 0.5
"""Seconds after which a transaction of this process that has not ended shows that the disk does not answer."""
_QUEUE = 2.0
"""Seconds that a request waits at most for the others of its process."""
_START = 10.0  # seconds, for what is done at the start or by operators

_GET = "SELECT value FROM entries WHERE key = ? AND expires > ?"
_PUT = "REPLACE INTO entries VALUES (?, ?, ?)"
_DELETE = "DELETE FROM entries WHERE key = ?"
_RANGE = (
    "SELECT key, value, expires FROM (SELECT key, value, expires FROM entries UNION ALL "
    "SELECT key, value, expires FROM cached) WHERE key >= ? AND key < ? AND expires > ? ORDER BY key"
)
_NEXT = "SELECT key, expires FROM entries WHERE key > ? ORDER BY key LIMIT ?"

_BUSY = "SQLite: other processes kept the file locked"


class SQLiteStore:
    """Keys and counters in the file `path`.

    `timeout` is how long, in seconds, a decision waits for other processes before it raises `StoreError`;
    `cache_bytes`, how many bytes of the file cached responses may fill, at least 1 MiB. The file and its tables are
    made where there are none; a file that vanishes later is a fault, until one is there again. Raises
    `ConfigurationError` where the file cannot be used.
    """

    needs_asyncio = False
    """`aexecute` works in event loops of all kinds."""

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
        self._file = File(Path(name).absolute())
        self.timeout = float(timeout)
        self._clock = clock or wall_clock
        self._until_purge = _PURGE_EVERY
        self._purged_to = ""
        self._cached = Cached(cache_bytes)
        self._lock = threading.Lock()
        self._done = 0  # transactions, ended well or not
        self._gave_up = 0.0  # when other processes were last waited for in vain
        try:
            # Not kept: the connection would be inherited by workers that are forked later.
            self._file.connect(monotonic() + _START, make=True).close()
        except sqlite3.Error as error:
            raise ConfigurationError(f"cannot use {self._file.path} as a store: {error}") from error
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<SQLiteStore {self._file.path}>"

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.forget()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._file.abandon()

    def close(self) -> None:
        """Close this process's connection, when what is under way has ended. The next operation opens it again."""
        with self._lock:
            self._file.close()

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
            if not busy(error):
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
                raise StoreBusy(f"SQLite: other requests of this process were first for {_QUEUE} s")
            done = self._done

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """The results, where nobody is in the way; else an awaitable of them, waited for in a thread."""
        asked = monotonic()
        if not self._lock.acquire(blocking=False):
            return self._in_thread(ops, asked)
        try:
            return self._execute(ops, None)
        except sqlite3.OperationalError as error:
            if not busy(error):
                raise StoreError(f"SQLite: {error}") from error
        except sqlite3.Error as error:
            raise StoreError(f"SQLite: {error}") from error
        finally:
            self._done += 1
            self._lock.release()
        return self._in_thread(ops, asked)

    async def _in_thread(self, ops: Sequence[Op[Any]], asked: float) -> list[Any]:
        if in_trio():
            return await in_thread(self._execute_since, ops, asked)
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
            connection = self._file.connect(deadline)
            try:
                # The code point after the last that text can hold ends the range of the prefix.
                rows = insist(connection, deadline, _RANGE, (prefix, prefix + "\U0010ffff", now))
                return [(key, value, None if ends == _NEVER else ends - now) for key, value, ends in rows]
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(f"SQLite: {error}") from error

    def scratch(self, clock: Clock) -> SQLiteStore:
        """An empty store in the same folder, for checks. Closing it removes it."""
        path = self._file.path
        return _Scratch(path.with_name(f".{path.name}.check-{os.urandom(6).hex()}"), 5.0, clock=clock)

    # -- all of this runs under the lock ------------------------------------------------------------------

    def _execute(self, ops: Sequence[Op[Any]], deadline: float | None) -> list[Any]:
        file, connection = self._file, None
        try:
            connection = file.opened(deadline, self._clock())
            # Reading alone needs no lock that others would wait for.
            reading = all(isinstance(op, Read) for op in ops)
            insist(connection, deadline, "BEGIN" if reading else "BEGIN IMMEDIATE")
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
            if isinstance(error, sqlite3.Error) and not busy(error):
                file.forget()
            elif connection is not None and connection.in_transaction:
                connection.execute("ROLLBACK")
            self._cached.wrote = False
            raise

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


class _Scratch(SQLiteStore):
    """A file that is removed when it is closed."""

    def close(self) -> None:
        super().close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._file.path}{suffix}").unlink(missing_ok=True)
