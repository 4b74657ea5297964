"""PostgreSQL fails. The invariant is the one of `Service.check`: nobody is blamed, nobody waits, all recover."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest

from keyguard.errors import StoreError
from keyguard.ops import Demand, Put, Take
from keyguard.rates import window
from keyguard.rates.window import WindowLog
from keyguard.stores import open_store
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.postgres.names import lock_of
from tests.support.faulty import Service, admitted_by_processes, in_children, killed, proxied, survived_by_a_loop
from tests.support.servers import Postgres, Proxy, wait_until
from tests.support.threads import Begun

pytestmark = pytest.mark.slow  # real servers, and what they need to start, stop and be waited for


@pytest.fixture(scope="module")
def started() -> Iterator[Postgres]:
    with Postgres("-c", "max_connections=20") as server:
        yield server


@pytest.fixture
def server(started: Postgres) -> Postgres:
    """As if it were new: who was there has gone, and what was made there too."""
    others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with psycopg.connect(started.url, autocommit=True) as connection:
        connection.execute("ALTER ROLE keyguard RESET ALL")
        connection.execute("ALTER DATABASE postgres RESET ALL")
        connection.execute("SET default_transaction_isolation = 'read committed'")
        connection.execute(f"SELECT pg_terminate_backend(pid, 10000) {others}")
        connection.execute("DROP SCHEMA IF EXISTS keyguard, apart, public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("DROP ROLE IF EXISTS app")
    return started


@pytest.fixture
def proxy(server: Postgres) -> Iterator[Proxy]:
    with Proxy(server.port) as started:
        yield started


@pytest.fixture
def service(server: Postgres, proxy: Proxy) -> Iterator[Service]:
    store = PostgresStore(server.url.replace(f":{server.port}", f":{proxy.port}"))
    store.migrate()
    yield Service(store)
    proxy.close()  # what still waits for a reply that was lost is hung up on
    store.close()


@contextmanager
def stopped(server: Postgres, proxy: Proxy) -> Iterator[None]:
    """The server and the processes that serve connections stand still."""
    assert server.process is not None
    pids = [server.process.pid, *[pid for (pid,) in server.query("SELECT pid FROM pg_stat_activity")]]
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def read_only(server: Postgres, proxy: Proxy) -> Iterator[None]:
    """Its operators have forbidden to write."""
    server.query("ALTER SYSTEM SET default_transaction_read_only = on")
    server.query("SELECT pg_reload_conf()")
    wait_until(lambda: server.query("SHOW default_transaction_read_only") == [("on",)], "the setting")
    try:
        yield
    finally:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")


@contextmanager
def in_recovery(server: Postgres, proxy: Proxy) -> Iterator[None]:
    """It has come back as a standby, which only reads; then it is promoted."""
    server.kill()
    (server.folder / "data" / "standby.signal").touch()
    server.start()
    assert server.query("SELECT pg_is_in_recovery()") == [(True,)]
    try:
        yield
    finally:
        assert server.query("SELECT pg_promote()") == [(True,)]


def end_connections(server: Postgres) -> None:
    """End those of stores. They have gone then: the end of one may be late, and fall into what is asked next."""
    ours = "FROM pg_stat_activity WHERE application_name = 'keyguard'"
    assert all(gone for (gone,) in server.query(f"SELECT pg_terminate_backend(pid, 30000) {ours}"))


def open_one_more(store: PostgresStore) -> None:
    """Have it open a connection that nobody uses: as if whoever it is for were served by another one first."""
    decisions, loop = store._decisions, store._loop
    assert decisions is not None
    assert loop is not None
    before = decisions._open
    loop.call_soon_threadsafe(decisions._open_another)
    wait_until(lambda: decisions._open > before, "another connection")


@contextmanager
def crowded(server: Postgres, proxy: Proxy) -> Iterator[None]:
    """Others have taken all the connections there are, and the store has none."""
    ours = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE application_name = 'keyguard'"
    with ExitStack() as others:
        one = others.enter_context(psycopg.connect(server.url, autocommit=True))
        gone = True
        while gone:  # it may open one more before all are taken: that one is ended and taken, too
            with suppress(psycopg.OperationalError):
                for _ in range(40):
                    others.enter_context(psycopg.connect(server.url))
            gone = bool(one.execute(ours).fetchall())
        yield


@contextmanager
def locked(server: Postgres, proxy: Proxy) -> Iterator[None]:
    """Somebody holds the tables."""
    with psycopg.connect(server.url) as connection:
        connection.execute("LOCK TABLE keyguard.counters, keyguard.entries IN ACCESS EXCLUSIVE MODE")
        yield


FAULTS = {
    "killed and restarted": killed,
    "stopped": stopped,
    "slow by 0.3 s": proxied("delay"),
    "replies lost": proxied("drop"),
    "connections reset": proxied("reset"),
    "replies cut": proxied("cut"),
    "requests lost": proxied("deaf"),
    "read-only": read_only,
    "in recovery": in_recovery,
    "no connections left": crowded,
    "tables locked": locked,
}

READABLE = ("read-only", "in recovery")
"""There a key that is not known here yet can still be looked up, by the call that probes."""


@pytest.mark.parametrize("fault", list(FAULTS))
def test_threads(fault: str, server: Postgres, proxy: Proxy, service: Service) -> None:
    unknown = wait_until(lambda: service.stack.keys.issue("stranger"), "the store").key.reveal()
    service.warm()
    with FAULTS[fault](server, proxy):
        service.hammered(4, 10, bursts=2)
        assert service.check([service.ask()])[0].status == 200
        seen = service.check([service.ask(unknown)])[0]
        assert seen.status == 503 or (seen.status == 200 and fault in READABLE)
        assert not service.stack.health.ok
    tries = service.recovers_in_time(lambda: FAULTS[fault](server, proxy))
    assert service.stack.health.ok
    service.told_of_outages(tries)


@pytest.mark.parametrize("fault", ["killed and restarted", "stopped", "requests lost"])
def test_an_event_loop(fault: str, server: Postgres, proxy: Proxy, service: Service) -> None:
    asyncio.run(survived_by_a_loop(service, FAULTS[fault](server, proxy)))


@pytest.mark.parametrize("idle", [0, 1], ids=["in use", "and another that lay idle since it was opened"])
def test_no_request_is_lost_when_connections_are(idle: int, server: Postgres) -> None:
    store = PostgresStore(server.url, timeout=1)  # connecting anew may take a while on a busy machine
    store.migrate()
    service = Service(store)
    service.warm()
    used = service.used()
    for _ in range(3):
        for _ in range(idle):
            open_one_more(store)
        end_connections(server)
        assert service.ask().told
    assert service.used() == used + 3
    assert service.news == []
    store.close()


@pytest.mark.parametrize("mode", ["reset", "drop", "delay", "deaf"])
def test_a_lost_reply_is_not_charged(mode: str, proxy: Proxy, service: Service) -> None:
    service.warm()
    told = service.used()
    for place in range(4):
        if place % 2:
            proxy.mode, proxy.delay = mode, 0.06
        told += service.check([service.ask()])[0].told
        proxy.mode = ""
        service.recovers()
        told += 1
    wait_until(lambda: service.used() == told, f"{told} units to be used")


# -- what others do makes the database give up our transaction: it is made again, and charged once -------------------


@pytest.fixture
def store(server: Postgres) -> Iterator[PostgresStore]:
    """With the time that a busy machine may need."""
    opened = PostgresStore(server.url, timeout=1)
    opened.migrate()
    yield opened
    opened.close()


LIMIT = window(1000, 60_000_000, "1000/minute")
TAKE = Take([Demand("", f"rl:x:{LIMIT.code}|x", LIMIT)])
ASK = Take([Demand("", f"rl:x:{LIMIT.code}|x", LIMIT, 0)])


def used(store: PostgresStore) -> int:
    return 1000 - int(store.execute([ASK])[0].takings[0][2])


def test_a_deadlock(server: Postgres, store: PostgresStore) -> None:
    """Somebody has locked a row of ours and waits for our lock: we are the one whom the database throws out."""
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"
    before = server.query(deadlocks)[0][0]
    server.query("ALTER ROLE keyguard SET deadlock_timeout = '300ms'")
    store.execute([TAKE])
    name = TAKE.keys[0].encode()
    with psycopg.connect(server.url) as other, ThreadPoolExecutor() as pool:
        other.execute("SET deadlock_timeout = '10s'")
        other.execute("UPDATE keyguard.counters SET value = value WHERE key = %s", [name])
        waiting = pool.submit(store.execute, [TAKE])
        ours = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'keyguard'"
        wait_until(lambda: server.query(ours), "our transaction to wait")
        other.execute("SELECT pg_advisory_xact_lock(%s)", [lock_of(name)])
        other.commit()
        assert not waiting.result()[0].refused
    assert used(store) == 2
    store.close()  # a session that lies idle tells what it has counted after ten seconds, one that ends at once
    wait_until(lambda: server.query(deadlocks) == [(before + 1,)], "the database to have counted it")


def test_serialization_failures(server: Postgres, store: PostgresStore) -> None:
    """The database says twice that it could not serialize."""
    for text in (
        "CREATE SEQUENCE tries",
        "CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') <= 2 THEN "
        "RAISE EXCEPTION 'as told' USING ERRCODE = 'serialization_failure'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER give_up BEFORE INSERT ON keyguard.counters FOR EACH ROW EXECUTE FUNCTION give_up()",
    ):
        server.query(text)
    assert not store.execute([TAKE])[0].refused
    assert server.query("SELECT last_value FROM tries") == [(3,)]
    assert used(store) == 1


def test_a_database_that_is_serializable_by_default(server: Postgres, store: PostgresStore) -> None:
    """There a transaction that has waited for another one would see the state before it, and be thrown out."""
    server.query("ALTER ROLE keyguard SET default_transaction_isolation = 'serializable'")
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: store.execute([TAKE])[0].refused, range(80)))
    assert outcomes == [False] * 80
    assert used(store) == 80


def test_a_database_that_takes_long_to_connect_to_is_used_all_the_same(server: Postgres, proxy: Proxy) -> None:
    """Longer than a decision may take: the connection is there for one of the next."""
    store = PostgresStore(server.url.replace(f":{server.port}", f":{proxy.port}"), timeout=0.4)
    store.migrate()
    proxy.mode, proxy.delay, proxy.delayed = "delay", 0.3, 2  # of a handshake; no decision is slow
    with pytest.raises(StoreError, match="in time"):
        store.execute([TAKE])
    wait_until(lambda: store.execute([TAKE]), "a connection")
    proxy.mode = ""
    store.close()


def test_the_database_s_time_decides_whatever_the_clock_of_a_worker_says(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker's clock is ten minutes off: both see one window."""
    take = Take([Demand("", "rl:x:win60000000|x", window(3, 60_000_000, "3/minute"))])
    right, wrong = (PostgresStore(server.url, timeout=1) for _ in range(2))
    right.migrate()
    right.execute([take])
    nanoseconds, seconds = time.time_ns, time.time
    monkeypatch.setattr("time.time_ns", lambda: nanoseconds() - 600 * 10**9)
    monkeypatch.setattr("time.time", lambda: seconds() - 600)
    assert [wrong.execute([take])[0].refused for _ in range(3)] == [False, False, True]
    assert right.execute([take])[0].refused
    right.close()
    wrong.close()


def test_connections_do_not_cross_a_fork(store: PostgresStore) -> None:
    """Children and parent go on with a store that was in use before the fork; each reply reaches who asked."""
    store.execute([TAKE])

    def ask() -> None:
        assert not any(store.execute([TAKE])[0].refused for _ in range(20))

    in_children(3, ask, ask)
    assert used(store) == 81


def test_keys_and_quotas_survive_a_crash_and_short_counters_need_not(server: Postgres, store: PostgresStore) -> None:
    short, long = window(100, 60_000_000, "100/minute"), window(100, 86_400_000_000, "100/day")
    take = Take([Demand("", f"rl:a:{limit.code}|x", limit) for limit in (short, long)])
    assert [taking[2] for taking in store.execute([take])[0].takings] == [99, 99]
    server.kill()
    server.start()
    wait_until(lambda: store.execute([take]), "the store")
    assert [taking[2] for taking in store.execute([take])[0].takings] == [98, 97]


def tables(server: Postgres, key: str) -> list[str]:
    query = "SELECT '{0}' FROM keyguard.{0} WHERE key = convert_to('{1}', 'UTF8')"
    found = [server.query(query.format(table, key)) for table in ("entries", "counters")]
    return [str(row[0]) for rows in found for row in rows]


def test_the_limit_tells_whether_its_counters_survive_a_crash(server: Postgres, store: PostgresStore) -> None:
    """And not the digits of its name. A counter that stands in the other table is read there, and moves."""

    class Balance(WindowLog):
        durable = True  # type: ignore[assignment]

    short, lasting = WindowLog(9, 60_000_000, "9/minute"), Balance(9, 60_000_000, "9/minute")
    key = "rl:moving:balance|x"
    for limit, table, left in ((short, "counters", 8), (lasting, "entries", 7), (short, "counters", 6)):
        (taken,) = store.execute([Take([Demand("", key, limit)])])
        assert taken.takings[0][2] == left
        assert tables(server, key) == [table]
    ((_, value, ttl),) = store.dump(key)
    assert store.execute([Put(key, value + b"", ttl, expected=None)]) == [False]
    assert store.execute([Put(key, b"", ttl)]) == [True]
    assert tables(server, key) == ["entries"], "of what no limit is known it is kept"
    assert store.execute([Put(key, None)]) == [True]
    assert tables(server, key) == []


def test_tables_are_made_on_demand_only(server: Postgres) -> None:
    store = PostgresStore(server.url, timeout=1)
    with pytest.raises(StoreError, match="keyguard store init"):
        store.execute([Take([])])
    with pytest.raises(StoreError, match="keyguard store init"):
        store.scan("stack|")  # as commands do, by which an operator may begin
    assert store.migrate() == (0, 1)
    assert store.migrate() == (1, 1)
    store.execute([Take([])])
    server.query("UPDATE keyguard.version SET version = 99")
    store.close()
    with pytest.raises(StoreError, match="older than the tables"):
        store.execute([Take([])])
    with pytest.raises(StoreError, match="layout 99, not 1: this keyguard is older"):
        store.migrate()
    store.close()


def test_a_role_that_may_make_no_schema_uses_one_that_was_made_for_it(server: Postgres) -> None:
    server.query("CREATE ROLE app LOGIN")
    url = server.url.replace("keyguard@", "app@")
    store = PostgresStore(url, schema="apart", timeout=1)
    with pytest.raises(StoreError, match="permission denied for database"):
        store.migrate()
    server.query("CREATE SCHEMA apart AUTHORIZATION app")
    assert store.migrate() == (0, 1)
    store.execute([TAKE])
    store.close()


@pytest.mark.parametrize("level", ["read committed", "serializable"])
def test_who_migrates_at_the_same_time_waits_and_finds_it_done(server: Postgres, level: str) -> None:
    server.query(f"ALTER DATABASE postgres SET default_transaction_isolation = '{level}'")
    stores = [PostgresStore(server.url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(PostgresStore.migrate, stores))
    assert sorted(outcomes) == [(0, 1), *[(1, 1)] * 5]


def test_a_store_that_is_closed_while_others_ask_leaves_nobody_waiting(store: PostgresStore) -> None:
    """Who asked while it was closed got no answer, ever: the event loop of the connections was not running any more."""
    ended = threading.Event()

    def ask() -> int:
        asked = 0
        while not ended.is_set():
            store.execute([ASK])
            asked += 1
        return asked

    threads = []
    answers: list[int] = []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: answers.append(ask()), daemon=True))
        threads[-1].start()
    for _ in range(30):
        store.close()
        store.execute([ASK])
    ended.set()
    for thread in threads:
        thread.join(45)
    assert len(answers) == 4, "somebody still waits, or was told something else"
    assert all(answers)


def test_a_store_that_is_dropped_leaves_nothing_behind(server: Postgres, begun: Begun) -> None:
    def connections() -> int:
        return int(server.query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dropped'")[0][0])

    for _ in range(3):
        store = PostgresStore(f"{server.url}?application_name=dropped", timeout=1)
        store.migrate()
        wait_until(lambda store=store: store.execute([TAKE]), "the store")
        assert connections() > 0
        del store
    gc.collect()
    assert len(begun.all) >= 3
    wait_until(lambda: not begun.alive(), "the threads to end")
    wait_until(lambda: connections() == 0, "the connections to end")


def test_a_connection_asks_for_nothing_when_it_starts_that_a_pooler_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"postgresql://app@127.0.0.1:{listening.getsockname()[1]}/db?sslmode=disable&gssencmode=disable"
        store = PostgresStore(url, timeout=1)

        def ask() -> None:
            with suppress(StoreError):
                store.execute([ASK])

        thread = threading.Thread(target=ask)
        thread.start()
        connection, _ = listening.accept()
        words = connection.recv(1000)[8:].split(b"\0")
        connection.close()
        thread.join()
        store.close()
    assert {*words[::2]} <= {b"user", b"database", b"application_name", b"client_encoding", b""}


def test_a_transaction_ends_by_itself_and_leaves_no_setting_behind(server: Postgres, store: PostgresStore) -> None:
    """The server ends what nobody waits for any more. Whoever uses the session next finds it as it was."""
    names = "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"
    store.execute([TAKE])
    told = ", ".join(f"current_setting('{name}')" for name in names)
    for text in (
        "CREATE TABLE keyguard.told (statement text, lock text, idle text)",
        f"CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"INSERT INTO keyguard.told VALUES ({told}); RETURN NEW; END $$",
        "CREATE TRIGGER tell BEFORE UPDATE ON keyguard.counters FOR EACH ROW EXECUTE FUNCTION tell()",
    ):
        server.query(text)
    store.execute([TAKE])
    assert server.query("SELECT * FROM keyguard.told") == [("2s", "200ms", "2s")]

    async def look() -> set[Any]:
        assert store._decisions is not None
        line = store._decisions._idle[0]
        return {await (await line.connection.execute(f"SHOW {name}")).fetchone() for name in names}

    assert store._loop is not None
    assert asyncio.run_coroutine_threadsafe(look(), store._loop).result(30) == {("0",)}


def test_options_reach_the_client_library_as_they_were_written(server: Postgres) -> None:
    url = f"{server.url}?options=-c%20application_name%3Done%2Btwo&timeout=1"
    store = open_store(url)
    assert isinstance(store, PostgresStore)
    assert store._settings["options"] == "-c application_name=one+two"
    store.migrate()
    store.execute([TAKE])
    store.close()


def test_four_processes_admit_exactly_the_limit(store: PostgresStore) -> None:
    """4 processes, 64 in flight each, against 1000: not one too many, and not one too few."""
    admitted = admitted_by_processes(store, TAKE, tasks=64)
    assert admitted[0] <= 1000, "over-admission"
    assert admitted[-1] >= 1000
