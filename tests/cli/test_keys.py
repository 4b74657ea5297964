"""The command `keyguard`, as a person and as a script use it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard
from keyguard.cli import main
from keyguard.keys import KeyRegistry
from keyguard.stores import open_store
from keyguard.testing import play
from tests.support.commands import run, run_json
from tests.support.servers import python
from tests.support.warm import run as begin


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/keys.db?timeout=5"
    monkeypatch.setenv("KEYGUARD_STORE", url)
    return url


def test_a_key_is_issued_alone_on_standard_output_and_works(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "keys", "issue", "--owner", "acme", "--plan", "pro", "--scope", "read", "--scope", "write"
    )
    assert code == 0
    assert "shown this once" in err
    assert play(Keyguard(APIKeys(), store=store), headers={"X-API-Key": out.strip()}).status == 200


def test_the_life_of_a_key_in_json(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    issued = run_json(
        capsys, "keys", "issue", "--owner", "acme", "--subject", "acme-eu", "--network", "10.0.0.0/8",
        "--metadata", "team=blue", "--expires", "30d", "--prefix", "acme", "--env", "test",
    )  # fmt: skip
    assert issued["key"].startswith("acme_test_" + issued["id"])
    assert (issued["subject"], issued["networks"], issued["metadata"]) == ("acme-eu", ["10.0.0.0/8"], {"team": "blue"})
    rotated = run_json(capsys, "keys", "rotate", issued["id"], "--overlap", "1h")
    assert rotated["replaces"] == issued["id"]
    revoked = run_json(capsys, "keys", "revoke", rotated["key"], "--reason", "a test")
    assert (revoked["status"], revoked["revoked_for"]) == ("revoked", "a test")
    shown = run_json(capsys, "keys", "show", issued["id"])
    assert (shown["status"], "key" in shown) == ("rotating", False)
    listed = run_json(capsys, "keys", "list")
    assert [key["status"] for key in listed] == ["rotating", "revoked"]
    assert [key["id"] for key in run_json(capsys, "keys", "list", "--status", "revoked")] == [rotated["id"]]
    assert run_json(capsys, "keys", "list", "--subject", "nobody") == []


def test_a_key_is_updated_in_part(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    issued = run_json(
        capsys, "keys", "issue", "--owner", "acme", "--scope", "read", "--network", "10.0.0.0/8",
        "--metadata", "team=blue", "--expires", "30d",
    )  # fmt: skip
    id = issued["id"]

    def update(*words: str) -> dict[str, Any]:
        """What has changed of the record."""
        before = run_json(capsys, "keys", "show", id)
        after = run_json(capsys, "keys", "update", id, *words)
        assert run_json(capsys, "keys", "show", id) == after
        return {name: value for name, value in after.items() if before[name] != value}

    assert update("--plan", "pro") == {"plan": "pro"}
    assert update("--scope", "a", "--scope", "b", "--owner", "Acme Ltd") == {"scopes": ["a", "b"], "owner": "Acme Ltd"}
    assert update("--metadata", "x=1", "--metadata", "y=a=b") == {"metadata": {"x": "1", "y": "a=b"}}
    assert update("--expires", "2030-01-01T00:00:00+00:00") == {"expires": "2030-01-01T00:00:00Z"}
    assert update("--network", "192.0.2.0/24") == {"networks": ["192.0.2.0/24"]}
    assert update("--no-plan", "--no-scopes", "--no-networks", "--no-metadata", "--no-expiry") == {
        "plan": None, "scopes": [], "networks": [], "metadata": {}, "expires": None,
    }  # fmt: skip
    assert update("--expires", "0s")["status"] == "expired"
    assert run_json(capsys, "keys", "update", issued["key"], "--no-expiry")["status"] == "active"
    guard = Keyguard(APIKeys(), store=store)
    assert play(guard, headers={"X-API-Key": issued["key"]}).status == 200


def test_a_plan_that_is_not_known_is_warned_of(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*words: str) -> str:
        code, _, err = run(capsys, "keys", *words)
        assert code == 0
        return "".join(line for line in err.splitlines() if "warning" in line)

    assert said("issue", "--owner", "a", "--plan", "pro") == ""  # the first one
    assert said("issue", "--owner", "b", "--plan", "pro") == ""
    assert said("issue", "--owner", "c") == ""
    assert "no plan 'prro' is known; other keys have 'pro'" in said("issue", "--owner", "d", "--plan", "prro")
    id = run_json(capsys, "keys", "list")[0]["id"]
    assert "no plan 'free' is known; other keys have 'pro', 'prro'" in said("update", id, "--plan", "free")
    assert said("update", id, "--owner", "e") == ""
    monkeypatch.setenv("KEYGUARD_PLANS", "free, pro")
    assert "KEYGUARD_PLANS has 'free', 'pro'" in said("update", id, "--plan", "prro")
    assert said("update", id, "--plan", "free") == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing is to be changed"),
        (["--owner", ""], "owner is a printable text"),
        (["--plan", "\n"], "plan is a printable text"),
        (["--scope", "two words"], "a scope is printable"),
        (["--network", "10.0.0.1/8"], "did you mean"),
        (["--metadata", "x=" + "y" * 5000], "more than the 4096"),
    ],
)
def test_an_update_that_cannot_be_changes_nothing(
    words: list[str], message: str, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    issued = run_json(capsys, "keys", "issue", "--owner", "acme")
    code, out, err = run(capsys, "keys", "update", issued["id"], *words)
    assert (code, out, message in err) == (1, "", True)
    assert run_json(capsys, "keys", "show", issued["id"])["owner"] == "acme"


def test_the_table_is_aligned_and_leaves_empty_columns_out(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "store", "init", store)[0] == 0
    assert run(capsys, "keys", "list") == (0, "", "There are no keys.\n")
    for owner in ("acme", "a rather long name"):
        run(capsys, "keys", "issue", "--owner", owner)
    _, out, _ = run(capsys, "keys", "list")
    head, *rows = out.splitlines()
    assert head.split("  ")[0] == "ID"
    assert "PLAN" not in head
    assert {row.index("active") for row in rows} == {head.index("STATUS")}


def test_a_record_is_shown_without_the_key(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, key, _ = run(capsys, "keys", "issue", "--owner", "acme", "--scope", "read", "--metadata", "a=b")
    _, out, _ = run(capsys, "keys", "show", key.strip())
    assert "owner        acme" in out
    assert 'metadata     {"a": "b"}' in out
    assert key.split("_")[3][:20] not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keys", "show", "nobody"], "there is no key with the id nobody"),
        (["keys", "show", "not an id!"], "neither a key nor the id of one"),
        (["keys", "issue", "--owner", ""], "owner is a printable text"),
        (["keys", "issue", "--owner", "a", "--scope", "two words"], "a scope is printable"),
        (["keys", "issue", "--owner", "a", "--network", "10.0.0.1/8"], "did you mean"),
        (["keys", "issue", "--owner", "a", "--prefix", "KG"], "a letter first"),
        (["keys", "list", "--store", "redis-nonsense://h"], "no store for the scheme"),
        (["keys", "list", "--store", "memory://"], "name a store that lasts"),
        (["keys", "issue", "--owner", "a", "--store", "sqlite:////no/such/folder/k.db"], "cannot use"),
        (["keys", "list", "--store", "sqlite:///misspelt.db"], "there is no file misspelt.db"),
        (["keys", "revoke", "nobody", "--store", "sqlite:///misspelt.db"], "there is no file misspelt.db"),
        (["demo", "--port", "1"], "cannot listen on 127.0.0.1:1"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(
    words: list[str], message: str, store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] == "demo":
        import keyguard.cli.demo_servers

        def refuse(*args: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(keyguard.cli.demo_servers.socket.socket, "bind", refuse)
    open_store(store)
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert err.startswith("keyguard: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_without_a_store_it_says_how_to_name_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEYGUARD_STORE", raising=False)
    code, _, err = run(capsys, "keys", "list")
    assert (code, "--store sqlite:///keyguard.db" in err) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ["keys"],
        ["keys", "issue"],
        ["keys", "issue", "--owner", "a", "--expires", "soon"],
        ["keys", "issue", "--owner", "a", "--expires", "2030-01-01T00:00:00"],
        ["keys", "issue", "--owner", "a", "--metadata", "novalue"],
        ["keys", "rotate", "x", "--overlap", "1 dag"],
        ["keys", "update"],
        ["keys", "update", "x", "--plan", "pro", "--no-plan"],
        ["keys", "update", "x", "--expires", "soon"],
        ["keys", "issue", "--owner", "a", "--expires", "999999999w"],
        ["demo", "--port", "99999"],
        ["nonsense"],
    ],
)
def test_a_wrong_command_line_exits_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: keyguard" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error(store: str) -> None:
    keys = KeyRegistry(open_store(store))
    for number in range(50):
        keys.issue(f"owner {number}")
    command = f"{sys.executable} -m keyguard keys list --json | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[\n", "")


@pytest.mark.parametrize("words", [["issue", "--owner", "acme"], ["issue", "--owner", "acme", "--json"]])
def test_a_key_that_cannot_be_written_is_named_so_that_it_can_be_revoked(
    words: list[str], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"{sys.executable} -m keyguard keys {' '.join(words)} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    (record,) = run_json(capsys, "keys", "list")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"key {record['id']} was made, but could not be written" in last
    assert "Traceback" not in done.stderr


def test_a_key_is_not_made_where_nobody_could_see_it(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{sys.executable} -m keyguard keys issue --owner acme >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "keyguard: error: standard output is closed\n")
    assert not Path(store.removeprefix("sqlite:///")).exists()


def test_a_name_that_the_terminal_cannot_write_loses_no_key(store: str, warm: str) -> None:
    def ask(*words: str) -> str:
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        return begin(warm, ["-m", "keyguard", "keys", *words], env=environment, needs=["keyguard"]).stdout

    issued = json.loads(ask("issue", "--owner", "Müller", "--json"))
    assert issued["owner"] == "Müller"
    assert play(Keyguard(APIKeys(), store=store), headers={"X-API-Key": issued["key"]}).status == 200
    assert "M\\xfcller" in ask("list")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("keyguard 0.")


@pytest.mark.slow
def test_the_demo_tells_its_story_and_serves_until_it_is_stopped() -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # A shell that runs these tests in the background has them ignore SIGINT, and children inherit that.
    heeding: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with python("-m", "keyguard", "demo", "--serve", stderr=subprocess.PIPE, env=environment, **heeding) as process:
        assert process.stdout is not None
        lines: list[str] = []
        deadline = time.monotonic() + 240
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line or time.monotonic() > deadline:
                break
        curls = [line.split() for line in lines if line.strip().startswith("curl")]
        story = "".join(lines)
        assert "All as it should be." in story
        for told in ("an alert: acme has used 80 %", "an alert: acme has used up", "The counter and the ledger agree."):
            assert story.count(told) == 1, told
        page = re.search(r"Look at (\S+) in a browser, and log in with (kg_live_\w+)", story)
        assert page is not None
        with urllib.request.urlopen(page[1], timeout=10) as answer:
            assert "Log in" in answer.read().decode()
        for curl in curls:
            words = [word.strip("'") for word in curl]
            headers = {}
            if "-H" in words:
                name, value = " ".join(words[words.index("-H") + 1 :]).strip("'").split(": ")
                headers[name] = value
            connection = http.client.HTTPConnection(words[2].split("/")[2], timeout=10)
            try:
                connection.request("GET", "/hello", headers=headers)
                expected = 200 if "Authorization" in headers else 403 if headers else 401
                assert connection.getresponse().status == expected
            finally:
                connection.close()
        assert len(curls) == 4
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, 130)
        assert "Traceback" not in errors
