"""Decisions in PostgreSQL: transactions, on one event loop.

Rules:
- A decision is one short transaction: advisory locks on its keys, in one order for everybody, so that a key that is not
  there yet is locked too and nobody deadlocks; then the values, in the same trip; then what `Op.apply` made of them,
  and the commit, in a second one. The database's clock decides.
- API keys, and the counters of an hour or more, survive a crash of the database; shorter counters are in an unlogged
  table: losing them costs a caller nothing but a fresh start.
- Where the connection breaks before the commit was sent, nothing has happened, and the decision is made again. Where
  its fate is unknown, a token tells later, and what was charged is given back.
- A connection that takes longer to be made than a decision may take is made all the same: the next one finds it.
- All connections live on one event loop in a thread of their own: an app's loop never waits, and nobody waits longer
  than `timeout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from itertools import count
from typing import Any

import psycopg

from keyguard.clock import SECOND, Clock
from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import Change, GiveBack, Op, Read, Taken, is_counter
from keyguard.stores.postgres.schema import VERSION, Statements, other_layout

NEVER = 2**63 - 1
"""The expiry of what has none."""

_DURABLE = 3600 * SECOND
_REMEMBERED = 60 * SECOND
_TRIES = 3
_PURGE_EVERY = 200  # transactions
_SLICES = 15  # of the time-out
_IDLE = 0.5
"""Seconds after which the server ends a transaction of a process that has stopped, or is very busy."""
_HANGING = 10  # connections that nobody waits for any more; each gives up after two seconds


_NO_ANSWER = "PostgreSQL did not answer in time"


class _Unknown(StoreError):
    """The connection broke while the commit was under way."""


class Decisions:
    """The connections of one process, and what is done on them. All of it runs on one event loop."""

    def __init__(
        self,
        settings: dict[str, Any],
        statements: Statements,
        missing: str,
        *,
        timeout: float,
        most: int,
        clock: Clock | None,
    ) -> None:
        self._settings = settings
        self._sql = statements
        self._missing = missing
        """What to tell where there are no tables."""
        self._timeout = timeout
        self._most = most
        self._clock = clock
        self._room = asyncio.Semaphore(most)
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._using: dict[asyncio.Task[Any], psycopg.AsyncConnection[Any] | None] = {}
        self._asking: set[asyncio.Task[Any]] = set()
        """Those who wait for a decision."""
        self._held: set[asyncio.Task[Any]] = set()
        self._opening: set[asyncio.Task[Any]] = set()
        self._doubts: deque[tuple[bytes, list[Taken]]] = deque(maxlen=10_000)
        self._done = 0
        """Decisions that the server has answered."""
        self._until_purge = _PURGE_EVERY
        self._purged_to = {"entries": b"", "counters": b""}

    async def run(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """The results of the operations, all in one transaction; or `StoreError`, within the time-out."""
        asker = asyncio.current_task()
        assert asker is not None
        self._asking.add(asker)
        asker.add_done_callback(self._asking.discard)
        done = self._done
        try:
            await asyncio.wait_for(self._room.acquire(), self._timeout)
        except TimeoutError:
            if self._done == done:
                raise StoreError(_NO_ANSWER) from None
            raise StoreBusy("PostgreSQL: all connections are busy") from None
        try:
            task = self._hold(self._decide(ops, os.urandom(16)))
            try:
                in_time = await self._patiently(task)
            except asyncio.CancelledError:
                task.add_done_callback(self._came_late)
                raise
        finally:
            self._room.release()  # also where nobody waits for it any more: it must not stand in the way
        if not in_time:
            self._cut_off(task)
            raise StoreError(_NO_ANSWER)
        results: list[Any] = task.result()
        return results

    async def _patiently(self, task: asyncio.Task[Any]) -> bool:
        """Whether it is done within the time-out, in slices that count the same however late this thread is woken.

        Among threads that compute, each of a transaction's trips may have been answered long before it is looked at.
        """
        for _ in range(_SLICES):
            done, _ = await asyncio.wait({task}, timeout=self._timeout / _SLICES)
            if done:
                return True
        return False

    def _cut_off(self, task: asyncio.Task[Any]) -> None:
        """End a transaction that took too long, or the server would keep its locks. Its fate shows in `_decide`."""
        connection = self._using.get(task)
        if connection is None:
            task.cancel()  # it has no connection yet
            return
        self._using[task] = None
        # Cancelling the task would have psycopg wait for the server; the other side hanging up it understands.
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def _came_late(self, task: asyncio.Task[list[Any]]) -> None:
        """Who asked has gone: what was charged is given back."""
        if task.cancelled() or task.exception() is not None:
            return
        self._hold(self._give_back(_charges(task.result())))

    def _hold(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._held.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._held.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits for it is told; else nobody needs to be

    async def _give_back(self, charges: list[Taken]) -> None:
        try:
            for taken in charges:
                await self._decide([GiveBack(taken)], os.urandom(16))
        except StoreError:
            pass  # it lapses with its window

    async def _decide(self, ops: Sequence[Op[Any]], token: bytes) -> list[Any]:
        """One transaction; again on another connection, where nothing can have happened on the first."""
        task = asyncio.current_task()
        assert task is not None
        for attempt in count():
            fresh = not self._idle
            connection = await self._opened() if fresh else self._idle.pop()
            results: list[Any] = []
            self._using[task] = connection
            try:
                await self._transact(connection, ops, token, results)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                await _close(connection)
                if attempt >= _TRIES:
                    raise StoreError(f"PostgreSQL: {words_of(error)}") from error
                continue
            except _Unknown:
                await _close(connection)
                self._doubts.append((token, _charges(results)))
                raise
            except psycopg.OperationalError as error:
                again = connection.broken and not fresh and self._using[task] is not None
                await _close(connection)
                if not again:
                    raise StoreError(f"PostgreSQL: {words_of(error)}") from error
                await self._drop_idle()
                continue  # it was opened to a server that has gone
            except psycopg.errors.UndefinedTable as error:
                await _close(connection)
                raise StoreError(self._missing) from error
            except psycopg.Error as error:
                await _close(connection)
                raise StoreError(f"PostgreSQL: {words_of(error)}") from error
            except BaseException:
                await _close(connection)
                raise
            finally:
                del self._using[task]
            self._put_back(connection)
            self._done += 1
            break
        if self._doubts:
            self._hold(self._settle_doubts())
        return results

    async def _transact(
        self, connection: psycopg.AsyncConnection[Any], ops: Sequence[Op[Any]], token: bytes, results: list[Any]
    ) -> None:
        keys = sorted({key for op in ops for key in op.keys})
        names = [name_of(key) for key in keys]
        reading = all(isinstance(op, Read) for op in ops)
        async with connection.pipeline():
            if not reading:
                # At a stricter level it would see the rows as they were before it waited for the locks.
                await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                await connection.execute(self._sql.lock, [sorted(map(lock_of, names))])
            cursor = await connection.execute(self._sql.read, {"keys": names})
        rows = await cursor.fetchall()
        now = int(rows[0][0]) if self._clock is None else self._clock()
        found = {bytes(key): bytes(value) for _, key, value, expires in rows if key is not None and expires > now}
        values = {key: found.get(name) for key, name in zip(keys, names, strict=True)}
        written: dict[str, Change] = {}
        for op in ops:
            result, changes = op.apply([values[key] for key in op.keys], now)
            results.append(result)
            for change in changes:
                written[change[0]] = change
                values[change[0]] = change[1]
        if reading:
            return
        self._until_purge -= 1
        if not self._until_purge:
            self._until_purge = _PURGE_EVERY
            self._hold(self._purge(now))
        charged = bool(_charges(results))
        try:
            async with connection.pipeline():
                if charged:  # first: where the decision was called off, this fails
                    await connection.execute(self._sql.remember, [token, now + _REMEMBERED])
                await self._write(connection, written.values(), now)
                await connection.execute("COMMIT")
        except psycopg.OperationalError as error:
            if written and connection.pgconn.status == psycopg.pq.ConnStatus.BAD:
                raise _Unknown(f"PostgreSQL: {words_of(error)}") from error
            raise

    async def _write(self, connection: psycopg.AsyncConnection[Any], changes: Any, now: int) -> None:
        for table in ("entries", "counters"):
            mine = [change for change in changes if _table(change[0]) == table]
            new = [
                (name_of(key), value, NEVER if ttl is None else now + ttl)
                for key, value, ttl, _ in mine
                if value is not None
            ]
            gone = [name_of(key) for key, value, _, _ in mine if value is None]
            if new:
                await connection.execute(self._sql.write[table], [list(column) for column in zip(*new, strict=True)])
            if gone:
                await connection.execute(self._sql.delete[table], [gone])

    async def _purge(self, now: int) -> None:
        """Delete what has lapsed, a stretch of a table at a time: an index on the expiry would slow every write."""
        with contextlib.suppress(StoreError, psycopg.Error):
            connection = await self._connect()
            try:
                await connection.execute(self._sql.forget, [now])
                for table, start in self._purged_to.items():
                    await connection.execute(self._sql.purge[table], {"start": start, "now": now})
                    cursor = await connection.execute(self._sql.next[table], {"start": start})
                    row = await cursor.fetchone()
                    self._purged_to[table] = bytes(row[0]) if row else b""
            finally:
                await _close(connection)

    async def _settle_doubts(self) -> None:
        for _ in range(min(100, len(self._doubts))):
            token, charges = self._doubts.popleft()
            try:
                if not await self._called_off(token):
                    await self._give_back(charges)
            except (StoreError, psycopg.Error):
                self._doubts.append((token, charges))
                return

    async def _called_off(self, token: bytes) -> bool:
        """Whether a decision has not happened; then it never will, because its token is taken."""
        connection = await self._connect()
        try:
            cursor = await connection.execute(self._sql.call_off, [token])
            return await cursor.fetchone() is not None
        finally:
            await connection.close()

    async def _opened(self) -> psycopg.AsyncConnection[Any]:
        """A new connection. Where who waits for it gives up, it is kept for the next."""
        if len(self._opening) >= self._most + _HANGING:
            raise StoreError("PostgreSQL: no connection in time")
        opening = self._hold(self._connect())
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._keep)
            raise

    def _keep(self, opening: asyncio.Task[psycopg.AsyncConnection[Any]]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self._put_back(opening.result())

    def _put_back(self, connection: psycopg.AsyncConnection[Any]) -> None:
        if len(self._idle) < self._most:
            self._idle.append(connection)
        else:
            self._hold(_close(connection))

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        try:
            connection = await psycopg.AsyncConnection.connect(**self._settings, autocommit=True)
        except (psycopg.Error, OSError) as error:
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        try:
            wait, idle = round(self._timeout * 1000), round(max(_IDLE, 2 * self._timeout) * 1000)
            cursor = await connection.execute(self._sql.version, {"wait": str(wait), "idle": str(idle)})
            version, *_ = await cursor.fetchone() or (0,)
        except psycopg.errors.UndefinedTable as error:
            await connection.close()
            raise StoreError(self._missing) from error
        except psycopg.Error as error:
            await connection.close()
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        except BaseException:  # cancelled: nobody else knows of it
            await _close(connection)
            raise
        if version != VERSION:
            await connection.close()
            raise StoreError(f"PostgreSQL: {other_layout(version)}")
        return connection

    async def _drop_idle(self) -> None:
        while self._idle:
            await _close(self._idle.pop())

    async def finish(self) -> None:
        """Close the connections, once nobody waits for a decision any more. What else is under way is cut off."""
        await asyncio.gather(*self._asking, return_exceptions=True)  # no longer than the time-out
        await self._drop_idle()
        mine = [task for task in self._held if task is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        await asyncio.sleep(0)  # what was just opened, for somebody who gave up, is put back in a turn of its own
        await self._drop_idle()
        await asyncio.gather(*self._held - {asyncio.current_task()}, return_exceptions=True)


async def _close(connection: psycopg.AsyncConnection[Any]) -> None:
    with contextlib.suppress(psycopg.Error):
        await connection.close()


def _charges(results: Sequence[Any]) -> list[Taken]:
    """What the decisions charged. A wrong key's guess stays charged: it was one."""
    return [result for result in results if isinstance(result, Taken) and not result.refused and result.demands]


def name_of(key: str) -> bytes:
    """A key as it stands in the tables."""
    return key.encode("utf-8", "surrogatepass")


def lock_of(name: bytes) -> int:
    """The advisory lock of a key."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big", signed=True)


def _table(key: str) -> str:
    """Short counters buy nothing by surviving a crash."""
    if not is_counter(key):
        return "entries"
    pool = key.partition("|")[0]
    period = pool[len(pool.rstrip("0123456789")) :]
    return "entries" if period and int(period) >= _DURABLE else "counters"


def words_of(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
