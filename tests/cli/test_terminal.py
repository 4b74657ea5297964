"""The command in a real terminal, and piped: tables that fit, progress, and what is never cut."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import termios
from pathlib import Path
from typing import Any

import pytest

from keyguard.cli import main
from keyguard.cli.output import print_rows
from keyguard.keys import ForeignKey, KeyRegistry
from keyguard.stores import open_store
from tests.support.commands import run, run_json
from tests.support.servers import Postgres
from tests.support.warm import Program
from tests.support.warm import run as begin


def in_terminal(
    warm: str, *words: str, columns: int = 80, without: str = "", bar_after: float = 0.2, **environment: str
) -> tuple[int, str]:
    """Run a command whose output and errors are a terminal. Returns its exit code and all that it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    start = f"import sys; sys.modules[{without!r}] = None; " if without else "import sys; "
    start += f"from keyguard.cli import main, progress; progress.BAR_AFTER = {bar_after}; "
    code = start + "sys.exit(main(sys.argv[1:]))"
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = Program(
        warm,
        ["-c", code, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "PYTHONIOENCODING": "utf-8", **environment},
        needs=["keyguard"],
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(), shown.decode().replace("\r\n", "\n")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/keys.db?timeout=5"
    monkeypatch.setenv("KEYGUARD_STORE", url)
    return url


def test_a_table_fits_the_terminal_and_is_whole_in_a_pipe(store: str, warm: str) -> None:
    long = "a name that is much too long for a column of a terminal with eighty columns"
    keys = KeyRegistry(open_store(store))
    issued = keys.issue(long, subject="subject", plan="pro", scopes=[f"scope-{number}" for number in range(20)])
    code, shown = in_terminal(warm, "keys", "list", columns=80)
    lines = shown.splitlines()
    assert (code, len(lines)) == (0, 2)
    assert max(map(len, lines)) == 80
    assert lines[1].startswith(issued.record.id)
    assert lines[1].count("…") == 2
    assert max(map(len, in_terminal(warm, "keys", "list", columns=200)[1].splitlines())) == 200
    piped = begin(warm, ["-m", "keyguard", "keys", "list"], needs=["keyguard"])
    assert long in piped.stdout
    assert "scope-19" in piped.stdout
    assert "…" not in piped.stdout
    assert max(map(len, piped.stdout.splitlines())) > 200


@pytest.mark.parametrize("columns", [80, 60, 40, 20])
def test_a_table_of_all_columns_fits_and_what_is_left_out_is_told(columns: int, store: str, warm: str) -> None:
    keys = KeyRegistry(open_store(store))
    words = {"subject": "a subject", "plan": "professional", "name": "the deployment", "scopes": ["read", "write"]}
    issued = keys.issue("a company", **words, expires="30 days")  # type: ignore[arg-type]
    code, shown = in_terminal(warm, "keys", "list", columns=columns)
    *told, names, line = shown.splitlines()
    assert (code, line.split()[0]) == (0, issued.record.id)
    assert max(len(names), len(line)) <= columns
    assert "".join(told).startswith("This terminal is too narrow for ") is (columns < 60)


def test_a_terminal_that_is_too_narrow_for_any_table_shows_it_all_the_same(store: str, warm: str) -> None:
    KeyRegistry(open_store(store)).issue("acme")
    code, shown = in_terminal(warm, "keys", "list", columns=10)
    assert (code, "acme" in shown) == (0, True)


def test_wide_letters_keep_columns_straight(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(["A", "B"], [["鍵鍵", "x"], ["ab", "y"], ["e\u0301", "z"]])
    assert capsys.readouterr().out == "A     B\n鍵鍵  x\nab    y\ne\u0301     z\n"


def test_progress_is_a_bar_in_a_terminal(store: str, warm: str, tmp_path: Path) -> None:
    KeyRegistry(open_store(store)).import_keys([ForeignKey("a", key=f"sk_{number:020}") for number in range(1000)])
    code, shown = in_terminal(warm, "store", "copy", store, f"sqlite:///{tmp_path}/other.db")
    assert code == 0
    assert "Both hold the same." in shown
    code, shown = in_terminal(warm, "store", "check", store, "--steps", "50", bar_after=0)
    assert (code, "checked:" in shown, "/50" in shown) == (0, True, True)


def test_without_tqdm_it_is_lines_of_text(
    store: str, warm: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = in_terminal(warm, "store", "check", store, "--steps", "50", without="tqdm")
    assert (code, "\r" in shown) == (0, False)
    from argparse import Namespace

    from keyguard.cli import progress

    times = iter([0.0, 1.0, 3.0, 4.0, 8.5, 99.0, 0.0, 5.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(times))
    with progress.progress("copied", 500, Namespace(json=False)) as tell:
        for done in (100, 200, 300, 400, 500):
            tell(done)
    assert capsys.readouterr().err == "200 of 500 (40 %) copied\n400 of 500 (80 %) copied\n"
    with progress.progress("read", None, Namespace(json=False)) as tell:
        tell(7)
    assert capsys.readouterr().err == "7 read\n"
    with progress.progress("copied", 500, Namespace(json=True)) as tell:
        tell(100)
    assert capsys.readouterr().err == ""


def test_the_help_and_errors_of_a_terminal(store: str, warm: str) -> None:
    code, shown = in_terminal(warm)
    assert (code, "usage: keyguard" in shown) == (0, True)
    code, shown = in_terminal(warm, "kyes")
    assert (code, "did you mean keys?" in shown) == (2, True)


def test_store_commands_in_json(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "store", "init") == {"tables": False}
    KeyRegistry(open_store(store)).issue("acme")
    assert run_json(capsys, "store", "migrate") == {"tables": False, "sealed": 0, "left": 0}
    copied = run_json(capsys, "store", "copy", store, f"sqlite:///{tmp_path}/other.db")
    assert (copied["entries"], copied["written"], copied["more"], len(copied["digest"])) == (2, 2, 0, 64)
    assert run_json(capsys, "store", "check", "--steps", "20")["right"] is True


EVERY: list[list[str]] = [
    ["keys", "issue", "--owner", "a"],
    ["keys", "issue", "--owner", "a", "--plan", "pro"],
    ["keys", "issue", "--owner", "a", "--name", "x", "--if-absent"],
    ["keys", "list"],
    ["keys", "show", "4fK2mQ9xTzLb"],
    ["keys", "update", "4fK2mQ9xTzLb", "--plan", "pro"],
    ["keys", "revoke", "4fK2mQ9xTzLb"],
    ["keys", "disable", "4fK2mQ9xTzLb"],
    ["keys", "delete", "4fK2mQ9xTzLb"],
    ["keys", "rotate", "4fK2mQ9xTzLb"],
    ["keys", "import", "keys.txt", "--owner", "a"],
    ["limits", "show", "a"],
    ["bans", "list"],
    ["bans", "lift", "192.0.2.1"],
    ["audit", "list"],
    ["cache", "stats"],
    ["cache", "purge", "--all"],
    ["store", "copy", "postgresql", "sqlite:///other.db"],
    ["store", "copy", "sqlite", "postgresql"],
]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_database_without_tables_is_told_how_to_get_them(
    words: list[str],
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.txt").write_text("sk_00000000000000000000\n")
    other = f"sqlite:///{tmp_path}/here.db"
    KeyRegistry(open_store(other)).issue("acme")
    url = f"{postgres.url}?schema=nothing_here"
    named: Any = {"postgresql": url, "sqlite": other}
    monkeypatch.setenv("KEYGUARD_STORE", url)
    code, out, err = run(capsys, *[named.get(word, word) for word in words])
    assert (code, out) == (1, "")
    assert "run `keyguard store init`" in err.splitlines()[-1]
    assert main([*[named.get(word, word) for word in words], "--json"]) == 1
    assert "keyguard store init" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
