"""The story of `examples/observed_app.py`: a caller spends its day, and the operator sees it everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from keyguard.cli import main
from tests.core.test_documents import example
from tests.support.servers import wait_until


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KEYGUARD_STORE", f"sqlite:///{tmp_path}/keyguard.db?timeout=1")
    monkeypatch.setenv("KEYGUARD_PEPPER", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=")
    return example("observed_app")


def test_a_caller_spends_its_day_and_the_operator_sees_it(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    guard = shop.guard
    key = guard.keys.issue(owner="acme").key.reveal()
    admin = guard.keys.issue(owner="operator", scopes=["keyguard:admin"]).key.reveal()
    with TestClient(shop.app, base_url="http://127.0.0.1", client=("127.0.0.1", 4000)) as here:
        mine = {"X-API-Key": key}
        assert here.get("/items/7", headers=mine).status_code == 200
        guard.limits.set("acme", 99, limit="daily:100/day")
        assert [here.get("/items/7", headers=mine).status_code for _ in range(3)] == [200, 429, 429]

        def alerts() -> list[str]:
            return [alert.title for alert in guard.alerts.list()]

        assert wait_until(alerts, "the alert is decided") == ["acme has used up daily:100/day"]
        guard.usage.flush()
        used = here.get("/usage", headers=mine)
        assert used.status_code == 200, "also now that all is used up"
        assert (used.json()["served"], used.json()["by_cause"]) == (2, {"usage": 2})
        shown = here.get("/metrics").text
        refused = 'cause="usage",outcome="refused",route="/items/{item}",rule="daily:100/day"'
        assert f"keyguard_requests_total{{{refused}}} 2.0" in shown
        assert 'keyguard_alerts_total{type="keyguard.limit.threshold"} 1.0' in shown

        assert here.get("/admin/", follow_redirects=False).status_code == 303
        page = here.get("/admin/log-in").text
        token = re.search(r'name="csrf" value="([^"]+)"', page)
        assert token is not None
        here.post("/admin/log-in", data={"key": admin, "csrf": token[1]}, headers={"Sec-Fetch-Site": "same-origin"})
        assert "acme" in here.get("/admin/").text
    with TestClient(shop.app, client=("203.0.113.7", 4000)) as elsewhere:
        assert elsewhere.get("/metrics").status_code == 403
    assert main(["why", "acme"], app=guard) == 0
    assert capsys.readouterr().out.startswith("acme: exhausted")
