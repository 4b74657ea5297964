"""A process that was forked, with Python's knowledge or without: nothing of its parent's is taken for its own.

Stores are used directly here, as by a script, a task in the background or the first line of a view: no server has
come by before. Those behind a real uWSGI are in `test_uwsgi.py`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyguard import StoreError
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.leased import Leased
from keyguard.stores.leased.store import _give_back_at_exit
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from tests.drivers.test_uwsgi import fork_in_c
from tests.support.servers import python, wait_until

HOUR = 3_600_000_000
TAKE = Take([Demand("d", "rl:fork|x", window(1000, HOUR, "1000/hour"))])


def left(store: Any, cost: int = 1) -> int:
    """Take so many units, and say how many are left."""
    (demand,) = TAKE.demands
    return int(store.execute([Take([Demand("d", demand.key, demand.limit, cost)])])[0].takings[0][2])


def fork_in_python(child: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        ok = False
        try:
            ok = child()
        finally:
            os._exit(0 if ok else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


FORKS = {"C": fork_in_c, "Python": fork_in_python}
BOTH = [pytest.param("C", marks=pytest.mark.alone), "Python"]


class Turns:
    """Parent and child do one thing after the other."""

    def __init__(self) -> None:
        self._pipes = [os.pipe(), os.pipe()]

    def tell(self, which: int) -> None:
        os.write(self._pipes[which][1], b"x")

    def hear(self, which: int) -> None:
        assert os.read(self._pipes[which][0], 1) == b"x"


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("moment", ["before the child opens the file", "while the child uses the file"])
def test_what_a_child_counts_stays_though_its_parent_closes_the_file(how: str, moment: str, tmp_path: Path) -> None:
    """The child had none of the locks that SQLite believed it to have: the parent deleted the journal under it."""
    store = SQLiteStore(tmp_path / "k.db", timeout=10)
    assert left(store) == 999
    turns = Turns()

    def child() -> bool:
        if moment.startswith("while"):
            assert left(store) == 998
        turns.tell(0)
        turns.hear(1)
        for _ in range(10):
            left(store)
        return True

    def close() -> None:
        turns.hear(0)
        store.close()
        turns.tell(1)

    closing = threading.Thread(target=close)
    closing.start()
    assert FORKS[how](child)
    closing.join(30)
    expected = 1000 - 1 - 10 - moment.startswith("while")
    assert left(store, 0) == expected
    assert left(SQLiteStore(tmp_path / "k.db"), 0) == expected
    store.close()
    with sqlite3.connect(tmp_path / "k.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_many_children_of_a_process_whose_threads_use_the_file_count_exactly(tmp_path: Path) -> None:
    """A fork that Python knows of waits for a transaction to end."""
    store = SQLiteStore(tmp_path / "k.db", timeout=10)
    left(store, 0)
    ended, used = threading.Event(), []

    def hammer() -> None:
        while not ended.is_set():
            left(store)
            used.append(1)
            time.sleep(0.002)

    def child() -> bool:
        for _ in range(5):
            left(store)
        return True

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert sum(fork_in_python(child) for _ in range(8)) == 8
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
    assert left(store, 0) == max(0, 1000 - len(used) - 40)
    store.close()


@pytest.mark.alone
def test_a_child_that_was_forked_in_the_midst_of_a_transaction_says_so_and_admits_nobody(tmp_path: Path) -> None:
    """It could not get the file for ever: SQLite went on holding its parent's lock in it."""
    store = SQLiteStore(tmp_path / "k.db", timeout=10)
    assert left(store) == 999
    in_the_midst, go_on = threading.Event(), threading.Event()
    run = store._rows.run

    def slowly(*args: Any) -> Any:
        in_the_midst.set()
        go_on.wait(30)
        return run(*args)

    store._rows.run = slowly  # type: ignore[method-assign]
    thread = threading.Thread(target=left, args=(store,))
    thread.start()
    in_the_midst.wait(30)

    def child() -> bool:
        for _ in range(3):
            with pytest.raises(StoreError, match="has to be restarted"):
                left(store)
        return left(SQLiteStore(tmp_path / "other.db")) == 999

    assert fork_in_c(child)
    go_on.set()
    thread.join(30)
    assert left(store) == 997
    store.close()


HOLDER = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
other.execute("COMMIT")
"""


def test_a_child_has_a_thread_of_its_own_to_wait_for_the_file_in(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "k.db", timeout=30)
    assert left(store) == 999
    with python("-c", HOLDER, str(tmp_path / "k.db")) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        thread = threading.Thread(target=left, args=(store,))
        thread.start()
        wait_until(lambda: store._turns.jobs, "a thread of the parent's to wait")

        def child() -> bool:
            lefts: list[int] = []
            asking = threading.Thread(target=lambda: lefts.append(left(store)))
            asking.start()
            wait_until(lambda: store._turns.jobs, "the child to wait")
            assert holder.stdin is not None
            holder.stdin.write("go\n")
            holder.stdin.flush()
            asking.join(30)
            return lefts in ([998], [997])

        assert fork_in_python(child)
        thread.join(30)
    assert left(store, 0) == 997
    store.close()


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("kind", ["memory", "leased"])
def test_a_lock_that_a_thread_of_the_parent_held_is_free_in_a_child(how: str, kind: str) -> None:
    memory = MemoryStore()
    store: Any = memory if kind == "memory" else Leased(memory, workers=2)
    lock = memory._core.lock if kind == "memory" else store._leases._lock
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        assert FORKS[how](lambda: left(store) == 999)
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("how", BOTH)
def test_leases_are_spent_and_given_back_by_who_took_them(how: str, tmp_path: Path) -> None:
    """A child that only ended, having asked for nothing, gave back what its parent went on to spend."""
    shared = SQLiteStore(tmp_path / "k.db", timeout=10)
    tier = Leased(shared, workers=1)
    admitted = [not tier.execute([TAKE])[0].refused for _ in range(300)]
    unspent = sum(lease.units for lease in tier._leases._leases.values())
    assert unspent > 10

    def child() -> bool:
        _give_back_at_exit()  # as a process does that comes to its end; what else is to be done then is the tests'
        return True

    assert FORKS[how](child)
    assert left(shared, 0) == 1000 - 300 - unspent

    def another() -> bool:
        trips = tier.trips
        assert not tier.execute([TAKE])[0].refused
        assert tier.trips == trips + 1, "what is leased is the parent's"
        tier.close()
        return True

    assert FORKS[how](another)
    while len(admitted) < 1100:
        admitted.append(not tier.execute([TAKE])[0].refused)
    assert sum(admitted) <= 999
    tier.close()
