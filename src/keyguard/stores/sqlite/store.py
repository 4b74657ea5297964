"""The store of one machine: an SQLite file that its processes share.

Rules:
- Every decision is one `BEGIN IMMEDIATE` transaction, so it is exact across threads and processes. A commit
  survives the death of any process (WAL, `synchronous=NORMAL`; a power failure may take the last moments).
- One connection a process, behind a lock: SQLite admits one writer anyway. How requests wait for their
  turns: `turns.py`. An event loop never waits for another process.
- A file that another process keeps locked is busy, and not out of order: a request that got no turn is told that, and
  charged nothing.
- Workers that start together on a new file wait for each other, longer than a decision would.
- The connection, and what becomes of the file: `file.py`. Cached responses live in a table of their own, within
  bounds: `cached.py`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from keyguard.checks import is_number, is_whole
from keyguard.clock import monotonic, wall_clock
from keyguard.errors import ConfigurationError, StoreBusy, StoreError
from keyguard.manual_clock import GivenClock, ManualClock, clock_from, given_by
from keyguard.ops import Op, Settle, Taken
from keyguard.process.exits import await_the_end, close_at_exit
from keyguard.process.fork import check_process, forks_in_c, renew_after_fork
from keyguard.stores.sqlite.cached import Cached
from keyguard.stores.sqlite.file import File, busy, insist
from keyguard.stores.sqlite.place import JOURNALS, spare, why_unusable
from keyguard.stores.sqlite.rows import NEVER, kind_of
from keyguard.stores.sqlite.serving import Serving
from keyguard.stores.sqlite.turns import Job, Kind

_MIN_CACHE = 1024 * 1024
_QUEUE = 0.15
"""Seconds that a request waits at most for the others of its process."""
_START = 10.0  # seconds, for what is done at the start or by operators
_ASIDE = 1.0  # seconds, for what is written in the background
_SETTLE = 60.0  # seconds, for what nobody waits for

_RANGE = (
    "SELECT key, value, expires FROM (SELECT key, value, expires FROM entries UNION ALL "
    "SELECT key, value, expires FROM cached) WHERE key >= ? AND key < ? AND expires > ? ORDER BY key LIMIT ?"
)


class SQLiteStore:
    """Keys and counters in the file `path`.

    `timeout` is how long, in seconds, a decision waits for other processes before it raises `StoreBusy`;
    `cache_bytes`, how many bytes of the file cached responses may fill, at least 1 MiB. The file and its tables are
    made if there are none; a file that vanishes later is a fault, until one is there again. Raises
    `ConfigurationError` if the file cannot be used.
    """

    needs_asyncio = False
    """`aexecute` works in event loops of all kinds."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        timeout: float = 0.075,
        *,
        cache_bytes: int = 256 * 1024 * 1024,
        clock: GivenClock | None = None,
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str) or not name or name.startswith((":", "file:")):
            raise ConfigurationError(
                f"{name!r} is not a file that processes can share; use a path, or memory:// for this process alone"
            )
        if not is_number(timeout) or not 0 < timeout <= 60:
            raise ConfigurationError(f"timeout is a number of seconds, above 0 and at most 60, not {timeout!r}")
        if not is_whole(cache_bytes) or cache_bytes < _MIN_CACHE:
            raise ConfigurationError(
                f"cache_bytes is a whole number of bytes, at least {_MIN_CACHE}, not {cache_bytes!r}"
            )
        # Absolute, so that a worker which changes its directory still finds it.
        self._file = File(Path(name).absolute())
        self.timeout = float(timeout)
        self.clock = clock_from(clock, wall_clock)
        self._cached = Cached(cache_bytes, partial(spare, self._file.path.parent))
        self._serving = Serving(self._file, self._cached, self.clock)
        self._rows, self._turns = self._serving.rows, self._serving.turns
        try:
            # Not kept: the connection would be inherited by workers that are forked later.
            self._file.connect(monotonic() + _START, make=True).close()
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(why_unusable(self._file.path, error)) from error
        renew_after_fork(self)
        close_at_exit(self)
        _stores.add(self)

    @property
    def place(self) -> tuple[object, ...]:
        """Where it keeps what it is told: stores with equal places are one."""
        return "sqlite", os.path.realpath(self._file.path)

    def __repr__(self) -> str:
        return f"<SQLiteStore {self._file.path}>"

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.forget()

    def before_fork(self) -> bool:
        """Let what is under way end first, and nothing begin. Returns whether that could be had soon."""
        return self._turns.lock.acquire(timeout=1.0)

    def after_fork_in_parent(self) -> None:
        self._turns.lock.release()

    def after_fork(self) -> None:
        self._file.abandon()
        self._turns.renew()
        self._cached.wrote = False

    def close(self) -> None:
        """Close this process's connection, when what is under way has ended. The next operation opens it again."""
        check_process()
        self._turns.stop()
        with self._turns.lock:
            self._file.in_use = True
            self._file.close()
            self._file.in_use = False

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations in one transaction, waiting for other processes up to the time-out."""
        check_process()
        await_the_end()
        kind = kind_of(ops)
        found = self._at_once(ops, kind)
        if found is not None:
            return found
        if kind is Kind.SETTLING:
            return self._settle(ops)
        turns, now = self._turns, monotonic()
        job = Job(ops, kind, now + self.timeout)
        turns.add(job)
        try:
            got = turns.get_lock(max(_QUEUE, self.timeout))
        except BaseException:
            turns.leave(job, self._came_late)
            raise
        if got:
            try:
                if not job.over:
                    self._serving.serve(kind)
            finally:
                turns.free()
        elif turns.withdraw(job):
            raise StoreBusy(f"SQLite: other requests of this process were first for {_QUEUE} s")
        return job.result() if job.over else turns.wait(job, self._came_late)

    def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        """Return the results if nobody is in the way; else an awaitable of them, waited for in a thread."""
        check_process()
        kind = kind_of(ops)
        found = self._at_once(ops, kind)
        if found is not None:
            return found
        return self._settle(ops) if kind is Kind.SETTLING else self._later(ops, kind)

    async def _later(self, ops: Sequence[Op[Any]], kind: Kind) -> list[Any]:
        job = Job(ops, kind, monotonic() + self.timeout)
        self._turns.add(job)
        return await self._turns.wait_in_loop(job, self._came_late)

    def _settle(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Leave it to the thread: nobody has to wait for it, and it is not lost for want of a turn.

        Whatever this process decides next comes after it.
        """
        # If there is no thread, this request waits after all: no longer than at the start.
        self._turns.add(Job(ops, Kind.DECIDING, monotonic() + (_START if forks_in_c() else _SETTLE)))
        self._turns.wake()
        return [None] * len(ops)

    def _came_late(self, results: list[Any]) -> None:
        """Give back what was charged to a caller who has gone."""
        charges = [Settle(taken) for taken in results if isinstance(taken, Taken) and not taken.refused]
        if charges:
            self._settle(charges)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return every living key that starts with `prefix`, in order."""
        return [(key, value) for key, value, _ in self.dump(prefix)]

    def dump(self, prefix: str) -> list[tuple[str, bytes, int | None]]:
        """Return every living key that starts with `prefix`, in order, with its value and its microseconds to live."""
        now = self.clock()
        return [(key, value, None if ends == NEVER else ends - now) for key, value, ends in self._range(prefix, now)]

    def some(self, prefix: str, most: int) -> tuple[list[tuple[str, bytes]], bool]:
        """Return so many at most of the keys that `scan` would, and whether these are all."""
        found = [(key, value) for key, value, _ in self._range(prefix, self.clock(), most + 1)]
        return found[:most], len(found) <= most

    def _range(self, prefix: str, now: int, most: int = -1) -> Sequence[tuple[str, bytes, int]]:
        """Return keys in order, with their values and when these expire; all of them if `most` is less than 0."""
        check_process()
        deadline = monotonic() + _START
        try:
            # On a connection of its own: decisions do not wait for a long list.
            connection = self._file.connect(deadline)
            try:
                # The code point after the last that text can hold ends the range of the prefix.
                return list(insist(connection, deadline, _RANGE, (prefix, prefix + "\U0010ffff", now, most)))
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(f"SQLite: {error}") from error

    def scratch(self, clock: ManualClock) -> SQLiteStore:
        """Return an empty store in the same folder, for checks. Closing it removes it."""
        path = self._file.path
        return _Scratch(path.with_name(f".{path.name}.check-{os.urandom(6).hex()}"), 5.0, clock=clock)

    def beside(self, make: bool) -> SQLiteStore | None:
        """Return the file `-usage` beside this one: what is written in the background must not hold up decisions."""
        path = self._file.path
        other = path.with_name(f"{path.stem}-usage{path.suffix}")
        clock = None if self.clock is wall_clock else given_by(self.clock)
        return SQLiteStore(other, _ASIDE, clock=clock) if make or other.exists() else None

    def _at_once(self, ops: Sequence[Op[Any]], kind: Kind) -> list[Any] | None:
        """Return the results, or `None` if somebody is in the way or was there before."""
        turns = self._turns
        if not turns.lock.acquire(blocking=False):
            return None
        try:
            if turns.waited_for(kind):
                return None
            return self._serving.at_once(ops, kind)
        except sqlite3.Error as error:
            if busy(error):
                return None
            raise StoreError(f"SQLite: {error}") from error
        finally:
            turns.free()


class _Scratch(SQLiteStore):
    """A file that is removed when it is closed."""

    def close(self) -> None:
        super().close()
        for suffix in ("", *JOURNALS):
            Path(f"{self._file.path}{suffix}").unlink(missing_ok=True)


_stores: WeakSet[SQLiteStore] = WeakSet()
_held: list[SQLiteStore] = []


def _before_fork() -> None:
    # Only Python's own forks tell: those of a server written in C may come at any moment.
    _held.extend(store for store in list(_stores) if store.before_fork())


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_held.clear)
