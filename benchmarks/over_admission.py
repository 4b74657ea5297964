"""Four processes with 64 requests in flight each, against a limit of 1000: how many are admitted, on every store.

    python benchmarks/over_admission.py

Each asks 640 times. What a busy machine made fail is told apart: it may have been charged or not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.faulty import admitted_by_processes
from tests.support.servers import Postgres, RedisCluster, RedisServer

from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.leased import Leased
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore

LIMIT = window(1000, 60_000_000, "1000/minute")


@contextmanager
def stores() -> Iterator[dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer() as valkey,
        RedisServer("redis6") as redis,
        RedisCluster() as cluster,
        Postgres() as postgres,
    ):
        database = PostgresStore(postgres.url, timeout=1)
        database.migrate()
        yield {
            "SQLite": SQLiteStore(f"{folder}/k.db", timeout=10),
            "Valkey 9": RedisStore(valkey.url, timeout=1),
            "Redis 6.2": RedisStore(redis.url, timeout=1),
            "a cluster of three": RedisStore(cluster.url, timeout=1),
            "PostgreSQL": database,
            "Leased on Valkey 9": Leased(RedisStore(valkey.url, timeout=1, namespace="leased"), workers=4),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=64)
    options = parser.parse_args()
    with stores() as found:
        for name, store in found.items():
            results = []
            for place in range(options.rounds):
                take = Take([Demand("d", f"rl:exact:{LIMIT.code}|{place}", LIMIT)])
                began = time.perf_counter()
                admitted = admitted_by_processes(store, take, tasks=options.tasks)
                results.append((admitted[0], len(admitted) - 1, time.perf_counter() - began))
            print(
                f"{name}: admitted {' '.join(str(count) for count, _, _ in results)}; "
                f"over-admission {max(0, max(count for count, _, _ in results) - LIMIT.quota)}; "
                f"failed {sum(failed for _, failed, _ in results)}; "
                f"{min(seconds for _, _, seconds in results):.2f} s at best"
            )


if __name__ == "__main__":
    main()
