"""How late an event loop is, by a loop that is moved by hand; and what requests see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio

from keyguard import Keyguard, Overload
from keyguard.process import loop_lag
from keyguard.process.loop_lag import INTERVAL, LoopLag
from keyguard.testing import ManualClock
from tests.guards.overload.test_limit import benchmark
from tests.support.harness import Ask, aask, asgi_app


class Loop:
    """An event loop whose timers are called when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[Callable[..., None], Any]] = []
        self.running = True

    def is_running(self) -> bool:
        return self.running

    def call_later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        assert seconds == INTERVAL
        self.timers.append((function, args))

    def fire(self, late: float = 0.0) -> None:
        """Call the timer, so many seconds late."""
        (function, args), self.timers = self.timers[0], self.timers[1:]
        self.now += INTERVAL + late
        function(*args)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(loop_lag, "_running_loop", lambda: made)
    return made


def noted(lag: LoopLag, loop: Loop) -> float:
    return lag.note(loop.now)


def test_a_loop_that_is_late_once_is_not_late(loop: Loop) -> None:
    lag = LoopLag(lambda: loop.now)
    assert noted(lag, loop) == 0
    noted(lag, loop)
    loop.fire(late=3.0)
    assert noted(lag, loop) == 0
    loop.fire()
    assert noted(lag, loop) == 0
    assert lag.seconds == 0


def test_one_that_is_late_twice_is_and_until_a_timer_comes_in_time(loop: Loop) -> None:
    lag = LoopLag(lambda: loop.now)
    for late in (0.3, 0.4):
        noted(lag, loop)
        noted(lag, loop)
        loop.fire(late)
    assert noted(lag, loop) == pytest.approx(0.3)
    assert lag.seconds == pytest.approx(0.3)
    loop.fire(0.001)
    assert noted(lag, loop) == pytest.approx(0.24)  # forgotten by and by
    for _ in range(30):
        noted(lag, loop)
        loop.fire()
    assert noted(lag, loop) == lag.seconds == 0


def test_a_timer_that_is_overdue_counts_before_it_comes(loop: Loop) -> None:
    lag = LoopLag(lambda: loop.now)
    noted(lag, loop)
    noted(lag, loop)
    loop.fire(0.3)
    assert noted(lag, loop) == 0
    loop.now += INTERVAL + 0.2
    assert noted(lag, loop) == pytest.approx(0.2)
    loop.now += 5
    assert noted(lag, loop) == pytest.approx(0.3)


def test_an_idle_loop_is_left_alone(loop: Loop) -> None:
    lag = LoopLag(lambda: loop.now)
    assert loop.timers == []
    noted(lag, loop)
    assert len(loop.timers) == 1
    noted(lag, loop)
    loop.fire(0.5)
    assert len(loop.timers) == 1
    loop.fire(0.5)  # no request has come since
    assert loop.timers == []
    assert noted(lag, loop) == 0
    assert len(loop.timers) == 1


def test_a_loop_that_ended_is_forgotten(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    lag = LoopLag(lambda: loop.now)
    for late in (0.3, 0.4):
        noted(lag, loop)
        noted(lag, loop)
        loop.fire(late)
    assert noted(lag, loop) > 0
    other = Loop()
    other.now = loop.now
    monkeypatch.setattr(loop_lag, "_running_loop", lambda: other)
    assert lag.note(loop.now) == 0  # it still runs, in another thread
    assert other.timers == []
    loop.running = False
    assert lag.note(loop.now) == lag.note(loop.now) == 0
    assert len(other.timers) == 1
    loop.fire()  # after all
    assert loop.timers == []


def test_one_that_ended_before_its_first_timer_is_too(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    lag = LoopLag(lambda: loop.now)
    noted(lag, loop)
    loop.running = False
    other = Loop()
    monkeypatch.setattr(loop_lag, "_running_loop", lambda: other)
    lag.note(loop.now + 10)
    lag.note(loop.now + 10)
    assert len(other.timers) == 1


def test_requests_are_refused_while_the_loop_is_late_the_lowest_class_first(loop: Loop) -> None:
    """The loop of a test is moved by hand, so what the guard asks for is put in the place of a request."""
    clock = ManualClock()
    classes = {"/low": "sheddable", "/high": "critical_plus"}
    overload = Overload(max_lag="400 ms", criticality=classes)  # type: ignore[arg-type]
    guard = Keyguard(overload, clock=clock).asgi(asgi_app)

    async def status(path: str) -> int:
        return (await aask(guard, Ask(path))).status

    def fire(late: float) -> None:
        (function, args), loop.timers = loop.timers[0], []
        clock.advance(INTERVAL + late)
        function(*args)

    async def story() -> list[list[int]]:
        seen = []
        await status("/high")
        for late in (0.3, 0.5, 0.5, *[0.0] * 5):
            seen.append([await status(path) for path in ("/low", "/", "/high", "/health")])
            fire(late)
        return seen

    fine, low = [200] * 4, [503, 200, 200, 200]
    most, everybody = [503, 503, 200, 200], [503, 503, 503, 200]
    assert asyncio.run(story()) == [fine, fine, low, everybody, most, low, low, low]
    assert overload.stats().shed == {"sheddable": 6, "critical": 2, "critical_plus": 1}


def test_a_simulated_loop_at_twice_its_capacity_answers_the_high_class_and_in_time() -> None:
    """A smaller run of `benchmarks/overload.py`: handlers need 20 ms of the loop each."""
    sim = benchmark()
    calm, busy = sim.simulate_loop(0.8, seconds=10.0), sim.simulate_loop(2.0, seconds=10.0)
    assert calm.served(sim.LOW) >= 0.95
    assert busy.served(sim.HIGH) >= 0.99
    assert busy.goodput * sim.HOLDS >= 0.8
    assert busy.p99 < 1.0 < sim.simulate_loop(2.0, guarded=False, seconds=10.0).p99


def test_a_real_loop_that_is_held_up_again_and_again() -> None:
    lag = LoopLag(loop_clock)

    async def held_up() -> float:
        running = asyncio.get_running_loop()
        seen = 0.0
        for _ in range(10):
            seen = max(seen, lag.note(running.time()))
            blocked_until = running.time() + 0.12
            while running.time() < blocked_until:
                pass
            await asyncio.sleep(0)
        return seen

    assert asyncio.run(held_up()) > 0.02


def loop_clock() -> float:
    return asyncio.get_running_loop().time()


def test_trio_has_no_such_timers() -> None:
    lag = LoopLag(trio.current_time)

    async def main() -> float:
        return lag.note(trio.current_time()) + lag.note(trio.current_time() + 100)

    assert trio.run(main) == 0.0


def test_threads_have_no_loop() -> None:
    lag = LoopLag(lambda: 0.0)
    assert lag.note(1.0) == lag.note(100.0) == 0.0
