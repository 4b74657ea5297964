"""A cache outside of the guard answers with what is stale, where the app allows it; else the caller is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyguard import Cause, Keyguard, RateLimit, Request, Response, ResponseCache, UpstreamCauses
from keyguard.problem import refuse_busy
from keyguard.upstream import UpstreamCause
from tests.guards.upstream_causes import exhaustions as made
from tests.guards.upstream_causes.exhaustions import APPS, Handler, raises
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi

WORLDS = {"asgi": ask_asgi, "wsgi": ask_wsgi}


class Site:
    """An app behind a limit, a cache and the guard, which answers as it is told."""

    def __init__(self, world: str, **settings: Any) -> None:
        self.clock = made.at_noon()
        self.records: list[Any] = []
        self.handler: Handler = made.fine
        self.busy = False
        """Whether a guard between cache and app is too busy."""
        guards = RateLimit("3/hour"), ResponseCache(**settings), self._when_busy, UpstreamCauses()
        self.guard = Keyguard(*guards, clock=self.clock, on_decision=self.records.append)
        self._ask = WORLDS[world]
        self._app = getattr(self.guard, world)(APPS[world](lambda: self.handler()))

    def _when_busy(self, request: Request) -> Response | None:
        return refuse_busy(request) if self.busy else None

    def ask(self, handler: Handler) -> Answer:
        self.handler = handler
        return self._ask(self._app, Ask("/page"))


def page(control: str) -> Handler:
    return lambda: made.Sent(200, b"a page", (("cache-control", control),))


FAILURES: dict[str, Handler] = {
    "raised": raises(),
    "passed on": made.passed_on,
    "the pool's store is busy": raises(UpstreamCause.BUSY, 1),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("failure", FAILURES)
def test_what_is_stale_stands_in_for_an_exhaustion(world: str, failure: str) -> None:
    site = Site(world)
    site.ask(page("max-age=60, stale-if-error=600"))
    site.clock.advance("2 minutes")
    answer = site.ask(FAILURES[failure])
    assert (answer.status, answer.body) == (200, b"a page")
    assert "hit; ttl=-60; fwd=stale; fwd-status=503" in (answer.get("cache-status") or "")
    assert [(one.outcome, one.cause) for one in site.records] == [("served", None), ("cached", None)]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("control", "settings", "status"),
    [
        ("max-age=60", {}, 503),
        ("max-age=60", {"stale_on_error": 600}, 200),
        ("max-age=60, must-revalidate", {"stale_on_error": 600}, 503),
        ("max-age=60, stale-if-error=30", {}, 503),
        ("max-age=60, stale-if-error=600", {}, 200),
    ],
)
def test_only_where_it_is_allowed(world: str, control: str, settings: dict[str, Any], status: int) -> None:
    site = Site(world, **settings)
    site.ask(page(control))
    site.clock.advance("2 minutes")
    assert site.ask(raises()).status == status


@pytest.mark.parametrize("world", WORLDS)
def test_nothing_is_stored_of_it_and_the_caller_is_charged_nothing(world: str) -> None:
    site = Site(world)
    for _ in range(5):
        answer = site.ask(raises())
        assert (answer.status, json.loads(answer.body)["cause"]) == (503, "upstream")
    assert site.ask(page("max-age=60")).body == b"a page"
    assert {one.cause for one in site.records[:5]} == {Cause.UPSTREAM}


@pytest.mark.parametrize("world", WORLDS)
def test_an_overload_that_the_app_never_saw_is_the_callers_refusal(world: str) -> None:
    site = Site(world)
    site.ask(page("max-age=60, stale-if-error=600"))
    site.clock.advance("2 minutes")
    site.busy = True
    answer = site.ask(made.fine)
    assert (answer.status, json.loads(answer.body)["cause"]) == (503, "overload")


@pytest.mark.parametrize("world", WORLDS)
def test_refusals_of_limits_are_never_answered_with_what_is_stale(world: str) -> None:
    site = Site(world)
    for _ in range(3):
        site.ask(page("max-age=60, stale-if-error=600"))
        site.clock.advance("2 minutes")
    assert site.ask(raises()).status == 429
