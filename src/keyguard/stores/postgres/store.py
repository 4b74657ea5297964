"""The store of many machines: a PostgreSQL database. `decisions` says how."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from keyguard.clock import Clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.ops import Op
from keyguard.stores.exits import close_at_exit
from keyguard.stores.fork import renew_after_fork
from keyguard.stores.patience import check_patience
from keyguard.stores.places import one_host
from keyguard.stores.postgres.decisions import NEVER, Decisions, name_of, words_of
from keyguard.stores.postgres.schema import VERSION, create, other_layout, statements


class PostgresStore:
    """Keys and counters in a PostgreSQL database.

    - `url`: `postgresql://user:password@host:5432/database`, with libpq's options.
    - `schema`: where the tables are; `keyguard store init` makes them.
    - `timeout`: seconds that one operation may take, with everything; 0.01 to 1.
    - `max_connections`: of this process.

    Raises `ConfigurationError` for a setting that is wrong; whether the server is there shows at the first operation.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "keyguard",
        timeout: float = 0.075,
        max_connections: int = 10,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(schema, str) or not schema.isidentifier() or not schema.isascii() or len(schema) > 60:
            raise ConfigurationError(f"schema is a name of letters, digits and _, not {schema!r}")
        check_patience(timeout, max_connections)
        try:
            self._settings: dict[str, Any] = conninfo_to_dict(url)
            for port in filter(None, str(self._settings.get("port", "")).split(",")):
                int(port)  # libpq would say so only at the first request
        except (psycopg.Error, ValueError):
            # Its words are not shown: they may hold the password.
            raise ConfigurationError("not a PostgreSQL URL: write postgresql://user:password@host:5432/db") from None
        self.timeout = float(timeout)
        self._url = url
        self._schema = schema
        self._sql = statements(schema)
        self._missing = f"PostgreSQL: the schema {schema!r} has no tables of keyguard: run `keyguard store init`"
        self._most = max_connections
        self._clock = clock
        self._settings |= {
            "connect_timeout": 2,  # the least that libpq knows; the decision's own time-out comes first
            "application_name": "keyguard",
            "tcp_user_timeout": 5000,
        }
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
        """A process of its own: no thread, no connection yet."""
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._decisions: Decisions | None = None
        self._ending: weakref.finalize[..., Any] | None = None

    def after_fork(self) -> None:
        # The parent's connections are left alone: closing one would say goodbye in the parent's name.
        _abandoned.append(self._decisions)
        if self._ending is not None:
            self._ending.detach()
        self._forget()

    # -- operations ---------------------------------------------------------------------------------------

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations in one transaction."""
        return self._submit(ops).result()

    def aexecute(self, ops: Sequence[Op[Any]]) -> Awaitable[list[Any]]:
        """The same for an event loop."""
        return asyncio.wrap_future(self._submit(ops))

    def _submit(self, ops: Sequence[Op[Any]]) -> Future[list[Any]]:
        with self._starting:  # or it could be handed to a loop that has just been stopped, and never be answered
            loop = self._loop or self._start()
            assert self._decisions is not None
            return asyncio.run_coroutine_threadsafe(self._decisions.run(ops), loop)

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()  # psycopg needs this kind, whatever the app runs on
        self._decisions = Decisions(
            self._settings, self._sql, self._missing, timeout=self.timeout, most=self._most, clock=self._clock
        )
        self._thread = threading.Thread(target=_serve, args=(loop,), name="keyguard-postgres", daemon=True)
        self._thread.start()
        self._loop = loop
        # A store that is dropped leaves no thread and no connection behind.
        self._ending = weakref.finalize(self, _end, loop, self._decisions)
        self._ending.atexit = False
        close_at_exit(self)
        return loop

    # -- for operators ------------------------------------------------------------------------------------

    def migrate(self) -> tuple[int, int]:
        """Make the tables, or bring them to this layout. Returns the layouts before and after; 0 is none."""
        try:
            with psycopg.connect(self._url, autocommit=False, connect_timeout=5) as connection:
                # At a stricter level it would not see what somebody else made while it waited.
                connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                before, after = create(connection, self._schema)
        except psycopg.Error as error:
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        if after > VERSION:
            raise StoreError(f"PostgreSQL: {other_layout(after)}")
        return before, after

    def dump(self, prefix: str) -> list[tuple[str, bytes, int | None]]:
        """Every living key that starts with `prefix`, in order, with its value and its microseconds to live."""
        start = name_of(prefix)
        try:
            with psycopg.connect(self._url, autocommit=True, connect_timeout=5) as connection:
                rows = connection.execute(self._sql.dump, {"start": start, "length": len(start)}).fetchall()
        except psycopg.Error as error:
            raise StoreError(f"PostgreSQL: {words_of(error)}") from error
        found = []
        for server_now, key, value, expires in rows:
            now = server_now if self._clock is None else self._clock()
            if expires > now:
                ttl = None if expires == NEVER else expires - now
                found.append((bytes(key).decode("utf-8", "surrogatepass"), bytes(value), ttl))
        return found

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Every living key that starts with `prefix`, in order."""
        return [(key, value) for key, value, _ in self.dump(prefix)]

    def scratch(self, clock: Clock) -> PostgresStore:
        """An empty store in the same database, for checks. Closing it removes what it holds."""
        store = _Scratch(self._url, schema=f"keyguard_check_{os.urandom(6).hex()}", timeout=1.0, clock=clock)
        store.migrate()
        return store

    def close(self) -> None:
        """Close the connections, when what is under way has ended. The next operation opens new ones."""
        with self._starting:
            loop, thread, decisions = self._loop, self._thread, self._decisions
            self._loop = self._thread = self._decisions = None
            if self._ending is not None:
                self._ending.detach()
        if loop is None or thread is None or decisions is None:
            return
        asyncio.run_coroutine_threadsafe(decisions.finish(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


class _Scratch(PostgresStore):
    """A store that is removed when it is closed."""

    def close(self) -> None:
        super().close()
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self._schema)))


_abandoned: list[Any] = []
"""Connections inherited by a fork."""


def _end(loop: asyncio.AbstractEventLoop, decisions: Decisions) -> None:
    async def end() -> None:
        await decisions.finish()
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
