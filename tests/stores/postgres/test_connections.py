"""Connections to PostgreSQL: how they are opened, what becomes of them, and what a URL says of them."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from keyguard.errors import ConfigurationError, StoreBusy, StoreError
from keyguard.ops import Demand, Put, Take
from keyguard.rates import window
from keyguard.stores import open_store
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.postgres.connections import Line
from keyguard.stores.postgres.urls import settings_of
from tests.support.servers import Postgres, Proxy, wait_until

slow = pytest.mark.slow

LIMIT = window(1000, 60_000_000, "1000/minute")


def take(key: str = "x", cost: int = 1) -> Take:
    return Take([Demand("", f"rl:x:{LIMIT.code}|{key}", LIMIT, cost)])


def left(store: PostgresStore) -> int:
    return int(store.execute([take(cost=0)])[0].takings[0][2])


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(postgres.port) as started:
        yield started


def through(proxy: Proxy, schema: str, **settings: Any) -> PostgresStore:
    url = f"postgresql://keyguard@127.0.0.1:{proxy.port}/postgres?sslmode=disable&gssencmode=disable"
    store = PostgresStore(url, schema=schema, **{"timeout": 1, **settings})
    store.migrate()
    return store


def crowd(store: PostgresStore, threads: int = 40) -> list[Any]:
    """Each with a key of his own, so that all connections are wanted."""

    def one(number: int) -> Any:
        try:
            return store.execute([take(f"{number}")])[0].refused
        except StoreError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(4 * threads)))


# -- what dies, and what cannot be opened ----------------------------------------------------------------------------


@slow
def test_connections_that_died_silently_are_not_tried_one_after_the_other(proxy: Proxy) -> None:
    """As by a firewall that forgot them: nobody is told. Ten of them made an outage of seconds."""
    store = through(proxy, "silent")
    crowd(store)
    decisions = store._decisions
    assert decisions is not None
    wait_until(lambda: len(decisions._idle) >= 2, "connections to lie idle")
    dead = list(proxy._sockets)
    proxy.mode = "deaf"  # what was open stays deaf
    with pytest.raises(StoreError):
        store.execute([take()])
    assert decisions._idle == []
    proxy.mode = ""
    assert dead
    with suppress(StoreError):  # where the machine is too busy to connect within the time of one decision
        store.execute([take()])
    assert store.execute([take()])[0].refused is False, "the next one opens a new connection"
    store.close()


@slow
def test_a_connection_that_takes_longer_than_a_decision_may_is_opened_all_the_same(proxy: Proxy) -> None:
    """That is no outage: whoever came too early is told so, and those after him are served."""
    store = through(proxy, "handshake", timeout=1)
    proxy.mode, proxy.delay, proxy.delayed = "delay", 0.6, 2  # of a handshake, which has three; no decision is slow
    answers: list[Any] = []
    with suppress(StoreError):
        store.execute([take()])
    try:
        store.execute([take()])
    except StoreError as error:
        answers.append(error)
    assert all(isinstance(error, StoreBusy) for error in answers), answers
    wait_until(lambda: store.execute([take()]), "a connection")
    proxy.mode = ""
    store.close()


@slow
def test_where_the_server_takes_no_further_connection_those_that_are_open_serve_all(postgres: Postgres) -> None:
    postgres.query("CREATE ROLE narrow LOGIN CONNECTION LIMIT 1")
    postgres.query("CREATE SCHEMA narrow AUTHORIZATION narrow")
    store = PostgresStore(postgres.url.replace("keyguard@", "narrow@"), schema="narrow", timeout=1)
    store.migrate()
    wait_until(lambda: store.execute([take()]), "the connection of the migration to be counted off")
    # Made anew where others have the cores: who waits for the connection has a second.
    wait_until(lambda: crowd(store) == [False] * 160, "all to be served by the only connection")
    assert store._decisions is not None
    assert store._decisions._open == 1
    with (
        psycopg.connect(postgres.url) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("SELECT 1 FROM narrow.counters WHERE key = %s FOR UPDATE", [take().keys[0].encode()])

        def all_others_are_served() -> bool:
            waiting = pool.submit(store.execute, [take()])
            answers = crowd(store, 8)
            return isinstance(waiting.exception(30), StoreBusy) and answers == [False] * 32

        wait_until(all_others_are_served, "all others to be served while the only connection waits for a key")
    store.close()


@slow
def test_a_server_that_is_not_there_is_out_of_order_at_once() -> None:
    store = PostgresStore("postgresql://app@127.0.0.1:1/db", timeout=1)
    with pytest.raises(StoreError, match="refused") as failure:
        store.execute([take()])
    assert not isinstance(failure.value, StoreBusy)
    store.close()


@slow
def test_a_thread_that_has_gone_keeps_nobody_waiting(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PostgresStore(postgres.url, schema="gone", timeout=0.1)
    store.migrate()
    store.execute([take()])
    monkeypatch.setattr("keyguard.stores.postgres.store._MAX_WAIT", 0.3)
    held, loop = threading.Event(), store._loop
    assert loop is not None
    loop.call_soon_threadsafe(held.wait, 60)
    with pytest.raises(StoreError, match="does not answer"):
        store.execute([take()])

    async def story() -> None:
        with pytest.raises(StoreError, match="does not answer"):
            await store.aexecute([take()])

    asyncio.run(story())
    held.set()
    monkeypatch.undo()
    store.close()


@slow
def test_a_store_that_is_closed_while_a_connection_is_put_in_order_closes_it_too(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had failed on it was taken back after the idle ones had been closed, and it stayed open."""
    store = PostgresStore(postgres.url, schema="closed", timeout=1)
    store.migrate()
    store.execute([take()])
    decisions, free, lines = store._decisions, Line.free, []
    assert decisions is not None
    closed, condemn = asyncio.Event(), decisions._condemn

    def condemned() -> None:
        condemn()
        closed.set()

    async def slowly(line: Line) -> bool:
        lines.append(line)
        await closed.wait()
        return await free(line)

    monkeypatch.setattr(decisions, "_condemn", condemned)
    monkeypatch.setattr(Line, "free", slowly)
    with pytest.raises(StoreError):
        store.execute([Put("k|a", b"x", 2**64)])  # an expiry that no column holds
    store.close()
    assert [line.connection.closed for line in lines] == [True]


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the server that a process of its own shares with the one that has begun it."""
    name = "KEYGUARD_TEST_POSTGRES"
    if name not in os.environ:
        monkeypatch.setenv(name, request.getfixturevalue("postgres").url)
    return os.environ[name]


@slow
@pytest.mark.parametrize(
    "fork",
    [
        pytest.param(os.fork, id="by Python"),
        pytest.param(ctypes.PyDLL(None).fork, id="in C", marks=pytest.mark.alone),
    ],
)
def test_a_child_has_connections_of_its_own_whoever_forks(fork: Callable[[], int], url: str) -> None:
    """Also where nobody is told of the fork, and the store is asked without a driver."""
    schema = "forked_" + ("c" if fork is not os.fork else "python")
    store = PostgresStore(url, schema=schema, timeout=1)
    store.migrate()
    store.execute([take("parent")])
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            store.execute([take("parent")])

    # Python itself does not survive a fork in C while its threads fight for their turn.
    wait_until(
        lambda: store._decisions is not None and store._decisions._timer is None, "the thread to have come to rest"
    )
    if fork is not os.fork:
        time.sleep(0.5)  # nobody can see from here when it waits for no lock of Python's any more
    threads = [threading.Thread(target=hammer) for _ in range(4 if fork is os.fork else 0)]
    for thread in threads:
        thread.start()
    children = []
    for number in range(3):
        child = fork()
        if child == 0:
            code = 1
            try:
                answers = [store.execute([take(f"child {number}")])[0].takings[0][2] for _ in range(10)]
                answers.append(asyncio.run(in_loop(store, number))[0].takings[0][2])
                store.close()
                code = int(answers != list(range(999, 988, -1)))
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    stop.set()
    for thread in threads:
        thread.join(30)
    assert codes == [0] * 3
    store.close()


async def in_loop(store: PostgresStore, number: int) -> list[Any]:
    return await store.aexecute([take(f"child {number}")])


# -- credentials, and URLs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def locked(postgres: Postgres) -> Postgres:
    """A server that asks one of its users for a password."""
    postgres.query("CREATE ROLE locked LOGIN PASSWORD 'token 0'")
    postgres.query("CREATE SCHEMA locked AUTHORIZATION locked")
    access = postgres.folder / "data" / "pg_hba.conf"
    access.write_text("host all locked 127.0.0.1/32 scram-sha-256\n" + access.read_text())
    postgres.query("SELECT pg_reload_conf()")
    return postgres


@slow
def test_credentials_are_asked_for_at_each_new_connection(locked: Postgres) -> None:
    asked: list[int] = []

    def credentials() -> tuple[str, str]:
        asked.append(len(asked))
        return "locked", f"token {current}"

    current = 0
    url = locked.url.replace("keyguard@", "")
    store = PostgresStore(url, schema="locked", timeout=1, credentials=credentials)
    wait_until(lambda: store.migrate() is not None, "the server to have read who may connect")
    store.execute([take()])
    before = len(asked)
    store.execute([take()])
    assert len(asked) == before, "it is asked for connections, and not for decisions"
    current = 1
    locked.query("ALTER ROLE locked PASSWORD 'token 1'")
    locked.query("SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE usename = 'locked'")
    assert left(store) == 998
    assert len(asked) > before
    assert store.scan("rl:")
    store.close()
    # A password alone: the user stands in the URL.
    other = PostgresStore(
        url.replace("//", "//locked@"), schema="locked", timeout=1, credentials=lambda: "token 1"
    )  # fmt: skip
    assert left(other) == 998
    other.close()


@slow
@pytest.mark.parametrize("what", ["raises", "returns nothing", "a wrong one", "takes its time"])
def test_credentials_that_cannot_be_had_show_nothing_and_hold_nobody_up(
    what: str, locked: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    secret, release = "hunter2-secret", threading.Event()

    def credentials() -> Any:
        if what == "raises":
            raise ValueError(secret)
        if what == "takes its time":
            release.wait(60)
        return None if what == "returns nothing" else secret

    url = locked.url.replace("keyguard@", "locked@")
    store = PostgresStore(url, schema="locked", timeout=0.3, credentials=credentials)
    caplog.set_level(logging.DEBUG)
    began = time.monotonic()
    with pytest.raises(StoreError) as failure:
        store.execute([take()])
    assert time.monotonic() - began < 20
    told = "".join(traceback.format_exception(failure.value)) + repr(store) + caplog.text
    assert secret not in told
    release.set()
    store.close()


async def nobody_awaits() -> str:
    return "secret"


def test_a_password_comes_from_one_place() -> None:
    with pytest.raises(ConfigurationError, match="not both") as failure:
        PostgresStore("postgresql://app:hunter2@host/db", credentials=lambda: "token")
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("wrong", ["secret", ("app", "secret"), nobody_awaits])
def test_credentials_are_a_plain_function(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="credentials is a plain function") as failure:
        PostgresStore("postgresql://host/db", credentials=wrong)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://app:p%40ss@host:5433/db?sslmode=require", "postgresql+psycopg2://app:p%40ss@host:5433/db",
        "postgres+asyncpg://app:p%40ss@host:5433/db", "POSTGRESQL+PSYCOPG://app:p%40ss@host:5433/db",
        "postgresql+psycopg_async://app:p%40ss@host:5433/db", "postgresql+pg8000://app:p%40ss@host:5433/db",
    ],
)  # fmt: skip
def test_urls_of_sqlalchemy_are_read(url: str) -> None:
    store: Any = open_store(url)
    words = {name: store._settings[name] for name in ("user", "password", "host", "port", "dbname")}
    assert words == {"user": "app", "password": "p@ss", "host": "host", "port": "5433", "dbname": "db"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql+asyncpg://u:p@h/db?ssl=require", "sslmode=require"),
        ("postgresql://u:p@h/db?pool_size=5", "max_connections="),
        ("postgresql://u:p@h/db?prepared_statement_cache_size=0", "no statement is prepared"),
        ("jdbc:postgresql://h/db", "write postgresql://"),
        ("pgsql://u:p@h/db", "write postgresql://"),
        ("psql://u:p@h/db", "write postgresql://"),
        ("postgis://u:p@h/db", "write postgresql://"),
        ("cockroachdb://u:p@h/db", "write postgresql://"),
    ],
)
def test_urls_of_others_say_what_to_write(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        open_store(url)


SECRETS = [
    "hunter2@tail",
    "@hunter2",
    "hunter2@",
    "hun@ter@two",
    "hunter2@tail/x",
    "hunter2/x@tail",
    "p@hunter2:5",
    "a@b@hunter2",
    "a#b@hunter2@c",
]


@pytest.mark.parametrize("how", [open_store, PostgresStore])
@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_password_with_an_at_is_refused_and_shown_nowhere(
    secret: str, scheme: str, how: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigurationError, match="%40") as failure:
        how(f"{scheme}://app:{secret}@db.example/app?timeout=1")
    told = "".join(traceback.format_exception(failure.value)) + caplog.text
    shown = told.replace(f"{scheme}://app:", "")
    for part in ("hunter2", "tail", "ter@two"):
        assert part not in shown or ("{secret}" in shown and part not in str(failure.value))
    assert failure.value.__context__ is None


def test_connections_are_kept_alive_unless_the_url_says_otherwise() -> None:
    found = settings_of("postgresql://host/db")
    assert (found["keepalives"], found["keepalives_idle"]) == (1, 30)
    assert found["tcp_user_timeout"] == 5000
    found = settings_of("postgresql://host/db?keepalives_idle=7&tcp_user_timeout=100&application_name=mine")
    assert (found["keepalives_idle"], found["tcp_user_timeout"], found["application_name"]) == ("7", "100", "mine")
