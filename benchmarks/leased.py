"""What leases save, and what they cost: even traffic on one limit that four workers share, with and without them.

    python benchmarks/leased.py

The clock is a simulated one, so the figures are the same on every machine. Requests come at random moments to random
workers; beside the workers with leases runs one exact limiter on the same traffic. Over-admission is the most that was
admitted in any window, less the limit.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from keyguard.clock import SECOND
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock


class Counted(MemoryStore):
    """A shared store that counts the trips to it."""

    trips = 0

    def execute(self, ops: Any) -> list[Any]:
        self.trips += 1
        return super().execute(ops)


def run(load: float, quota: int, workers: int, periods: int, seed: int) -> None:
    source, clock = random.Random(seed), ManualClock()
    shared = Counted(clock=clock)
    tier = [Leased(shared, workers=workers, clock=clock) for _ in range(workers)]
    alone = MemoryStore(clock=clock)
    limit = window(quota, 60 * SECOND, f"{quota}/minute")
    take = Take([Demand("d", f"rl:l:{limit.code}|x", limit)])
    admitted = exact = most = 0
    latest: deque[int] = deque()
    requests = int(quota * load * periods)
    for _ in range(requests):
        clock.advance(source.expovariate(1) * 60 / quota / load)
        if not source.choice(tier).execute([take])[0].refused:
            admitted += 1
            latest.append(clock())
            while latest[0] <= clock() - limit.period:
                latest.popleft()
            most = max(most, len(latest))
        exact += not alone.execute([take])[0].refused
    print(
        f"{load:4.0%} load: {requests} requests, {shared.trips} trips ({1 - shared.trips / requests:.1%} fewer); "
        f"admitted {admitted}, without leases {exact} ({admitted / exact - 1:+.2%}); "
        f"over-admission {max(0, most - quota)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quota", type=int, default=10_000, help="a minute")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--periods", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for load in (0.5, 0.8, 1.0, 1.5, 3.0):
        for seed in range(options.seeds):
            run(load, options.quota, options.workers, options.periods, seed)


if __name__ == "__main__":
    main()
