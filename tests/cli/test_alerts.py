"""`keyguard alerts`: what people were told of, from the store's URL alone; and a test of who receives it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from keyguard import Alerts, APIKeys, Keyguard, RateLimit, open_store, quota
from keyguard.alerts.posting import Failed
from keyguard.cli import main
from tests.support.every_store import url_of
from tests.support.harness import Ask, ask_wsgi, wsgi_app

told: list[str] = []


def tell(message: Any) -> None:
    told.append(message.type)


def fail(message: Any) -> None:
    raise Failed("the pager is broken")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["alerts", *words])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    found = url_of(request.param, request, tmp_path)
    monkeypatch.setenv("KEYGUARD_STORE", found)
    return found


def test_alerts_are_listed_and_closed(run: Any, url: str, request: pytest.FixtureRequest) -> None:
    store: Any = open_store(url)
    request.addfinalizer(store.close)
    assert run("list") == (0, "", "There are no alerts.\n")
    guard = Keyguard(
        APIKeys(), RateLimit(quota("2/day"), by="subject"), store=store, alerts=Alerts(to=[tell, fail]), name="shop"
    )
    key = guard.keys.issue(owner="acme").key.reveal()
    for _ in range(2):
        ask_wsgi(guard.wsgi(wsgi_app), Ask(headers=(("X-API-Key", key),)))
    guard.close()
    code, out, _ = run("list")
    assert code == 0
    assert "acme has used up subject:2/day" in out
    assert "function tell sent; function fail failed, again " in out
    (alert,) = json.loads(run("list", "--json")[1])
    assert (alert["until"], alert["facts"]["used"], alert["notices"][0]["deliveries"][0]["tries"]) == (None, 2, 1)
    assert run("resolve", alert["id"])[:2] == (0, f"{alert['id']} is over\n")
    assert run("resolve", alert["id"]) == (1, "", "keyguard: error: no such alert is open\n")
    assert run("list", "--open")[2] == "There are no alerts.\n"
    assert run("enable", "function tell")[2] == "keyguard: error: no such receiver is turned off\n"


def test_receivers_are_tested(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alerted_shop.py").write_text(
        "from keyguard import Alerts, Keyguard\nfrom tests.cli.test_alerts import fail, tell\n"
        "good = Keyguard(store='memory://', alerts=Alerts(to=[tell]))\n"
        "both = Keyguard(store='memory://', alerts=Alerts(to=[tell, fail]))\n"
        "none = Keyguard(store='memory://')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    told.clear()
    assert run("test", "--app", "alerted_shop:good") == (0, "function tell: sent\n", "")
    assert told == ["keyguard.test"]
    code, out, _ = run("test", "--app", "alerted_shop:both", "--json")
    assert code == 1
    assert json.loads(out)[1] == {"to": "function fail", "sent": False, "error": "the pager is broken"}
    assert "has no receivers of alerts" in run("test", "--app", "alerted_shop:none")[2]
