"""`keyguard upstream`: an operator has the store's URL, and what pools have written down there tells the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keyguard import Key, KeyPool
from keyguard.cli import main
from keyguard.cli.output import end_text
from keyguard.ops import Put
from keyguard.stores import open_store
from tests.support.every_store import SHARED, url_of

MONEY = b'{"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Pay first."}}'


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["upstream", *words])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(params=SHARED)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = url_of(request.param, request, tmp_path, timeout=1)
    monkeypatch.setenv("KEYGUARD_STORE", url)
    return url


def pool_at(url: str, name: str = "openai") -> KeyPool:
    keys = [Key("eu", "sk-eu", group="org-a"), Key("eu2", "sk-eu2", group="org-a"), Key("spare", "sk-spare", rank=1)]
    return KeyPool.openai(keys, name=name, store=url, limits={"org-a": {"rpm": 500}}, max_wait=0)


def test_what_a_pool_knows_is_shown_and_a_key_is_tried_again(store: str, run: Any) -> None:
    pool = pool_at(store)
    with pool.acquire(model="m", cost={"requests": 1}) as grant:
        grant.report(429, {}, MONEY)
    pool.close()

    code, out, _ = run("status")
    lines = [line.split() for line in out.splitlines()[1:]]
    assert (code, [line[:5] for line in lines]) == (
        0,
        [
            ["eu", "left", "alone", "openai", "org-a"],
            ["eu2", "left", "alone", "openai", "org-a"],
            ["spare", "ok", "openai", "spare"],
        ],
    )
    assert "billing" in out
    assert "/500 rpm" in out
    assert "sk-" not in out
    (told,) = json.loads(run("status", "--json")[1])
    assert {group["name"]: group["cause"] for group in told["groups"]} == {"org-a": "billing", "spare": "ok"}

    code, out, _ = run("enable", "eu2")
    assert (code, out) == (0, "eu2 of openai is tried again at once; it was billing\n")
    assert "billing" not in run("status")[1]
    assert {group.cause for group in pool.snapshot().groups} == {"ok"}


def test_a_key_without_room_is_used_up_until_there_is_some(store: str, run: Any) -> None:
    pool = KeyPool.openai([Key("eu", "sk-eu")], store=store, limits={"eu": {"rpd": 2}}, max_wait=0)
    for shown in ("ok", "used up"):
        with pool.acquire(model="m") as grant:
            grant.report(200, {}, b"{}")
        pool.close()
        assert shown in run("status")[1]
    ((group,),) = [one.groups for one in (pool.snapshot(),)]
    (limit,) = group.dimensions
    assert limit.room_at is not None
    assert limit.resets_at is not None
    assert pool.snapshot().at < limit.room_at < limit.resets_at
    assert run("status")[1].splitlines()[1].endswith(end_text(limit.room_at))
    (told,) = json.loads(run("status", "--json")[1])
    assert told["groups"][0]["dimensions"][0]["room_at"][:19] == limit.room_at.isoformat()[:19]


def test_an_enabled_key_stands_in_the_audit_log(tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/k.db"
    pool = pool_at(url)
    with pool.acquire() as grant:
        grant.report(401, {}, b'{"error": {"code": "invalid_api_key"}}')
    pool.close()
    assert "invalid" in run("status", "--store", url)[1]
    assert run("enable", grant.key.id, "--store", url)[0] == 0
    main(["audit", "list", "--json", "--store", url])
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["action"], record["caller"]) == ("upstream.enable", f"openai/{grant.key.id}")
    assert record["before"] == {"state": "invalid", "cause": "ok"}


def test_what_is_wrong_is_said(tmp_path: Path, run: Any) -> None:
    url = f"sqlite:///{tmp_path}/k.db"
    store: Any = open_store(url)
    store.execute([Put("k|made", b"")])
    assert run("status", "--store", url) == (
        0,
        "",
        "No pool has written anything down here: its app does so at its first requests.\n",
    )
    assert "no pool has a key of this id" in run("enable", "eu", "--store", url)[2]
    for name in ("one", "two"):
        pool = pool_at(url, name)
        with pool.acquire() as grant:
            grant.report(200, {})
        pool.close()
    assert "add --pool: one and two" in run("enable", "eu", "--store", url)[2]
    assert (
        run("enable", "eu", "--pool", "two", "--store", url)[1] == "eu of two is tried again at once; it was in use\n"
    )
    assert "there is no pool of this name" in run("status", "--pool", "three", "--store", url)[2]
    store.execute([Put("up:one|=", b"{")])
    assert "damaged" in run("status", "--store", url)[2]
    store.execute([Put("up:one|=", b'{"v": 2}')])
    assert "later keyguard" in run("status", "--store", url)[2]
    store.close()
