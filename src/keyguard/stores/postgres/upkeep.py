"""Work beside decisions, in transactions that nobody waits for: deleting what has expired, and settling doubts.

A doubt is a transaction whose commit was under way when its connection broke. Its token is taken: then it has happened,
and what it charged is given back; or the token is put there first, and it never will.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from keyguard.ops import Taken
from keyguard.stores.postgres.connections import Line, Opener
from keyguard.stores.postgres.schema import Statements

_PURGE_EVERY = 200
"""Keys written. A purge looks at more than twice as many, or tables would grow."""
_SETTLED_AT_ONCE = 100

Work = Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]]


async def done(work: Work, line: Line, opener: Opener, seconds: float) -> bool:
    """Do something in a transaction of its own. Return whether it could be done; else the connection is cut."""
    try:
        async with asyncio.timeout(seconds):
            await opener.begin(line)
            await work(line.connection)
            await line.connection.execute("COMMIT")
    except (psycopg.Error, TimeoutError):
        line.cut()
        return False
    return True


class Upkeep:
    """The work that there is to do."""

    def __init__(self, statements: Statements) -> None:
        self._sql = statements
        self._doubts: deque[tuple[bytes, list[Taken]]] = deque(maxlen=10_000)
        self._back: list[Taken] = []
        self._until_purge = _PURGE_EVERY
        self._now = 0
        self._purged_to = {"entries": b"", "counters": b""}

    @property
    def due(self) -> bool:
        """Whether there is something to do."""
        return bool(self._doubts) or self._until_purge <= 0

    def saw(self, now: int, written: int) -> None:
        """Note that so many keys were written."""
        self._now = now
        self._until_purge -= written

    def doubt(self, token: bytes, charged: list[Taken]) -> None:
        """Note a transaction whose fate is unknown."""
        self._doubts.append((token, charged))

    def take_back(self) -> list[Taken]:
        """Return the charges that turned out to have been made, and that nobody was told of."""
        back, self._back = self._back, []
        return back

    def next(self) -> Work:
        """Return what to do first, in a transaction."""
        if self._until_purge <= 0:
            self._until_purge = _PURGE_EVERY
            return self._purge
        return self._settle

    async def _purge(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Delete what has expired, a stretch of a table at a time: an index on the expiry would slow every write."""
        await connection.execute(self._sql.forget, [self._now])
        for table, start in self._purged_to.items():
            await connection.execute(self._sql.purge[table], {"start": start, "now": self._now})
            cursor = await connection.execute(self._sql.next[table], {"start": start})
            row = await cursor.fetchone()
            self._purged_to[table] = bytes(row[0]) if row else b""

    async def _settle(self, connection: psycopg.AsyncConnection[Any]) -> None:
        doubts = [self._doubts.popleft() for _ in range(min(_SETTLED_AT_ONCE, len(self._doubts)))]
        back: list[Taken] = []
        try:
            for token, charged in doubts:
                cursor = await connection.execute(self._sql.call_off, [token])
                if await cursor.fetchone() is None:
                    back += charged
            await connection.execute("COMMIT")
        except BaseException:
            self._doubts.extend(doubts)
            raise
        self._back += back
