"""`keyguard keys import`, and the commands that put keys out of use and into it."""

from __future__ import annotations

import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyguard import APIKeys, Keyguard
from keyguard.cli import main
from keyguard.keys import KeyRegistry
from keyguard.stores import open_store
from keyguard.testing import play
from tests.support.commands import run, run_json
from tests.support.warm import run as begin

KEYS = [f"sk_{number:020}" for number in range(6)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/keys.db?timeout=5"
    monkeypatch.setenv("KEYGUARD_STORE", url)
    monkeypatch.chdir(tmp_path)
    return url


def statuses(store: str, keys: list[str]) -> list[int]:
    guard = Keyguard(APIKeys(imported=True), store=store)
    return [play(guard, headers={"X-API-Key": key}).status for key in keys]


def test_a_plain_list_is_imported_and_importing_it_again_changes_nothing(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("keys.txt").write_text("# of the old service\n\n" + "\n".join(KEYS[:3]) + "\n")
    code, out, err = run(capsys, "keys", "import", "keys.txt", "--owner", "acme", "--plan", "pro", "--scope", "a,b")
    assert (code, out) == (0, "3 new keys\n")
    assert "APIKeys(imported=True)" in err
    assert statuses(store, KEYS[:4]) == [200, 200, 200, 401]
    listed = run_json(capsys, "keys", "list")
    assert {(key["owner"], key["plan"], *key["scopes"], key["imported"]) for key in listed} == {
        ("acme", "pro", "a", "b", "key")
    }
    again = run_json(capsys, "keys", "import", "keys.txt", "--owner", "acme")
    assert again == {"right": 3, "new": 0, "there": 3, "deleted": 0, "broken": []}
    (record,) = run_json(capsys, "audit", "list", "--action", "keys.import")
    assert record["after"]["new"] == 3


def test_a_table_and_objects_name_each_keys_owner(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    digest = hashlib.sha256(KEYS[1].encode()).hexdigest()
    Path("keys.csv").write_text(
        "key,sha256,subject,plan,scopes,networks,metadata,expires,name\n"
        f'{KEYS[0]},,ada,pro,"read, write",192.0.2.0/24,"{{""team"": ""blue""}}",2127-01-01,main\n'
        f",{digest},bob,,,,,,\n"
    )
    assert run_json(capsys, "keys", "import", "keys.csv")["new"] == 2
    ada, bob = sorted(run_json(capsys, "keys", "list"), key=lambda key: str(key["owner"]))
    assert (ada["owner"], ada["subject"], ada["plan"], ada["scopes"]) == ("ada", "ada", "pro", ["read", "write"])
    assert (ada["networks"], ada["metadata"], ada["name"]) == (["192.0.2.0/24"], {"team": "blue"}, "main")
    assert ada["expires"] == "2127-01-01T00:00:00Z"
    assert (bob["owner"], bob["imported"]) == ("bob", "sha256")
    objects = [
        {"key": KEYS[2], "owner": "Carol Ltd", "subject": "carol", "scopes": ["x"], "plan": None},
        {"hash": "sha512$$" + hashlib.sha512(KEYS[3].encode()).hexdigest(), "prefix": KEYS[3][:16], "owner": "dan"},
    ]
    Path("keys.jsonl").write_text("\n".join(map(json.dumps, objects)))
    assert run_json(capsys, "keys", "import", "keys.jsonl")["new"] == 2
    assert statuses(store, KEYS[1:5]) == [200, 200, 200, 401]
    assert "verifier" not in run(capsys, "keys", "list", "--json")[1]


def test_broken_lines_are_all_named_and_nothing_is_imported_unless_told_so(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "Tr0ub4dor&3-correct-horse"
    Path("keys.csv").write_text(
        "key,owner,plan,expires\n"
        f"{KEYS[0]},acme,pro,\n"
        f"{KEYS[1]},acme\n"
        f'"{secret},acme,pro,\n'
        f"{KEYS[0]},acme,pro,\n"
        f"{KEYS[2]},,pro,\n"
        f"{KEYS[3]},acme,pro,{secret}\n"
        f"short,acme,pro,\n"
        f"{KEYS[4]},acme,pro,\n"
    )
    code, out, err = run(capsys, "keys", "import", "keys.csv")
    assert (code, out) == (1, "")
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "line 3", "line 4", "line 5", "line 6", "line 7", "line 8", "keyguard",
    ]  # fmt: skip
    assert "this is the same key as 2" in err
    assert "nothing was imported, for 6 lines are broken" in err
    for text in (secret, *KEYS):
        assert text not in err
    assert run_json(capsys, "keys", "list") == []
    assert run_json(capsys, "keys", "import", "keys.csv", "--skip-broken", "--dry-run")["right"] == 2
    assert run_json(capsys, "keys", "list") == []
    found = run_json(capsys, "keys", "import", "keys.csv", "--skip-broken")
    assert (found["new"], [line["line"] for line in found["broken"]]) == (2, [3, 4, 5, 6, 7, 8])
    assert statuses(store, [KEYS[0], KEYS[4], KEYS[1]]) == [200, 200, 401]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "there is no key"),
        ("a.csv", f"{KEYS[0]},acme\n{KEYS[1]},acme\n", "the first line names the columns"),
        ("a.csv", "key,key\n", "the first line names the columns"),
        ("a.jsonl", "[1]\n", "1 line is broken"),
        ("a.jsonl", '{"key": 5}\n', "1 line is broken"),
        ("a.jsonl", '{"key": "sk_00000000000000000001", "owner": "a", "nonsense": 1}', "1 line is broken"),
        ("a.jsonl", '{"key": "sk_00000000000000000001", "owner": "a", "scopes": [1]}', "1 line is broken"),
        ("a.jsonl", '{"key": "sk_00000000000000000001", "owner": "a", "metadata": [1]}', "1 line is broken"),
        ("a.jsonl", '{"key": "sk_00000000000000000001", "owner": "a", "expires": 5}', "1 line is broken"),
        ("a.txt", "sk_\udcff\udcfe00000000000000000001", "1 line is broken"),
        ("a.txt", "sk_00000000000000000001", "1 line is broken"),
    ],
)
def test_a_file_that_is_not_right(
    name: str, text: str, message: str, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(text.encode("utf-8", "surrogateescape"))
    code, out, err = run(capsys, "keys", "import", name)
    assert (code, out) == (1, "")
    assert message in err
    assert "sk_0" not in err
    assert run(capsys, "keys", "import", "missing.txt")[2].endswith("No such file or directory\n")


def test_digests_from_standard_input(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "\r\n".join(hashlib.sha256(key.encode()).hexdigest() for key in KEYS[:2])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + lines.encode())))
    assert run_json(capsys, "keys", "import", "-", "--of", "sha256", "--owner", "acme")["new"] == 2
    assert statuses(store, KEYS[:3]) == [200, 200, 401]


# -- keys that are there ----------------------------------------------------------------------------------------


def test_a_key_is_issued_once_for_a_deploy_script(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["keys", "issue", "--owner", "acme", "--name", "deploy", "--if-absent"]
    code, key, _ = run(capsys, *words)
    assert (code, key.startswith("kg_live_")) == (0, True)
    code, out, err = run(capsys, *words)
    assert (code, out) == (0, "")
    assert "is there already: none was made" in err
    assert "key" not in run_json(capsys, *words)
    rotated = run_json(capsys, "keys", "rotate", key.strip(), "--overlap", "0s")
    assert run_json(capsys, *words)["id"] == rotated["id"]  # the successor has its name
    run(capsys, "keys", "disable", rotated["id"])
    assert "is there already, and is disabled" in run(capsys, *words)[2]
    run(capsys, "keys", "revoke", rotated["id"])
    assert run_json(capsys, *words)["key"]
    assert run_json(capsys, *words[:-1])["key"]  # without --if-absent names need not differ
    assert run_json(capsys, *words[:3], "globex", *words[4:])["key"]  # another's
    assert run(capsys, "keys", "issue", "--owner", "acme", "--if-absent")[0] == 1


def test_of_many_scripts_at_once_one_issues_the_key(store: str, warm: str) -> None:
    open_store(store)
    words = ["-m", "keyguard", "keys", "issue", "--owner", "acme", "--name", "x", "--if-absent"]
    with ThreadPoolExecutor(4) as pool:
        running = [*pool.map(lambda _: begin(warm, words, needs=["keyguard"]), range(4))]
    assert [done.returncode for done in running] == [0] * 4
    assert sum(bool(done.stdout) for done in running) == 1
    assert len(KeyRegistry(open_store(store)).list()) == 1


def test_keys_are_disabled_enabled_and_deleted(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    issued = run_json(capsys, "keys", "issue", "--owner", "acme")
    id, key = issued["id"], issued["key"]

    def status() -> int:
        """As another process sees it, which has no memory of the key."""
        return play(Keyguard(APIKeys(), store=store), headers={"X-API-Key": key}).status

    assert run_json(capsys, "keys", "disable", key)["status"] == "disabled"
    assert status() == 401
    assert run_json(capsys, "keys", "enable", id)["status"] == "active"
    assert status() == 200
    code, _, err = run(capsys, "keys", "delete", id)
    assert (code, "by --force" in err) == (1, True)
    assert status() == 200
    assert run_json(capsys, "keys", "delete", id, "--force")["id"] == id
    assert status() == 401
    assert run(capsys, "keys", "show", id)[0] == 1
    told = [record["action"] for record in run_json(capsys, "audit", "list")]
    assert told == ["keys.issue", "keys.disable", "keys.enable", "keys.delete"]
    ended = run_json(capsys, "keys", "issue", "--owner", "acme")["id"]
    run(capsys, "keys", "revoke", ended)
    assert "is revoked" in run(capsys, "keys", "enable", ended)[2]
    assert run(capsys, "keys", "delete", ended)[0] == 0


def test_a_key_that_is_out_of_use_is_so_in_a_running_process_within_a_second(store: str) -> None:
    from keyguard.testing import ManualClock

    clock = ManualClock()
    guard = Keyguard(APIKeys(imported=True), store=store, clock=clock)
    key = guard.keys.issue("acme").key.reveal()
    ask = {"X-API-Key": key}
    assert play(guard, headers=ask).status == 200
    for change, after in (("disable", 401), ("enable", 200), ("delete", 401)):
        getattr(KeyRegistry(open_store(store)), change)(key)
        clock.advance("1 second")
        assert play(guard, headers=ask).status == after


def test_a_key_that_is_not_found_is_not_shown(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(store)
    for text in ("Tr0ub4dor3correcthorse", "sk_Tr0ub4dor3correcthorse"):
        code, _, err = run(capsys, "keys", "revoke", text)
        assert (code, text in err) == (1, False)


def test_a_copy_takes_imported_keys_along(store: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("keys.txt").write_text("\n".join(KEYS))
    run(capsys, "keys", "import", "keys.txt", "--owner", "acme")
    other = f"sqlite:///{tmp_path}/other.db"
    assert main(["store", "copy", store, other]) == 0
    assert statuses(other, KEYS) == [200] * 6


def test_no_key_shows_in_the_list_of_processes(store: str, capsys: pytest.CaptureFixture[str], warm: str) -> None:
    """A key is named by a file, standard input or the environment, and a file of them by its name."""
    Path("keys.txt").write_text(KEYS[0])
    run(capsys, "keys", "import", "keys.txt", "--owner", "acme")
    environment = {**os.environ, "LEAKED": KEYS[0]}
    done = begin(
        warm, ["-m", "keyguard", "keys", "revoke", "env:LEAKED", "--json"], env=environment, needs=["keyguard"]
    )
    assert json.loads(done.stdout)["status"] == "revoked"
    assert statuses(store, KEYS[:1]) == [401]
