"""`keyguard bans` and `guard.bans`: an operator has the store's URL, and the states of bans tell the rest."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Ban, ConfigurationError, Keyguard, RateLimit
from keyguard.cli import main
from keyguard.cli.operator import operator
from keyguard.ops import Put
from keyguard.rates import strikes
from keyguard.stores import open_store
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.every_store import SHARED, url_of

ONE, OTHER = "198.51.100.1", "198.51.100.2"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["bans", *words])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(params=SHARED)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    found = url_of(request.param, request, tmp_path, timeout=1)
    monkeypatch.setenv("KEYGUARD_STORE", found)
    return found


@pytest.fixture
def stack(url: str) -> Iterator[Keyguard]:
    store: Any = open_store(url)
    yield Keyguard(Ban(after="1/hour", growing=True), APIKeys(guesses=None), RateLimit("100/hour"), store=store)
    store.close()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KEYGUARD_STORE", f"sqlite:///{tmp_path}/keyguard.db?timeout=1")
    open_store(f"sqlite:///{tmp_path}/keyguard.db").execute([Put("k|made", b"")])

    def written(text: str) -> str:
        (tmp_path / "banned.txt").write_text(text)
        return str(tmp_path / "banned.txt")

    return written


# -- a night's work -------------------------------------------------------------------------------------------------


def test_bans_are_listed_and_lifted_by_the_stores_url_alone(stack: Keyguard, run: Any, tmp_path: Path) -> None:
    assert run("list") == (0, "", "Nobody is banned.\n")
    assert [play(stack, client=ONE).status for _ in range(3)] == [401, 401, 429]
    play(stack, client=OTHER)  # a strike, and no ban
    code, out, err = run("list")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.split() == ["CALLER", "GUARD", "SINCE", "(UTC)", "UNTIL", "(UTC)", "NUMBER"]
    assert re.fullmatch(r"198\.51\.100\.1 +ban +\S+Z +\S+Z +1", second)
    (told,) = json.loads(run("list", "--json")[1])
    assert (told["caller"], told["guard"], told["number"]) == (ONE, "ban", 1)
    (found,) = stack.bans.list()
    assert found.until - found.since == timedelta(minutes=10)

    assert run("lift", OTHER) == (1, "", "keyguard: error: this caller is not banned\n")
    assert run("lift", ONE) == (0, f"{ONE} may call again: the ban by 'ban' has ended\n", "")
    assert play(stack, client=ONE).status == 401
    assert run("list") == (0, "", "Nobody is banned.\n")

    (tmp_path / "banned").write_text(f"# from elsewhere\n{ONE}\n\n203.0.113.0/30, 2h\n2001:db8::1 10 minutes # a /64\n")
    taken = run("import", str(tmp_path / "banned"), "--for", "1h")
    assert taken == (0, "3 lines, 6 callers: 6 are banned now who were not, or not for as long\n", "")
    for client in (ONE, "203.0.113.3", "2001:db8::ffff"):
        refused = play(stack, client=client)
        assert refused.status == 429, client
        assert 0 < int(refused.header("retry-after") or 0) <= 7200
    assert play(stack, client="203.0.113.4").status == 401
    assert json.loads(run("import", str(tmp_path / "banned"), "--for", "30m", "--json")[1])["banned"] <= 5
    assert len(json.loads(run("list", "--json")[1])) == 6

    records = stack.audit.list(action="bans")
    assert [record.action for record in records] == ["bans.lift", *["bans.import"] * 6]
    assert {record.actor for record in records} == {operator()}
    assert (records[0].caller, records[0].limit, records[0].before["number"]) == (ONE, "ban", 1)
    assert [record.caller for record in records[1:4]] == [ONE, "203.0.113.0/30", "2001:db8::1"]
    assert records[2].after["callers"] == 4


# -- in the app -----------------------------------------------------------------------------------------------------


def test_the_app_lists_and_lifts_its_own() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    stack = Keyguard(
        Ban(after="1/hour"),
        APIKeys(optional=True),
        Ban(after="1/hour", of=403, by="subject", for_="1 hour"),
        store=store,
        clock=clock,
    )
    other = Keyguard(Ban(after="1/hour", name="other"), APIKeys(), store=store, clock=clock)
    for _ in range(2):
        play(stack, headers={"X-API-Key": "wrong"})
        play(other, client=OTHER)
    assert [(each.caller, each.guard) for each in stack.bans.list()] == [(ONE, "ban")]
    assert [(each.caller, each.guard) for each in other.bans.list()] == [(OTHER, "other")]
    assert asyncio.run(stack.bans.alist()) == stack.bans.list()
    assert [each.caller for each in asyncio.run(stack.bans.alift(ONE))] == [ONE]
    assert play(stack).status == 200
    assert other.bans.lift(OTHER, actor="night shift")[0].guard == "other"
    assert [record.actor for record in stack.audit.list(action="bans.lift")] == ["app", "night shift"]
    assert stack.bans.list() == []


def test_bans_that_have_ended_are_not_listed() -> None:
    clock = ManualClock()
    stack = Keyguard(Ban(after="1/hour", growing=True), APIKeys(), store=MemoryStore(clock=clock), clock=clock)
    for _ in range(2):
        play(stack)
    clock.advance(599)
    assert len(stack.bans.list()) == 1
    clock.advance(1)
    assert stack.bans.list() == []


def test_a_stack_without_the_guard_has_no_bans() -> None:
    with pytest.raises(ConfigurationError, match="no Ban guard"):
        _ = Keyguard(APIKeys(), store="memory://").bans
    with pytest.raises(ValueError, match="actor"):
        Keyguard(Ban(), store="memory://").bans.lift(ONE, actor="")


def test_a_caller_that_is_banned_by_its_key_is_named_by_the_key_and_no_key_is_shown(file: Any, run: Any) -> None:
    stack = Keyguard(APIKeys(), Ban(after="1/hour", of=404, by="key"), store=open_store(url_of_environment()))
    issued = stack.keys.issue("acme")
    secret = issued.key.reveal()

    def missing(environ: Any, start_response: Any) -> list[bytes]:
        start_response("404 Not Found", [])
        return []

    app = stack.wsgi(missing)
    for _ in range(2):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": ONE, "HTTP_X_API_KEY": secret}
        list(app(environ, lambda *head: None))
    (told,) = json.loads(run("list", "--json")[1])
    assert (told["caller"], told["guard"]) == (issued.record.id, "ban key")
    code, out, _ = run("lift", secret)
    assert code == 0
    assert secret not in out + str(stack.audit.list())


def url_of_environment() -> str:
    import os

    return os.environ["KEYGUARD_STORE"]


# -- bad input ------------------------------------------------------------------------------------------------------

BAD = [
    ("203.0.113.7\nnobody\n10.0.0.0/8 1h\n", ["line 2: 'nobody' is not a network", "line 3: '10.0.0.0/8' is 16777216"]),
    ("203.0.113.7 soon", ["line 1: 'soon' is not a moment"]),
    ("203.0.113.7 2020-01-01T00:00:00+00:00", ["line 1: '2020-01-01T00:00:00+00:00' has passed"]),
    ("203.0.113.7 2099-01-01T00:00:00", ["lacks its time zone"]),
    ("203.0.113.7/24", ["did you mean '203.0.113.0/24'?"]),
    ("2001:db8::/32", ["4294967296 callers"]),
    ("# nothing\n\n", ["there is no address and no network"]),
    ("\n".join(["x"] * 30), ["line 20:", "and 10 more"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), BAD)
def test_lines_that_are_wrong_are_named_and_nothing_is_imported(file: Any, run: Any, text: str, why: list[str]) -> None:
    code, out, err = run("import", file(text))
    assert (code, out) == (1, "")
    assert "nothing was imported" in err
    assert all(each in err for each in why), err
    assert run("list") == (0, "", "Nobody is banned.\n")


def test_standard_input_is_read(file: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("203.0.113.7\n"))
    assert run("import", "-")[0] == 0
    assert json.loads(run("list", "--json")[1])[0]["caller"] == "203.0.113.7"


def test_what_is_no_file_and_no_guard_says_so(file: Any, run: Any, tmp_path: Path) -> None:
    assert "cannot be read" in run("import", str(tmp_path / "missing"))[2]
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert "is not UTF-8 text" in run("import", str(tmp_path / "bytes"))[2]
    assert "a name is printable ASCII" in run("import", file(ONE), "--guard", "a|b")[2]
    key = f"kg_live_{'a1b2C3d4' * 6}"  # in the place of another word
    for code, out, err in (run("import", key), run("import", file(ONE), "--guard", key)):
        assert code == 1
        assert key not in out + err
    assert json.loads(run("list", "--json")[1]) == []
    assert "guard.bans.list()" in run("list", "--store", "memory://")[2]
    assert "there is no file" in run("list", "--store", f"sqlite:///{tmp_path}/none.db")[2]


def test_a_longer_ban_stays_and_a_shorter_one_grows(file: Any, run: Any) -> None:
    run("import", file(f"{ONE} 2h"))
    assert ": 0 are banned now" in run("import", file(f"{ONE} 1h"))[1]
    (before,) = json.loads(run("list", "--json")[1])
    assert ": 1 are banned now" in run("import", file(f"{ONE} 3h"))[1]
    (after,) = json.loads(run("list", "--json")[1])
    assert (after["since"], after["number"]) == (before["since"], 1)
    assert after["until"] > before["until"]


def test_a_ban_that_is_made_meanwhile_is_not_overwritten(file: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading a state and writing it, a longer ban begins."""
    store: Any = open_store(url_of_environment())
    key, other = f"rl:ban:ban:{strikes.CODE}|{ONE}", strikes.state_of(strikes.Ban(1, 4 * 10**15, 9))
    execute = type(store).execute

    def racing(self: Any, ops: Any) -> Any:
        if isinstance(ops[0], Put) and ops[0].keys == (key,):
            execute(self, [Put(key, other, 10**9)])
        return execute(self, ops)

    monkeypatch.setattr(type(store), "execute", racing)
    assert ": 0 are banned now" in run("import", file(f"{ONE} 1h"))[1]
    assert json.loads(run("list", "--json")[1])[0]["number"] == 9
    store.close()


def test_a_damaged_state_is_left_out(file: Any, run: Any) -> None:
    run("import", file(ONE))
    store: Any = open_store(url_of_environment())
    store.execute([Put(f"rl:ban:ban:{strikes.CODE}|{OTHER}", b"damaged", 10**9)])
    store.execute([Put("rl:ban:win60000000|x", bytes(8), 10**9)])  # of a RateLimit(name="ban")
    store.close()
    assert [each["caller"] for each in json.loads(run("list", "--json")[1])] == [ONE]
