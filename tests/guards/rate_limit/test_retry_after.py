"""The property that makes it ours: a lone caller that waits `Retry-After` is admitted, and one that comes a second too
early is not. Over every algorithm and store, through a whole stack."""

from __future__ import annotations

from itertools import count as numbers
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyguard import APIKeys, Identity, Keyguard, RateLimit, credits, quota, smooth
from keyguard.testing import ManualClock, play
from tests.support.every_store import KINDS, on_a_clock

EXAMPLES = {"memory": 60, "sqlite": 25, "redis": 12, "cluster": 6, "postgresql": 6}
CALLERS = numbers()
"""A caller of its own for each story."""

amounts = st.one_of(st.integers(1, 5), st.integers(30, 40), st.integers(41, 120))
spans = st.sampled_from(["second", "7 seconds", "minute", "hour", "day"])
windows = st.builds(lambda amount, span: f"{amount}/{span}", amounts, spans)
evens = st.builds(lambda amount, span, burst: smooth(f"{amount}/{span}", burst), amounts, spans, st.integers(1, 5))
quotas = st.builds(
    lambda amount, unit, zone: quota(f"{amount}/{unit}", tz=zone),
    amounts,
    st.sampled_from(["hour", "day", "week", "month"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]),
)
balances = st.builds(lambda more, refill: credits(refill.quota + more, refill=refill), st.integers(0, 9), quotas)


def period_of(rate: Any) -> str:
    """One guard has one limit a period."""
    return rate.partition("/")[2] if isinstance(rate, str) else rate.code


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Any], list[tuple[float, int]]]:
    """Limits, and the pauses and costs of a caller."""
    rates = draw(st.lists(st.one_of(windows, evens, quotas, balances), min_size=1, max_size=3, unique_by=period_of))
    pauses = st.one_of(st.just(0.0), st.floats(0, 2), st.floats(0, 100), st.floats(0, 4000))
    # Bursts of up to sixty, so that limits are reached.
    return rates, draw(st.lists(st.tuples(pauses, st.integers(1, 60)), min_size=1, max_size=12))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_caller_is_told_the_truth(kind: str, request: pytest.FixtureRequest) -> None:
    refusals = 0
    clock = ManualClock()
    store = on_a_clock(kind, request, clock)

    @settings(
        max_examples=EXAMPLES[kind],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(stories())
    def holds(story: tuple[list[Any], list[tuple[float, int]]]) -> None:
        nonlocal refusals
        rates, bursts = story
        keys = APIKeys(lookup=lambda key: Identity(key), guesses=None)
        guard = Keyguard(keys, RateLimit(*rates, by="subject"), store=store, clock=clock)
        caller = {"X-API-Key": f"caller-{next(CALLERS)}"}
        for pause, count in bursts:
            clock.advance(pause)
            for _ in range(count):
                answer = play(guard, headers=caller)
                if answer.status != 200:
                    break
            else:
                continue
            refusals += 1
            seconds = int(answer.header("Retry-After") or 0)
            assert seconds >= 1
            clock.advance(seconds - 1)
            assert play(guard, headers=caller).status == 429, "a second too early, and admitted"
            clock.advance(1)
            assert play(guard, headers=caller).status == 200, "waited as told, and refused"

    holds()
    assert refusals > EXAMPLES[kind] / 2, "the stories hardly reach a limit"


def test_the_fields_are_structured_fields_whatever_the_name() -> None:
    """draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4, read by a parser of RFC 9651."""
    import http_sf

    guard = Keyguard(
        RateLimit("3/minute; 5/day", name='odd "name\\ <x>'), RateLimit(smooth("2/second", burst=2), name="s")
    )
    for answer in [play(guard) for _ in range(4)]:
        policy = http_sf.parse((answer.header("RateLimit-Policy") or "").encode(), tltype="list")
        left = http_sf.parse((answer.header("RateLimit") or "").encode(), tltype="list")
        names = ['odd "name\\ <x>:3/minute', 'odd "name\\ <x>:5/day', "s:2/second smooth"]
        assert [name for name, _ in policy] == [name for name, _ in left] == names
        assert [parameters["q"] for _, parameters in policy] == [3, 5, 2]
        assert [parameters["w"] for _, parameters in policy] == [60, 86400, 1]
        assert all(set(parameters) == {"r", "t"} for _, parameters in left)


def test_a_name_may_hold_what_formats_and_fields_give_a_meaning() -> None:
    guard = RateLimit("5/minute", name='50%d of "all"')
    assert play(guard).header("RateLimit") == r'"50%d of \"all\":5/minute";r=4;t=60'
