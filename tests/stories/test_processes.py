"""One SQLite file and many processes: exact, whoever dies, forks, or holds the lock."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from keyguard import ConfigurationError, StoreError
from keyguard.ops import CompareAndSet, Demand, Read, Take
from keyguard.rates import window
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.servers import python

ROOT = Path(__file__).parents[2]
LIMIT = window(1000, 3600 * 1_000_000, "1000/hour")
TAKE = Take([Demand("limit", "rl:x|caller", LIMIT)])

HAMMER = """
import sys
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.sqlite import SQLiteStore
TAKE = Take([Demand("limit", "rl:x|caller", window(1000, 3600 * 1_000_000, "1000/hour"))])
store = SQLiteStore(sys.argv[1], timeout=10)
sys.stdin.readline()
admitted = 0
for _ in range(100_000):
    admitted += not store.execute((TAKE,))[0].refused
    print(admitted, flush=True)
"""


def hammer(path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    return python("-c", HAMMER, str(path), cwd=ROOT)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def left(path: Path) -> int:
    store = SQLiteStore(path)
    try:
        taken = store.execute((Take([Demand("limit", "rl:x|caller", LIMIT, 0)]),))[0]
        return int(taken.takings[0][2])
    finally:
        store.close()


def in_children(count: int, run: Callable[[], int]) -> list[int]:
    """What `run` returns, one byte at most, in children that all begin at one time."""
    gate, opened = os.pipe()
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            code = 255
            try:
                os.close(opened)
                os.read(gate, 1)  # until the parent closes its end
                code = run()
            finally:
                os._exit(code)
        children.append(child)
    os.close(gate)
    os.close(opened)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_eight_processes_that_hammer_one_limit_of_1000_admit_exactly_1000(tmp_path: Path) -> None:
    def run() -> int:
        store = SQLiteStore(tmp_path / "k.db", timeout=10)
        return sum(not store.execute((TAKE,))[0].refused for _ in range(250))

    admitted = in_children(8, run)
    assert sum(admitted) == 1000
    assert left(tmp_path / "k.db") == 0


def test_workers_that_start_together_on_a_new_file_all_open_it(tmp_path: Path) -> None:
    """Each makes the file, its journal and its table, or finds them made; none is told that it is locked."""
    for round in range(6):
        path = tmp_path / f"{round}.db"

        def run(path: Path = path) -> int:
            store = SQLiteStore(path, timeout=5)
            code = int(store.execute((TAKE,))[0].refused)
            store.close()
            return code

        assert in_children(12, run) == [0] * 12
        assert left(path) == 1000 - 12


def test_kill_9_in_the_middle_loses_nothing_that_was_committed_and_locks_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    confirmed = 0
    for round in range(3):
        with hammer(path) as victim:
            go(victim)
            assert victim.stdout is not None
            for _ in range(20 + 7 * round):
                seen = int(victim.stdout.readline())
            os.kill(victim.pid, signal.SIGKILL)
            rest = victim.stdout.read().split("\n")[:-1]  # a last line may be cut
        confirmed += int(rest[-1]) if rest else seen
        start = time.monotonic()
        used = 1000 - left(path)
        assert time.monotonic() - start < 1, "the next one was locked out"
        # What was being committed when it died may be there or not; what it had told of must be.
        assert confirmed <= used <= confirmed + round + 1


def test_killed_while_it_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    SQLiteStore(path).execute((TAKE,))
    code = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN IMMEDIATE'); c.execute('DELETE FROM entries'); print('held', flush=True); time.sleep(60)"
    )
    with python("-c", code, str(path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        store = SQLiteStore(path, timeout=0.2)
        with pytest.raises(StoreError, match="locked"):
            store.execute((TAKE,))
    assert store.execute((TAKE,))[0].takings[0][2] == 998
    store.close()


def test_an_event_loop_does_not_stand_still_while_another_process_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    store = SQLiteStore(path, timeout=30)
    store.execute((TAKE,))
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")

    async def story() -> int:
        results = store.aexecute((TAKE,))
        assert not isinstance(results, list)
        waiting = asyncio.ensure_future(results)
        for _ in range(20):  # were the loop to stand still, the lock would be held until the store gave up
            await asyncio.sleep(0.001)
        assert not waiting.done()
        holder.execute("COMMIT")
        return int((await waiting)[0].takings[0][2])

    remaining = asyncio.run(story())
    holder.close()
    store.close()
    assert remaining == 998


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_store_survives_a_fork_even_with_its_lock_held(kind: str, tmp_path: Path) -> None:
    store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "k.db")
    store.execute((TAKE,))
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with store._turns.lock if isinstance(store, SQLiteStore) else store._core.lock:
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        try:
            ok = store.execute((TAKE,))[0].takings[0][2] == 998
        finally:
            os._exit(0 if ok else 1)
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.execute((TAKE,))[0].takings[0][2] == (998 if kind == "memory" else 997)
    if isinstance(store, SQLiteStore):
        store.close()


def test_a_file_that_is_replaced_or_damaged_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    clock = ManualClock()
    store = SQLiteStore(path, clock=clock)
    store.execute((CompareAndSet({"k|a": None}, {"k|a": b"1"}),))
    for file in tmp_path.iterdir():
        file.unlink()
    clock.advance(2)
    with pytest.raises(StoreError, match=r"k\.db is not there any more"):  # and not a store that knows nobody's key
        store.execute((Read("k|a"),))
    assert list(tmp_path.iterdir()) == []
    SQLiteStore(path)
    assert store.execute((Read("k|a"),)) == [(None,)]
    store.execute((CompareAndSet({"k|a": None}, {"k|a": b"2"}),))
    store.close()
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        store.execute((Read("k|a"),))
    with pytest.raises(ConfigurationError, match="not a database"):
        SQLiteStore(path)
    path.unlink()
    with pytest.raises(StoreError, match="not there any more"):
        store.scan("k|")
    SQLiteStore(path)
    assert store.execute((Read("k|a"),)) == [(None,)]
    store.close()


def test_lapsed_rows_leave_the_file(tmp_path: Path) -> None:
    clock = ManualClock()
    store = SQLiteStore(tmp_path / "k.db", clock=clock)
    short = window(5, 1_000_000, "5/second")
    for number in range(500):
        store.execute((Take([Demand("limit", f"rl:x|{number}", short)]),))
    clock.advance(10)
    for _ in range(500):
        store.execute((TAKE,))
    with sqlite3.connect(tmp_path / "k.db") as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (1,)
    connection.close()
    store.close()


def test_a_file_of_a_newer_layout_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "k.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="layout 99 is of a newer keyguard"):
        SQLiteStore(tmp_path / "k.db")
