"""The limit that adapts: its bounds, what moves it, and what does not."""

from __future__ import annotations

import importlib.util
import sys
import threading
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard.guards.overload.criticality import SHARES
from keyguard.guards.overload.limit import LOWEST, START, AdaptiveLimit

ROOT = Path(__file__).parents[3]


def benchmark() -> Any:
    """`benchmarks/overload.py`, whose figures the whole run prints."""
    if "overload_benchmark" not in sys.modules:
        spec = importlib.util.spec_from_file_location("overload_benchmark", ROOT / "benchmarks" / "overload.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["overload_benchmark"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["overload_benchmark"]


class App:
    """An app that answers in turn, each request after a time that is told."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self.limit = limit
        self.now = 1000.0

    def window(self, *latencies: float, refused: bool, share: float = 1.0) -> None:
        """Let one window pass in which answers take as long as these, in turn."""
        limit = self.limit
        if refused:
            held = int(limit.room(share)) - limit.in_flight
            for _ in range(held):
                assert limit.press(share)
            assert not limit.press(share)
            for _ in range(held):
                limit.end(self.now, self.now, answered=False)
        for latency in cycle(latencies):
            assert limit.begin(share)
            self.now += latency
            limit.end(self.now - latency, self.now, answered=True)
            if not limit._latencies:  # the next window has begun
                return

    def settled(self, latency: float = 0.1) -> App:
        """Let the first, quick growth end, and the usual latency be known."""
        for _ in range(3):
            self.window(latency, refused=False)
        self.window(3 * latency, refused=True)  # a cut ends the growth
        for _ in range(2):
            self.window(3 * latency, refused=True)  # it did not help, so that is the latency now
        for _ in range(100):
            self.window(latency, refused=False)
        return self


# -- bounds -----------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.integers(1, 30),
    st.integers(0, 60),
    st.sampled_from([None, 0.01, 0.5]),
    st.lists(
        st.tuples(st.sampled_from(["begin", "press", "end", "lose"]), st.sampled_from(list(SHARES)), st.floats(0, 3)),
        max_size=400,
    ),
    st.floats(0.001, 2),
)
def test_the_limit_keeps_to_its_bounds_and_what_is_in_flight_to_the_limit(
    floor: int, more: int, objective: float | None, steps: list[tuple[str, str, float]], pace: float
) -> None:
    limit = AdaptiveLimit(floor, floor + more, objective)
    inside: list[float] = []
    now = 0.0
    for kind, name, span in steps * 3:
        now += span * pace
        share = SHARES[name]
        if kind in ("begin", "press"):
            before = limit.in_flight
            if getattr(limit, kind)(share):
                inside.append(now)
                assert limit.in_flight <= max(1, limit.room(share)) <= max(1, floor + more)
            else:
                assert before + 1 > limit.room(share)
        elif inside:
            limit.end(inside.pop(0), now, answered=kind == "end")
        assert limit.in_flight == len(inside)
        assert floor <= limit.limit
        assert limit.room(1.0) <= floor + more
        assert limit.usual is None or limit.usual >= 0


@given(st.sampled_from(list(SHARES)))
def test_one_request_is_always_admitted(name: str) -> None:
    limit = AdaptiveLimit(1, 1)
    assert limit.begin(SHARES[name])
    assert not limit.begin(SHARES[name])


def test_it_starts_at_twenty_or_as_near_as_it_may() -> None:
    assert [AdaptiveLimit(*bounds).room(1.0) for bounds in [(4, 1000), (4, 8), (50, 100)]] == [START, 8, 50]


def test_a_higher_share_is_admitted_where_a_lower_one_is_not() -> None:
    limit = AdaptiveLimit(10, 100)
    admitted = dict.fromkeys(SHARES, 0)
    for name in sorted(SHARES, key=SHARES.__getitem__):
        while limit.press(SHARES[name]):
            admitted[name] += 1
    assert admitted == {"sheddable": 10, "sheddable_plus": 4, "critical": 4, "critical_plus": 2}


# -- what moves it ----------------------------------------------------------------------------------------------


def test_it_grows_quickly_until_it_was_cut_once_and_by_one_place_a_window_then() -> None:
    limit = AdaptiveLimit(4, 1000)
    app = App(limit)
    sizes = []
    for _ in range(4):
        app.window(0.1, refused=True)
        sizes.append(int(limit.limit))
    assert sizes == [30, 45, 67, 101]
    app.settled()
    before = limit.limit
    for _ in range(5):
        app.window(0.1, refused=True)
    assert limit.limit == before + 5


def test_it_grows_by_one_place_for_the_class_that_was_refused() -> None:
    limit = AdaptiveLimit(4, 1000)
    app = App(limit).settled()
    before = limit.room(LOWEST)
    app.window(0.1, refused=True, share=LOWEST)
    assert limit.room(LOWEST) == before + 1


def test_it_does_not_grow_beyond_its_ceiling() -> None:
    limit = AdaptiveLimit(4, 25)
    app = App(limit)
    for _ in range(8):
        app.window(0.1, refused=True)
    assert limit.room(1.0) == 25


def test_at_its_ceiling_lower_shares_are_kept_off_little_of_it() -> None:
    """Else half of the threads of a server would be idle while nobody of a higher class asks."""
    limit = AdaptiveLimit(4, 10)
    app = App(limit)
    for _ in range(8):
        app.window(0.1, refused=True, share=LOWEST)
    assert [int(limit.room(share)) for share in SHARES.values()] == [10, 10, 9, 8]
    app.window(0.3, refused=True, share=LOWEST)  # requests wait, so it is cut, and that is felt
    assert [int(limit.room(share)) for share in sorted(SHARES.values())] == [6, 9, 10, 10]


def test_at_its_ceiling_more_is_kept_free_if_higher_shares_are_refused() -> None:
    limit = AdaptiveLimit(4, 100)
    app = App(limit)
    for _ in range(8):
        app.window(0.1, refused=True, share=LOWEST)
    assert limit.room(LOWEST) == 80
    while limit.press(1.0):
        pass
    assert not limit.press(LOWEST)
    assert not any(limit.press(1.0) for _ in range(5))
    assert limit.room(LOWEST) == 68
    assert not any(limit.press(1.0) for _ in range(20))
    assert limit.room(LOWEST) == 50
    assert limit.room(1.0) == 100
    limit.in_flight = 0
    for _ in range(40):
        app.window(0.1, refused=False)
    assert limit.room(LOWEST) == 80


def test_it_stays_while_nothing_is_refused() -> None:
    """Neither time nor quick answers move it, nor slow ones: so few requests would not become quicker by fewer."""
    limit = AdaptiveLimit(4, 1000)
    app = App(limit).settled()
    before = limit.limit
    for latency in (0.1, 0.01, 1.0, 0.1):
        app.now += 86400
        app.window(latency, refused=False)
    assert limit.limit == before


def test_it_is_cut_while_that_makes_answers_quicker_and_goes_one_cut_back() -> None:
    limit = AdaptiveLimit(4, 1000)
    app = App(limit).settled()
    start = limit.limit
    app.window(0.3, refused=True)
    assert limit.limit == pytest.approx(start * 0.8)
    app.window(0.2, refused=True)
    assert limit.limit == pytest.approx(start * 0.64)
    for _ in range(2):
        app.window(0.2, refused=True)
    assert limit.limit == pytest.approx(start * 0.8)
    assert limit.usual == pytest.approx(0.2)


def test_an_app_that_has_become_slow_by_itself_keeps_its_limit() -> None:
    """Threefold, for good: less in flight does not make it quicker, so the limit is low for two windows only."""
    limit = AdaptiveLimit(4, 1000)
    app = App(limit).settled()
    start = limit.limit
    lows = []
    for _ in range(3):
        app.window(0.3, refused=True)
        lows.append(limit.limit / start)
    assert lows == pytest.approx([0.8, 0.64, 1.0])
    for _ in range(50):
        app.window(0.3, refused=True)
    assert limit.limit == start + 50
    for _ in range(60):
        app.window(0.1, refused=False)
    assert limit.usual == pytest.approx(0.1, rel=0.05)


def test_a_tenth_of_slow_answers_among_quick_ones_does_not_count() -> None:
    limit = AdaptiveLimit(4, 1000)
    app = App(limit).settled()
    before = limit.limit
    for _ in range(30):
        app.window(*[0.1] * 9, 10.0, refused=True)
    assert limit.latency == 10.0
    assert limit.limit == before + 30
    assert limit.usual == pytest.approx(0.1, rel=0.05)


def test_an_objective_is_kept_if_the_app_can_keep_it() -> None:
    limit = AdaptiveLimit(4, 1000, 0.25)
    app = App(limit).settled()
    start = limit.limit
    app.window(0.2, refused=True)  # twice the usual, and within the objective
    assert limit.limit == start + 1
    app.window(0.3, refused=True)
    app.window(0.21, refused=True)
    assert limit.limit == pytest.approx((start + 1) * 0.8)  # one cut is enough
    app.window(0.21, refused=True)
    assert limit.limit == pytest.approx((start + 1) * 0.8 + 1)


def test_an_objective_beyond_the_apps_reach_does_not_close_it() -> None:
    limit = AdaptiveLimit(4, 1000, 0.01)
    app = App(limit).settled()
    start = limit.limit
    for _ in range(30):
        app.window(0.1, refused=True)
    assert limit.limit > start


def test_at_its_floor_it_takes_the_app_as_it_is() -> None:
    limit = AdaptiveLimit(20, 20)
    app = App(limit)
    for latency in (0.1, 0.5, 0.5, 2.0):
        app.window(latency, refused=True)
    assert limit.room(1.0) == 20
    assert limit.usual == 2.0


def test_a_wait_that_was_there_when_it_learnt_does_not_stay() -> None:
    """Its first answers came when requests were waiting already. After 60 windows it looks what fewer would do."""
    limit = AdaptiveLimit(4, 100)
    app = App(limit)
    for _ in range(200):
        app.window(0.01 * int(limit.limit), refused=True)  # all of it is waiting
    assert limit.limit < 20
    assert limit.usual is not None
    assert limit.usual < 0.2


def test_answers_that_began_before_a_window_do_not_count_in_it() -> None:
    limit = AdaptiveLimit(4, 1000)
    app = App(limit).settled()
    old = app.now - 100
    assert limit.begin(1.0)
    for _ in range(5):
        app.window(0.1, refused=False)
    limit.end(old, app.now, answered=True)
    app.window(0.1, refused=False)
    assert limit.latency == pytest.approx(0.1)


def test_a_clock_that_stands_still_fills_no_memory() -> None:
    limit = AdaptiveLimit(4, 1000)
    kept = 0
    for _ in range(25_000):
        assert limit.begin(1.0)
        limit.end(5.0, 5.0, answered=True)
        kept = max(kept, len(limit._latencies))
    assert kept < 10_000


def test_many_threads_count_right() -> None:
    limit = AdaptiveLimit(4, 6)
    seen: list[int] = []

    def ask(share: float) -> None:
        for turn in range(3000):
            if (limit.begin if turn % 2 else limit.press)(share):
                seen.append(limit.in_flight)
                limit.end(float(turn), turn + 0.1, answered=True)

    threads = [threading.Thread(target=ask, args=(share,)) for share in (*SHARES.values(), 1.0, 0.9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit.in_flight == 0
    assert max(seen) <= 6


def test_others_than_answers_teach_it_nothing() -> None:
    limit = AdaptiveLimit(4, 1000)
    for turn in range(200):
        assert limit.begin(1.0)
        limit.end(float(turn), turn + 50.0, answered=False)
    assert limit.latency is None
    assert limit.in_flight == 0


# -- the whole, simulated ---------------------------------------------------------------------------------------


def test_a_simulated_app_at_twice_its_capacity_that_becomes_three_times_as_slow() -> None:
    """A smaller run of `benchmarks/overload.py`, with its three marks: goodput, p99, and the high class."""
    sim = benchmark()
    idle = sim.unloaded(10.0, places=20)
    fixed = [sim.simulate(sim.Fixed(limit), sim.two_phases(15.0), places=20) for limit in (15, 20, 25, 35, 60)]
    phases = sim.simulate(sim.Adaptive(), sim.two_phases(15.0), places=20, seed=2)
    for place, phase in enumerate(phases):
        assert phase.goodput >= 0.9 * max(run[place].goodput for run in fixed)
        assert phase.p99 <= 2 * idle[place]
        assert phase.served(sim.HIGH) >= 0.99
        assert phase.served(sim.LOW) < 0.5


@pytest.mark.parametrize("slow_part", [0.0, 0.1, 0.5])
def test_a_simulated_app_with_enough_places_refuses_nobody(slow_part: float) -> None:
    """Busy for four fifths of the time, also if some of its requests take twenty times as long."""
    sim = benchmark()
    start, steady = sim.simulate(
        sim.OneClass(), [sim.Phase(5, load=0.8), sim.Phase(10, load=0.8)], places=40, slow_part=slow_part
    )
    assert steady.admitted[sim.LOW] >= 0.97 * steady.came[sim.LOW]
    assert start.admitted[sim.LOW] >= 0.8 * start.came[sim.LOW]


@pytest.mark.parametrize("places", [2, 4])
def test_a_simulated_app_of_few_places_is_not_taken_for_slow(places: int) -> None:
    """Chance hides what one cut does there: what takes long because it waits would be taken for usual."""
    sim = benchmark()
    for seed in range(1, 6):
        for phase in sim.simulate(sim.Adaptive(), [sim.Phase(40)], places=places, seed=seed):
            assert phase.goodput * sim.MEAN / places >= 0.7


def test_a_simulated_app_of_one_class_recovers() -> None:
    """Overloaded, then not, then overloaded again, then quick again after it was slow."""
    sim = benchmark()
    phases = [sim.Phase(10), sim.Phase(5, load=0.5), sim.Phase(10), sim.Phase(10, slower=3.0), sim.Phase(10)]
    gate = sim.OneClass()
    capacity = 20 / sim.MEAN
    sim.simulate(gate, phases, places=20)
    served = [phase.goodput * phase.slower / capacity for phase in phases]
    assert served[1] == pytest.approx(0.5, abs=0.05)
    assert min(served[0], *served[2:]) > 0.85
