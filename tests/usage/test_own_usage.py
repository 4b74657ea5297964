"""Callers who ask for their own usage: told in both worlds, also if all their limits are used up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit, StoreError, Usage, path
from keyguard.policies import Policy
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi
from tests.usage.test_usage import ByName, app

Served = Callable[[Ask], Answer]


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", "3")])
    return [b"app"]


@pytest.fixture(params=["asgi", "wsgi"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Keyguard, Served, ManualClock]]:
    clock = ManualClock()
    guard = Keyguard(
        RateLimit("20/hour", by="ip", name="flood"),
        ByName(),
        RateLimit("2/hour", by="key", name="work"),
        store=f"sqlite:///{tmp_path}/k.db?timeout=1",
        clock=clock,
        usage=Usage(path="/usage"),
    )
    if request.param == "asgi":
        served = guard.asgi(app)
        yield guard, lambda ask: ask_asgi(served, ask), clock
    else:
        wrapped = guard.wsgi(wsgi_app)
        yield guard, lambda ask: ask_wsgi(wrapped, ask), clock
    guard.close()


def named(name: str, target: str = "/usage", **more: Any) -> Ask:
    return Ask(target, headers=(("x-name", name),), **more)


def test_an_exhausted_caller_is_told_what_it_has_used(site: tuple[Keyguard, Served, ManualClock]) -> None:
    _, ask, clock = site
    assert [ask(named("acme", "/")).status for _ in range(4)] == [200, 200, 429, 429]
    ask(named("beta", "/"))
    clock.advance("2 seconds")
    got = ask(named("acme"))
    assert got.status == 200
    assert got.get("content-type") == "application/json"
    assert got.get("cache-control") == "no-store"
    told = json.loads(got.body)
    assert (told["subject"], told["requests"], told["served"], told["refused"]) == ("acme", 4, 2, 2)
    assert told["by_limit"] == {"work:2/hour": 2}
    assert told["by_cause"] == {"usage": 2}
    assert told["units"] == {"work:2/hour": 2, "flood:20/hour": 2}
    assert [use["key_id"] for use in told["by_key"]] == ["id-acme"]
    assert "192.0.2" not in got.body.decode()
    assert ask(named("acme", method="HEAD")).status == 200
    assert ask(named("acme", "/usage?since=1h")).status == 200


def test_what_is_not_asked_rightly(site: tuple[Keyguard, Served, ManualClock]) -> None:
    guard, ask, clock = site
    for since in ("x", "-1h", "0", "32d", "1" * 30, "%00"):
        got = ask(named("acme", f"/usage?since={since}"))
        assert (got.status, "duration" in got.body.decode()) == (400, True), since
    assert ask(Ask("/usage")).status == 200  # the app's: it may have such a path of its own
    assert ask(named("acme", "/usage/more")).status == 200
    assert ask(named("acme", method="POST")).status == 200
    clock.advance("2 seconds")
    by_route = {use.route: use.requests for use in guard.usage.of("acme").by_route}
    assert by_route["/usage"] == 6


def test_limits_further_out_count_it(site: tuple[Keyguard, Served, ManualClock]) -> None:
    _, ask, _ = site
    assert [ask(named("acme")).status for _ in range(21)] == [200] * 20 + [429]


def test_who_asks_for_ever_other_spans_waits(
    site: tuple[Keyguard, Served, ManualClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would be a look-up of its own, and no limit behind the path counts them."""
    guard, ask, _ = site
    seconds = [100.0]
    monkeypatch.setattr("keyguard.usage.own.monotonic", lambda: seconds[0])
    got = [ask(named("acme", f"/usage?since={hour}h")) for hour in range(1, 10)]
    assert [one.status for one in got] == [200] * 8 + [429]
    assert json.loads(got[-1].body)["cause"] == "usage"
    assert got[-1].get("retry-after") == "2"
    assert ask(named("acme", "/usage?since=1h")).status == 200  # it is kept
    assert ask(named("beta", "/usage?since=9h")).status == 200
    seconds[0] += guard.usage.every
    assert ask(named("acme", "/usage?since=9h")).status == 200


def test_a_ledger_that_does_not_answer(
    site: tuple[Keyguard, Served, ManualClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, ask, _ = site

    def fail(ops: Any) -> Any:
        raise StoreError("gone")

    monkeypatch.setattr(guard.usage._store, "execute", fail)
    got = ask(named("acme"))
    assert (got.status, json.loads(got.body)["cause"]) == (503, "fault")
    assert "gone" not in got.body.decode()


@pytest.mark.parametrize("wrong", ["usage", "/usage/", "/", "", "/{x}", "/*", 7])
def test_a_path_that_is_none(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="path is one path"):
        Usage(path=wrong)


def test_a_stack_that_does_not_know_its_callers() -> None:
    for guards in ([RateLimit("1/hour", by="ip")], [Policy("some", when=path("/api/*"), then=[APIKeys()])]):
        with pytest.raises(ConfigurationError, match="put APIKeys"):
            Keyguard(*guards, usage=Usage(path="/usage"))
