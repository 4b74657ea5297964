"""The guard against overload: who is refused, in which words, and that each request is counted out again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
import trio

import keyguard.asgi
import keyguard.wsgi
from keyguard import (
    APIKeys,
    Ban,
    Concurrency,
    ConfigurationError,
    Forward,
    Identity,
    Keyguard,
    Overload,
    OverloadStats,
    RateLimit,
    Request,
    Response,
    ResponseCache,
    quota,
)
from keyguard.guard import Mark, may_decide
from keyguard.guards.overload.queue_wait import waited
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.harness import Answer, Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

WORLDS = {"asgi": (ask_asgi, asgi_app), "wsgi": (ask_wsgi, wsgi_app)}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(world: str, guard: Keyguard, ask: Ask = Ask(), app: Any = None) -> Answer:  # noqa: B008 - Ask is frozen
    send, usual = WORLDS[world]
    return send(getattr(guard, world)(app or usual), ask)


def filled(guard: Overload, left: int = 0) -> Overload:
    """Have as many requests in flight as may be, but for some places."""
    for _ in range(int(guard.limit.room(1.0)) - left):
        assert guard.limit.begin(1.0)
    return guard


def full(left: int = 0, **settings: Any) -> Overload:
    return filled(Overload(**{"max_in_flight": 100, **settings}), left)


# -- the refusal ------------------------------------------------------------------------------------------------


def test_a_request_too_many_is_refused_for_overload_and_nobody_is_blamed(world: str) -> None:
    refusals: list[Any] = []
    guard = Keyguard(full(random=lambda: 0.5, retry_after=10), APIKeys(), on_refusal=refusals.append)
    answer = asked(world, guard, Ask("/", (("X-API-Key", guard.keys.issue("acme").key.reveal()),)))
    told = json.loads(answer.body)
    assert answer.status == 503
    assert answer.get("retry-after") == "6"
    assert (told["cause"], told["title"], told["retry_after"]) == ("overload", "Too busy", 6)
    assert "Neither your key nor your limits are the reason" in told["detail"]
    assert "violated-policies" not in told
    (refusal,) = refusals
    assert (refusal.reason, refusal.key_id, refusal.policies) == ("too-many-in-flight", "", ())
    assert guard.overload.stats().shed == {"critical": 1}


def test_it_asks_to_come_back_after_a_time_drawn_within_bounds() -> None:
    drawn = iter([0.0, 0.2, 0.999999])
    guard = Keyguard(full(random=lambda: next(drawn), retry_after="3 seconds"))
    assert [play(guard).header("Retry-After") for _ in range(3)] == ["1", "1", "3"]
    own = Keyguard(full())
    assert {play(own).header("Retry-After") for _ in range(100)} == {"1", "2", "3", "4", "5"}


def test_limits_further_out_take_nothing_for_it(world: str) -> None:
    overload = full()
    guard = Keyguard(RateLimit("3/minute", by="ip"), overload)
    assert [asked(world, guard).status for _ in range(5)] == [503] * 5
    overload.limit.in_flight = 0
    assert [asked(world, guard).status for _ in range(4)] == [200, 200, 200, 429]


LIMITS: dict[str, Callable[[], Any]] = {
    "a quota": lambda: RateLimit(quota("2/month"), by="ip"),
    "slots": lambda: Concurrency(2, by="ip"),
    "failures": lambda: RateLimit("2/minute", by="ip", count="failures"),
    "a bill": lambda: RateLimit("2/minute", by="ip", settle=lambda outcome: 1),
    "bans": lambda: Ban(after="2/minute"),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_limits_of_any_kind_take_nothing_for_it(world: str, kind: str) -> None:
    overload = full()
    guard = Keyguard(LIMITS[kind](), overload)
    assert [asked(world, guard).status for _ in range(5)] == [503] * 5
    overload.limit.in_flight = 0
    assert [asked(world, guard).status for _ in range(2)] == [200, 200]


def test_no_guess_is_counted_and_no_key_looked_for(world: str) -> None:
    guard = Keyguard(full(), APIKeys(guesses="1/minute", lookup=lambda key: pytest.fail("asked")))
    assert [asked(world, guard, Ask("/", (("X-API-Key", "wrong"),))).status for _ in range(3)] == [503] * 3


def test_it_says_so_in_html_too() -> None:
    answer = play(full(), headers={"Accept": "text/html"})
    assert (answer.status, answer.header("Content-Type")) == (503, "text/html; charset=utf-8")
    assert b"Too busy" in answer.body


def test_a_layer_of_its_own_does_the_same() -> None:
    asgi = keyguard.asgi.Overload(asgi_app, max_in_flight=4)
    wsgi = keyguard.wsgi.Overload(wsgi_app, max_in_flight=4)
    assert ask_asgi(asgi, Ask()).status == ask_wsgi(wsgi, Ask()).status == 200
    filled(asgi.guard)
    filled(wsgi.guard)
    assert ask_asgi(asgi, Ask()).status == ask_wsgi(wsgi, Ask()).status == 503


# -- classes and health -----------------------------------------------------------------------------------------


PATHS = {"/checkout/*": "critical_plus", "/reports/*": "sheddable", "/feed": "sheddable_plus"}
# How many of twenty places are free, and which paths are served then.
SERVED = [
    (11, ["/checkout/1", "/", "/feed", "/reports/1"]),
    (10, ["/checkout/1", "/", "/feed"]),
    (7, ["/checkout/1", "/", "/feed"]),
    (6, ["/checkout/1", "/"]),
    (3, ["/checkout/1", "/"]),
    (2, ["/checkout/1"]),
    (1, ["/checkout/1"]),
    (0, []),
]


def plan_of(request: Request) -> Any:
    return {"pro": "critical_plus", "free": "sheddable"}.get(request.identity.plan or "")


@pytest.mark.parametrize(("left", "served"), SERVED)
def test_the_lowest_class_is_refused_first(world: str, left: int, served: list[str]) -> None:
    guard = Keyguard(full(left, criticality=PATHS))
    found = [
        path for path in ("/checkout/1", "/", "/feed", "/reports/1") if asked(world, guard, Ask(path)).status == 200
    ]
    assert found == served


def test_one_class_for_all(world: str) -> None:
    assert asked(world, Keyguard(full(10, criticality="sheddable"))).status == 503
    assert asked(world, Keyguard(full(1, criticality="critical_plus"))).status == 200


def test_classes_by_plan_behind_keys(world: str) -> None:
    people = {name: Identity(name, key_id=name, plan=name) for name in ("pro", "free", "new")}
    guard = Keyguard(APIKeys(lookup=people.get), full(3, criticality=plan_of))
    statuses = {name: asked(world, guard, Ask("/", (("X-API-Key", name),))).status for name in people}
    assert statuses == {"pro": 200, "free": 503, "new": 200}


def test_classes_by_plan_need_keys_outside() -> None:
    with pytest.raises(ConfigurationError, match="put APIKeys"):
        Keyguard(Overload(criticality=plan_of))
    with pytest.raises(ConfigurationError, match="put it after"):
        Keyguard(Overload(criticality=plan_of), APIKeys())


@pytest.mark.parametrize("returned", ["urgent", 1, ["critical"]])
def test_a_class_that_does_not_exist_shows_at_the_first_request_not_under_load(
    world: str, returned: Any, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Keyguard(Overload(criticality=lambda request: returned))
    answer = asked(world, guard)
    assert f"criticality returned {returned!r}, which is not one of" in caplog.text
    assert (answer.status, json.loads(answer.body)["cause"]) == (503, "fault")
    assert guard.overload.stats().in_flight == 0


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez", "/readyz"])
def test_health_paths_are_never_refused(world: str, path: str) -> None:
    guard = Keyguard(full())
    assert asked(world, guard, Ask(path)).status == 200
    assert guard.overload.stats() == OverloadStats(20, 20, None, None, 0.0, {})


@pytest.mark.parametrize("path", ["/health/x", "/Health", "//health", "/health%2f..", "/x/../health", "/health;a"])
def test_what_only_looks_like_one_is_refused(world: str, path: str) -> None:
    assert asked(world, Keyguard(full()), Ask(path)).status == 503


def test_health_paths_of_ones_own_or_none() -> None:
    assert play(full(health=["/up"]), "/up").status == 200
    assert play(full(health=["/up"]), "/health").status == 503
    assert play(full(health=[]), "/health").status == 503


def test_a_path_that_can_be_read_in_two_ways_is_in_the_lower_class() -> None:
    guard = full(2, criticality={"/reports/*": "sheddable", "/checkout/*": "critical_plus"})
    assert play(guard, "/reports/../x").status == 503
    assert play(guard, "/checkout/../x").status == 503
    assert play(guard, "/checkout/x").status == 200


def test_an_ambiguous_path_passes_while_there_is_room() -> None:
    assert play(Overload(criticality=PATHS), "/reports/../x").status == 200


# -- each request is counted out --------------------------------------------------------------------------------


class Failing(Exception):
    pass


async def fails(scope: Any, receive: Any, send: Any) -> None:
    raise Failing


async def fails_after_its_head(scope: Any, receive: Any, send: Any) -> None:
    await asgi_app(
        scope, receive, lambda message: send({**message, "more_body": True} if "body" in message else message)
    )
    raise Failing


async def is_silent(scope: Any, receive: Any, send: Any) -> None:
    return None


async def waits(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


def fails_plainly(environ: Any, start_response: Any) -> Iterable[bytes]:
    raise Failing


def fails_in_its_body(environ: Any, start_response: Any) -> Iterable[bytes]:
    yield from ()
    raise Failing


def exits(environ: Any, start_response: Any) -> Iterable[bytes]:
    raise SystemExit


def is_silent_plainly(environ: Any, start_response: Any) -> Iterable[bytes]:
    return []


def returns_nothing(environ: Any, start_response: Any) -> Any:
    return None


def starts_late(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    yield b"x"


async def passes_on(request: Request, forward: Forward) -> Response:
    return await forward(request)


def raises(request: Request) -> Response | None:
    raise Failing


class Stopped(BaseException):
    """As gevent stops a greenlet."""


def is_stopped(request: Request) -> Response | None:
    raise Stopped


class StoppingStore(MemoryStore):
    """A subclass of a store in memory may fail, so it is asked as a store on the network is."""

    def execute(self, ops: Any) -> Any:
        raise Stopped


async def raises_later(request: Request, forward: Forward) -> Response:
    await forward(request)
    raise Failing


async def answers(request: Request, forward: Forward) -> Response:
    return Response(204)


class BadMark(Mark):
    def head(self, request: Request, status: int, headers: Any) -> None:
        raise Failing


class LeavesBadMark:
    def __call__(self, request: Request) -> Any:
        return BadMark()


INNER: dict[str, Callable[[], list[Any]]] = {
    "alone": list,
    "before a guard that waits": lambda: [passes_on],
    "before a guard that fails": lambda: [raises],
    "before a guard that is stopped": lambda: [is_stopped],
    "before one that fails afterwards": lambda: [raises_later],
    "before one that answers": lambda: [answers],
    "before a mark that fails": lambda: [LeavesBadMark()],
    "before a mark and a guard that waits": lambda: [LeavesBadMark(), passes_on],
    "before keys": lambda: [APIKeys()],
    "before a limit": lambda: [RateLimit("1/minute", by="ip")],
    "before a cache": lambda: [ResponseCache(ttl=60)],
}
APPS: dict[str, list[Any]] = {
    "asgi": [asgi_app, fails, fails_after_its_head, is_silent],
    "wsgi": [wsgi_app, fails_plainly, fails_in_its_body, exits, is_silent_plainly, returns_nothing, starts_late],
}


@pytest.mark.parametrize("outer", [False, True], ids=["outermost", "behind a guard that waits"])
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("world", "app"), [(world, app) for world, apps in APPS.items() for app in apps])
def test_each_request_is_counted_out(world: str, app: Any, inner: str, outer: bool) -> None:
    overload = Overload()
    ended: list[float] = []
    end = overload.limit.end

    def counting(began: float, now: float, *, answered: bool) -> None:
        ended.append(now)
        end(began, now, answered=answered)

    overload.limit.end = counting  # type: ignore[method-assign]
    guard = Keyguard(*([passes_on] if outer else []), overload, *INNER[inner]())
    for number in range(1, 4):
        with suppress(Exception, SystemExit, Stopped):  # what comes of it is not looked at here
            if world == "asgi":
                ask_asgi(guard.asgi(app), Ask(), lint=False)
            else:
                ask_wsgi(guard.wsgi(app), Ask(), lint=False)
        assert (overload.limit.in_flight, len(ended)) == (0, number)


class Own(Overload):
    """Decides in a method of its own, so that it is run as a coroutine."""

    def _decide(self, request: Any) -> Any:
        return super()._decide(request)


@pytest.mark.parametrize(("world", "app"), [(world, app) for world, apps in APPS.items() for app in apps])
def test_one_that_is_run_as_a_coroutine_counts_them_out_too(world: str, app: Any) -> None:
    overload = Own(criticality="critical_plus")
    guard = Keyguard(overload)
    assert not may_decide(overload)
    for _ in range(2):
        with suppress(Exception, SystemExit):
            if world == "asgi":
                ask_asgi(guard.asgi(app), Ask(), lint=False)
            else:
                ask_wsgi(guard.wsgi(app), Ask(), lint=False)
        assert overload.limit.in_flight == 0
    filled(overload)
    assert asked(world, guard).status == 503
    assert asked(world, guard, Ask("/health")).status == 200
    assert overload.stats() == OverloadStats(20, 20, None, None, 0.0, {"critical_plus": 1})


def test_a_request_that_is_stopped_while_the_store_is_asked_is_counted_out(world: str) -> None:
    overload = Overload()
    guard = Keyguard(overload, RateLimit("9/minute", by="ip"), store=StoppingStore())
    with suppress(Stopped, Exception):
        asked(world, guard)
    assert overload.limit.in_flight == 0


@pytest.mark.parametrize("inner", ["alone", "before a guard that waits", "before a cache"])
def test_a_request_that_is_stopped_is_counted_out(inner: str) -> None:
    overload = Overload()
    guard = Keyguard(overload, *INNER[inner]()).asgi(waits)

    async def stopped() -> None:
        task = asyncio.create_task(aask(guard, Ask(), lint=False))
        for _ in range(3):
            await asyncio.sleep(0)
        assert overload.limit.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert overload.limit.in_flight == 0

    asyncio.run(stopped())


async def waits_in_trio(scope: Any, receive: Any, send: Any) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("inner", ["alone", "before a guard that waits"])
def test_also_in_trio(inner: str) -> None:
    overload = Overload()
    guard = Keyguard(overload, *INNER[inner]())

    async def main() -> None:
        async def send(message: Any) -> None:
            return None

        await guard.asgi(asgi_app)(Ask().scope(), trio.sleep_forever, send)
        assert overload.limit.in_flight == 0
        with trio.move_on_after(0) as scope:
            scope.cancel()
            await guard.asgi(waits_in_trio)(Ask().scope(), trio.sleep_forever, send)
        assert overload.limit.in_flight == 0

    trio.run(main)


def test_a_stream_is_in_flight_until_its_head_only(world: str) -> None:
    overload = Overload()
    seen: list[int] = []

    async def streams(scope: Any, receive: Any, send: Any) -> None:
        seen.append(overload.limit.in_flight)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, False):
            seen.append(overload.limit.in_flight)
            await send({"type": "http.response.body", "body": b"x", "more_body": more})

    def streams_plainly(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.append(overload.limit.in_flight)
        start_response("200 OK", [("Content-Type", "text/plain")])
        for _ in range(2):
            seen.append(overload.limit.in_flight)
            yield b"x"

    app = streams if world == "asgi" else streams_plainly
    assert asked(world, Keyguard(overload), app=app).status == 200
    assert seen == [1, 0, 0]


@pytest.mark.parametrize("message", ["websocket.accept", "websocket.close"])
def test_a_websocket_is_in_flight_until_it_is_accepted_or_not(message: str) -> None:
    overload = Overload(max_in_flight=10)
    seen: list[int] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(overload.limit.in_flight)
        await send({"type": message})
        seen.append(overload.limit.in_flight)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Keyguard(overload).asgi(app)
    scope = {**Ask().scope(), "type": "websocket", "scheme": "ws"}
    asyncio.run(guard(dict(scope), receive, send))
    assert seen == [1, 0]
    filled(overload)
    sent.clear()
    asyncio.run(guard(dict(scope), receive, send))
    assert sent == [{"type": "websocket.close", "code": 1013}]


@pytest.mark.parametrize("app", [fails, is_silent])
def test_a_websocket_that_is_never_answered_is_counted_out(app: Any) -> None:
    overload = Overload()

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        return None

    with suppress(Failing):
        asyncio.run(Keyguard(overload).asgi(app)({**Ask().scope(), "type": "websocket"}, receive, send))
    assert overload.limit.in_flight == 0


def test_a_child_of_a_fork_has_nothing_in_flight() -> None:
    overload = full()
    overload.after_fork()
    assert overload.stats().in_flight == 0
    assert play(overload).status == 200


# -- what it learns from ----------------------------------------------------------------------------------------


def learnt(guard: Keyguard, overload: Overload, ask: Ask, app: Any = wsgi_app) -> float | None:
    for _ in range(25):
        ask_wsgi(guard.wsgi(app), ask)
    return overload.stats().latency


def test_it_learns_from_answers_of_the_app_by_the_clock_of_its_stack() -> None:
    clock, overload = ManualClock(), Overload()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        clock.advance(0.25)
        return wsgi_app(environ, start_response)

    assert learnt(Keyguard(overload, clock=clock), overload, Ask(), app) == pytest.approx(0.25)
    assert overload.stats().usual == pytest.approx(0.25)


def error(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("500 Internal Server Error", [])
    return []


def test_it_learns_nothing_from_refusals_cached_answers_and_errors() -> None:
    clock = ManualClock()
    overload = Overload()
    assert learnt(Keyguard(overload, APIKeys(), clock=clock), overload, Ask()) is None
    assert learnt(Keyguard(overload, clock=clock), overload, Ask(), error) is None
    cached = Keyguard(overload, ResponseCache(ttl=3600, set_cookie=True), clock=clock)
    assert learnt(cached, overload, Ask()) is None


# -- waiting before the app -------------------------------------------------------------------------------------

NOW = 1_800_000_000_000_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("t=1799999999.500", 500_000),  # nginx: t=${msec}
        ("1799999999.5", 500_000),
        ("1799999999", 1_000_000),
        ("1799999999500", 500_000),  # Heroku
        ("t=1799999999500000", 500_000),  # Apache: t=%t
        ("1799999999.123456789", 876_544),
        ("t=1800000001.000", 0),  # a clock that is ahead
        ("t=1700000000.000", 0),  # nobody waits for a year
        ("", 0),
        (None, 0),
        ("now", 0),
        ("t=", 0),
        ("-1799999999", 0),
        ("1_799_999_999", 0),
        ("t=1799999999.500, t=1799999999.900", 0),
        ("1799999999e3", 0),
        ("\u0661\u0667\u0669\u0669\u0669\u0669\u0669\u0669\u0669\u0669", 0),  # digits of another script
        ("9" * 5000, 0),
    ],
)
def test_the_moment_in_which_a_proxy_got_a_request(value: str | None, expected: int) -> None:
    assert waited(value, NOW) == expected


def test_requests_that_have_waited_too_long_are_refused_the_lowest_class_first(world: str) -> None:
    clock = ManualClock()
    overload = Overload(start_header="X-Request-Start", max_wait="1 second", criticality=PATHS)
    guard = Keyguard(overload, clock=clock)

    def status(path: str, wait: float) -> int:
        came = clock.now.timestamp() - wait
        return asked(world, guard, Ask(path, (("X-Request-Start", f"t={came:.3f}"),))).status

    waits = [0.1, 0.6, 0.8, 0.95, 1.1]
    assert [status("/reports/1", wait) for wait in waits] == [200, 503, 503, 503, 503]
    assert [status("/feed", wait) for wait in waits] == [200, 200, 503, 503, 503]
    assert [status("/", wait) for wait in waits] == [200, 200, 200, 503, 503]
    assert [status("/checkout/1", wait) for wait in waits] == [200, 200, 200, 200, 503]
    assert status("/health", 100) == 200
    assert asked(world, guard).status == 200
    assert overload.stats().in_flight == 0


def test_nobody_has_waited_unless_the_field_is_named(world: str) -> None:
    assert asked(world, Keyguard(Overload()), Ask("/", (("X-Request-Start", "1"),))).status == 200


# -- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency": "soon"}, "latency is a duration"),
        ({"latency": 0}, "latency is a duration from"),
        ({"min_in_flight": 0}, "min_in_flight is a whole number"),
        ({"max_in_flight": 2.5}, "max_in_flight is a whole number"),
        ({"max_in_flight": True}, "max_in_flight is a whole number"),
        ({"max_in_flight": float("nan")}, "max_in_flight is a whole number"),
        ({"min_in_flight": 9, "max_in_flight": 8}, "at most max_in_flight"),
        ({"criticality": "high"}, "'critical_plus', 'critical'"),
        ({"criticality": {"/x": "high"}}, "'critical_plus', 'critical'"),
        ({"criticality": {}}, "no paths"),
        ({"criticality": {"x": "sheddable"}}, "x"),
        ({"criticality": passes_on}, "plain function"),
        ({"criticality": lambda: "critical"}, "criticality is called with the request"),
        ({"health": ["health"]}, "health"),
        ({"max_lag": "2 minutes"}, "max_lag is a duration from"),
        ({"start_header": "X Start"}, "name of a header field"),
        ({"start_header": "X_Request_Start"}, "underscore"),
        ({"max_wait": -1}, "max_wait"),
        ({"retry_after": 1.5}, "whole number of seconds"),
        ({"retry_after": 0}, "retry_after"),
        ({"random": 4}, "random is a function"),
    ],
)
def test_what_is_wrong_does_not_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Overload(**settings)


def test_a_small_ceiling_lowers_the_floor() -> None:
    guard = Overload(max_in_flight=3)
    assert (guard.limit.floor, guard.limit.ceiling) == (3, 3)


def test_a_stack_without_one_says_so() -> None:
    with pytest.raises(ConfigurationError, match="no Overload guard"):
        Keyguard().overload  # noqa: B018
