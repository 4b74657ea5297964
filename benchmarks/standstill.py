"""How long an event loop stands still, and a request waits, while its store stands still (SIGSTOP) for a second.

    python benchmarks/standstill.py

A loop with 16 tasks that ask one after the other, through a key and a limit; Valkey, then PostgreSQL. The control is
the same with the store running. What the machine itself stood still for is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.faulty import Service, flood
from tests.support.servers import Postgres, RedisServer

from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore


async def story(service: Service, server: Any, rounds: int) -> None:
    async def during(seconds: float) -> tuple[float, float, int]:
        ends, lags, waits = time.monotonic() + seconds, [0.0], [0.0]
        while time.monotonic() < ends:
            answers, lag = await flood(service, 16, 5)
            lags.append(lag)
            waits += [seen.seconds for seen in service.check(answers)]
        return max(lags), max(waits), len(waits) - 1

    await flood(service, 16, 20)
    found: dict[str, list[tuple[float, float, int]]] = {"running": [], "stopped": []}
    recoveries = []
    for _ in range(rounds):
        found["running"].append(await during(0.5))
        server.signal(signal.SIGSTOP)
        found["stopped"].append(await during(1.0))
        server.signal(signal.SIGCONT)
        began = time.monotonic()
        while not (await flood(service, 1, 1))[0][0].told:
            pass
        recoveries.append(time.monotonic() - began)
        await flood(service, 16, 5)
    for name, rows in found.items():
        lags, waits, counts = zip(*rows, strict=True)
        print(
            f"{service.store!r} {name}: the loop stood still for {statistics.median(lags) * 1000:.1f} ms at most "
            f"(median of {rounds} rounds; worst {max(lags) * 1000:.1f}); the slowest request "
            f"{statistics.median(waits) * 1000:.0f} ms (worst {max(waits) * 1000:.0f}); {sum(counts)} requests"
        )
    print(f"decided by the store again after {statistics.median(recoveries):.2f} s (worst {max(recoveries):.2f})")
    if hasattr(service.store, "aclose"):
        await service.store.aclose()


class _Stopped:
    """PostgreSQL is many processes: those that serve connections are stopped too."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.pids: list[int] = []

    def signal(self, number: int) -> None:
        import os
        from contextlib import suppress

        if number == signal.SIGSTOP:
            assert self.server.process is not None
            rows = self.server.query("SELECT pid FROM pg_stat_activity")
            self.pids = [self.server.process.pid, *[pid for (pid,) in rows]]
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with RedisServer() as redis:
        asyncio.run(story(Service(RedisStore(redis.url), limit="10000000/hour"), redis, options.rounds))
    with Postgres() as postgres:
        store = PostgresStore(postgres.url)
        store.migrate()
        asyncio.run(story(Service(store, limit="10000000/hour"), _Stopped(postgres), options.rounds))
        store.close()


if __name__ == "__main__":
    main()
