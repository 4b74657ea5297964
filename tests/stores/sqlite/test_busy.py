"""A file that is in use is not out of order: nobody is admitted beyond a limit, or blamed, for anybody's load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard, RateLimit, Request
from keyguard.errors import StoreBusy
from keyguard.ops import Demand, Op, Put, Read, Take
from keyguard.rates import window
from keyguard.stores.sqlite import SQLiteStore
from keyguard.stores.sqlite.turns import Turns
from tests.support.faulty import Service, flood
from tests.support.harness import Answer, Ask, aask, asgi_app, ask_wsgi, wsgi_app
from tests.support.servers import wait_until
from tests.support.threads import Begun

QUOTA = 20
TAKE = Take([Demand("d", "rl:busy|x", window(1000, 3_600_000_000, "1000/hour"))])


def left(store: Any) -> int:
    """Take nothing, and say how much is left."""
    return int(store.execute([Take([Demand("d", "rl:busy|x", TAKE.demands[0].limit, 0)])])[0].takings[0][2])


@contextlib.contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Iterator[None]:
    """Another program has a transaction open, as a backup or an operator's shell has."""
    other = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        other.execute(f"BEGIN {how}")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


# -- much at a time ----------------------------------------------------------------------------------------------


def everybody(request: Request) -> str:
    return "everybody"


def stack(store: Any) -> tuple[Keyguard, list[Ask]]:
    guard = Keyguard(
        RateLimit("1000000/hour", by="ip"), APIKeys(), RateLimit(f"{QUOTA}/hour", by=everybody, name="all"), store=store
    )
    asks = []
    for number in range(10):
        key = wait_until(lambda: guard.keys.issue("acme"), "a key").key.reveal()
        asks.append(Ask(f"/{number}", (("X-API-Key", key),)))
    return guard, asks


def told(answers: list[Answer]) -> Counter[str]:
    """What became of them. Whoever got no turn is told of the load, and when to come again."""
    found: Counter[str] = Counter()
    for answer in answers:
        cause = json.loads(answer.body)["cause"] if answer.status >= 400 else "admitted"
        assert (answer.status, cause) in ((200, "admitted"), (429, "usage"), (503, "overload")), answer
        if answer.status == 503:
            assert answer.get("retry-after") == "1"
        found[cause] += 1
    return found


def in_threads(guard: Keyguard, asks: list[Ask], count: int) -> Counter[str]:
    app, gate = guard.wsgi(wsgi_app), threading.Barrier(count)
    answers: list[Answer] = []

    def one(ask: Ask) -> None:
        gate.wait(60)
        answers.append(ask_wsgi(app, ask, lint=False))

    threads = [threading.Thread(target=one, args=(asks[number % len(asks)],)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == count
    return told(answers)


def in_tasks(guard: Keyguard, asks: list[Ask], count: int) -> Counter[str]:
    app = guard.asgi(asgi_app)

    async def story() -> list[Answer]:
        return await asyncio.gather(*[aask(app, asks[number % len(asks)], lint=False) for number in range(count)])

    return told(asyncio.run(story()))


WAYS = {"threads": in_threads, "tasks": in_tasks}


@pytest.mark.parametrize(
    ("count", "way", "kind"),
    [
        (10, "threads", "sqlite"),
        (500, "threads", "sqlite"),
        (100, "tasks", "sqlite"),
        (1000, "tasks", "sqlite"),
        (100, "threads", "memory"),
        (500, "tasks", "memory"),
    ],
)
def test_as_much_as_a_process_can_ask_at_once(count: int, way: str, kind: str, tmp_path: Path) -> None:
    guard, asks = stack("memory://" if kind == "memory" else f"sqlite:///{tmp_path}/k.db")
    found = WAYS[way](guard, asks, count)
    assert found["admitted"] <= QUOTA, found
    assert found["admitted"] + found["overload"] >= min(count, QUOTA), found
    assert (guard.health.ok, guard.health.outages, guard.health.degraded) == (True, 0, {})


def test_tasks_of_one_process_are_not_in_each_other_s_way(tmp_path: Path) -> None:
    guard, asks = stack(f"sqlite:///{tmp_path}/k.db?timeout=20")  # a busy machine is in the way of all of them
    found = in_tasks(guard, asks, 1000)
    assert (found["admitted"], found["overload"]) == (QUOTA, 0), found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_as_much_as_several_processes_can_ask_at_once(tmp_path: Path) -> None:
    """With threads, and then with tasks."""
    fork = multiprocessing.get_context("fork")
    gate, told = fork.Barrier(3), fork.SimpleQueue()

    def ask() -> None:
        for way, count in (("threads", 50), ("tasks", 300)):
            guard, asks = stack(SQLiteStore(f"{tmp_path}/{way}.db"))
            gate.wait(60)
            counts = [WAYS[way](guard, asks, count) for _ in range(2)]
            told.put((way, sum(one["admitted"] for one in counts), guard.health.outages))

    crowd = [fork.Process(target=ask, daemon=True) for _ in range(3)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(110)
        assert process.exitcode == 0
    results = [told.get() for _ in range(6)]
    for way in WAYS:
        assert 0 < sum(admitted for kind, admitted, _ in results if kind == way) <= QUOTA, way
    assert [outages for _, _, outages in results] == [0] * 6, results
    told.close()


# -- another program keeps the file ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_file_that_is_kept_by_another_program_is_busy_and_not_out_of_order(how: str, tmp_path: Path) -> None:
    service = Service(SQLiteStore(tmp_path / "k.db"))
    service.warm()
    used = service.used()
    reading = Keyguard(APIKeys(), store=service.store)
    known = Ask("/", (("X-API-Key", service.key),))
    with locked(tmp_path / "k.db", how), ThreadPoolExecutor(16) as pool:
        answers = service.check(pool.map(lambda _: service.ask(), range(64)))
        assert {(seen.status, seen.cause) for seen in answers} == {(503, "overload")}
        assert service.check([service.ask("kg_live_" + "0" * 12 + "_x")])[0].status in (401, 503)
        assert ask_wsgi(reading.wsgi(wsgi_app), known).status == 200, "a right key waits for nobody who writes"
        assert (service.stack.health.ok, service.news) == (True, [])
    assert service.check([service.ask()])[0].told, "it is used at once when it is free"
    assert service.used() == used + 1, "who got no turn was charged nothing"
    service.store.close()


def test_an_event_loop_does_not_wait_for_another_program(tmp_path: Path) -> None:
    service = Service(SQLiteStore(tmp_path / "k.db", timeout=0.8))
    service.warm()

    async def story() -> None:
        with locked(tmp_path / "k.db", "EXCLUSIVE"):
            answers, lag = await flood(service, 32, 1)
            assert {(seen.status, seen.cause) for seen in answers} == {(503, "overload")}
            assert lag < 0.4, "half of what each of them waited"
        assert service.check([await service.aask()])[0].told

    asyncio.run(story())
    assert service.stack.health.outages == 0
    service.store.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_who_waits_for_the_file_does_not_wait_behind_the_app_s_own_jobs(backend: str, tmp_path: Path) -> None:
    """All threads of the event loop's own pool are busy for as long as this test runs."""
    import anyio.lowlevel

    service = Service(SQLiteStore(tmp_path / "k.db", timeout=20))
    service.warm()
    ended = threading.Event()
    other = sqlite3.connect(tmp_path / "k.db", isolation_level=None, check_same_thread=False)

    async def occupy() -> None:
        if backend == "asyncio":
            loop = asyncio.get_running_loop()
            for _ in range(100):
                loop.run_in_executor(None, ended.wait, 60)
        else:
            import trio

            trio.to_thread.current_default_thread_limiter().total_tokens = 1
            await trio.to_thread.run_sync(ended.wait, 60)

    async def story() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(occupy)
            await anyio.lowlevel.checkpoint()
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(0.1, other.execute, ["COMMIT"]).start()
            seen = await service.aask()
            assert (seen.status, seen.told) == (200, True)
            assert not ended.is_set()
            ended.set()

    try:
        anyio.run(story, backend=backend)
    finally:
        ended.set()
        other.close()
    service.store.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_done_for_somebody_who_has_gone_is_given_back(backend: str, tmp_path: Path) -> None:
    import anyio.to_thread

    store = SQLiteStore(tmp_path / "k.db", timeout=20)
    left(store)
    taken = threading.Event()
    run_all = store._serving._run_all

    def slowly(*args: Any) -> Any:
        results = run_all(*args)
        if threading.current_thread().name == "keyguard-sqlite" and not taken.is_set():
            taken.set()
            gone.wait(30)
        return results

    gone = threading.Event()
    store._serving._run_all = slowly  # type: ignore[method-assign]

    async def story() -> None:
        other = sqlite3.connect(tmp_path / "k.db", isolation_level=None)
        async with anyio.create_task_group() as tasks:
            other.execute("BEGIN IMMEDIATE")
            waiting = store.aexecute([TAKE])
            assert not isinstance(waiting, list)

            async def wait() -> None:
                await waiting

            tasks.start_soon(wait)
            await anyio.sleep(0.01)
            other.execute("COMMIT")
            await anyio.to_thread.run_sync(taken.wait, 30)
            tasks.cancel_scope.cancel()
        other.close()
        gone.set()

    anyio.run(story, backend=backend)
    wait_until(lambda: left(store) == 1000, "the charge to come back")
    store.close()


class Wrong(Op[None]):
    """An operation that cannot be applied."""

    keys = ("wrong",)

    def apply(self, values: Any, now: int) -> Any:
        raise ValueError("wrong")


def test_those_who_wait_travel_in_one_transaction_and_a_wrong_one_concerns_nobody_else(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "k.db", timeout=20)
    assert left(store) == 1000
    run_all, batches = store._serving._run_all, []

    def counted(connection: Any, kind: Any, batch: Any) -> Any:
        batches.append(len(batch))
        return run_all(connection, kind, batch)

    store._serving._run_all = counted  # type: ignore[method-assign]
    with ThreadPoolExecutor(60) as pool:
        with locked(tmp_path / "k.db"):
            takes = [pool.submit(store.execute, [TAKE]) for _ in range(40)]
            puts = [pool.submit(store.execute, [Put(f"key|{number}", b"x", None)]) for number in range(10)]
            wait_until(lambda: len(store._turns.jobs) == 50, "all of them to wait")
        assert sorted(take.result()[0].takings[0][2] for take in takes) == list(range(960, 1000))
        assert [put.result() for put in puts] == [[True]] * 10
        assert len(batches) < 10
        with locked(tmp_path / "k.db"):
            takes = [pool.submit(store.execute, [TAKE]) for _ in range(10)]
            wrong = pool.submit(store.execute, [Wrong()])
            takes += [pool.submit(store.execute, [TAKE]) for _ in range(10)]
            wait_until(lambda: len(store._turns.jobs) == 21, "all of them to wait")
        assert len({take.result()[0].takings[0][2] for take in takes}) == 20
        with pytest.raises(ValueError, match="wrong"):
            wrong.result()
    assert left(store) == 940
    store.close()


def test_the_thread_ends_when_the_store_is_closed_and_when_there_is_no_more_to_do(tmp_path: Path, begun: Begun) -> None:
    store = SQLiteStore(tmp_path / "k.db", timeout=0.01)
    assert left(store) == 1000

    def threads() -> int:
        return len(begun.alive("keyguard-sqlite"))

    for _ in range(2):
        with locked(tmp_path / "k.db"), pytest.raises(StoreBusy, match="kept the file locked"):
            store.execute([TAKE])
        assert threads() == 1
        store.close()
        assert threads() == 0
        assert left(store) == 1000
    with locked(tmp_path / "k.db"), pytest.raises(StoreBusy):
        store.execute([TAKE])
    wait_until(lambda: threads() == 0, "the thread to end")
    assert store.execute([Read("key|x")]) == [(None,)]
    store.close()


class FreedAtTheSecondTry:
    """A lock that whoever finds out that the disk answers again has in his hands for a moment."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.waits: list[float] = []

    def acquire(self, timeout: float) -> bool:
        self.waits.append(timeout)
        self.turns._stuck = -1
        return len(self.waits) > 1

    def release(self) -> None: ...


def test_who_comes_in_the_moment_in_which_a_disk_answers_again_gets_a_turn(tmp_path: Path) -> None:
    """He was told at once that others had been first for seconds."""
    store = SQLiteStore(tmp_path / "k.db")
    turns = store._turns
    turns._stuck = turns.done
    lock: Any = FreedAtTheSecondTry(turns)
    turns.lock = lock
    assert turns.get_lock(30.0)
    assert lock.waits[0] < 0.01
    assert lock.waits[1] == 30.0
    turns.renew()
    store.close()
