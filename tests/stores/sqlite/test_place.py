"""Where an SQLite file lies: it is its user's alone, and what is wrong is told at the start."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keyguard import ConfigurationError, Keyguard, RateLimit, ResponseCache
from keyguard.cli import main
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores import open_store
from keyguard.stores.sqlite import SQLiteStore
from keyguard.stores.sqlite import place as sqlite_place
from keyguard.testing import ManualClock, play
from tests.guards.cache.test_sqlite import MIB, put
from tests.stores.sqlite.test_faults import in_a_child

TAKE = Take([Demand("d", "rl:place|x", window(1000, 3_600_000_000, "1000/hour"))])
NOBODY = 65534


def left(store: Any) -> int:
    return int(store.execute([TAKE])[0].takings[0][2])


def modes(folder: Path) -> dict[str, int]:
    return {place.name: stat.S_IMODE(place.stat().st_mode) for place in folder.iterdir() if place.is_file()}


@pytest.fixture(params=[0o000, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(autouse=True)
def _untold() -> Iterator[None]:
    sqlite_place._told.clear()
    yield
    sqlite_place._told.clear()


def by_requests(folder: Path) -> list[Any]:
    store = SQLiteStore(folder / "k.db", timeout=20)  # a busy machine is in the way
    guard = Keyguard(RateLimit("5/hour", by="ip"), ResponseCache(ttl=60), store=store)
    assert play(guard, "/x").status == 200
    return [store]


def by_eviction(folder: Path) -> list[Any]:
    store = SQLiteStore(folder / "k.db", cache_bytes=MIB)
    draw = random.Random(1)
    for number in range(60):
        put(store, number, draw.randbytes(50_000))
    return [store]


def by_the_command(folder: Path) -> list[Any]:
    assert main(["keys", "issue", "--owner", "acme", "--store", f"sqlite:///{folder}/k.db"]) == 0
    return [open_store(f"sqlite:///{folder}/k.db")]


def by_init(folder: Path) -> list[Any]:
    assert main(["store", "init", f"sqlite:///{folder}/k.db"]) == 0
    return [open_store(f"sqlite:///{folder}/k.db")]


def by_a_copy(folder: Path) -> list[Any]:
    source = SQLiteStore(folder / "source.db")
    Keyguard(RateLimit("5/hour"), store=source)
    assert main(["keys", "issue", "--owner", "acme", "--store", f"sqlite:///{folder}/source.db"]) == 0
    assert main(["store", "copy", f"sqlite:///{folder}/source.db", f"sqlite:///{folder}/k.db"]) == 0
    return [source, open_store(f"sqlite:///{folder}/k.db")]


def by_a_link(folder: Path) -> list[Any]:
    (folder / "link.db").symlink_to(folder / "k.db")
    return [SQLiteStore(folder / "link.db")]


def for_checks(folder: Path) -> list[Any]:
    store = SQLiteStore(folder / "k.db")
    scratch = store.scratch(ManualClock())
    left(scratch)
    return [store, scratch]


WAYS = [by_requests, by_eviction, by_the_command, by_init, by_a_copy, by_a_link, for_checks]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_whatever_makes_a_file_it_is_its_user_s_alone(way: Any, umask: int, tmp_path: Path) -> None:
    stores = way(tmp_path)
    for store in stores:
        left(store)
    found = modes(tmp_path)
    assert {"k.db", "k.db-wal", "k.db-shm"} <= found.keys() | {name.replace("link", "k") for name in found}
    assert set(found.values()) == {0o600}, found
    for store in stores:
        store.close()


def test_a_journal_of_the_older_kind_is_its_user_s_alone_too(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_log(monkeypatch)
    store = SQLiteStore(tmp_path / "k.db")
    seen: dict[str, int] = {}
    run = store._rows.run

    def look(*args: Any) -> Any:
        result = run(*args)
        seen.update(modes(tmp_path))
        return result

    store._rows.run = look  # type: ignore[method-assign]
    left(store)
    assert seen["k.db-journal"] == seen["k.db"] == 0o600
    store.close()


@pytest.mark.parametrize(("mode", "told"), [(0o644, True), (0o666, True), (0o640, False), (0o660, False)])
def test_the_mode_of_a_file_that_is_there_is_left_and_told_if_everybody_can_read_it(
    mode: int, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "k.db"
    SQLiteStore(path).close()
    path.chmod(mode)
    caplog.clear()
    for _ in range(2):
        store = SQLiteStore(path)
        assert left(store) >= 0
        store.close()
    assert modes(tmp_path)["k.db"] == mode
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == told
    if told:
        assert str(path) in lines[0]
        assert f"{mode:04o}" in lines[0]
        assert "chmod 600" in lines[0]


# -- what cannot be written --------------------------------------------------------------------------------------


def read_only_file(path: Path) -> str:
    path.chmod(0o444)
    return rf"k\.db is read-only for that user \(mode 0444, of {owner()}\)"


def read_only_folder(path: Path) -> str:
    path.parent.chmod(0o555)
    return r"the folder .*place is read-only for that user \(mode 0555"


def read_only_folder_without_a_file(path: Path) -> str:
    path.unlink()
    return read_only_folder(path)


def read_only_journal(path: Path) -> str:
    other = sqlite3.connect(path)
    other.execute("DELETE FROM entries")
    other.commit()
    journal = Path(f"{path}-wal")
    journal.chmod(0o444)
    OPEN.append(other)
    return r"k\.db-wal is read-only for that user"


OPEN: list[sqlite3.Connection] = []


def owner() -> str:
    return user(NOBODY if os.geteuid() == 0 else os.geteuid())


def user(number: int) -> str:
    import pwd

    return rf"'{pwd.getpwuid(number).pw_name}' \({number}\)"


@pytest.mark.parametrize(
    "how", [read_only_file, read_only_folder, read_only_folder_without_a_file, read_only_journal],
    ids=lambda how: how.__name__,
)  # fmt: skip
def test_what_cannot_be_written_is_told_at_the_start_with_path_and_user(how: Any) -> None:
    base = tempfile.mkdtemp()  # pytest's own folders are not to be entered by others
    os.chmod(base, 0o755)
    folder = Path(base) / "place"
    folder.mkdir()
    path = folder / "k.db"
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    SQLiteStore(path).close()
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    reason = how(path)
    name = user(NOBODY if os.geteuid() == 0 else os.geteuid())

    def start() -> None:
        if os.geteuid() == 0:
            os.seteuid(NOBODY)  # for root nothing is read-only
        with pytest.raises(ConfigurationError, match=rf"cannot use .*k\.db as a store for user {name}: .*{reason}"):
            open_store(f"sqlite:///{path}")

    try:
        in_a_child(start)
    finally:
        shutil.rmtree(base)
        while OPEN:
            OPEN.pop().close()


def test_other_reasons_are_told_in_words_as_well(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, reason in [
        ("no/folder/k.db", "there is no folder"),
        ("file/k.db", "is not a folder"),
        (".", "it is a folder"),
    ]:
        with pytest.raises(ConfigurationError, match=rf"for user .*{reason}"):
            SQLiteStore(tmp_path / name)


def test_a_file_that_another_program_writes_to_just_now_can_be_opened(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "k.db").close()
    with closing(sqlite3.connect(tmp_path / "k.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store = SQLiteStore(tmp_path / "k.db")
        other.execute("ROLLBACK")
    assert left(store) == 999
    store.close()


# -- a file system that takes no log -----------------------------------------------------------------------------


def without_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite as it is on file systems that cannot share memory: its own locks by files, and no write-ahead log."""
    connect = sqlite3.connect

    def connecting(place: str, *args: Any, **options: Any) -> sqlite3.Connection:
        return connect(f"{place}&vfs=unix-dotfile", *args, **options)

    monkeypatch.setattr(sqlite3, "connect", connecting)


def test_a_file_system_without_a_log_is_warned_of_once_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_log(monkeypatch)
    stores = [SQLiteStore(tmp_path / "k.db", timeout=10) for _ in range(3)]
    assert sorted(left(store) for store in stores * 5) == list(range(985, 1000))
    lines = [record.getMessage() for record in caplog.records if "write-ahead log" in record.getMessage()]
    assert len(lines) == 1
    assert str(tmp_path / "k.db") in lines[0]
    assert stores[0]._file.connection is not None
    assert stores[0]._file.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    for store in stores:
        store.close()


def test_without_a_log_processes_count_exactly_too(tmp_path: Path) -> None:
    code = """
import sqlite3, sys
connect = sqlite3.connect
sqlite3.connect = lambda place, *args, **options: connect(place + "&vfs=unix-dotfile", *args, **options)
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.sqlite import SQLiteStore
store = SQLiteStore(sys.argv[1], timeout=30)
take = Take([Demand("d", "rl:place|x", window(500, 3_600_000_000, "500/hour"))])
print(sum(not store.execute([take])[0].refused for _ in range(200)))
"""
    words = [sys.executable, "-c", code, str(tmp_path / "k.db")]
    workers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sum(int(worker.communicate(timeout=110)[0]) for worker in workers) == 500
