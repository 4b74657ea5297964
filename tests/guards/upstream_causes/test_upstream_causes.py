"""Who is refused since the app's own upstream is used up, what they are told, and that it costs them nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

import keyguard.asgi
import keyguard.wsgi
from keyguard import (
    APIKeys,
    Ban,
    Cause,
    Concurrency,
    ConfigurationError,
    Forward,
    Keyguard,
    Overload,
    RateLimit,
    Request,
    Response,
    UpstreamCauses,
    Usage,
)
from keyguard.policies import Policy, all_of, shadow
from keyguard.upstream import UpstreamCause
from tests.guards.upstream_causes import exhaustions as made
from tests.guards.upstream_causes.exhaustions import APPS, Handler, RateLimitError, raises
from tests.support.distant import DistantStore
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi

WORLDS = {"asgi": ask_asgi, "wsgi": ask_wsgi}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class OwnCauses(UpstreamCauses):
    """A subclass is always called, and never asked by its `decider`."""

    async def __call__(self, request: Any, forward: Any) -> Response:
        return await super().__call__(request, forward)


async def timed(request: Request, forward: Forward) -> Response:
    return await forward(request)


STACKS: dict[str, Callable[..., Keyguard]] = {
    "alone": lambda **o: Keyguard(UpstreamCauses(), **o),
    "the short way": lambda **o: Keyguard(RateLimit("9/minute"), UpstreamCauses(), **o),
    "several limits": lambda **o: Keyguard(RateLimit("9/minute"), Concurrency(3), UpstreamCauses(), **o),
    "settled in the end": lambda **o: Keyguard(RateLimit("9/minute", settle=lambda outcome: 3), UpstreamCauses(), **o),
    "within a coroutine": lambda **o: Keyguard(RateLimit("9/minute"), timed, UpstreamCauses(), **o),
    "around a coroutine": lambda **o: Keyguard(RateLimit("9/minute"), UpstreamCauses(), timed, **o),
    "called itself": lambda **o: Keyguard(RateLimit("9/minute"), OwnCauses(), **o),
    "handlers": lambda **o: Keyguard(RateLimit("9/minute"), UpstreamCauses(), handlers=True, **o),
    "no handlers": lambda **o: Keyguard(RateLimit("9/minute"), UpstreamCauses(), handlers=False, **o),
    "heard of": lambda **o: Keyguard(RateLimit("9/minute"), UpstreamCauses(), usage=Usage(), **o),
}  # fmt: skip


def asked(world: str, guard: Keyguard, handler: Handler, ask: Ask = Ask()) -> Answer:  # noqa: B008 - Ask is frozen
    return WORLDS[world](getattr(guard, world)(APPS[world](handler)), ask)


def spent(guard: Keyguard) -> list[int]:
    """Return what is left of the limits, by asking once more."""
    told: list[Any] = []

    def seen() -> made.Sent:
        told.extend(guard.here().limits)
        return made.fine()

    ask_wsgi(guard.wsgi(APPS["wsgi"](seen)), Ask())
    return [limit.remaining for limit in told]


# -- what is refused --------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Handler, str | None, str]] = {
    "openai, anthropic": (raises(), "20", "has used up its own limits"),
    "mistralai": (made.mistral, "20", "has used up its own limits"),
    "aiohttp": (made.aiohttp, "20", "has used up its own limits"),
    "wrapped in another": (made.wrapped, "20", "has used up its own limits"),
    "in a group": (made.in_a_group, "20", "has used up its own limits"),
    "one of two calls": (made.one_of_two_calls, "20", "has used up its own limits"),
    "passed on as it came": (made.passed_on, "20", "has used up its own limits"),
    "a part of a second": (raises(seconds=0.2), "1", "has used up its own limits"),
    "works again by now": (raises(seconds=-5), "1", "has used up its own limits"),
    "a quota of the day": (raises(UpstreamCause.QUOTA, 43_200), "43200", "has used up its own limits"),
    "nobody knows when": (raises(UpstreamCause.EXHAUSTED, None), None, "has used up its own limits"),
    "no money": (raises(UpstreamCause.BILLING, None), None, "waiting does not help"),
    "no money until noon tomorrow": (raises(UpstreamCause.BILLING, 86_400), None, "waiting does not help"),
    "all keys invalid": (raises(UpstreamCause.INVALID, None), None, "waiting does not help"),
    "the provider is overloaded": (raises(UpstreamCause.OVERLOAD, 3), "3", "is overloaded or out of order"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_request_that_fails_for_an_exhaustion_is_refused(world: str, what: str) -> None:
    handler, wait, says = REFUSED[what]
    answer = asked(world, STACKS["the short way"](clock=made.at_noon()), handler)
    told = json.loads(answer.body)
    assert (answer.status, answer.get("retry-after")) == (503, wait)
    assert (told["cause"], told["title"]) == ("upstream", "Upstream unavailable")
    assert told["type"].endswith("#temporary-reduced-capacity")
    assert says in told["detail"]
    assert "Neither your key nor your limits are the reason" in told["detail"]
    assert told.get("retry_after") == (None if wait is None else int(wait))
    assert ("recovers_at" in told) == (wait is not None)
    assert "openai" not in answer.body.decode(), "nobody is told whom the app calls"


@pytest.mark.parametrize("seconds", [0.2, 2, -5])
def test_a_store_of_the_pools_that_has_too_much_to_do_is_this_services_own_load(
    world: str, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    guard = STACKS["the short way"](clock=made.at_noon())
    with caplog.at_level(logging.INFO, "keyguard"):
        answer = asked(world, guard, raises(UpstreamCause.BUSY, seconds))
    told = json.loads(answer.body)
    assert (answer.status, answer.get("retry-after")) == (503, "2" if seconds == 2 else "1")
    assert told["cause"] == "overload"
    assert "more to do than it can do" in told["detail"]
    assert "Neither your key nor your limits are the reason" in told["detail"]
    assert "refused: cause=overload reason=openai-busy status=503" in caplog.text
    assert spent(guard) == spent(STACKS["the short way"](clock=made.at_noon())), "nothing is charged"


@pytest.mark.parametrize("stack", STACKS)
def test_in_every_stack_alike_and_nothing_is_charged(world: str, stack: str) -> None:
    guard = STACKS[stack](clock=made.at_noon())
    fresh = spent(STACKS[stack](clock=made.at_noon()))
    for handler in (raises(), made.passed_on, made.wrapped):
        answer = asked(world, guard, handler)
        assert (answer.status, json.loads(answer.body)["cause"], answer.get("retry-after")) == (503, "upstream", "20")
        assert answer.get("ratelimit") is None
    assert spent(guard) == fresh


@pytest.mark.parametrize("stack", ["several limits", "within a coroutine", "settled in the end"])
def test_on_a_store_that_is_awaited_it_costs_nothing_either(world: str, stack: str) -> None:
    clock = made.at_noon()
    guard = STACKS[stack](store=DistantStore(clock), clock=clock)
    fresh = spent(STACKS[stack](clock=made.at_noon()))
    for handler in (raises(), made.passed_on):
        assert asked(world, guard, handler).status == 503
    assert spent(guard) == fresh


def test_what_a_handler_has_charged_before_is_not_charged(world: str) -> None:
    guard = Keyguard(RateLimit("9/minute", cost=0, name="units"), UpstreamCauses(), clock=made.at_noon())

    def handler() -> made.Sent:
        guard.charge(5)
        return raises()()

    assert asked(world, guard, handler).status == 503
    assert spent(guard) == [9]


def test_other_forms_tell_the_same(world: str) -> None:
    guard = Keyguard(UpstreamCauses(), clock=made.at_noon())
    text = asked(world, guard, raises(), Ask(headers=(("Accept", "text/plain"),)))
    page = asked(world, guard, raises(), Ask(headers=(("Accept", "text/html"),)))
    assert b"cause: upstream\n" in text.body
    assert b"<h1>Upstream unavailable</h1>" in page.body


# -- what is left alone -----------------------------------------------------------------------------------------

BUGS: dict[str, Handler] = {
    "a bug": made.bug,
    "a bug after an exhaustion was caught": made.bug_after_it,
    "a bug beside it": made.bug_beside_it,
    "a 429 that is no pool's": made.of_another,
}


@pytest.mark.parametrize("stack", ["the short way", "within a coroutine", "called itself"])
@pytest.mark.parametrize("what", BUGS)
def test_errors_of_the_apps_own_stay_errors(world: str, what: str, stack: str) -> None:
    with pytest.raises((KeyError, ExceptionGroup, RateLimitError)):
        asked(world, STACKS[stack](clock=made.at_noon()), BUGS[what])


@pytest.mark.parametrize("status", [200, 404, 429, 500, 502, 503])
@pytest.mark.parametrize("stack", ["the short way", "within a coroutine"])
def test_an_app_that_answers_by_itself_is_left_alone(world: str, stack: str, status: int) -> None:
    answer = asked(world, STACKS[stack](clock=made.at_noon()), made.fallback(status))
    assert (answer.status, answer.body) == (status, b"by the app")


def test_without_the_guard_nothing_happens(world: str) -> None:
    with pytest.raises(RateLimitError):
        asked(world, Keyguard(RateLimit("9/minute")), raises())


def test_what_a_limit_refuses_stays_a_limits_refusal(world: str) -> None:
    guard = Keyguard(RateLimit("1/minute"), UpstreamCauses(), clock=made.at_noon())
    assert asked(world, guard, made.fine).status == 200
    answer = asked(world, guard, raises())
    assert (answer.status, json.loads(answer.body)["cause"]) == (429, "usage")


# -- what is told of it -----------------------------------------------------------------------------------------


def test_the_log_and_the_record_tell_it_from_the_callers_own(world: str, caplog: pytest.LogCaptureFixture) -> None:
    records: list[Any] = []
    refusals: list[Any] = []
    guard = Keyguard(
        APIKeys(),
        RateLimit("1/minute", by="key"),
        UpstreamCauses(),
        clock=made.at_noon(),
        on_decision=records.append,
        on_refusal=refusals.append,
    )
    key = guard.keys.issue("acme").key
    ask = Ask(headers=(("X-API-Key", key.reveal()),))
    with caplog.at_level(logging.INFO, "keyguard"):
        asked(world, guard, raises(), ask)
        asked(world, guard, made.fine, ask)
        asked(world, guard, raises(), ask)
    assert [(one.outcome, one.cause, one.reason, one.status) for one in records] == [
        ("refused", Cause.UPSTREAM, "openai-exhausted", 503),
        ("served", None, "", 200),
        ("refused", Cause.USAGE, "limit-reached", 429),
    ]
    assert [one.subject for one in records] == ["acme"] * 3
    assert [(one.cause, one.retry_after, one.policies) for one in refusals] == [
        (Cause.UPSTREAM, 20, ()),
        (Cause.USAGE, 60, ("key:1/minute",)),
    ]
    assert "refused: cause=upstream reason=openai-exhausted status=503" in caplog.text


def test_why_does_not_blame_the_key() -> None:
    clock = made.at_noon()
    guard = Keyguard(APIKeys(), RateLimit("3/minute", by="key"), UpstreamCauses(), usage=Usage(), clock=clock)
    key = guard.keys.issue("acme").key
    for _ in range(4):
        asked("asgi", guard, raises(), Ask(headers=(("X-API-Key", key.reveal()),)))
    clock.advance(3)
    found = guard.why(key.id)
    said = " ".join((*found.headline, *found.details, *found.advice))
    assert found.state == "works"
    assert [(one.cause, one.requests, one.blames) for one in found.refused] == [("upstream", 4, "nobody")]
    assert "4 requests were turned away (openai-exhausted)" in said
    assert "the service's own upstream is used up, neither the key nor its limits" in said


def test_nobody_is_banned_for_it(world: str) -> None:
    guard = Keyguard(Ban(after="1/minute", of=(500, 503)), UpstreamCauses(), clock=made.at_noon())
    for _ in range(4):
        assert asked(world, guard, raises()).status == 503
    with pytest.raises(ConfigurationError, match="'upstream', which no caller is to blame for"):
        Ban(of=Cause.UPSTREAM)


def test_the_guard_against_overload_learns_nothing_of_it(world: str) -> None:
    guard = Keyguard(Overload(), UpstreamCauses(), clock=made.at_noon())
    assert asked(world, guard, raises()).status == 503
    assert guard.overload.stats().in_flight == 0
    assert guard.overload.stats().latency is None


# -- where it stands --------------------------------------------------------------------------------------------


def test_in_shadow_mode_it_records_and_the_apps_error_stays(world: str) -> None:
    guard = Keyguard(RateLimit("9/minute"), shadow(UpstreamCauses(), name="trial"), clock=made.at_noon())
    with pytest.raises(RateLimitError):
        asked(world, guard, raises())
    assert asked(world, guard, made.passed_on).status == 429
    (stats,) = guard.shadows
    assert (stats.refused, dict(stats.causes)) == (2, {Cause.UPSTREAM: 2})


def test_in_shadow_mode_a_guard_that_answers_errors_is_not_asked_twice(world: str) -> None:
    calls: list[int] = []

    def handler() -> made.Sent:
        calls.append(1)
        return raises()()

    with pytest.raises(RateLimitError):
        asked(world, Keyguard(shadow(OwnCauses())), handler)
    assert calls == [1]


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "outside of a limit": (lambda: Keyguard(UpstreamCauses(), RateLimit("9/minute")), "put <UpstreamCauses> last"),
    "outside of slots": (lambda: Keyguard(UpstreamCauses(), Concurrency(3)), "put <UpstreamCauses> last"),
    "outside of policies with limits": (
        lambda: Keyguard(UpstreamCauses(), all_of(Policy("p", then=[RateLimit("9/minute")]))),
        "put <UpstreamCauses> last",
    ),
    "twice": (lambda: Keyguard(UpstreamCauses(), UpstreamCauses()), "once is enough"),
    "in a policy": (lambda: Keyguard(all_of(Policy("p", then=[UpstreamCauses()]))), "put it last into the stack"),
    "outside of a layer with limits": (
        lambda: keyguard.asgi.UpstreamCauses(keyguard.asgi.RateLimit(made.asgi(made.fine), "9/minute")),
        "Add it before them",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_where_it_must_not_stand(what: str) -> None:
    make, says = WRONG[what]
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_stacked_one_by_one(world: str) -> None:
    """The layer with the limit stands outside, and gives back what it took."""
    layers: Any = getattr(keyguard, world)
    clock = made.at_noon()
    causes = layers.UpstreamCauses(APPS[world](raises()), clock=clock)
    limited = layers.RateLimit(causes, "2/minute", by="ip", clock=clock)
    answers = [WORLDS[world](limited, Ask()) for _ in range(4)]
    assert [(one.status, json.loads(one.body)["cause"]) for one in answers] == [(503, "upstream")] * 4
