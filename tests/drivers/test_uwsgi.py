"""uWSGI forks in C and tells Python nothing: what belongs to one process is made anew all the same.

The app, and its store, have been used before the fork: connections, loops, threads, locks and random names are there.
Stores have a second here, so that a busy machine is no outage.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from limits.storage import RedisStorage

from keyguard import Keyguard, RateLimit, Request, ResponseCache, StoreBusy, StoreError
from keyguard.drivers import field_names
from keyguard.drivers.asgi import background as asgi_detached
from keyguard.drivers.wsgi import background as wsgi_detached
from keyguard.flow import blocking
from keyguard.ops import Demand, Take
from keyguard.process.event_loops import in_thread
from keyguard.rates import window
from keyguard.stores.limits import LimitsStore
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, aask, asgi_app, ask_wsgi
from tests.support.neighbours import UWSGI_THREADS, UWSGI_WORKERS, Served, served
from tests.support.servers import Postgres, RedisServer, free_port, wait_until
from tests.support.threads import Begun

slow = pytest.mark.slow
pytestmark = pytest.mark.timeout(300)

MODES = {
    "workers": UWSGI_WORKERS,
    "threads": UWSGI_THREADS,
    "lazy apps": [*UWSGI_WORKERS, "--lazy-apps"],
    "with Python's hook": [*UWSGI_WORKERS, "--py-call-osafterfork"],
}


def ask(server: Served, path: str, keys: dict[str, str], count: int) -> list[tuple[str, int, Any]]:
    """Many requests at once, of all callers in turn: who asked, the status, and the body."""
    callers = sorted(keys)

    def one(number: int) -> tuple[str, int, Any]:
        name = callers[number % len(callers)]
        status, body, _ = server.get(path, timeout=60, X_API_Key=keys[name])
        return name, status, json.loads(body)

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, range(count)))


def check(command: list[str], stores: list[str], folder: Path) -> None:
    """On each store exactly as many are admitted as may be, and nobody is taken for another."""
    words = {"KEYGUARD_STORES": " ".join(stores), "KEYGUARD_KEYS": str(folder / "keys.json")}
    with served(command, "tests.support.forked:wsgi", folder, **words) as server:
        wait_until((folder / "keys.json").exists, "the app to be loaded")
        for kind, keys in json.loads((folder / "keys.json").read_text()).items():
            limited = ask(server, f"/{kind}/limited", keys, 32)
            statuses = Counter(status for _, status, _ in limited)
            if kind != "memory":  # in which each worker counts for itself
                assert statuses == {200: 20, 429: 12}, (kind, statuses, server.log[-3000:])
            assert all(body[0] == name for name, status, body in limited if status == 200)
            processes: set[int] = set()

            def several_answer(kind: str = kind, keys: dict[str, str] = keys, processes: set[int] = processes) -> bool:
                told = ask(server, f"/{kind}/who", keys, 48)
                assert {status for _, status, _ in told} == {200}, (kind, server.log[-3000:])
                assert [name for name, _, body in told if body[0] != name] == [], kind
                processes.update(body[1] for _, _, body in told)
                return len(processes) > 1

            # On a busy machine one worker may well take all that others are too slow for.
            wait_until(several_answer, "another worker to answer")
            # An entry of before the fork, which is refreshed in the background.
            cached = ask(server, f"/{kind}/cached", keys, 32)
            assert {status for _, status, _ in cached} == {200}, (kind, server.log[-3000:])
        assert "Traceback" not in server.stop()


@slow
@pytest.mark.parametrize("mode", list(MODES))
def test_exactly_as_many_are_admitted_and_nobody_is_taken_for_another(
    mode: str, valkey: RedisServer, postgres: Postgres, tmp_path: Path
) -> None:
    schema = "uwsgi_" + "".join(filter(str.isalpha, mode)).lower()
    store = PostgresStore(f"{postgres.url}", schema=schema)
    store.migrate()
    store.close()
    stores = [
        f"sqlite:///{tmp_path}/k.db?timeout=5",
        f"{valkey.url}?namespace={mode.replace(' ', '-')}&timeout=1",
        f"{postgres.url}?schema={schema}&timeout=1",
    ]
    if mode != "lazy apps":  # each would have keys of its own
        stores.append("memory://")
    check(MODES[mode], stores, tmp_path)


@slow
def test_no_thread_of_ours_is_alive_when_the_workers_are_forked_and_all_of_them_begin(
    valkey: RedisServer, postgres: Postgres, tmp_path: Path
) -> None:
    """uWSGI gives Python's lock away for its fork: a thread that took it then had it in the workers for ever."""
    store = PostgresStore(postgres.url, schema="master")
    store.migrate()
    store.close()
    valkey.ask("FLUSHALL")
    words = {
        "KEYGUARD_TOLD": f"{tmp_path}",
        "KEYGUARD_FILE": f"{tmp_path}/k.db",
        "KEYGUARD_REDIS": valkey.url,
        # A name: it is looked up in a thread.
        "KEYGUARD_POSTGRES": postgres.url.replace("127.0.0.1", "localhost"),
        "KEYGUARD_NOWHERE": f"{free_port()}",
    }
    with served(
        [*UWSGI_THREADS, "--processes", "5"], "tests.support.loaded_by_master:wsgi", tmp_path, **words
    ) as server:
        told = tmp_path / "left.json"
        wait_until(lambda: told.exists() or server.process.poll() is not None, "the app to be loaded", 100)
        assert told.exists(), server.log[-3000:]
        left = json.loads(told.read_text())
        assert len(left) > 20
        assert {step: threads for step, threads in left.items() if threads} == {}
        wait_until(lambda: len(list(tmp_path.glob("worker-*"))) == 5, "all workers to begin")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.get(), range(24)))
        assert {(status, body) for status, body, _ in answers} == {(200, json.dumps([False] * 6))}, server.log[-3000:]
        assert "Traceback" not in server.stop()


# -- a fork without a word, with things in progress --------------------------------------------------------------------


def fork_in_c(child: Callable[[], bool]) -> bool:
    """What `child` returns in a process that was forked as a server written in C does it."""
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        ok = False
        try:
            ok = child()
        finally:
            os._exit(0 if ok else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.alone
def test_places_for_work_in_the_background_are_free_in_a_child() -> None:
    """All of the parent's are taken, by threads that the child does not have."""
    clock, release = ManualClock(), threading.Event()
    parent, made, refreshed = os.getpid(), [0], threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        made[0] += 1
        if made[0] > 10:
            if os.getpid() == parent:
                release.wait(30)
            else:
                refreshed.set()
        start_response("200 OK", [("Cache-Control", "max-age=1, stale-while-revalidate=600")])
        return [b"x"]

    guarded = Keyguard(ResponseCache(), clock=clock).wsgi(app)
    for number in range(10):
        ask_wsgi(guarded, Ask(f"/{number}"), lint=False)
    clock.advance(5)
    for number in range(9):
        ask_wsgi(guarded, Ask(f"/{number}"), lint=False)
    assert wsgi_detached._room.places.acquire(blocking=False) is False

    def child() -> bool:
        return ask_wsgi(guarded, Ask("/9"), lint=False).status == 200 and refreshed.wait(20)

    try:
        assert fork_in_c(child)
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name == "keyguard-detached":
                thread.join(20)


@pytest.mark.alone
def test_tasks_of_a_parent_s_event_loop_take_no_places_in_a_child() -> None:
    """Nor do they go on there: what they have still to do is the parent's."""
    clock, notes, release = ManualClock(), [], asyncio.Event()
    parent = os.getpid()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            if clock.now > ManualClock().now and os.getpid() == parent:
                await release.wait()
            head = [(b"cache-control", b"max-age=1, stale-while-revalidate=600")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": b""})
        finally:
            notes.append(os.getpid())

    guarded = Keyguard(ResponseCache(), clock=clock).asgi(app)
    loop = asyncio.new_event_loop()
    for number in range(65):
        loop.run_until_complete(aask(guarded, Ask(f"/{number}"), lint=False))
    clock.advance(5)
    for number in range(64):
        loop.run_until_complete(aask(guarded, Ask(f"/{number}"), lint=False))
    assert len(asgi_detached._detached) == 64
    notes.clear()

    def child() -> bool:
        async def story() -> None:
            assert (await aask(guarded, Ask("/64"), lint=False)).status == 200
            await asgi_detached.end_detached()

        asyncio.run(story())
        gc.collect()
        return notes == [os.getpid()]

    try:
        assert fork_in_c(child)
    finally:
        release.set()
        loop.run_until_complete(asgi_detached.end_detached())
        loop.close()
    assert notes == [parent] * 64


@pytest.mark.alone
@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_redis_store_that_is_used_by_itself_belongs_to_one_process_too(world: str, valkey: RedisServer) -> None:
    """Not by way of a stack, which would look: each has connections of its own, and decisions of its own."""
    store = RedisStore(valkey.url, namespace=f"forked-{world}", timeout=1)
    take = Take([Demand("d", "rl:forked|x", window(1000, 3_600_000_000, "1000/hour"))])

    async def tell(times: int) -> list[int]:
        taken = [(await store.aexecute([take]))[0].takings[0][2] for _ in range(times)]
        await store.aclose()
        return taken

    def told(times: int) -> list[int]:
        if world == "loop":
            return asyncio.run(tell(times))
        return [store.execute([take])[0].takings[0][2] for _ in range(times)]

    told(3)
    taken: list[int] = []

    def child() -> bool:
        mine = told(20)
        return mine == sorted(set(mine), reverse=True)

    for _ in range(4):
        assert fork_in_c(child)
        taken += told(5)
    assert taken[-1] == 1000 - 3 - 4 * 25
    assert len(set(taken)) == 20
    store.close()


# -- in uWSGI's master, which is about to fork ------------------------------------------------------------------------


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """This process is taken for it."""
    place = SimpleNamespace(worker_id=lambda: 0, mule_id=lambda: 0, i_am_the_spooler=lambda: False)
    monkeypatch.setitem(sys.modules, "uwsgi", place)
    monkeypatch.setattr(field_names, "_told", {"uWSGI"})  # what it does to names is told once in a process
    return place


TAKE = Take([Demand("d", "rl:forked|x", window(1000, 3_600_000_000, "1000/hour"))])


def left(store: Any, world: str) -> Any:
    """Take one, and say how many are left."""

    async def ask() -> Any:
        answer = store.aexecute([TAKE])
        return answer if isinstance(answer, list) else await answer

    (taken,) = store.execute([TAKE]) if world == "threads" else asyncio.run(ask())
    return taken.takings[0][2]


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_postgresql_leaves_no_thread_at_work_in_a_master_that_is_about_to_fork(
    world: str, postgres: Postgres, master: SimpleNamespace, begun: Begun
) -> None:
    """A worker that was forked while that thread ran never began, and did not end either until it was killed."""
    store = PostgresStore(postgres.url, schema=f"uwsgi_master_{world}", timeout=1)
    store.migrate()

    def at_work() -> bool:
        return bool(begun.alive("keyguard-postgres"))

    for number in range(3):
        assert (left(store, world), at_work()) == (999 - number, False)
    nowhere = PostgresStore(f"postgresql://x@localhost:{free_port()}/x", timeout=1)
    with pytest.raises(StoreError):
        left(nowhere, world)
    assert not at_work()
    assert [thread.name for thread in begun.all].count("keyguard-postgres") == 4
    master.worker_id = lambda: 1
    assert (left(store, world), at_work()) == (996, True), "a worker keeps its connections"
    store.close()


@pytest.mark.parametrize("world", ["threads", "loop"])
@pytest.mark.parametrize("kind", ["sqlite", "redis", "limits"])
def test_what_a_store_does_in_threads_it_does_in_place_or_ends_them_in_a_master(
    kind: str, world: str, valkey: RedisServer, tmp_path: Path, master: SimpleNamespace, begun: Begun
) -> None:
    store: Any
    if kind == "redis":
        store = RedisStore(valkey.url, namespace=f"master-{world}", timeout=1, credentials=lambda: ("default", "any"))
    elif kind == "limits":
        store = LimitsStore(RedisStorage(valkey.url, key_prefix=f"master-{world}"), timeout=1)
    else:
        store = SQLiteStore(tmp_path / "k.db", timeout=0.2)
    assert left(store, world) == 999
    if kind == "sqlite":
        with sqlite3.connect(tmp_path / "k.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")  # else nobody is waited for
            with pytest.raises(StoreBusy):
                left(store, world)
            other.execute("COMMIT")
        other.close()
    assert left(store, world) == 998
    assert begun.alive() == []
    store.close()


def test_what_runs_beside_a_request_runs_at_once_in_a_master(master: SimpleNamespace) -> None:
    clock, made = ManualClock(), []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        made.append(threading.current_thread())
        start_response("200 OK", [("Cache-Control", "max-age=1, stale-while-revalidate=600")])
        return [b"x"]

    def by(request: Request) -> str:
        made.append(threading.current_thread())
        return "everybody"

    guarded = Keyguard(ResponseCache(), clock=clock).wsgi(app)
    ask_wsgi(guarded, Ask("/"), lint=False)
    clock.advance(5)
    assert ask_wsgi(guarded, Ask("/"), lint=False).body == b"x"
    assert len(made) == 2

    async def story() -> None:
        limited = Keyguard(RateLimit("1/hour", by=blocking(by), name="all")).asgi(asgi_app)
        assert [(await aask(limited, Ask("/"), lint=False)).status for _ in range(2)] == [200, 429]
        made.append(await in_thread(threading.current_thread))

    asyncio.run(story())
    assert set(made) == {threading.current_thread()}
    assert len(made) == 5
