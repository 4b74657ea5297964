"""The store of many machines: a PostgreSQL database. `decisions` says how."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from keyguard.errors import ConfigurationError, StoreError
from keyguard.flow import is_async
from keyguard.manual_clock import GivenClock, ManualClock, clock_from, given_by
from keyguard.ops import Op, Settle
from keyguard.process.exits import await_the_end, close_at_exit
from keyguard.process.fork import check_process, forks_in_c, renew_after_fork
from keyguard.stores.places import one_host
from keyguard.stores.postgres.connections import CONNECTING, Credentials, Opener, login_of
from keyguard.stores.postgres.decisions import Decisions
from keyguard.stores.postgres.loop import Loop
from keyguard.stores.postgres.names import NEVER, name_of, words_of
from keyguard.stores.postgres.schema import VERSION, create, other_layout, statements
from keyguard.stores.postgres.transaction import Asked, charges
from keyguard.stores.postgres.urls import settings_of
from keyguard.stores.timeouts import check_patience

_PATIENCE = 5
"""Seconds that an operator waits for a connection."""

_MAX_WAIT = 10.0
"""Seconds after which nobody waits any longer, whatever has become of the thread of the connections."""


class PostgresStore:
    """Keys and counters in a PostgreSQL database.

    - `url`: `postgresql://user:password@host:5432/database`, with libpq's options.
    - `schema`: where the tables are; `keyguard store init` makes them.
    - `timeout`: seconds that one operation may take, with everything; 0.01 to 1.
    - `max_connections`: of this process; decisions that wait for one travel together.
    - `credentials`: a function that returns a password, or a user's name and a password; asked for each connection.

    Raises `ConfigurationError` for a setting that is wrong; whether the server is there shows at the first operation.
    """

    _max_timeout: float = 1
    """Seconds that `timeout` may be at most: a request waits for a decision."""

    def __init__(
        self,
        url: str,
        *,
        schema: str = "keyguard",
        timeout: float = 0.075,
        max_connections: int = 10,
        credentials: Credentials | None = None,
        clock: GivenClock | None = None,
    ) -> None:
        if not isinstance(schema, str) or not schema.isidentifier() or not schema.isascii() or len(schema) > 60:
            raise ConfigurationError(f"schema is a name of letters, digits and _, not {schema!r}")
        check_patience(timeout, max_connections, self._max_timeout)
        if credentials is not None and (not callable(credentials) or is_async(credentials)):
            raise ConfigurationError(
                f"credentials is a plain function without arguments, not {type(credentials).__name__}"
            )
        self._settings = {**settings_of(url), "connect_timeout": CONNECTING}
        if credentials is not None and "password" in self._settings:
            raise ConfigurationError("the password is in the URL or comes from a function, not both")
        self.timeout = float(timeout)
        self._url = url
        self._schema = schema
        self._sql = statements(schema)
        self._missing = f"PostgreSQL: the schema {schema!r} has no tables of keyguard: run `keyguard store init`"
        self._max_connections = max_connections
        self.clock = clock_from(clock, None)
        self._credentials = credentials
        self._forget()
        renew_after_fork(self)

    @property
    def place(self) -> tuple[object, ...]:
        """Where it keeps what it is told: stores with equal places are one."""
        get = self._settings.get
        hosts = tuple(map(one_host, str(get("hostaddr") or get("host") or "localhost").split(",")))
        user = get("user")
        return "postgresql", hosts, str(get("port") or 5432), get("dbname") or user, self._schema

    def __repr__(self) -> str:
        return f"<PostgresStore {self._settings.get('host', '')}, {self._schema}>"

    def _forget(self) -> None:
        """Begin as a process of its own: no thread, no connection yet."""
        self._starting = threading.Lock()
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._decisions: Decisions | None = None
        self._inbox: list[Asked] = []
        """The decisions that the loop has been woken for."""
        self._ending: weakref.finalize[..., Any] | None = None

    def after_fork(self) -> None:
        # The parent's connections are left alone: closing one would say goodbye in the parent's name.
        _abandoned.append((self._loop, self._decisions))
        if self._decisions is not None:
            self._decisions.leave()
        if self._ending is not None:
            self._ending.detach()
        self._forget()

    # -- operations ---------------------------------------------------------------------------------------

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations in one transaction."""
        future = self._submit(ops)
        try:
            return future.result(_MAX_WAIT)
        except TimeoutError:
            if not future.cancel():
                raise  # it came from an operation
            raise StoreError("PostgreSQL: the thread of the connections does not answer") from None
        except Exception:
            raise
        except BaseException:  # a greenlet is killed, say
            self._let_go(future)
            raise
        finally:
            self._rest()

    async def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Do the same for an event loop."""
        future = self._submit(ops)
        try:
            async with asyncio.timeout(_MAX_WAIT):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.done() and not future.cancelled() and future.exception() is not None:
                raise  # it came from an operation
            self._let_go(future)
            raise StoreError("PostgreSQL: the thread of the connections does not answer") from None
        except asyncio.CancelledError:
            self._let_go(future)
            raise
        finally:
            self._rest()

    def _rest(self) -> None:
        """End the thread, which else goes on after the answer, in a process that forks in C."""
        if forks_in_c():
            self.close()

    def _let_go(self, future: Future[list[Any]]) -> None:
        """Undo what was decided for somebody who has left, also if the answer was on its way already."""
        if future.cancel() or not future.done() or future.cancelled() or future.exception() is not None:
            return
        back = [Settle(taken) for taken in charges(future.result())]
        if back:
            self._submit(back)

    def _submit(self, ops: Sequence[Op[Any]]) -> Future[list[Any]]:
        check_process()  # not every way here leads through a driver
        await_the_end()
        asked = Asked(ops)
        begun = None
        with self._starting:  # or it could be handed to a loop that has just been stopped, and never be answered
            if self._loop is None:
                begun = self._start()
            loop, decisions = self._loop, self._decisions
            assert loop is not None
            assert decisions is not None
            self._inbox.append(asked)
            if len(self._inbox) == 1:
                loop.call_soon_threadsafe(_ask, decisions, self._inbox, self._starting)
        if begun is not None:
            # Without the lock: under gevent this lets others run, and one that waits for a lock that was made before
            # gevent came would have all of them wait.
            await_the_end()  # the stores may have been closed since
            begun.start()
        return asked.future

    def _start(self) -> threading.Thread:
        """Make the loop, and the thread that is to serve it."""
        loop = self._loop = Loop()
        opener = Opener(self._settings, self._credentials, self._sql, self._missing)
        self._decisions = Decisions(
            opener,
            self._sql,
            self._missing,
            timeout=self.timeout,
            max_connections=self._max_connections,
            clock=self.clock,
        )
        self._inbox = []
        self._thread = threading.Thread(target=loop.serve, name="keyguard-postgres", daemon=True)
        # A store that is dropped leaves no thread and no connection behind.
        self._ending = weakref.finalize(self, _end, loop, self._decisions)
        self._ending.atexit = False
        close_at_exit(self)
        return self._thread

    # -- for operators ------------------------------------------------------------------------------------

    def migrate(self) -> tuple[int, int]:
        """Make the tables, or bring them to this layout. Returns the layouts before and after; 0 is none."""
        try:
            with self._connection() as connection:
                # At a stricter level it would not see what somebody else made while it waited.
                connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                before, after = create(connection, self._schema)
        except psycopg.Error as error:
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        if after > VERSION:
            raise StoreError(f"PostgreSQL: {other_layout(after)}")
        return before, after

    def _connection(self) -> psycopg.Connection[Any]:
        """Return a connection for what operators do."""
        login = {} if self._credentials is None else login_of(self._credentials)
        settings = {**self._settings, "connect_timeout": _PATIENCE, **login}
        return psycopg.connect(**settings, prepare_threshold=None)

    def dump(self, prefix: str) -> list[tuple[str, bytes, int | None]]:
        """Return every living key that starts with `prefix`, in order, with its value and its microseconds to live."""
        start = name_of(prefix)
        try:
            with self._connection() as connection:
                rows = connection.execute(self._sql.dump, {"start": start, "length": len(start)}).fetchall()
        except psycopg.errors.UndefinedTable as error:
            raise StoreError(self._missing) from error
        except psycopg.Error as error:
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        found = []
        for server_now, key, value, expires in rows:
            now = server_now if self.clock is None else self.clock()
            if expires > now:
                ttl = None if expires == NEVER else expires - now
                found.append((bytes(key).decode("utf-8", "surrogatepass"), bytes(value), ttl))
        return found

    def some(self, prefix: str, most: int) -> tuple[list[tuple[str, bytes]], bool]:
        """Return so many at most of the values that `scan` would, and whether these are all."""
        start, now = name_of(prefix), None if self.clock is None else self.clock()
        asked = {"start": start, "end": start + b"\xff", "now": now, "most": most + 1}
        try:
            with self._connection() as connection:
                rows = connection.execute(self._sql.some, asked).fetchall()
        except psycopg.errors.UndefinedTable as error:
            raise StoreError(self._missing) from error
        except psycopg.Error as error:
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        found = [(bytes(key).decode("utf-8", "surrogatepass"), bytes(value)) for key, value in rows]
        return found[:most], len(found) <= most

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return every living key that starts with `prefix`, in order."""
        return [(key, value) for key, value, _ in self.dump(prefix)]

    def scratch(self, clock: ManualClock) -> PostgresStore:
        """Return an empty store in the same database, for checks. Closing it removes what it holds."""
        store = _Scratch(
            self._url,
            credentials=self._credentials,
            schema=f"keyguard_check_{os.urandom(6).hex()}",
            timeout=8.0,
            clock=clock,
        )
        store.migrate()
        return store

    def beside(self, make: bool) -> PostgresStore:
        """Return another object for the same tables, with a connection of its own, for what nobody waits for."""
        return PostgresStore(
            self._url, schema=self._schema, timeout=1.0, max_connections=1, credentials=self._credentials,
            clock=None if self.clock is None else given_by(self.clock),
        )  # fmt: skip

    def close(self) -> None:
        """Close the connections, when what is under way has ended. The next operation opens new ones."""
        with self._starting:
            loop, thread, decisions = self._loop, self._thread, self._decisions
            self._loop = self._thread = self._decisions = None
            if self._ending is not None:
                self._ending.detach()
        if loop is None or thread is None or decisions is None:
            return
        _end(loop, decisions)
        with suppress(RuntimeError):  # it is just being started, and ends by itself
            thread.join(_MAX_WAIT)


class _Scratch(PostgresStore):
    """A store that is removed when it is closed. No request waits for it, so it may be patient."""

    _max_timeout = 8

    def close(self) -> None:
        super().close()
        with self._connection() as connection:
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self._schema)))


_abandoned: list[Any] = []
"""Connections inherited by a fork."""


def _ask(decisions: Decisions, inbox: list[Asked], lock: threading.Lock) -> None:
    with lock:
        asked = inbox[:]
        inbox.clear()
    decisions.ask(asked)


def _end(loop: Loop, decisions: Decisions) -> None:
    async def end() -> None:
        try:
            await decisions.finish()
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
