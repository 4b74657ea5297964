"""What a request's state tells of its limits, in both worlds and whichever way the limits were decided."""

from __future__ import annotations

import gc
import inspect
import re
import weakref
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keyguard.asgi
from keyguard import (
    Concurrency,
    Identity,
    Keyguard,
    LimitState,
    RateLimit,
    Request,
    RequestState,
    open_store,
    refuse,
    smooth,
)
from keyguard.refusal import Cause
from keyguard.request.limits import limit_states
from keyguard.testing import ManualClock
from tests.support.distant import FAILS, DistantStore
from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def states_of(stack: Any, asks: Iterable[Ask], world: str) -> list[RequestState]:
    """Send requests through a stack. Return their states, in the app or, if it was not reached, outside of it."""
    seen: list[RequestState] = []
    asgi, wsgi = stack.asgi(asgi_app), stack.wsgi(wsgi_app)

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        await asgi(scope, receive, send)
        seen.append(scope["keyguard"])

    def outside_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        body: Iterable[bytes] = wsgi(environ, start_response)
        seen.append(environ["keyguard.request"])
        return body

    for ask in asks:
        if world == "ASGI":
            ask_asgi(outside, ask)
        else:
            ask_wsgi(outside_wsgi, ask)
    return seen


async def waiting(request: Request, forward: Any) -> Any:
    """Make all further in go the long way."""
    return await forward(request)


def kinds(store: str) -> dict[str, Callable[[ManualClock], Keyguard]]:
    def stack(*guards: Any, clock: ManualClock) -> Keyguard:
        where: Any = DistantStore(clock) if store == "elsewhere" else open_store(store, clock=clock)
        return Keyguard(*guards, store=where, clock=clock)

    limits = "3/minute; 10/hour"
    return {
        "one guard": lambda clock: stack(RateLimit(limits), clock=clock),
        "two guards that join": lambda clock: stack(RateLimit("3/minute"), RateLimit("10/hour"), clock=clock),
        "two that do not": lambda clock: stack(RateLimit("3/minute"), waiting, RateLimit("10/hour"), clock=clock),
        "the long way": lambda clock: stack(waiting, RateLimit(limits), clock=clock),
        "chosen by a function": lambda clock: stack(RateLimit(lambda request: limits), clock=clock),
        "settled in the end": lambda clock: stack(RateLimit(limits, settle=lambda outcome: 1), clock=clock),
    }


@pytest.mark.parametrize("store", ["memory://", "sqlite:///{}/limits.db", "elsewhere"])
@pytest.mark.parametrize("world", ["ASGI", "WSGI"])
@pytest.mark.parametrize("kind", kinds("memory://"))
def test_what_limits_have_answered(kind: str, world: str, store: str, tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    stack = kinds(store.format(tmp_path))[kind](clock)
    first, second = states_of(stack, [Ask()] * 2, world)
    assert first.limits == (
        LimitState("ip:3/minute", "3/minute", 3, 1, True, 2, NOON + timedelta(minutes=1), None),
        LimitState("ip:10/hour", "10/hour", 10, 1, True, 9, NOON + timedelta(hours=1), None),
    )
    assert [limit.missing for limit in first.limits] == [0, 0]
    assert (first.pressure, second.pressure) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert first.refusal is None


@pytest.mark.parametrize("world", ["ASGI", "WSGI"])
def test_what_would_have_admitted_a_request(world: str) -> None:
    clock = ManualClock(NOON)
    stack = kinds("memory://")["one guard"](clock)
    refused = states_of(stack, [Ask()] * 4, world)[-1]
    assert refused.refusal is not None
    assert refused.pressure == 1.0
    minute, hour = refused.limits
    assert (minute.admitted, minute.remaining, minute.missing) == (False, 0, 1)
    assert minute.works_at == minute.more_at == NOON + timedelta(minutes=1)
    assert (hour.admitted, hour.remaining, hour.works_at, hour.missing) == (True, 7, None, 0)  # and nothing was charged


def test_a_cost_above_all_that_is_ever_admitted_is_admitted_never() -> None:
    stack = Keyguard(RateLimit("3/minute", cost=lambda request: 5), store="memory://")
    (state,) = states_of(stack, [Ask()], "WSGI")
    (limit,) = state.limits
    assert (limit.admitted, limit.works_at, limit.more_at, limit.missing, state.pressure) == (
        False,
        None,
        None,
        2,
        0.0,
    )


@pytest.mark.parametrize("world", ["ASGI", "WSGI"])
def test_limits_that_were_decided_without_the_store_are_not_told(world: str) -> None:
    """What is left of them is not known."""
    clock = ManualClock(NOON)
    store = DistantStore(clock)
    store.plan = lambda op: FAILS
    (state,) = states_of(Keyguard(RateLimit("3/minute"), store=store, clock=clock), [Ask()], world)
    assert (state.refusal, state.limits, state.pressure) == (None, (), 0.0)


def test_slots_and_bursts_are_told_like_any_limit() -> None:
    stack = Keyguard(Concurrency(4), RateLimit(smooth("1/second", burst=5)), store="memory://")
    slots, burst = states_of(stack, [Ask()], "ASGI")[0].limits
    assert (slots.name, slots.limit, slots.remaining, slots.pressure) == ("ip:4 at a time", 4, 3, 0.25)
    assert (burst.limit, burst.remaining, burst.pressure) == (5, 4, pytest.approx(0.2))


def test_a_request_without_limits_is_under_no_pressure() -> None:
    def known(request: Request) -> None:
        request.identity = Identity("ada")

    for stack in (Keyguard(store="memory://"), Keyguard(known, RateLimit("1/minute", paths=["/x"]), store="memory://")):
        (state,) = states_of(stack, [Ask()], "ASGI")
        assert (state.limits, state.pressure) == ((), 0.0)


def test_layers_tell_of_all_limits_the_outermost_first() -> None:
    seen: list[RequestState] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["keyguard"])
        await asgi_app(scope, receive, send)

    inner = keyguard.asgi.RateLimit(app, "5/minute", store="memory://")
    assert ask_asgi(keyguard.asgi.RateLimit(inner, "9/minute", store="memory://"), Ask()).status == 200
    assert [(limit.name, limit.remaining) for limit in seen[0].limits] == [("ip:9/minute", 8), ("ip:5/minute", 4)]
    assert seen[0].pressure == pytest.approx(0.2)


@pytest.mark.parametrize("kind", kinds(""))
def test_a_state_is_gone_with_its_request(kind: str) -> None:
    """One that knew its request would make a circle of each, for the garbage collector to find."""
    stack = kinds("memory://")[kind](ManualClock(NOON)).wsgi(wsgi_app)
    environ = Ask().environ()
    gc.disable()
    try:
        list(stack(environ, lambda *_: None))
        state = weakref.ref(environ["keyguard.request"])
        environ.clear()
        assert state() is None
    finally:
        gc.enable()


def test_a_refusal_of_a_guard_is_told() -> None:
    def closed(request: Request) -> Any:
        return refuse(request, Cause.FAULT, "Closed.", reason="closed")

    (state,) = states_of(Keyguard(closed, store="memory://"), [Ask()], "ASGI")
    assert state.refusal is not None
    assert state.refusal.reason == "closed"


@given(remaining=st.integers(-100, 2000), limit=st.integers(0, 1000))
def test_shares_stay_within_their_bounds(remaining: int, limit: int) -> None:
    """Debt, grants and held units make what is left less than nothing, and more than all."""
    state = LimitState("", "", limit, 1, True, remaining, None, None)
    assert 0.0 <= state.pressure <= 1.0


def test_what_is_public_of_a_state_is_what_its_docstring_lists() -> None:
    public = {name for name in dir(RequestState) if not name.startswith("_")}
    listed = re.findall(r"`(\w+)`", re.sub("`None`", "", (inspect.getdoc(RequestState) or "").split("\n\n")[1]))
    assert set(listed) - {"APIKeys"} == public


def test_a_decision_tells_as_many_states_as_it_has_demands() -> None:
    from keyguard.ops import Taken

    assert list(limit_states(Taken([], [], 0, False))) == []
