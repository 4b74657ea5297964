"""One transaction, and the decisions that travel in it.

Two trips: the locks and the values come with the first; what `Op.apply` made of them, and the commit, go with the
second. Decisions that only read need one.

Rules:
- A transaction never waits for the lock of a key that it has not been told to wait for: a decision whose key somebody
  else holds is left out, and the others go on. It waits for such keys alone, so nobody deadlocks.
- A key has an advisory lock, for there may be no row yet; the row is locked too, in case somebody works on it by hand.
- A decision that cannot be made (a mistake in an operation) harms no other.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import psycopg

from keyguard.clock import SECOND, Clock
from keyguard.ops import Authenticate, Change, Op, Read, Settle, Taken
from keyguard.stores.postgres.connections import Line
from keyguard.stores.postgres.names import NEVER, TABLES, lock_of, name_of, table_for, tables_of
from keyguard.stores.postgres.schema import Statements

_REMEMBERED = 60 * SECOND


class Asked:
    """Operations that somebody waits for: one decision."""

    __slots__ = ("alone", "done", "due", "future", "held", "keys", "ops", "reading", "settling", "transaction", "tries")

    def __init__(self, ops: Sequence[Op[Any]]) -> None:
        self.ops = ops
        self.keys = frozenset([key for op in ops for key in op.keys])
        self.future: Future[list[Any]] = Future()
        self.reading = bool(ops) and all(isinstance(op, (Read, Authenticate)) for op in ops)
        """Whether it probably changes nothing: then it is tried without locks first."""
        self.settling = bool(ops) and all(isinstance(op, Settle) for op in ops)
        """Whether it may be made again although it may have happened: each has a token."""
        self.alone = False
        """Whether it must travel alone: in company it failed."""
        self.held: frozenset[str] = frozenset()
        """Its keys that somebody else held, to be waited for."""
        self.tries = 0
        self.due = 0
        """The tick at which it has waited long enough."""
        self.done = 0
        """How many transactions had been answered when it was asked for."""
        self.transaction: Transaction | None = None

    def once_more(self) -> Asked:
        """Return what asks for the same again: itself, or another one if nobody waits for it any more."""
        again = Asked(self.ops) if self.future.done() else self
        again.tries = self.tries + 1
        return again

    def answer(self, results: list[Any]) -> bool:
        """Return whether somebody still waited for it."""
        try:
            self.future.set_result(results)
        except InvalidStateError:
            return False
        return True

    def fail(self, error: BaseException) -> None:
        """Tell why no answer comes, if somebody still waits."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class Patience:
    """How long a transaction may take, in the words of the server."""

    __slots__ = ("brief", "idle", "lock", "wait")

    def __init__(self, timeout: float, lock: float) -> None:
        self.wait = _milliseconds(2 * timeout)  # for what nobody waits for any more: a busy machine is slow to begin
        self.lock = _milliseconds(lock)
        self.idle = _milliseconds(max(_IDLE, 2 * timeout))
        self.brief = _milliseconds(timeout / 5)
        """Writing waits for a lock only if somebody inserts the same key by hand: company has time left then."""


_IDLE = 0.5
"""Seconds after which the server ends a transaction of a process that has stopped, or is very busy."""


class Transaction:
    """Decisions under way on one connection.

    `held`: keys to wait for.
    """

    def __init__(self, asked: list[Asked], line: Line, *, began: int, done: int) -> None:
        self.asked = asked
        self.line = line
        self.keys = frozenset().union(*[one.keys for one in asked])
        self.held = frozenset().union(*[one.held for one in asked])
        self.reading = all(one.reading for one in asked)
        self.began = began
        """The tick at which it began."""
        self.done = done
        """How many transactions had been answered then."""
        self.cut = False
        """Whether it took too long, and its connection was cut."""
        self.writing = False
        """Whether the second trip is under way."""
        self.unknown = False
        """Whether it may have happened although it failed."""
        self.token = os.urandom(16)
        """The token that tells later whether it has happened."""
        self.results: list[tuple[Asked, list[Any]]] = []
        self.now = self.written = 0
        self.found: set[tuple[str, str]] = set()
        """The keys that stand there, each with its table."""
        self.left: list[Asked] = []
        """The decisions that were left out: their keys are held, or they must be made under locks."""

    async def run(self, sql: Statements, patience: Patience, clock: Clock | None) -> None:
        """Make the decisions. Those that are not left out are told then, by `answer`."""
        connection = self.line.connection
        names = {name_of(key): key for key in sorted(self.keys)}
        by_table = {table: [name for name, key in names.items() if table in tables_of(key)] for table in TABLES}
        begin = {"wait": patience.wait, "lock": patience.lock, "idle": patience.idle}
        if self.reading:
            async with connection.pipeline():
                await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                await connection.execute(sql.begin, {**begin, "places": []})
                cursor = await connection.execute(sql.read, by_table)
                await connection.execute("COMMIT")
            rows = [(*row, 0) for row in await cursor.fetchall()]
            self._apply(names, rows, frozenset(), clock)
            return
        places = {lock_of(name): key for name, key in names.items()}
        async with connection.pipeline():
            # At a stricter level it would see the rows as they were before it waited for the locks.
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            if self.held:
                await self._wait(connection, sql, begin)
            locks = await connection.execute(sql.begin, {**begin, "places": [*places]})
            cursor = await connection.execute(sql.hold, {**by_table, "brief": patience.brief})
        row = await locks.fetchone()
        rows = await cursor.fetchall()
        written = self._apply(names, rows, {places[place] for place in (row[3] if row else ())}, clock)
        if not written:
            self.tell()  # it is true already
        charged = any(charges(results) for _, results in self.results)
        self.writing, self.written = bool(written), len(written)
        try:
            async with connection.pipeline():
                if charged and written:  # first: if the decision was called off, this fails
                    await connection.execute(sql.remember, [self.token, self.now + _REMEMBERED])
                await self._write(connection, sql, written.values())
                await connection.execute("COMMIT")
        except psycopg.OperationalError:
            self.unknown = self.writing and connection.pgconn.status == psycopg.pq.ConnStatus.BAD
            raise

    async def _wait(self, connection: psycopg.AsyncConnection[Any], sql: Statements, begin: dict[str, str]) -> None:
        names = sorted(map(name_of, self.held))
        await connection.execute(sql.begin, {**begin, "places": []})
        await connection.execute(sql.wait, [sorted(map(lock_of, names))])
        for table in TABLES:
            mine = [name_of(key) for key in self.held if table in tables_of(key)]
            if mine:
                await connection.execute(sql.wait_for_rows[table], [mine])

    def _apply(
        self,
        names: dict[bytes, str],
        rows: list[Any],
        held: Collection[str],
        clock: Clock | None,
    ) -> dict[str, Change]:
        """Make the decisions, in order, and return what they change together."""
        self.now = now = int(rows[0][2]) if clock is None else clock()
        values: dict[str, bytes | None] = dict.fromkeys(names.values())
        there: set[tuple[str, str]] = set()
        for name, value, expires, place in rows[1:]:
            key = names[bytes(name)]
            if place >= len(TABLES):
                there.add((key, TABLES[place - len(TABLES)]))
                continue
            self.found.add((key, TABLES[place]))
            if expires > now:
                values[key] = bytes(value)
        held = {*held, *[key for key, _ in there - self.found]}
        written: dict[str, Change] = {}
        for asked in self.asked:
            asked.held = frozenset(held & asked.keys) if held else frozenset()
            if asked.held:
                self.left.append(asked)
                continue
            if asked.future.done():
                continue
            mine: dict[str, Change] = {}
            results = []
            try:
                for op in asked.ops:
                    old = [mine[key][1] if key in mine else values[key] for key in op.keys]
                    result, changes = op.apply(old, now)
                    results.append(result)
                    mine.update((change[0], change) for change in changes)
            except Exception as error:
                asked.fail(error)
                continue
            if mine and self.reading:
                asked.reading = False
                self.left.append(asked)
                continue
            for key, change in mine.items():
                written[key], values[key] = change, change[1]
            self.results.append((asked, results))
        return written

    async def _write(
        self, connection: psycopg.AsyncConnection[Any], sql: Statements, changes: Collection[Change]
    ) -> None:
        for table in TABLES:
            new, gone = [], []
            for key, value, ttl, limit in changes:
                if value is not None and table_for(key, limit) == table:
                    new.append((name_of(key), value, NEVER if ttl is None else self.now + ttl))
                elif (key, table) in self.found:
                    gone.append(name_of(key))
            if new:
                await connection.execute(sql.write[table], [list(column) for column in zip(*new, strict=True)])
            if gone:
                await connection.execute(sql.delete[table], [gone])

    def tell(self) -> list[Taken]:
        """Answer those who wait. Returns what was charged to those who do not wait any more."""
        late: list[Taken] = []
        for asked, results in self.results:
            if not asked.answer(results):
                late += charges(results)
        self.results = []
        return late

    def waiting(self) -> Iterable[Asked]:
        """Return those who have no answer yet."""
        return [asked for asked in self.asked if not asked.future.done()]


def charges(results: Sequence[Any]) -> list[Taken]:
    """Return what decisions charged. A wrong key's guess stays charged: it was one."""
    return [result for result in results if isinstance(result, Taken) and not result.refused and result.demands]


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
