"""No command repeats a key, wherever it was written by mistake; and what is said with `--json`, with no output, at a
mistake of any kind."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from keyguard.cli import command_line, main
from keyguard.cli.command_line import COMMANDS, _parser
from keyguard.cli.parser import Parser
from keyguard.cli.veiled import veiled
from keyguard.keys import KeyRegistry
from keyguard.keys.format import new_key
from keyguard.stores import open_store
from tests.support.commands import run

KEY = new_key().reveal()
SECRET = KEY[21:]
OLD = "sk_9f8e7d6c5b4a39281706"
URL = "redis://:HUNTERtwo22@127.0.0.1:1/0"
GIVEN = {
    "issued": (KEY, SECRET),
    "bad": (f'{KEY} x"\\', SECRET),
    "old": (f"{OLD}\x01", OLD[3:]),
    "url": (URL, "HUNTER"),
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/keys.db?timeout=5"
    KeyRegistry(open_store(url)).issue("acme", plan="pro")
    monkeypatch.setenv("KEYGUARD_STORE", url)
    monkeypatch.chdir(tmp_path)
    return url


def actions() -> Iterator[tuple[list[str], Parser]]:
    def within(parser: Parser, words: list[str]) -> Iterator[tuple[list[str], Parser]]:
        if parser._fill is not None:
            fill, parser._fill = parser._fill, None
            fill(parser)
        subs = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
        if not subs:
            yield words, parser
        for one in subs:
            for name, each in one.choices.items():
                yield from within(each, [*words, name])

    return within(_parser("keyguard"), [])


def lines(given: str) -> Iterator[list[str]]:
    """Every command, with a word in the place of each thing that it may be given."""
    for words, parser in actions():
        taken = [one for one in parser._actions if one.nargs != 0]
        for wrong in taken:
            line = [*words]
            for one in taken:
                if one is wrong or not one.option_strings or one.required:
                    line += [*one.option_strings[:1], given if one is wrong else "acme"]
            if words != ["demo"]:
                yield line


def test_the_commands_that_are_tried_are_all_that_there_are() -> None:
    tried = {tuple(words) for words, _ in actions()}
    assert {words[0] for words in tried} == {command.name for command in COMMANDS}
    assert {("why",), ("audit", "list"), ("alerts", "resolve"), ("alerts", "test"), ("metrics", "board")} <= tried


@pytest.mark.parametrize("what", GIVEN)
def test_no_word_that_may_be_secret_is_repeated_in_an_error(
    what: str, store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYGUARD_PLANS", "free,pro")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(command_line, "_parser", cache(_parser))  # making it takes longer than most commands
    given, secret = GIVEN[what]
    leaks = []
    for line in lines(given):
        with suppress(SystemExit):
            main([*line, "--json"])
        out, err = capsys.readouterr()
        # What was given as a name, such as an owner's, is shown as one; a key of ours never is.
        if secret in err or (secret == SECRET and secret in out):
            leaks.append(line)
    assert leaks == []


def test_no_store_gets_a_whole_key_in_the_place_of_something_else(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--owner", "--subject", "--plan", "--name", "--scope"):
        words = [] if option == "--owner" else ["--owner", "acme"]
        code, out, err = run(capsys, "keys", "issue", *words, option, f"was:{KEY}")
        assert (code, out) == (1, ""), option
        assert "holds a whole key" in err
    assert run(capsys, "keys", "issue", "--owner", "acme", "--metadata", f"note={KEY}")[0] == 1
    (record,) = KeyRegistry(open_store(store)).list()
    assert run(capsys, "keys", "revoke", record.id, "--reason", f"{KEY} leaked")[0] == 1
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in Path().glob("keys.db*"))


def test_what_is_no_secret_is_told(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    ids = ["4fK2mQ9xTzLb", "access-2026-11-29.log", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "203.0.113.7"]
    assert veiled(" ".join(ids), ids) == " ".join(ids)
    assert "access-2026-11-29.log" in run(capsys, "keys", "list", "--store", "@access-2026-11-29.log")[2]


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "keys", "isue"],
        ["keys", "issue", "--js"],
        ["keys", "list", "--json", "--status", "odd"],
        ["keys", "issue", "--owner", "a", "--scope", ",", "--json"],
        ["keys", "import", "broken.csv", "--json"],
        ["bans", "lift", "203.0.113.9", "--json"],
    ],
)
def test_an_error_for_scripts_is_one_line_of_json_and_nothing_else(
    words: list[str], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.csv").write_text(f"key,owner\n{OLD},acme\nshort,acme\n")
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    told = json.loads(err)
    assert code in (1, 2)
    if "import" in words:
        assert [one["line"] for one in told["broken"]] == [3]


def test_without_standard_error_nothing_of_it_goes_to_standard_output(store: str) -> None:
    code = "from keyguard.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    for words in (["keys", "issue", "--owner", "acme"], ["keys", "isue"]):
        told = subprocess.run(
            ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", code, *words], capture_output=True, text=True
        )
        assert told.stdout.count("\n") == (1 if words[-1] == "acme" else 0)


@pytest.mark.parametrize("text", ["2127-01-01", "21270101", "2127-W01-3"])
def test_a_day_begins_at_midnight_in_utc_however_it_is_written(
    text: str, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "keys", "issue", "--owner", "acme", "--expires", text, "--json")
    assert code == 0
    assert json.loads(out)["expires"] == "2127-01-01T00:00:00Z"
