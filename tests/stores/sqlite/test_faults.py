"""An SQLite file fails. The invariant is the one of `Service.check`: nobody is blamed, nobody waits, all recover."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from keyguard import APIKeys, Keyguard
from keyguard.ops import Demand, Put, Take
from keyguard.rates import window
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import play
from tests.support.faulty import Service, admitted_by_processes, soon


@contextmanager
def corrupt(path: Path) -> Iterator[None]:
    """Somebody wrote into it; it is put back from a copy."""
    kept = {}
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if name.exists():
            kept[name] = name.read_bytes()
    for name in kept:
        name.unlink()
    path.write_bytes(b"this is no database" * 1000)
    yield
    for name, data in kept.items():
        name.with_suffix(".new").write_bytes(data)
        os.replace(name.with_suffix(".new"), name)


@contextmanager
def gone(path: Path) -> Iterator[None]:
    """Its folder was moved away."""
    away = path.parent.with_name("away")
    os.rename(path.parent, away)
    yield
    os.rename(away, path.parent)


FAULTS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "corrupt": corrupt,
    "gone": gone,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "keyguard.db"


@pytest.mark.parametrize("fault", list(FAULTS))
def test_threads(fault: str, path: Path) -> None:
    service = Service(SQLiteStore(path))
    service.warm()
    with FAULTS[fault](path):
        time.sleep(1.01)  # it looks once a second whether the file is still the same
        service.hammered(8, 20)
        assert not service.stack.health.ok
        assert service.check([service.ask("kg_live_" + "0" * 12 + "_x")])[0].status == 503
    service.recovers_in_time(lambda: FAULTS[fault](path))
    service.store.close()


def test_a_file_that_was_removed_makes_nobody_s_key_a_bad_one(path: Path) -> None:
    """An empty file was made in its place, and each key was answered with 401."""
    stack = Keyguard(APIKeys(stale_if_error=0), store=f"sqlite:///{path}")
    headers = [("X-API-Key", stack.keys.issue("acme").key.reveal())]
    assert play(stack, headers=headers).status == 200
    for name in path.parent.iterdir():
        name.unlink()
    time.sleep(1.01)  # it looks once a second whether the file is still the same
    assert play(stack, headers=headers).status == 503
    assert "is not there any more" in stack.health.failure


def test_a_long_list_keeps_no_decision_waiting(path: Path) -> None:
    store = SQLiteStore(path)
    for start in range(0, 20_000, 1000):
        store.execute([Put(f"key|{number}", b"x" * 100, None) for number in range(start, start + 1000)])
    listed: list[int] = []
    with store._turns.lock:  # a decision is under way
        thread = threading.Thread(target=lambda: listed.append(len(store.scan("key|"))))
        thread.start()
        thread.join(30)
    assert listed == [20_000]
    store.close()


def test_a_store_may_be_closed_while_threads_use_it(path: Path) -> None:
    """The process was killed by it: SQLite does not check that its connection is still there."""
    script = (
        "import threading\n"
        "from keyguard.ops import Demand, Take\n"
        "from keyguard.rates import window\n"
        "from keyguard.stores.sqlite import SQLiteStore\n"
        f"store = SQLiteStore({str(path)!r}, timeout=5)\n"
        "take = Take([Demand('d', 'rl:x|x', window(10**6, 60_000_000, 'x'))])\n"
        "ended = threading.Event()\n"
        "def ask():\n"
        "    while not ended.is_set():\n"
        "        store.execute([take])\n"
        "threads = [threading.Thread(target=ask) for _ in range(4)]\n"
        "for thread in threads:\n"
        "    thread.start()\n"
        "for _ in range(80):\n"
        "    store.close()\n"
        "    store.execute([take])\n"
        "ended.set()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_four_processes_admit_exactly_the_limit(path: Path) -> None:
    store = SQLiteStore(path, timeout=10)
    take = Take([Demand("d", "rl:exact|x", window(1000, 3_600_000_000, "1000/hour"))])
    admitted = admitted_by_processes(store, take, tasks=64)
    assert admitted[0] <= 1000, "over-admission"
    assert admitted[-1] >= 1000
    store.close()


def in_a_child(work: Callable[[], None]) -> None:
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_full_disk_is_a_fault(path: Path) -> None:
    """No file of this process may grow any more: as on a full disk, writing fails and reading does not."""
    store = SQLiteStore(path)
    service = Service(store)
    service.warm()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        store.close()
        answers = service.check([service.ask() for _ in range(20)])
        assert not any(seen.told for seen in answers)
        assert not service.stack.health.ok
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert service.recovers() < soon()

    in_a_child(work)
    service.store.close()


def test_a_folder_that_became_read_only_is_a_fault(path: Path) -> None:
    store = SQLiteStore(path)
    service = Service(store)
    service.warm()

    def work() -> None:
        if os.getuid() == 0:
            os.seteuid(65534)  # for root no folder is read-only
        store.close()
        answers = service.check([service.ask() for _ in range(20)])
        assert not any(seen.told for seen in answers)

    os.chmod(path, 0o444)
    os.chmod(path.parent, 0o555)
    store.close()
    in_a_child(work)
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o644)
    assert service.check([service.ask()])[0].told
    service.store.close()
