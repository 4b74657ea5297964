"""`keyguard limits` and `keyguard audit`: an operator has the store's URL, and nothing else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard, RateLimit, smooth
from keyguard.cli import main
from keyguard.cli.operator import operator
from keyguard.ops import Put
from keyguard.rates.window import WindowLog
from keyguard.stack.written import read_stacks
from keyguard.stores import open_store
from keyguard.testing import play
from tests.support.commands import run, run_json
from tests.support.every_store import SHARED, url_of
from tests.support.servers import python

ROOT = Path(__file__).parents[2]
ADDRESS = "198.51.100.1"


def wait_for_rules(stack: Keyguard, count: int = 1) -> None:
    """Wait until the stack has written its rules down, which it does in the background."""
    play(stack)
    until = time.monotonic() + 60
    while len(read_stacks(stack.store)) < count:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(params=SHARED)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    found = url_of(request.param, request, tmp_path, timeout=1)
    monkeypatch.setenv("KEYGUARD_STORE", found)
    return found


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    found = f"sqlite:///{tmp_path}/keyguard.db?timeout=1"
    monkeypatch.setenv("KEYGUARD_STORE", found)
    return found


@pytest.fixture
def closing() -> Iterator[list[Any]]:
    opened: list[Any] = []
    yield opened
    for store in opened:
        store.close()


# -- a night's work ---------------------------------------------------------------------------------------------


def test_a_caller_is_looked_at_and_let_go_on(url: str, capsys: pytest.CaptureFixture[str], closing: list[Any]) -> None:
    store: Any = open_store(url)
    closing.append(store)
    stack = Keyguard(
        APIKeys(optional=True),
        RateLimit("2/day", "9/hour", by="subject"),
        RateLimit("50/day"),
        store=store,
        name="shop",
    )
    issued = stack.keys.issue("acme")
    sent = {"X-API-Key": issued.key.reveal()}
    wait_for_rules(stack)
    assert [play(stack, headers=sent).status for _ in range(3)] == [200, 200, 429]

    for caller in ("acme", issued.record.id):
        code, out, err = run(capsys, "limits", "show", caller)
        assert (code, err) == (0, "")
        first, second, third = out.splitlines()
        assert first.split() == ["LIMIT", "COUNTED", "AS", "USED", "LEFT", "BACK", "(UTC)"]
        assert re.fullmatch(r"subject:2/day +acme +2 +0 +works again \S+Z, in (23 h 59 min|1 d)", second), second
        assert re.fullmatch(r"subject:9/hour +acme +2 +7 +more from \S+Z, in (59 min \d\d s|1 h)", third), third

    code, out, err = run(capsys, "limits", "grant", "acme", "1", "--limit", "subject:2/day")
    assert (code, out, err) == (0, "subject:2/day of acme: 2 spent before, 1 spent and 1 left now\n", "")
    assert [play(stack, headers=sent).status for _ in range(2)] == [200, 429]
    code, out, err = run(capsys, "limits", "set", "acme", "0", "--limit", "subject:2/day")
    assert (code, out, err) == (0, "subject:2/day of acme: 2 spent before, 0 spent and 2 left now\n", "")
    assert [play(stack, headers=sent).status for _ in range(3)] == [200, 200, 429]
    code, out, err = run(capsys, "limits", "reset", "acme")
    assert (code, len(out.splitlines()), err) == (0, 2, "")
    assert play(stack, headers=sent).status == 200

    done = run_json(capsys, "audit", "list", "--action", "limits")
    assert [one["action"] for one in done] == ["limits.grant", "limits.set", "limits.reset", "limits.reset"]
    assert {one["actor"] for one in done} == {operator()}
    assert done[0]["before"] == {"spent": 2, "remaining": 0}
    assert len(run_json(capsys, "audit", "list", "--action", "limits.reset", "--since", "1h", "--caller", "acme")) == 2
    assert run_json(capsys, "audit", "list", "--actor", "nobody-else") == []
    assert run_json(capsys, "audit", "--action", "limits") == done
    assert run_json(capsys, "audit", "--action", "limits", "list", "--caller", "acme") == done
    assert run_json(capsys, "audit", "--action", "limits", "list", "--action", "bans") == []
    assert run(capsys, "audit", "list", "--action", "bans") == (0, "", "There are no such records.\n")
    assert run(capsys, "audit", "list")[1].splitlines()[0].split()[:3] == ["WHEN", "(UTC)", "WHO"]


WORKER = """
import os, sys
from keyguard import Keyguard, RateLimit
from keyguard.testing import play
stack = Keyguard(RateLimit("2/day", "1000/hour", by="ip"), store=os.environ["KEYGUARD_STORE"], name="worker")
for line in sys.stdin:
    print(play(stack).status, flush=True)
"""


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
def test_a_running_worker_sees_a_change_at_once(
    url: str, capsys: pytest.CaptureFixture[str], closing: list[Any]
) -> None:
    store: Any = open_store(url)
    closing.append(store)
    with python("-c", WORKER, cwd=ROOT, env={**os.environ, "KEYGUARD_STORE": url}) as worker:

        def asked() -> int:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            return int(worker.stdout.readline())

        assert [asked() for _ in range(3)] == [200, 200, 429]
        until = time.monotonic() + 60
        while not read_stacks(store):
            assert time.monotonic() < until
            time.sleep(0.01)
        for words, expected in (
            (["grant", ADDRESS, "1", "--limit", "ip:2/day"], [200, 429]),
            (["reset", ADDRESS], [200, 200, 429]),
            (["set", ADDRESS, "1", "--limit", "ip:2/day"], [200, 429]),
            (["set", ADDRESS, "1000", "--limit", "ip:1000/hour"], [429]),
        ):
            assert run(capsys, "limits", *words)[0] == 0
            assert [asked() for _ in expected] == expected
        (day, hour) = run_json(capsys, "limits", "show", ADDRESS)
        assert (day["spent"], hour["spent"], hour["remaining"]) == (2, 1000, 0)


def test_what_is_done_to_keys_is_in_the_audit_log_too(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    issued = run_json(capsys, "keys", "issue", "--owner", "acme", "--plan", "free", "--metadata", "card=4929-1234")
    id = issued["id"]
    run_json(capsys, "keys", "update", id, "--plan", "pro", "--metadata", "card=4929-9999")
    run_json(capsys, "keys", "update", id, "--plan", "pro")  # which changes nothing
    successor = run_json(capsys, "keys", "rotate", id, "--overlap", "1h")
    run_json(capsys, "keys", "revoke", id, "--reason", "left")
    made, updated, rotated, revoked = run_json(capsys, "audit", "list", "--action", "keys", "--caller", id)
    assert [one["action"] for one in (made, updated, rotated, revoked)] == [
        "keys.issue", "keys.update", "keys.rotate", "keys.revoke"
    ]  # fmt: skip
    assert (made["before"], made["after"]["plan"], made["after"]["owner"]) == ({}, "free", "acme")
    assert (updated["before"], updated["after"]) == ({"plan": "free"}, {"plan": "pro"})
    assert rotated["after"] == {"replaced_by": successor["id"], "overlap": "1h"}
    assert (revoked["before"]["status"], revoked["after"]["status"]) == ("rotating", "revoked")
    assert revoked["after"]["revoked_for"] == "left"
    log = str([value for key, value in open_store(file).scan("audit|")])
    assert "4929" not in log
    for key in (issued["key"], successor["key"]):
        assert key[24:40] not in log


def test_a_copy_of_a_store_has_the_audit_log(file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run_json(capsys, "keys", "issue", "--owner", "acme")
    other = f"sqlite:///{tmp_path}/other.db"
    assert run(capsys, "store", "copy", file, other)[0] == 0
    assert len(run_json(capsys, "audit", "list")) == 1
    assert run_json(capsys, "audit", "list") == run_json(capsys, "audit", "list", "--store", other)


# -- what is told -----------------------------------------------------------------------------------------------


def test_what_it_says_to_scripts(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    stack = Keyguard(RateLimit("2/day"), store=file)
    wait_for_rules(stack)
    (use,) = run_json(capsys, "limits", "show", ADDRESS)
    assert set(use) == {
        "limit", "rate", "by", "caller", "max", "spent", "held", "remaining", "more_at", "works_at", "at"
    }  # fmt: skip
    assert (use["limit"], use["rate"], use["by"], use["caller"], use["max"]) == ("ip:2/day", "2/day", "ip", ADDRESS, 2)
    assert (use["spent"], use["remaining"], use["works_at"]) == (1, 1, None)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", use["more_at"])
    (change,) = run_json(capsys, "limits", "reset", ADDRESS)
    assert (change["before"]["spent"], change["after"]["spent"]) == (1, 0)


def test_a_grant_that_gives_less_says_so(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    wait_for_rules(Keyguard(RateLimit("2/day"), store=file))
    code, out, err = run(capsys, "limits", "grant", ADDRESS, "500")
    assert (code, err) == (0, "1 of 500: a limit of this kind gives back what is spent.\n")
    assert out == f"ip:2/day of {ADDRESS}: 1 spent before, 0 spent and 2 left now\n"


class Own(WindowLog):
    """A kind of limit of a user's own."""


def test_limits_that_cannot_be_known_are_named(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = RateLimit(lambda request: "5/day", name="chosen")
    own = RateLimit(Own(5, 86_400_000_000, "5/day"), name="own")
    wait_for_rules(Keyguard(chosen, own, RateLimit(smooth("5/day"), name="even"), store=file))
    code, out, err = run(capsys, "limits", "show", ADDRESS)
    assert (code, len(out.splitlines())) == (0, 2)
    assert "a function chooses the limits of 'chosen'" in err
    assert "Not shown: 'own:5/day': it is of a kind that this keyguard does not know." in err


def test_stacks_of_one_store_are_told_apart(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = Keyguard(RateLimit("2/day", name="one"), store=file, name="shop")
    two = Keyguard(RateLimit("3/day", name="two"), store=file, name="back office")
    wait_for_rules(one)
    wait_for_rules(two, 2)
    assert {use["limit"] for use in run_json(capsys, "limits", "show", ADDRESS)} == {"one:2/day", "two:3/day"}
    assert [use["limit"] for use in run_json(capsys, "limits", "show", ADDRESS, "--stack", "shop")] == ["one:2/day"]
    two.store.execute([Put("stack|later", b'{"v": 2}'), Put("stack|damaged", b"?")])
    code, out, err = run(capsys, "limits", "show", ADDRESS)
    assert (code, len(out.splitlines()), len(err.splitlines())) == (0, 3, 2)
    assert "Not shown: the limits of the stack 'later': " in err
    code, _, err = run(capsys, "limits", "show", ADDRESS, "--stack", "shoop")
    assert code == 1
    assert "there are 'back office', 'damaged', 'later', 'shop'" in err


def test_a_key_need_not_be_an_argument_and_is_never_shown(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stack = Keyguard(APIKeys(optional=True), RateLimit("2/day", by="key"), store=file)
    wait_for_rules(stack)
    issued = stack.keys.issue("acme")
    key = issued.key.reveal()
    monkeypatch.setenv("THE_KEY", key)
    (tmp_path / "key").write_text(key)
    for form in ("env:THE_KEY", f"@{tmp_path}/key"):
        (use,) = run_json(capsys, "limits", "show", form)
        assert use["caller"] == issued.record.id
        assert run(capsys, "limits", "grant", form, "1")[0] == 0
    assert {one["caller"] for one in run_json(capsys, "audit", "list")} == {issued.record.id}
    code, out, err = run(capsys, "limits", "show", key[:-1] + ("x" if key[-1] != "x" else "y"))
    assert code == 1
    assert "this looks like a key" in err
    for option in ("--limit", "--stack", "--plan"):  # the key has ended up in the place of another word
        out += "".join(map(str, run(capsys, "limits", "show", issued.record.id, option, key)))
    assert key[20:40] not in out + err + str([*stack.store.scan("")])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["show", "x", "--store", "memory://"], 1, "memory:// is the app's own"),
        (["show", "x", "--store", "sqlite:////nowhere/at/all.db"], 1, "there is no file"),
        (["show", "x", "--limit", "ip:3/day"], 1, "no limit is called 'ip:3/day': there are ip:2/day, ip:9/hour"),
        (["show", "x", "--by", "subject"], 1, "this caller counts by subject, and these limits by ip: say by="),
        (["show", "x", "--by", "name"], 2, "invalid choice"),
        (["show"], 2, "CALLER"),
        (["grant", ADDRESS, "1"], 1, "name one limit: there are ip:2/day, ip:9/hour"),
        (["grant", ADDRESS, "0", "--limit", "ip:2/day"], 1, "units are a whole number from 1"),
        (["grant", ADDRESS, "-1", "--limit", "ip:2/day"], 2, "keyguard limits grant: error"),
        (["grant", ADDRESS, "1.5", "--limit", "ip:2/day"], 2, "is not a number of units"),
        (["grant", ADDRESS, "1_0", "--limit", "ip:2/day"], 2, "is not a number of units"),
        (["grant", ADDRESS, "9" * 30, "--limit", "ip:2/day"], 2, "is not a number of units"),
        (["set", ADDRESS, "3", "--limit", "ip:2/day"], 1, "spent is a whole number from 0 to 2 of ip:2/day, not 3"),
        (["reset", "300.1.2.3", "--by", "ip"], 1, "this is not an address such as"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], code: int, message: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_rules(Keyguard(RateLimit("2/day", "9/hour"), store=file))
    found: Any
    if code == 2:
        with pytest.raises(SystemExit) as stop:
            main(["limits", *words])
        found = stop.value.code
    else:
        found = main(["limits", *words])
    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert run_json(capsys, "audit", "list") == []


def test_a_store_in_which_no_app_has_written_says_so(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    store: Any = open_store(file)
    store.scan("")
    code, _, err = run(capsys, "limits", "show", "acme")
    assert code == 1
    assert "no app has written its limits into this store" in err


def test_the_audit_log_of_a_memory_store_is_its_apps(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "audit", "list", "--store", "memory://")
    assert code == 1
    assert "guard.audit.list()" in err


def test_an_operator_is_the_user_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert "somebody-else" not in operator()
    monkeypatch.setenv("SUDO_USER", "ada\n")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert operator() == "ada? as root"
    monkeypatch.setattr(os, "getuid", lambda: 1_234_567_890)
    assert operator() == "uid 1234567890"
