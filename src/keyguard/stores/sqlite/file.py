"""The file of an SQLite store: a process's connection to it.

Rules:
- A connection does not cross a fork. SQLite keeps one table of locks for all connections of a process, and in a child
  it holds the parent's, which the child does not have: a connection opened beside the inherited one would trust in
  them, and write into a journal that the parent has deleted, or wait for ever for a transaction that is the parent's.
  So the child closes the inherited one before it opens its own: its locks stay the parent's. If the parent was in the
  midst of something there, that would undo the parent's work, and the child cannot use the file any more.
- After any error the connection is closed and opened again: the file may have been replaced. It is made at the start
  alone: a store that is gone is a fault, and an empty one in its place would tell every caller that its key is bad.
- The rights to the file, and what its file system can do: `place.py`.
- Other processes are waited for by asking often: see `insist`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from keyguard.clock import SECOND, monotonic, pause
from keyguard.stores.sqlite.cached import SCHEMA
from keyguard.stores.sqlite.place import check_writable, make_private, warn_of_journal, warn_of_readers

_LAYOUT = 2  # PRAGMA user_version
_CHECK_EVERY = SECOND
_FIRST_WAIT, _LONGEST_WAIT = 0.0002, 0.005  # seconds
_MIN_TRIES = 8
"""How often a decision tries to get the file at least: a busy process may have slept through its time."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL,
    expires INTEGER NOT NULL  -- microseconds since the Unix epoch
) WITHOUT ROWID
"""

_abandoned: list[sqlite3.Connection] = []
"""Connections inherited by a fork in the midst of something. Closing one would undo what the parent still does."""


class File:
    """The file at `path`, and this process's connection to it, if there is one. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection: sqlite3.Connection | None = None
        self.in_use = False
        """Whether something is under way on the connection."""
        self._unusable = False
        self._inode: tuple[int, int] | None = None
        self._next_check = 0

    def connect(self, deadline: float | None, *, make: bool = False) -> sqlite3.Connection:
        """Open another connection, and with `make` the file and its tables if there are none.

        A file that is made here is its user's alone.

        `deadline`: until when other processes are waited for, as `keyguard.clock.monotonic`; `None` for not at all.
        """
        try:
            if make:
                make_private(self.path)
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode={'rwc' if make else 'rw'}",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=32,
            )
        except sqlite3.OperationalError as error:
            if make or self.path.exists():
                raise
            raise sqlite3.OperationalError(f"{self.path} is not there any more") from error
        try:
            self._prepare(connection, deadline)
            if make:
                check_writable(connection, busy)
                warn_of_readers(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def opened(self, now: int) -> sqlite3.Connection:
        """Return this process's connection, to the file that is there now, without waiting for anybody."""
        if self._unusable:
            raise sqlite3.ProgrammingError(
                "this process was forked while another thread was using the file, and has to be restarted: let no "
                "thread use it before the fork, or load the app in each worker"
            )
        if self.connection is not None and self._replaced(now):
            self.forget()  # what this connection writes would be lost with the old file
        if self.connection is None:
            self.connection, self._inode = self.connect(None), self._identify()
        return self.connection

    def close(self) -> None:
        """Close this process's connection."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def forget(self) -> None:
        """Do the same, whatever state it is in."""
        try:
            self.close()
        except sqlite3.Error:
            self.connection = None

    def abandon(self) -> None:
        """Leave the connection to the parent that this process was forked from."""
        connection, self.connection = self.connection, None
        if self.in_use:
            self._unusable = True
            if connection is not None:
                _abandoned.append(connection)
        elif connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        self.in_use = False

    def _prepare(self, connection: sqlite3.Connection, deadline: float | None) -> None:
        (mode,) = insist(connection, deadline, "PRAGMA journal_mode").fetchone()
        if mode != "wal":
            # Any other process that has the file open, or recovers or closes it, makes this fail, whatever the busy
            # time-out.
            try:
                (mode,) = insist(connection, deadline, "PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_IOERR:
                    raise
            if mode != "wal":
                warn_of_journal(self.path, mode)
        # A log that is written ahead is whole whatever happens; another journal is so only if the disk is waited for.
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
        (layout,) = insist(connection, deadline, "PRAGMA user_version").fetchone()
        if layout > _LAYOUT:
            raise sqlite3.DatabaseError(f"its layout {layout} is of a newer keyguard; this one knows {_LAYOUT}")
        if layout < _LAYOUT:
            insist(connection, deadline, "BEGIN IMMEDIATE")
            for statement in (_SCHEMA, *SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_LAYOUT}")
            connection.execute("COMMIT")

    def _replaced(self, now: int) -> bool:
        if self._next_check - _CHECK_EVERY <= now < self._next_check:
            return False
        self._next_check = now + _CHECK_EVERY
        return self._identify() != self._inode

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def insist(
    connection: sqlite3.Connection, deadline: float | None, statement: str, values: Sequence[Any] = ()
) -> sqlite3.Cursor:
    """Run a statement, waiting for other processes until `deadline`; not at all if there is none.

    SQLite's own waiting sleeps longer each time, so that under load some process waits for ever; a transaction
    here takes some thirty microseconds, so asking often is better.
    """
    span, tries = _FIRST_WAIT, 0
    while True:
        try:
            return connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            tries += 1
            if deadline is None or not busy(error) or (monotonic() >= deadline and tries >= _MIN_TRIES):
                raise
        pause(span)
        span = min(span * 1.5, _LONGEST_WAIT)


def busy(error: sqlite3.Error) -> bool:
    """Tell whether another process is in the way."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def full(error: sqlite3.Error) -> bool:
    """Tell whether what was to be written has no room, on the disk or within somebody's quota of it."""
    extended = getattr(error, "sqlite_errorcode", 0)
    return _code(error) == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_WRITE


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
