"""Overload on a simulated clock: `python benchmarks/overload.py`. Takes a few seconds, and prints the same each time.

An app of 50 places, in front of which requests wait in a queue, is asked for twice what it can do. After half of the
time each of its answers takes three times as long, so that it is asked for six times what it can do. A tenth of the
requests is of a high class, the rest of a low one. Goodput counts answers that come within a second.

The guard's own limit is driven, `keyguard.guards.overload.limit.AdaptiveLimit`, and beside it fixed limits, of which
the best is the mark. All of a run counts, its start and the change too.

A second table asks for a half to five times of what the app can do, all in one class, and a third has a slow route
among quick ones: neither may be taken for overload. The last one is of an event loop that is kept busy by its handlers,
where nothing is ever in flight; `keyguard.process.loop_lag.LoopLag` is driven there.
"""

from __future__ import annotations

import heapq
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from unittest.mock import patch

from keyguard.guards.overload.criticality import SHARES, USUAL
from keyguard.guards.overload.limit import LOWEST, AdaptiveLimit
from keyguard.process import loop_lag
from keyguard.process.loop_lag import LoopLag

PLACES = 50
MEAN = 0.1
"""Seconds that an answer takes, if nothing waits."""
DEADLINE = 1.0
HIGH_PART = 0.1
HOLDS = 0.02
"""Seconds for which a handler holds an event loop."""
MAX_LAG = 0.25
HIGH, LOW = "critical_plus", "sheddable"


class Gate(Protocol):
    """Something that admits requests."""

    def admit(self, now: float, name: str) -> bool: ...

    def end(self, began: float, now: float) -> None: ...


class Fixed:
    """A limit that stays as it is."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.in_flight = 0

    def admit(self, now: float, name: str) -> bool:
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def end(self, began: float, now: float) -> None:
        self.in_flight -= 1


class Adaptive:
    """The limit of `keyguard.Overload`, asked as the guard asks it."""

    def __init__(self, floor: int = 4, ceiling: int = 1000, objective: float | None = None) -> None:
        self.limit = AdaptiveLimit(floor, ceiling, objective)

    def admit(self, now: float, name: str) -> bool:
        return self.limit.begin(LOWEST) or self.limit.press(SHARES[name])

    def end(self, began: float, now: float) -> None:
        self.limit.end(began, now, answered=True)


class OneClass(Adaptive):
    """The same for requests of the usual class alone."""

    def admit(self, now: float, name: str) -> bool:
        return super().admit(now, USUAL)


@dataclass
class Phase:
    """A part of a run, and what became of the requests that came in it."""

    seconds: float
    slower: float = 1.0
    """How many times as long an answer takes."""
    load: float = 2.0
    """How much is asked for, in parts of what the app can do at its usual speed."""
    good: int = 0
    latencies: list[float] = field(default_factory=list)
    came: dict[str, int] = field(default_factory=lambda: {HIGH: 0, LOW: 0})
    admitted: dict[str, int] = field(default_factory=lambda: {HIGH: 0, LOW: 0})

    @property
    def goodput(self) -> float:
        return self.good / self.seconds

    @property
    def p99(self) -> float:
        ordered = sorted(self.latencies)
        return ordered[len(ordered) * 99 // 100]

    def served(self, name: str) -> float:
        return self.admitted[name] / self.came[name]


def simulate(
    gate: Gate,
    phases: Sequence[Phase],
    *,
    places: int = PLACES,
    sigma: float = 0.5,
    slow_part: float = 0.0,
    seed: int = 1,
) -> Sequence[Phase]:
    """Run an app behind a gate through some phases. `sigma` is the spread of its (log-normal) service times.

    `slow_part` of the requests take twenty times as long as the others; the mean of all is the same.
    """
    chance = random.Random(seed)
    ends = [sum(phase.seconds for phase in phases[: place + 1]) for place in range(len(phases))]
    waiting: deque[tuple[float, Phase]] = deque()
    events: list[tuple[float, int, float, Phase | None]] = [(0.0, 0, 0.0, None)]
    """Moment, a number that makes it unique, and for an answer when its request came, and in which phase."""
    number = busy = 0
    while True:
        now, _, began, of = heapq.heappop(events)
        if now >= ends[-1]:
            return phases
        phase = next(one for one, end in zip(phases, ends, strict=True) if now < end)
        number += 1
        if of is None:
            rate = phase.load * places / MEAN
            heapq.heappush(events, (now + chance.expovariate(rate), number, 0.0, None))
            name = HIGH if chance.random() < HIGH_PART else LOW
            phase.came[name] += 1
            if not gate.admit(now, name):
                continue
            phase.admitted[name] += 1
            waiting.append((now, phase))
        else:
            busy -= 1
            gate.end(began, now)
            of.latencies.append(now - began)
            of.good += now - began <= DEADLINE
        if waiting and busy < places:
            busy += 1
            came, its = waiting.popleft()
            spent = MEAN * phase.slower * math.exp(chance.gauss(-sigma * sigma / 2, sigma))
            if slow_part:
                spent *= (20 if chance.random() < slow_part else 1) / (1 + 19 * slow_part)
            heapq.heappush(events, (now + spent, -number, came, its))


def two_phases(seconds: float = 30.0) -> list[Phase]:
    """The run that the figures are of: usual speed, then a third of it."""
    return [Phase(seconds), Phase(seconds, slower=3.0)]


def unloaded(seconds: float = 30.0, sigma: float = 0.5, places: int = PLACES) -> list[float]:
    """Return the p99 in each phase, if so little is asked for that nothing waits."""
    phases = [Phase(seconds, load=0.3), Phase(seconds, slower=3.0, load=0.1)]
    return [phase.p99 for phase in simulate(Fixed(math.inf), phases, sigma=sigma, places=places)]


def row(title: str, phases: Sequence[Phase], best: Sequence[float], idle: Sequence[float]) -> str:
    cells = [
        f"{phase.goodput:7.1f} /s {phase.goodput / most:6.1%} {phase.p99:6.2f} s {phase.p99 / least:5.2f} x"
        f" {phase.served(HIGH):8.2%} {phase.served(LOW):7.2%}"
        for phase, most, least in zip(phases, best, idle, strict=True)
    ]
    return f"{title:14}" + "   |".join(cells)


class Loop:
    """An event loop that runs what is ready, as asyncio's does: in turns, in which timers come last."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self.started = 0

    def is_running(self) -> bool:
        return True

    def call_later(self, seconds: float, function: Callable[..., None], *args: object) -> None:
        self.started += 1
        heapq.heappush(self.timers, (self.now + seconds, self.started, function, args))


def simulate_loop(load: float, *, guarded: bool = True, seconds: float = 30.0, seed: int = 1) -> Phase:
    """Run an app in one event loop whose handlers need 20 ms of it each, and a refusal half a millisecond."""
    chance = random.Random(seed)
    loop, phase = Loop(), Phase(seconds, load=load)
    lag = LoopLag(lambda: loop.now)
    requests: deque[tuple[float, str]] = deque()
    came = chance.expovariate(load / HOLDS)
    while came < seconds:
        requests.append((came, HIGH if chance.random() < HIGH_PART else LOW))
        came += chance.expovariate(load / HOLDS)
    ready: list[tuple[float, str]] = []
    with patch.object(loop_lag, "_running_loop", lambda: loop):
        while requests or ready:
            if not ready:
                loop.now = max(loop.now, min(requests[0][0], loop.timers[0][0] if loop.timers else math.inf))
            turn, ready = ready, []
            while requests and requests[0][0] <= loop.now:
                ready.append(requests.popleft())
            due = [heapq.heappop(loop.timers) for timer in list(loop.timers) if timer[0] <= loop.now]
            for began, name in turn:
                phase.came[name] += 1
                if guarded and lag.note(loop.now) > MAX_LAG * SHARES[name]:
                    loop.now += 0.0005
                    continue
                phase.admitted[name] += 1
                loop.now += HOLDS * chance.uniform(0.5, 1.5)
                phase.latencies.append(loop.now - began)
                phase.good += loop.now - began <= DEADLINE
            for _, _, function, args in due:
                function(*args)
    return phase


def one_class(gate: Gate, load: float, *, slow_part: float = 0.0) -> str:
    """Run a steady load, and return what became of it after the first seconds."""
    _, phase = simulate(gate, [Phase(5, load=load), Phase(85, load=load)], slow_part=slow_part)
    admitted = sum(phase.admitted.values()) / sum(phase.came.values())
    return f"{admitted:9.1%} {phase.goodput * MEAN / PLACES:20.1%} {phase.p99:5.2f} s"


def main() -> None:
    holds = True
    for sigma in (0.5, 1.0):
        idle = unloaded(sigma=sigma)
        runs = {
            limit: simulate(Fixed(limit), two_phases(), sigma=sigma) for limit in (25, 40, 50, 60, 75, 100, 150, 300)
        }
        best = [max(phases[place].goodput for phases in runs.values()) for place in range(2)]
        print(f"\nservice times of spread {sigma}; p99 unloaded {idle[0]:.2f} s, then {idle[1]:.2f} s")
        columns = f"{'goodput':>10} {'of best':>7} {'p99':>8} {'unloaded':>7} {'high':>8} {'low':>7}"
        print(f"{'':14}{columns}   |{columns}")
        for limit, phases in runs.items():
            print(row(f"fixed {limit}", phases, best, idle))
        for seed in (1, 2, 3):
            phases = simulate(Adaptive(), two_phases(), sigma=sigma, seed=seed)
            print(row(f"adaptive {seed}", phases, best, idle))
            for phase, most, least in zip(phases, best, idle, strict=True):
                holds &= phase.goodput >= 0.9 * most and phase.p99 <= 2 * least and phase.served(HIGH) >= 0.99
    print("\none class, 90 s, of which the first 5 are not counted; spread 0.5")
    columns = f"{'admitted':>9} {'goodput of capacity':>20} {'p99':>7}"
    print(f"{'asked for':14}{columns}   | without a limit:{columns}")
    for load in (0.5, 0.7, 0.9, 0.95, 1.0, 1.2, 2.0, 5.0):
        cells = [one_class(gate, load) for gate in (OneClass(), Fixed(math.inf))]
        print(f"{load:<14}" + "   |                 ".join(cells))
    print(
        "\na slow route: so many requests take twenty times as long as the others; one class, asked for 0.8, and for 2"
    )
    for part in (0.02, 0.1, 0.3, 0.5):
        cells = [one_class(OneClass(), load, slow_part=part) for load in (0.8, 2.0)]
        print(f"{part:<14.0%}" + "   |                 ".join(cells))
    print("\nan event loop whose handlers need 20 ms of it each: refused by its lag, and without that")
    columns = f"{'goodput of capacity':>20} {'p99':>7} {'high':>8} {'low':>8}"
    print(f"{'asked for':14}{columns}   |{columns}")
    for load in (0.5, 0.9, 1.2, 2.0, 5.0):
        phases = [simulate_loop(load, guarded=guarded) for guarded in (True, False)]
        cells = [f"{p.goodput * HOLDS:20.1%} {p.p99:5.2f} s {p.served(HIGH):8.2%} {p.served(LOW):8.2%}" for p in phases]
        print(f"{load:<14}" + "   |".join(cells))
    print(
        "\ngoodput 90 % of the best, p99 twice the unloaded at most, 99 % of high:",
        "holds" if holds else "DOES NOT HOLD",
    )
    sys.exit(not holds)


if __name__ == "__main__":
    main()
