"""Transactions of one process on its connection: all of it runs under the lock of the turns, and waits for nobody."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from keyguard.clock import Clock
from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import Op
from keyguard.stores.sqlite.cached import Cached
from keyguard.stores.sqlite.file import File, busy, full
from keyguard.stores.sqlite.rows import Rows, Writes, writing
from keyguard.stores.sqlite.turns import Job, Kind, Turns


class Serving:
    """Does what waits for a turn."""

    def __init__(self, file: File, cached: Cached, clock: Clock) -> None:
        self._file = file
        self._cached = cached
        self._clock = clock
        self.rows = Rows(cached)
        self.turns = Turns(self.serve, "keyguard-sqlite")

    def at_once(self, ops: Sequence[Op[Any]], kind: Kind) -> list[Any]:
        """Run operations. Raise an error of SQLite's if the file cannot be had."""
        found = self._run_all(self._begin(kind), kind, [ops])[0]
        if found is None:  # something had to be written
            kind = writing(ops)
            found = self._run_all(self._begin(kind), kind, [ops])[0]
        assert found is not None
        return found

    def serve(self, kind: Kind) -> bool:
        """Do what waits for a turn, in one transaction. Returns whether the file could be had."""
        turns = self.turns
        try:
            connection = self._begin(kind)
        except sqlite3.Error as error:
            if busy(error):
                return False
            self._fail(turns.take(kind), error)
        except Exception as error:
            self._fail(turns.take(kind), error)
        else:
            return self._serve_all(connection, kind, turns.take(kind))
        return True

    def _serve_all(self, connection: sqlite3.Connection, kind: Kind, jobs: list[Job]) -> bool:
        turns = self.turns
        try:
            found = self._run_all(connection, kind, [job.ops for job in jobs])
        except sqlite3.Error as error:
            if busy(error):
                for job in jobs:
                    turns.add(job)
                return False
            self._fail(jobs, error)
        except Exception as error:
            if len(jobs) == 1:
                self._fail(jobs, error)
            else:  # one of them is wrong, and it concerns nobody else
                served = [self._serve_alone(kind, job) for job in jobs]
                return all(served)
        except BaseException:
            self._fail(jobs, StoreBusy("SQLite: interrupted"))
            raise
        else:
            for job, results in zip(jobs, found, strict=True):
                if results is None:
                    job.kind = writing(job.ops)
                    turns.add(job)
                else:
                    turns.ended(job, results)
        return True

    def _serve_alone(self, kind: Kind, job: Job) -> bool:
        try:
            connection = self._begin(kind)
        except sqlite3.Error as error:
            if busy(error):
                self.turns.add(job)
                return False
            self._fail([job], error)
            return True
        return self._serve_all(connection, kind, [job])

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        for job in jobs:
            failure = error
            if isinstance(error, sqlite3.Error):
                failure = StoreError(f"SQLite: {error}")
                failure.__cause__ = error
            self.turns.ended(job, None, failure)

    def _begin(self, kind: Kind) -> sqlite3.Connection:
        """Return the connection, in a transaction of that kind."""
        self._file.in_use = True
        try:
            connection = self._file.opened(self._clock())
            # Reading alone needs no lock that others would wait for.
            connection.execute("BEGIN" if kind is Kind.READING else "BEGIN IMMEDIATE")
        except BaseException as error:
            if isinstance(error, sqlite3.Error) and not busy(error):
                self._file.forget()
            self._file.in_use = False
            raise
        return connection

    def _run_all(
        self, connection: sqlite3.Connection, kind: Kind, batch: Sequence[Sequence[Op[Any]]]
    ) -> list[list[Any] | None]:
        """`_run_once`; and if there is no room for a decision, cached responses make some."""
        try:
            return self._run_once(connection, kind, batch)
        except sqlite3.Error as error:
            if not full(error) or not self._make_room() or kind is Kind.CACHING:
                raise
        return self._run_once(self._begin(kind), kind, batch)

    def _make_room(self) -> bool:
        """Have the log written into the file and cut off, and cached responses give way. Returns whether it helped."""
        self._file.in_use = True
        try:
            connection = self._file.opened(self._clock())
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return self._cached.give_way(connection, self._clock())
        except sqlite3.Error:
            self._file.forget()
            return False
        finally:
            self._file.in_use = False

    def _run_once(
        self, connection: sqlite3.Connection, kind: Kind, batch: Sequence[Sequence[Op[Any]]]
    ) -> list[list[Any] | None]:
        """End the transaction with these operations in it, all or none. `None` for what reads no longer, but writes."""
        try:
            now = self._clock()
            results: list[list[Any] | None] = []
            for ops in batch:
                try:
                    results.append([self._run(connection, op, now, kind) for op in ops])
                except Writes:
                    results.append(None)
            if kind is not Kind.READING:
                self.rows.tidy(connection, now)
            connection.execute("COMMIT")
            if kind is Kind.READING and self._cached.due(now):
                self._cached.note_use(connection, now)
            return results
        except BaseException as error:
            self._cached.wrote = False
            if isinstance(error, sqlite3.Error) and not busy(error):
                self._file.forget()
            elif connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            self._file.in_use = False

    def _run(self, connection: sqlite3.Connection, op: Op[Any], now: int, kind: Kind) -> Any:
        self.turns.done += 1
        return self.rows.run(connection, op, now, kind)
