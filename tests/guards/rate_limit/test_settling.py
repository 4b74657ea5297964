"""Costs that are known when a request is over: `settle`, `refund_on` and `count="failures"`, in both worlds."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from limits.storage import MemoryStorage

from keyguard import (
    APIKeys,
    Cause,
    ConfigurationError,
    Identity,
    IPFilter,
    Keyguard,
    NoResponse,
    Outcome,
    RateLimit,
    Request,
    Response,
    refuse,
)
from keyguard.stores.limits import LimitsStore
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_asgi, ask_wsgi

# -- apps, each in two worlds -------------------------------------------------------------------------------------

CHUNKS = [b"one", b"two", b"three"]


def apps(status: int = 200, error: Exception | None = None, *, late: bool = False) -> dict[str, Any]:
    """An app that answers with a status and several parts, or raises before its head or in the midst of its body."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if error is not None and not late:
            raise error
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-tokens", b"7")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        if error is not None:
            raise error
        await send({"type": "http.response.body", "body": b"two"})

    def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        if error is not None and not late:
            raise error
        start_response(f"{status} Any", [("x-tokens", "7")])
        return parts()

    def parts() -> Iterable[bytes]:
        yield b"one"
        if error is not None:
            raise error
        yield b"two"

    return {"asgi": asgi, "wsgi": wsgi}


ASK: dict[str, Callable[..., Any]] = {"asgi": ask_asgi, "wsgi": ask_wsgi}


@pytest.fixture(params=ASK)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Site:
    """A limit of 100 a minute around an app."""

    def __init__(self, world: str, app: dict[str, Any], *others: Any, inside: Any = (), **settings: Any) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        limit = RateLimit("100/minute", by="ip", name="test", **settings)
        stack = Keyguard(*others, limit, *inside, store=self.store, clock=self.clock)
        self.app = getattr(stack, world)(app[world])
        self.send = ASK[world]

    def ask(self, ask: Ask = Ask()) -> Any:  # noqa: B008
        try:
            return self.send(self.app, ask, lint=False)
        except (ValueError, TimeoutError, AssertionError, NoResponse):
            return None

    @property
    def spent(self) -> int:
        return 100 - int(next(iter(self.look())))

    def look(self) -> list[int]:
        from keyguard.ops import Demand, Take
        from keyguard.rates import window

        limit = window(100, 60_000_000, "100/minute")
        take = Take([Demand("", f"rl:test:{limit.code}|198.51.100.1", limit, 0)])
        return [int(taking[2]) for taking in self.store.execute([take])[0].takings]


# -- the outcome --------------------------------------------------------------------------------------------------


def outcome_of(world: str, app: dict[str, Any], **more: Any) -> Outcome:
    seen: list[Outcome] = []

    def settle(outcome: Outcome) -> int:
        seen.append(outcome)
        return 1

    Site(world, app, settle=settle, **more).ask()
    (outcome,) = seen
    return outcome


def test_an_outcome_tells_how_the_request_ended(world: str) -> None:
    outcome = outcome_of(world, apps(201))
    assert (outcome.status, outcome.exception, outcome.left) == (201, None, False)
    assert outcome.headers["X-Tokens"] == "7"
    assert next(iter(outcome.headers)) == "x-tokens"
    assert "x-other" not in outcome.headers
    assert 0 <= outcome.duration < 60
    assert "7" not in repr(outcome.headers)
    with pytest.raises(TypeError):
        outcome.headers["x-tokens"] = "8"  # type: ignore[index]


def test_an_answer_of_a_guard_further_in_is_an_outcome_too(world: str) -> None:
    def cached(request: Request) -> Response:
        return Response(203, [("X-From", "here")], b"kept")

    outcome = outcome_of(world, apps(), inside=[cached])
    assert (outcome.status, outcome.exception, outcome.left) == (203, None, False)
    assert outcome.headers["x-from"] == "here"


@pytest.mark.parametrize("late", [False, True])
def test_what_the_app_raised_is_in_it_before_the_head_and_after(world: str, late: bool) -> None:
    error = TimeoutError("upstream")
    outcome = outcome_of(world, apps(200, error, late=late))
    assert outcome.exception is error
    assert (outcome.status, outcome.left) == (200 if late else 500, False)


def test_an_app_that_does_not_answer_has_failed(world: str) -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

    def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        return []

    outcome = outcome_of(world, {"asgi": asgi, "wsgi": wsgi})
    assert outcome.status == 500
    assert outcome.exception is not None


def test_a_client_that_leaves_is_told_apart_from_an_app_that_fails() -> None:
    seen: list[Outcome] = []
    limit = RateLimit("9/minute", settle=lambda outcome: seen.append(outcome) or 1)  # type: ignore[func-returns-value]
    sites = Keyguard(limit, store="memory://")

    async def cancelled(after_head: bool) -> None:
        started = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if after_head:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"one", "more_body": True})
            started.set()
            await asyncio.Event().wait()

        async def send(message: Any) -> None: ...

        task = asyncio.create_task(sites.asgi(app)(Ask().scope(), send, send))  # type: ignore[arg-type]
        await started.wait()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancelled(False))
    asyncio.run(cancelled(True))
    body = iter(sites.wsgi(apps()["wsgi"])(Ask().environ(), lambda *head: print))
    assert next(body) == b"one"
    body.close()  # type: ignore[attr-defined]
    assert [(one.status, one.left) for one in seen] == [(499, True), (200, True), (200, True)]


def test_a_body_of_one_part_that_was_delivered_is_whole_though_nobody_asks_for_a_second() -> None:
    seen: list[Outcome] = []
    stack = Keyguard(RateLimit("9/minute", settle=lambda one: seen.append(one) or 1))  # type: ignore[func-returns-value]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        return [b"one"]

    body: Any = iter(stack.wsgi(app)(Ask().environ(), lambda *head: print))
    next(body)
    body.close()
    assert not seen[0].left


# -- what it costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cost", "settled"), [(1, 0), (1, 1), (1, 7), (5, 2), (0, 3), (3, 100)])
def test_it_costs_what_the_function_says(world: str, cost: int, settled: int) -> None:
    site = Site(world, apps(), cost=cost, settle=lambda outcome: settled)
    assert site.ask().status == 200
    assert site.spent == settled


def test_a_later_cost_may_use_more_than_there_is_and_the_next_request_is_refused(world: str) -> None:
    site = Site(world, apps(), settle=lambda outcome: 500)
    assert [site.ask().status for _ in range(2)] == [200, 429]
    assert site.spent == 100


def test_the_header_fields_are_those_of_the_head_and_know_nothing_of_it(world: str) -> None:
    site = Site(world, apps(), cost=2, settle=lambda outcome: int(outcome.headers["x-tokens"]))
    assert site.ask().get("ratelimit").startswith('"test:100/minute";r=98')
    assert site.spent == 7


WRONG: list[Any] = [-1, math.nan, math.inf, 1.5, 2**40, True, None, "3", ZeroDivisionError]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_function_that_fails_changes_nothing_and_is_told_of_once(
    world: str, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def settle(outcome: Outcome) -> int:
        if isinstance(wrong, type):
            raise wrong("no cost")
        return wrong  # type: ignore[no-any-return]

    site = Site(world, apps(), cost=3, settle=settle)
    with caplog.at_level(logging.ERROR, "keyguard"):
        assert [site.ask().status for _ in range(3)] == [200] * 3
    assert site.spent == 9
    (record,) = caplog.records
    assert "settle of the limit 'test' failed" in record.getMessage()


def test_two_rates_of_one_limit_are_settled_by_one_call_and_two_limits_by_one_each(world: str) -> None:
    calls: list[str] = []
    clock = ManualClock()

    def one(outcome: Outcome) -> int:
        calls.append("one")
        return 4

    def other(outcome: Outcome) -> int:
        calls.append("other")
        return 0

    stack = Keyguard(
        RateLimit("9/second; 50/hour", name="one", settle=one),
        RateLimit("70/day", name="plain"),
        RateLimit("60/hour", name="other", settle=other),
        store=MemoryStore(clock=clock),
        clock=clock,
    )
    app = getattr(stack, world)(apps()[world])
    for _ in range(2):
        answer = ASK[world](app, Ask())
    assert sorted(calls) == ["one", "one", "other", "other"]
    left = [part.split(";")[1] for part in answer.get("ratelimit").split(", ")]
    assert left == ["r=4", "r=45", "r=68", "r=59"]


# -- short forms --------------------------------------------------------------------------------------------------

REFUNDS = [
    ((TimeoutError, 502), apps(200), 1),
    ((TimeoutError, 502), apps(502), 0),
    ((TimeoutError, 502), apps(503), 1),
    ((TimeoutError, 502), apps(200, TimeoutError()), 0),
    ((TimeoutError, 502), apps(200, TimeoutError(), late=True), 0),
    ((TimeoutError, 502), apps(200, ValueError()), 1),
    ("5xx", apps(503), 0),
    ("5xx", apps(404), 1),
    (["4xx", 302], apps(404), 0),
    (OSError, apps(200, TimeoutError()), 0),  # which is one
    (500, apps(200, ValueError()), 0),  # the server's answer
]


@pytest.mark.parametrize(("endings", "app", "spent"), REFUNDS)
def test_what_ends_so_is_refunded(world: str, endings: Any, app: Any, spent: int) -> None:
    site = Site(world, app, refund_on=endings)
    site.ask()
    assert site.spent == spent


COUNTED = [(200, 0), (302, 0), (400, 0), (401, 1), (403, 1), (404, 0), (422, 1), (429, 0), (500, 0), (503, 0)]


@pytest.mark.parametrize(("status", "spent"), COUNTED)
def test_only_failures_count(world: str, status: int, spent: int) -> None:
    site = Site(world, apps(status), count="failures")
    assert site.ask().status == status
    assert site.spent == spent


def test_which_answers_are_failures_can_be_said(world: str) -> None:
    for status, spent in ((404, 1), (401, 0), (422, 0)):
        site = Site(world, apps(status), count="failures", failures=[404, "3xx"])
        site.ask()
        assert site.spent == spent


def test_an_app_that_fails_is_no_failure_of_the_caller(world: str) -> None:
    for late in (False, True):
        site = Site(world, apps(200, ValueError(), late=late), count="failures")
        site.ask()
        assert site.spent == 0


# -- refusals further in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", list(Cause))
def test_a_refusal_further_in_costs_what_it_costs_every_limit(world: str, cause: Cause) -> None:
    """Nothing, but for what keeps a flood away: then what is said of its status counts."""

    def refusing(request: Request) -> Response:
        return refuse(request, cause, "no", reason="test")

    stays = cause in (Cause.CREDENTIALS, Cause.ADDRESS, Cause.REQUEST)
    for settings, spent in (
        ({"settle": lambda outcome: 5}, 5 if stays else 0),
        ({"count": "failures", "failures": ["4xx"]}, 1 if stays else 0),
        ({"refund_on": "4xx"}, 0),
    ):
        site = Site(world, apps(), inside=[refusing], **settings)
        site.ask()
        assert site.spent == spent


def test_wrong_keys_count_as_failures_and_right_ones_do_not(world: str) -> None:
    keys = APIKeys(lookup=lambda key: Identity("ada") if key == "right" else None, guesses=None)
    site = Site(world, apps(), inside=[keys], count="failures")
    for key, spent in (("right", 0), ("wrong", 1), ("right", 1), ("", 2)):
        site.ask(Ask("/", (("X-API-Key", key),) if key else ()))
        assert site.spent == spent


def test_a_refusal_by_address_outside_is_not_asked_about(world: str) -> None:
    site = Site(world, apps(), IPFilter(allow=["10.0.0.0/8"]), settle=lambda outcome: 1 // 0)
    assert site.ask().status == 403


# -- names --------------------------------------------------------------------------------------------------------


def test_limits_that_settle_differently_have_counters_of_their_own() -> None:
    made = [
        RateLimit("5/minute"),
        RateLimit("5/minute", count="failures"),
        RateLimit("5/minute", count="failures", failures=[404]),
        RateLimit("5/minute", refund_on=(TimeoutError, 502)),
        RateLimit("5/minute", refund_on="5xx"),
        RateLimit("5/minute", settle=tokens),
    ]
    assert len({limit.counter for limit in made}) == len(made)
    again = RateLimit("5/minute", refund_on=[502, TimeoutError])
    assert again.counter == made[3].counter
    for limit in (made[3], again):
        Keyguard(limit, store=_SHARED)  # they mean the same


def test_a_store_that_takes_nothing_back_does_not_start() -> None:
    for settings in ({"settle": tokens}, {"count": "failures"}, {"refund_on": 502}):
        limit: Any = RateLimit("5/minute", **settings)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="takes nothing back"):
            Keyguard(limit, store=LimitsStore(MemoryStorage()))


_SHARED = MemoryStore()


def tokens(outcome: Outcome) -> int:
    return 1
