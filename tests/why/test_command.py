"""`keyguard why` and `keyguard keys list` by a store's URL alone, beside an app that goes on serving."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Ban, Keyguard, RateLimit, Usage, quota
from keyguard.cli.command_line import main
from keyguard.stores import open_store
from keyguard.testing import play
from tests.support.every_store import SHARED, url_of


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([*words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    kind = getattr(request, "param", "sqlite")
    found = url_of(kind, request, tmp_path)
    monkeypatch.setenv("KEYGUARD_STORE", found)
    return found


def served(url: str, *more: Any) -> tuple[Keyguard, str]:
    """A stack that has served one key, and written down what it has to."""
    guard = Keyguard(*more, APIKeys(), RateLimit(quota("3/day"), by="subject"), store=url, name="shop", usage=Usage())
    guard._note._write()
    key = guard.keys.issue("acme", name="nightly sync").key.reveal()
    for _ in range(5):
        play(guard, "/v1/export", headers={"X-API-Key": key, "X-Request-ID": "of-acme"})
    guard.usage.flush()
    return guard, key


@pytest.mark.parametrize("url", SHARED, indirect=True)
def test_the_url_of_a_store_is_enough(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, key = served(url)
    try:
        id = guard.keys.list()[0].id
        code, out, err = run(capsys, "why", id)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0].startswith(f"{id}, of acme: exhausted (")
        assert lines[1].startswith("The daily quota of 3 was used up at ")
        assert "2 requests were refused since." in lines
        assert "The counter and the ledger agree." in lines
        assert any(line.split()[:3] == ["KEY", "STATUS", "NAME"] for line in run(capsys, "why", "acme")[1].splitlines())
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{key}\n"))
        _, out, _ = run(capsys, "why", "-", "--json")
        found = json.loads(out)
        assert (found["state"], found["caller"], found["requests"]["refused"]) == ("exhausted", id, 2)
        assert key not in out
        code, out, err = run(capsys, "why", "--request", "of-acme")
        assert (code, err) == (0, "")
        assert "subject:3/day had 0 of 3 units left." in out
        assert run(capsys, "why", "--request", "unheard")[0] == 1
        (listed,) = json.loads(run(capsys, "keys", "list", "--json")[1])
        assert listed["last_used"] is not None
    finally:
        guard.close()


def test_bans_are_known_by_what_a_stack_has_written_down(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    guard, _ = served(url, Ban(after="2/minute", for_="10 minutes", name="gate"))
    for _ in range(4):
        play(guard, headers={"X-API-Key": "nonsense"}, client="2001:db8::7")
    guard.usage.flush()
    code, out, _ = run(capsys, "why", "2001:db8::7")
    assert (code, out.splitlines()[0].split(" (")[0]) == (0, "2001:db8::/64: banned")
    assert "  Let it in now: keyguard bans lift 2001:db8::/64." in out.splitlines()
    guard.bans.lift("2001:db8::7")
    assert "refused" in run(capsys, "why", "2001:db8::7")[1].splitlines()[0]
    guard.close()


def test_what_is_wrong_with_the_words_is_said(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    guard, key = served(url)
    assert "name a caller" in run(capsys, "why")[2]
    assert "name a caller" in run(capsys, "why", "acme", "--request", "x")[2]
    assert "there are 'shop'" in run(capsys, "why", "acme", "--stack", "other")[2]
    slip = key[:-1] + ("a" if key[-1] != "a" else "b")
    code, out, err = run(capsys, "why", slip)
    assert (code, out) == (1, "")
    assert "checksum does not fit" in err
    assert slip[20:40] not in err
    assert "guard.why(caller)" in run(capsys, "why", "acme", "--store", "memory://")[2]
    guard.close()


def test_a_store_without_a_ledger_tells_keys_and_limits(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    guard = Keyguard(APIKeys(), RateLimit("2/day", by="subject"), store=url, name="shop")
    guard._note._write()
    key = guard.keys.issue("acme").key.reveal()
    assert play(guard, headers={"X-API-Key": key}).status == 200
    code, out, err = run(capsys, "why", "acme")
    assert (code, err) == (0, "")
    assert "No ledger is kept" in out
    assert "no ledger lies beside" in run(capsys, "why", "--request", "x")[2]
    assert "no ledger lies beside" in run(capsys, "keys", "list", "--unused", "90d")[2]
    assert "LAST USED" not in run(capsys, "keys", "list")[1]
    guard.close()


def test_keys_that_nobody_uses_are_listed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    guard, _ = served(url)
    store = open_store(url)
    fresh = guard.keys.issue("bolt").record.id
    used = next(record.id for record in guard.keys.list(owner="acme"))
    _, out, err = run(capsys, "keys", "list")
    assert out.splitlines()[0].split("  ")[-1].strip() == "LAST USED (UTC)"
    assert err == ""
    assert [record["id"] for record in json.loads(run(capsys, "keys", "list", "--unused", "0s", "--json")[1])] == [
        used,
        fresh,
    ]
    code, out, err = run(capsys, "keys", "list", "--unused", "90d", "--json")
    assert (code, json.loads(out)) == (0, [])
    assert "the ledger was begun at" in err
    store.close()  # type: ignore[attr-defined]
    guard.close()
