"""What the ledger costs: a share of a core at 1,000 requests a second, bytes a subject-day, reading, and what decisions
notice of the writing.

    python benchmarks/usage.py
    python benchmarks/usage.py --stores memory sqlite --seconds 4

Starts servers of its own on 127.0.0.1. The load is 500 subjects and 20 routes, 2,000 requests a flush, which is what
comes in 2 seconds. Decisions come each 2 ms on one thread, and their time begins when they come; with and without
flushing take turns in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.servers import Postgres, RedisCluster, RedisServer

from keyguard import Decision, StoreError, Usage
from keyguard.clock import SECOND, wall_clock
from keyguard.observer import Observed
from keyguard.ops import Demand, Take, Taken
from keyguard.rates import window
from keyguard.stores import open_store
from keyguard.stores.health import StoreHealth
from keyguard.usage.names import hours_key, minutes_key, spelled

LIMIT = window(1_000_000, 3600 * SECOND, "1000000/hour")
STORES = ("memory", "sqlite", "redis", "cluster", "postgresql")
SUBJECTS, ROUTES, REQUESTS = 500, 20, 2_000


def decision(source: random.Random, at: int) -> Decision:
    number = source.randrange(SUBJECTS)
    demand = Demand("key:1000000/hour", f"rl:key:{LIMIT.code}|key{number}", LIMIT)
    refused = source.random() < 0.05
    taken = Taken([demand], [(None, 0, 10, 0, SECOND if refused else 0)], at, refused)
    return Decision(
        at=at, request_id="r", trace_id="", subject=f"subject{number}", key_id=f"key{number}",
        client=f"192.0.2.{number % 3}", method="GET", route=f"/items/{source.randrange(ROUTES)}",
        outcome="refused" if refused else "served", cause=None, reason="limit-reached" if refused else "",
        status=429 if refused else 200, policies=("key:1000000/hour",) if refused else (), taken=(taken,),
        duration=0.001,
    )  # fmt: skip


def observed(store: Any) -> Observed:
    return Observed(
        name="bench", store=store, clock=wall_clock, manual=None, facts=tuple,
        health=lambda: StoreHealth(True, None, "", 0, 0), cache=dict,
    )  # fmt: skip


@contextlib.contextmanager
def url_of(kind: str, folder: str) -> Iterator[str]:
    if kind == "memory":
        yield "memory://"
    elif kind == "sqlite":
        yield f"sqlite:///{folder}/bench.db"
    elif kind == "postgresql":
        with Postgres() as postgres:
            opened: Any = open_store(postgres.url)
            opened.migrate()
            opened.close()
            yield postgres.url
    elif kind == "cluster":
        with RedisCluster() as cluster:
            yield cluster.url
    else:
        with RedisServer("valkey") as server:
            yield server.url


def share_of_a_core(usage: Usage, source: random.Random, hear: Any) -> tuple[float, float]:
    """The CPU of one flush by the time between two, and how long a flush takes."""
    now = wall_clock()
    start = now - now % (3600 * SECOND)
    for minute in range(30):  # so that values are as large as they are in mid-hour
        for _ in range(REQUESTS):
            hear(decision(source, start + minute * 60 * SECOND))
        usage.flush()
    cpu, wall, rounds = 0.0, 0.0, 10
    for _ in range(rounds):
        records = [decision(source, start + 31 * 60 * SECOND) for _ in range(REQUESTS)]
        began, at = time.process_time(), time.monotonic()
        for record in records:
            hear(record)
        usage.flush()
        cpu += time.process_time() - began
        wall += time.monotonic() - at
    assert usage.failure == "", usage.failure
    return cpu / rounds / 2, wall / rounds


def sizes(usage: Usage) -> str:
    store, _ = usage._ledger()
    hour = wall_clock() // SECOND // 3600
    who = spelled("subject7")
    found = dict(store.scan(f"u:{who}|"))
    everybody = dict(store.scan("u:*|"))
    minutes, hours = len(found[minutes_key(who, hour)]), len(found[hours_key(who, hour // 24)])
    whole = sum(map(len, everybody.values()))
    return f"a subject's minutes of half an hour {minutes} B, its day after one hour {hours} B; the service's {whole} B"


def p99(store: Any, seconds: float, flush: Any) -> tuple[float, float]:
    """The median and the 99th percentile of a decision, in microseconds, while something is flushed all the time."""
    over = threading.Event()
    flushing = threading.Thread(target=flush, args=(over,))
    flushing.start()
    took = []
    takes = [
        Take([Demand("key:1000000/hour", f"rl:key:{LIMIT.code}|key{number}", LIMIT)]) for number in range(SUBJECTS)
    ]
    due = time.perf_counter()
    end, number = due + seconds, 0
    while due < end:
        number += 1
        due += 0.002
        pause = due - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        with contextlib.suppress(StoreError):  # a decision that came too late counts with the time that it took
            store.execute([takes[number % SUBJECTS]])
        took.append(time.perf_counter() - due)  # with what it has waited for the interpreter
    over.set()
    flushing.join()
    took.sort()
    return took[len(took) // 2] * 1e6, took[len(took) * 99 // 100] * 1e6


def run(kind: str, url: str, seconds: float) -> None:
    source = random.Random(1)
    store = open_store(url)
    usage = Usage()
    hear = usage.attach(observed(store))
    share, wall = share_of_a_core(usage, source, hear)
    print(f"{kind}: {share:.1%} of a core at 1,000 requests/s ({wall * 1000:.0f} ms a flush); {sizes(usage)}")
    began = time.perf_counter()
    for _ in range(20):
        usage.of("subject7")
    print(f"  24 hours of a subject: {(time.perf_counter() - began) / 20 * 1000:.2f} ms")

    def flushing(over: threading.Event) -> None:
        while not over.is_set():
            records = [decision(source, wall_clock()) for _ in range(REQUESTS // 4)]
            over.wait(0.5)  # a quarter of the load in a quarter of the time: more moments at which both meet
            for record in records:
                hear(record)
            usage.flush()

    def resting(over: threading.Event) -> None:
        while not over.is_set():
            [decision(source, wall_clock()) for _ in range(REQUESTS // 4)]  # what the benchmark itself costs
            over.wait(0.5)

    with_, without = [], []
    for _ in range(4):
        without.append(p99(store, seconds, resting))
        with_.append(p99(store, seconds, flushing))
    best = [[min(one[place] for one in some) for place in (0, 1)] for some in (without, with_)]
    print(
        f"  a decision: median {best[0][0]:.0f} µs, with flushing {best[1][0]:.0f}; p99 {best[0][1]:.0f} µs, with "
        f"flushing {best[1][1]:.0f} ({best[1][1] / best[0][1]:.2f} times)"
    )
    usage.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each of the eight rounds of a store")
    options = parser.parse_args()
    for kind in options.stores:
        with tempfile.TemporaryDirectory() as folder, url_of(kind, folder) as url:
            run(kind, url, options.seconds)


if __name__ == "__main__":
    main()
