"""The property that makes it ours: a lone caller that waits `Retry-After` is admitted, and one that comes a second too
early is not. Over every algorithm and store, through a whole stack."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count as numbers
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyguard import Keyguard, RateLimit, smooth
from keyguard.clock import Clock
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, play

# A file of its own for each story: the counts of another would be read as this one's.
FILES = numbers()
STORES: dict[str, Callable[[Path, Clock], Any]] = {
    "memory": lambda folder, clock: MemoryStore(clock=clock),
    "sqlite": lambda folder, clock: SQLiteStore(folder / f"{next(FILES)}.db", clock=clock),
}
EXAMPLES = {"memory": 250, "sqlite": 40}

amounts = st.one_of(st.integers(1, 5), st.integers(30, 40), st.integers(41, 120))
spans = st.sampled_from(["second", "7 seconds", "minute", "hour", "day"])
windows = st.builds(lambda amount, span: f"{amount}/{span}", amounts, spans)
evens = st.builds(lambda amount, span, burst: smooth(f"{amount}/{span}", burst), amounts, spans, st.integers(1, 5))


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Any], list[tuple[float, int]]]:
    """Limits, and the pauses and costs of a caller."""
    rates = draw(
        st.lists(st.one_of(windows, evens), min_size=1, max_size=3, unique_by=lambda r: str(r).split("/", 1)[1])
    )
    pauses = st.one_of(st.just(0.0), st.floats(0, 2), st.floats(0, 100), st.floats(0, 4000))
    # Bursts of up to sixty, so that limits are reached.
    return rates, draw(st.lists(st.tuples(pauses, st.integers(1, 60)), min_size=1, max_size=12))


@pytest.mark.parametrize("store", list(STORES))
def test_a_lone_caller_is_told_the_truth(store: str, tmp_path: Path) -> None:
    refusals = 0

    @settings(
        max_examples=EXAMPLES[store],
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(stories())
    def holds(story: tuple[list[Any], list[tuple[float, int]]]) -> None:
        nonlocal refusals
        rates, bursts = story
        clock = ManualClock()
        opened = STORES[store](tmp_path, clock)
        guard = Keyguard(RateLimit(*rates), store=opened, clock=clock)
        try:
            for pause, count in bursts:
                clock.advance(pause)
                for _ in range(count):
                    answer = play(guard)
                    if answer.status != 200:
                        break
                else:
                    continue
                refusals += 1
                seconds = int(answer.header("Retry-After") or 0)
                assert seconds >= 1
                clock.advance(seconds - 1)
                assert play(guard).status == 429, "a second too early, and admitted"
                clock.advance(1)
                assert play(guard).status == 200, "waited as told, and refused"
        finally:
            if hasattr(opened, "close"):
                opened.close()

    holds()
    assert refusals > EXAMPLES[store] / 2, "the stories hardly reach a limit"


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
