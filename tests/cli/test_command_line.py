"""The command line as a whole: what stands before a command, mistakes, and being called by another program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyguard import APIKeys, Keyguard
from keyguard.cli import main
from keyguard.keys import KeyRegistry
from keyguard.stores import open_store
from tests.support.commands import run, run_json


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("KEYGUARD_STORE", raising=False)
    return f"sqlite:///{tmp_path}/keys.db?timeout=5"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what is said of a wrong command line."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    for name in ("keys", "store", "why", "limits", "bans", "alerts", "audit", "cache", "metrics", "demo"):
        assert f"\n    {name} " in out
    assert "revoke" in refused(capsys, "keys")


def test_the_store_may_be_named_before_the_command_or_after_it(
    store: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text(store)
    KeyRegistry(open_store(store)).issue("acme")
    for words in (
        ["--store", store, "keys", "list"],
        ["keys", "list", "--store", store],
        ["--store-file", f"{tmp_path}/url", "keys", "list"],
        ["--store", "sqlite:///other.db", "keys", "list", "--store-file", f"{tmp_path}/url"],
    ):
        assert [key["owner"] for key in run_json(capsys, *words)] == ["acme"], words
        assert run(capsys, "--json", *words)[1].startswith("[")
    assert run(capsys, "--store", store, "store", "init")[0] == 0
    monkeypatch.setenv("KEYGUARD_STORE", store)
    assert len(run_json(capsys, "keys", "list")) == 1
    assert run(capsys, "keys", "list", "--store", "sqlite:///other.db")[0] == 1
    assert "not allowed with" in refused(capsys, "keys", "list", "--store", "a", "--store-file", "b")


def test_errors_are_json_if_json_is_wanted(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--json", "keys", "list"], ["keys", "list", "--json"]):
        code, out, err = run(capsys, *words, "--store", "sqlite:///misspelt.db")
        assert (code, out) == (1, "")
        assert "there is no file misspelt.db" in json.loads(err)["error"]
    assert "did you mean list" in json.loads(refused(capsys, "keys", "lst", "--json").splitlines()[-1])["error"]
    assert "no --json" in json.loads(run(capsys, "demo", "--json")[2])["error"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kyes"], "there is no command kyes; did you mean keys?"),
        (["keys", "isue"], "there is no command isue; did you mean issue?"),
        (["keys", "frobnicate"], "there is no command frobnicate: there are issue, list"),
        (["keys", "issue", "--onwer", "acme"], "did you mean --owner?"),
        (["keys", "list", "--satus", "active"], "did you mean --status?"),
        (["--sotre", "sqlite:///k.db", "keys", "list"], "did you mean --store?"),
        (["Sk-Live-9f8e7d"], "there is no command of this name"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_right_one(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *words)
    assert message in said
    assert not {"acme", "Sk-Live-9f8e7d", "sqlite:///k.db"} & set(said.split())


def test_another_program_gives_its_guard(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its keys are those of the app: made with its pepper, and beginning as it wants them to."""
    guard = Keyguard(APIKeys(prefix="acme", env="test", pepper="a pepper of 24 letters.."), store=store)
    assert main(["keys", "issue", "--owner", "ada"], app=guard, prog="flask keyguard") == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("acme_test_")
    assert [record.owner for record in guard.keys.list()] == ["ada"]
    assert main(["keys", "list", "--json"], app=guard) == 0
    assert json.loads(capsys.readouterr().out)[0]["prefix"] == "acme"
    with pytest.raises(SystemExit):
        main(["keys", "isue"], app=guard, prog="flask keyguard")
    assert "flask keyguard keys: error: there is no command isue" in capsys.readouterr().err


def test_a_store_in_the_apps_memory_is_not_one_for_commands(capsys: pytest.CaptureFixture[str]) -> None:
    guard = Keyguard(APIKeys(), store="memory://")
    for words in (["keys", "list"], ["bans", "list"], ["audit", "list"], ["limits", "show", "x"]):
        assert main(words, app=guard) == 1
        assert "memory:// " in capsys.readouterr().err


def test_scopes_are_separated_by_commas_and_a_date_is_midnight_in_utc(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    issued = run_json(
        capsys, "--store", store, "keys", "issue", "--owner", "acme", "--scope", "read, write", "--scope", "admin",
        "--expires", "2127-01-01",
    )  # fmt: skip
    assert issued["scopes"] == ["admin", "read", "write"]
    assert issued["expires"] == "2127-01-01T00:00:00Z"
    updated = run_json(capsys, "--store", store, "keys", "update", issued["id"], "--scope", "a,b")
    assert updated["scopes"] == ["a", "b"]
    assert "is not a moment" in refused(capsys, "keys", "issue", "--owner", "a", "--expires", "2127-13-01")


def test_keys_are_listed_by_owner(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    keys = KeyRegistry(open_store(store))
    keys.issue("acme", subject="s")
    keys.issue("globex", subject="s")
    assert [key["owner"] for key in run_json(capsys, "keys", "list", "--owner", "acme", "--store", store)] == ["acme"]
