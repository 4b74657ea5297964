"""Connections to PostgreSQL: how one is opened and asked whether it can be used, and how it is cut.

Rules:
- Opening may take longer than a decision: names, TLS and passwords take trips. Nobody waits for it beyond a budget, and
  whoever comes next finds it open.
- Credentials may come from a function, asked for each connection: tokens of a cloud's database last for minutes.
- Nothing of a session is changed: behind a pooler the same session serves others.

`psycopg_pool` is not used. It tests what lies idle with one trip each, or not at all, and does not take the silence of
one for that of all; it fails to tell a server that takes no further connection from one that has gone; and what we
lend is a turn on any connection to many decisions at once, which is not what such a pool hands out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

import psycopg

from keyguard.errors import StoreError
from keyguard.process.fork import run_aside
from keyguard.stores.postgres.names import words_of
from keyguard.stores.postgres.schema import VERSION, Statements, other_layout

Credentials: TypeAlias = Callable[[], "str | tuple[str, str]"]
"""Returns a password, or a user's name and a password. It may take its time: it is called in a thread."""

CONNECTING = 2
"""Seconds for each host; libpq knows no less."""


class Line:
    """A connection, and what is known of it."""

    __slots__ = ("connection", "fresh")

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self.fresh = True
        """Whether it was opened for those who travel on it. One that has carried others, or has lain idle, was opened
        to a server that may have gone since."""

    def cut(self) -> None:
        """Hang up on what is under way, or the server would keep its locks."""
        # Cancelling the task would have psycopg wait for the server; but it notices if the other side hangs up.
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self.connection.fileno())) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Let go of it in a forked child: the server is not told, for it is its parent's."""
        with contextlib.suppress(OSError, psycopg.Error):
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self.connection.fileno())
            os.close(nowhere)
            self.connection.pgconn.finish()  # its goodbye goes nowhere

    async def close(self) -> None:
        """Close it, without waiting for the other side."""
        with contextlib.suppress(psycopg.Error):
            await self.connection.close()

    async def free(self) -> bool:
        """End what failed on it. Returns whether it can go on to be used."""
        status = self.connection.pgconn.transaction_status
        if status in (psycopg.pq.TransactionStatus.INERROR, psycopg.pq.TransactionStatus.INTRANS):
            with contextlib.suppress(psycopg.Error):
                await self.connection.execute("ROLLBACK")
        return self.connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE


class Opener:
    """Opens connections of one store."""

    def __init__(
        self, settings: dict[str, Any], credentials: Credentials | None, statements: Statements, missing: str
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._sql = statements
        self._missing = missing
        """The message if the tables are missing."""

    async def open(self) -> Line:
        """Open one. Raises `StoreError` if that fails, or if what is behind it cannot be used."""
        login = {} if self._credentials is None else await _in_thread(self._credentials)
        try:
            connection = await psycopg.AsyncConnection.connect(
                **self._settings | login, autocommit=True, prepare_threshold=None
            )
        except (psycopg.Error, OSError) as error:
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        line = Line(connection)
        try:
            # Alone, so that a pooler that takes no transactions is heard before it hangs up.
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            async with connection.pipeline():
                await self.limit(line)
                cursor = await connection.execute(self._sql.version)
                await connection.execute("COMMIT")
            version, *_ = await cursor.fetchone() or (0,)
        except psycopg.errors.UndefinedTable as error:
            await line.close()
            raise StoreError(self._missing) from error
        except psycopg.errors.ProtocolViolation as error:
            await line.close()
            raise StoreError(f"PostgreSQL: a pooler must pool sessions or transactions: {words_of(error)}") from error
        except psycopg.Error as error:
            await line.close()
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        except BaseException:  # cancelled: nobody else knows of it
            line.cut()
            await line.close()
            raise
        if version != VERSION:
            await line.close()
            raise StoreError(f"PostgreSQL: {other_layout(version)}")
        return line

    async def begin(self, line: Line) -> None:
        """Begin a transaction that nobody waits for."""
        await line.connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        await self.limit(line)

    async def limit(self, line: Line) -> None:
        """Say how long the transaction may take."""
        milliseconds = str(1000 * CONNECTING)
        words = {"wait": milliseconds, "lock": milliseconds, "idle": milliseconds, "places": []}
        await line.connection.execute(self._sql.begin, words)


def login_of(credentials: Credentials) -> dict[str, str]:
    """Return the words for libpq. An error of the function is not shown: it may hold a password."""
    try:
        found: Any = credentials()
    except Exception as error:
        problem = f"credentials() raised {type(error).__name__}"
    else:
        if isinstance(found, str):
            return {"password": found}
        if isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, str) for one in found):
            return {"user": found[0], "password": found[1]}
        problem = f"credentials() returns a password, or a user and a password, not {type(found).__name__}"
    raise StoreError(f"PostgreSQL: {problem}")


async def _in_thread(credentials: Credentials) -> dict[str, str]:
    # A thread that nobody waits for at exit: it may hang.
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[dict[str, str]] = loop.create_future()

    def tell(login: dict[str, str] | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        elif login is not None:
            answer.set_result(login)

    def ask() -> None:
        login, failure = None, None
        try:
            login = login_of(credentials)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the store was closed meanwhile
            loop.call_soon_threadsafe(tell, login, failure)

    run_aside("keyguard-postgres-credentials", ask)
    return await answer
