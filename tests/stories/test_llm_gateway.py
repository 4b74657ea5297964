"""The story of `examples/llm_gateway.py`, and of `keyguard demo --llm`, which tells it with real servers."""

from __future__ import annotations

import inspect
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import keyguard.cli.demo_llm
from keyguard import Key, KeyPool
from keyguard.cli import llm_gateway
from keyguard.testing import FakeProvider
from tests.core.test_documents import ROOT, example
from tests.support.commands import run
from tests.support.servers import free_port

BODY = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KEYGUARD_STORE", f"sqlite:///{tmp_path}/keyguard.db")
    monkeypatch.setenv("OPENAI_EU", "sk-eu")
    monkeypatch.setenv("OPENAI_SPARE", "sk-spare")
    return example("llm_gateway")


def test_it_is_short_and_the_demo_runs_the_same() -> None:
    assert len((ROOT / "examples" / "llm_gateway.py").read_text().splitlines()) <= 80
    text = (ROOT / "examples" / "llm_gateway.py").read_text()
    for function in (llm_gateway.gateway, llm_gateway.pieces):
        assert inspect.getsource(function) in text


def test_a_key_runs_dry_then_all_and_the_caller_is_told_when(shown: Any) -> None:
    provider = FakeProvider(
        "openai", keys={"sk-eu": "org-a", "sk-spare": "org-b"}, limits={"org-a": {"rpm": 4}, "org-b": {"rpm": 1}}
    )
    key = {"Authorization": f"Bearer {shown.guard.keys.issue('acme').key.reveal()}"}
    with provider.serving() as url:
        keys = [Key("eu", "sk-eu", group="org-a"), Key("spare", "sk-spare", group="org-b", rank=1)]
        pool = KeyPool(keys, profile="openai", origin=url, max_wait=0)
        with TestClient(shown.gateway(shown.guard, pool, url)) as client:
            assert client.post(CHAT, json=BODY).status_code == 401
            models = [client.get("/v1/models", headers=key).headers["cache-status"] for _ in range(2)]
            assert [("stored" in told, "hit" in told) for told in models] == [(True, False), (False, True)]
            answer = client.post(CHAT, json={**BODY, "stream": True}, headers=key)
            assert (answer.headers["content-type"].split(";")[0], "Hello" in answer.text) == ("text/event-stream", True)
            assert '"total_tokens"' not in answer.text, "the caller has not asked for its usage"
            provider.script("sk-eu", [provider.error("request")])
            wrong = client.post(CHAT, json=BODY, headers=key)
            assert (wrong.status_code, "error" in wrong.json()) == (400, True), "the provider's word is passed on"

            provider.spend("org-a", {"requests": 4})
            answer = client.post(CHAT, json=BODY, headers=key)
            assert (answer.status_code, provider.served["org-b"]) == (200, 1)
            assert answer.json()["choices"][0]["message"]["content"] == "Hello from the fake provider."
            (before,) = shown.guard.limits.peek("acme")
            refused = client.post(CHAT, json=BODY, headers=key)
            assert (refused.status_code, refused.json()["cause"]) == (503, "upstream")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            (after,) = shown.guard.limits.peek("acme")
            assert (after.spent, after.held) == (before.spent, 0), "it is not the caller's cost"
            assert client.get("/v1/models", headers=key).status_code == 200
    assert provider.saw("kg_live_") == []


def test_tokens_that_are_spent_are_the_callers_own_doing(shown: Any) -> None:
    provider = FakeProvider("openai", keys={"sk-eu": "org-a"})
    key = {"Authorization": f"Bearer {shown.guard.keys.issue('acme').key.reveal()}"}
    with provider.serving() as url:
        pool = KeyPool([Key("eu", "sk-eu", group="org-a")], profile="openai", origin=url)
        with TestClient(shown.gateway(shown.guard, pool, url)) as client:
            assert client.post(CHAT, json=BODY, headers=key).status_code == 200
            shown.guard.limits.set("acme", 200_000)
            refused = client.post(CHAT, json=BODY, headers=key)
            assert (refused.status_code, refused.json()["cause"]) == (429, "usage")
    assert provider.hits["sk-eu"] == 1


def test_a_provider_that_cannot_be_reached_is_a_502(shown: Any) -> None:
    key = {"Authorization": f"Bearer {shown.guard.keys.issue('acme').key.reveal()}"}
    url = f"http://127.0.0.1:{free_port()}"
    pool = KeyPool([Key("eu", "sk-eu")], profile="openai", origin=url, max_wait=0)
    with TestClient(shown.gateway(shown.guard, pool, url)) as client:
        assert client.post(CHAT, json=BODY, headers=key).status_code == 502


@pytest.mark.slow
def test_the_demo_tells_its_story_and_serves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = []

    def stay() -> None:
        url = re.search(r"curl -i (\S+/v1/models)", out := capsys.readouterr().out)
        assert url is not None, out
        print(out)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url[1], timeout=30)
        statuses.append(refused.value.code)
        refused.value.close()

    monkeypatch.setattr(keyguard.cli.demo_llm, "stay_up", stay)
    code, out, _ = run(capsys, "demo", "--llm", "--serve")
    assert (code, statuses) == (0, [401]), out
    for told in ("All as it should be.", "cause: upstream", "cause: usage", "cache-status: keyguard; hit"):
        assert told in out
