"""The ledger of a stack: what is asked for and spent stands there, by subject, cause, route and key."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keyguard import ANONYMOUS, ConfigurationError, Guard, Identity, Keyguard, RateLimit, Request, Usage, UsageReader
from keyguard.stores import open_store
from keyguard.testing import ManualClock
from keyguard.usage import RuleUse, SubjectUse, ledger_store
from tests.support.harness import Ask, ask_asgi

URLS = ["memory://", "sqlite"]


class ByName(Guard):
    """Takes callers at their word: `x-name: subject key`."""

    provides = frozenset({"identity"})

    def __call__(self, request: Request) -> None:
        name, _, key_id = (request.headers.get("x-name") or "").partition(" ")
        request.identity = Identity(name, key_id=key_id or f"id-{name}") if name else ANONYMOUS


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["path"] == "/raises":
        raise LookupError("of the app")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class Site:
    """A stack with a ledger around an app, by a clock that is set by hand."""

    def __init__(self, url: str, folder: Path, *guards: Any, **settings: Any) -> None:
        self.clock = ManualClock()
        self.url = url if url == "memory://" else f"sqlite:///{folder}/k.db?timeout=1"
        self.usage = Usage(**settings)
        self.guard = Keyguard(ByName(), *guards, store=self.url, clock=self.clock, usage=self.usage)
        self.app = self.guard.asgi(app)

    def ask(self, name: str = "", *, times: int = 1, target: str = "/", **more: Any) -> None:
        fields = (("x-name", name),) if name else ()
        for _ in range(times):
            with suppress(LookupError):
                ask_asgi(self.app, Ask(target, headers=fields, **more))


@pytest.mark.parametrize("url", URLS)
def test_what_a_subject_has_asked_for(url: str, tmp_path: Path) -> None:
    site = Site(url, tmp_path, RateLimit("3/hour", by="key", paths=["/items/*"]))
    site.ask("acme", times=5, target="/items/7")
    site.ask("acme other", times=1, target="/items/8", client="192.0.2.7")
    site.ask("acme", target="/raises")
    site.ask("beta")
    site.ask()
    site.clock.advance("2 seconds")
    found = site.guard.usage.of("acme")
    assert (found.requests, found.served, found.cached, found.refused, found.failed) == (7, 4, 0, 2, 1)
    assert found.by_cause == {"usage": 2}
    assert found.by_rule == (RuleUse("key /items/*:3/hour", "usage", 2),)
    (prefix,) = found.units
    assert prefix == site.guard.limits.facts[0].prefix
    assert found.units[prefix] == 4
    assert [(use.key_id, use.requests, use.units) for use in found.by_key] == [
        ("id-acme", 6, {prefix: 3}),
        ("other", 1, {prefix: 1}),
    ]
    assert {(use.method, use.route, use.requests, use.units.get(prefix)) for use in found.by_route} == {
        ("GET", "/items/*", 6, 4),
        ("GET", "", 1, None),
    }
    assert [(use.client, use.requests) for use in found.by_client] == [("198.51.100.1", 6), ("192.0.2.7", 1)]
    assert found.complete
    assert found.last is not None
    assert found.until - found.last == timedelta(seconds=2)
    assert (found.other, found.subject) == ({}, "acme")
    site.guard.close()


@pytest.mark.parametrize("url", URLS)
def test_the_whole_service_and_callers_without_a_key(url: str, tmp_path: Path) -> None:
    site = Site(url, tmp_path, RateLimit("3/hour", by="subject"))
    site.ask("acme", times=5)
    site.ask("*", times=2)
    site.ask("anonymous")
    site.ask(times=4)
    site.usage.flush()
    usage = site.guard.usage
    assert [usage.of(who).requests for who in (None, "", "acme", "*", "anonymous", "-", "nobody")] == [
        *(12, 4, 5, 2, 1, 0, 0)
    ]
    assert usage.by_cause() == {"usage": 3}
    assert usage.top(2) == (SubjectUse("acme", 5, 2), SubjectUse("", 4, 1))
    assert [use.subject for use in usage.top()] == ["acme", "", "*", "anonymous"]
    assert {(use.client, use.requests) for use in usage.of().by_client} == {("198.51.100.1", 12)}
    site.guard.close()


def test_event_loops_are_told_the_same(tmp_path: Path) -> None:
    site = Site("sqlite", tmp_path)
    site.ask("acme", times=3)
    site.usage.flush()
    usage = site.guard.usage

    async def both() -> None:
        assert (await usage.aof("acme", "1 hour")) == usage.of("acme", "1 hour")
        assert (await usage.atop()) == usage.top()
        assert (await usage.aby_cause()) == usage.by_cause()
        assert (await usage.alast_used("acme")) == usage.last_used("acme") != {}
        assert (await usage.aprocesses()) == usage.processes()
        assert (await usage.aread_total("x")) is usage.read_total("x") is None
        await site.guard.aclose()

    asyncio.run(both())


def test_a_reader_has_the_store_alone(tmp_path: Path) -> None:
    site = Site("sqlite", tmp_path)
    store = open_store(site.url, site.clock)
    assert ledger_store(open_store(f"sqlite:///{tmp_path}/other.db?timeout=5"), make=False) is None
    assert not (tmp_path / "other-usage.db").exists()
    site.ask("acme", times=3)
    site.guard.close()
    assert sorted(path.name for path in tmp_path.glob("k*.db")) == ["k-usage.db", "k.db"]
    beside = ledger_store(store, make=False)
    assert beside is not None
    reader = UsageReader(beside, site.clock)
    assert reader.of("acme").requests == 3


def test_a_stack_without_a_ledger_says_so() -> None:
    with pytest.raises(ConfigurationError, match="usage=Usage"):
        Keyguard().usage.of("acme")
    with pytest.raises(ConfigurationError, match="no store yet"):
        Usage().of("acme")
