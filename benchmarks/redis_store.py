"""What a decision on Redis costs: against a bare EVALSHA of redis-py in the same run, as ratios.

    python benchmarks/redis_store.py

Starts a server of its own on 127.0.0.1. Time is of the wall, CPU of this process; each figure is the median of several
rounds in which both sides take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import redis
import redis.asyncio
from tests.support.servers import RedisServer

from keyguard.ops import Demand, Take
from keyguard.rates import credits, quota, window
from keyguard.stores.redis import RedisStore

COUNTER = "local n = redis.call('INCR', KEYS[1]) redis.call('PEXPIRE', KEYS[1], ARGV[1]) return n"
LIMITS = [window(10_000_000, period * 1_000_000, f"10000000/{period} s") for period in (60, 3600, 86_400, 30 * 86_400)]


def take(caller: int) -> Take:
    """A key's three limits and its quota."""
    return Take([Demand("d", f"rl:b:{limit.code}|{caller}", limit) for limit in LIMITS])


def ratios(rounds: int, one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float, list[float]]:
    ones, others = [], []
    for place in range(rounds):
        for measure, into in ((one, ones), (other, others)) if place % 2 else ((other, others), (one, ones)):
            into.append(measure())
    found = sorted(a / b for a, b in zip(ones, others, strict=True))
    return statistics.median(ones), statistics.median(others), found


def tell(what: str, unit: str, ours: float, theirs: float, found: list[float]) -> None:
    q1, _, q3 = statistics.quantiles(found, n=4)
    print(f"{what}: ours {ours:.1f} {unit}, theirs {theirs:.1f} {unit}; ratio {statistics.median(found):.2f} "
          f"(quartiles {q1:.2f} to {q3:.2f})")  # fmt: skip


def threads(url: str, rounds: int, count: int) -> None:
    store = RedisStore(url)
    client = redis.Redis.from_url(url)
    sha = client.script_load(COUNTER)
    ops = [take(n) for n in range(100)]

    def ours() -> float:
        began = time.perf_counter()
        for n in range(count):
            store.execute((ops[n % 100],))
        return (time.perf_counter() - began) / count * 1e6

    def theirs() -> float:
        began = time.perf_counter()
        for n in range(count):
            client.evalsha(sha, 1, f"n{n % 100}", 60000)
        return (time.perf_counter() - began) / count * 1e6

    ours(), theirs()
    tell("one at a time, threads, us a call", "us", *ratios(rounds, ours, theirs))
    store.close()
    client.close()


def tasks(url: str, rounds: int, count: int, flying: int) -> None:
    async def run() -> None:
        store = RedisStore(url)
        client = redis.asyncio.Redis.from_url(url)
        sha = await client.script_load(COUNTER)
        ops = [take(n) for n in range(100)]

        async def spent(one: Callable[[int], object]) -> tuple[float, float]:
            async def worker(n: int) -> None:
                for step in range(count // flying):
                    await one(n + step)  # type: ignore[misc]

            wall, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*[worker(n) for n in range(flying)])
            return (time.perf_counter() - wall) / count * 1e6, (time.process_time() - cpu) / count * 1e6

        async def ours(n: int) -> None:
            await store.aexecute((ops[n % 100],))

        async def theirs(n: int) -> None:
            await client.evalsha(sha, 1, f"n{n % 100}", 60000)

        await spent(ours), await spent(theirs)
        pairs = []
        for place in range(rounds):
            pair = (
                [await spent(ours), await spent(theirs)]
                if place % 2
                else [await spent(theirs), await spent(ours)][::-1]
            )
            pairs.append(pair)
        for place, what in enumerate(("wall", "CPU")):
            mine, others = [pair[0][place] for pair in pairs], [pair[1][place] for pair in pairs]
            found = sorted(a / b for a, b in zip(mine, others, strict=True))
            tell(
                f"{flying} in flight, asyncio, {what} a call",
                "us",
                statistics.median(mine),
                statistics.median(others),
                found,
            )
        await store.aclose()
        await client.aclose()

    asyncio.run(run())


def server_time(server: RedisServer, count: int) -> None:
    """What the server itself spends on a call, by its own account."""
    store = RedisStore(server.url)
    client = redis.Redis.from_url(server.url)
    sha = client.script_load(COUNTER)

    def spent(call: Callable[[int], object]) -> float:
        call(0)
        client.execute_command("CONFIG", "RESETSTAT")
        for n in range(count):
            call(n)
        stats = client.execute_command("INFO", "commandstats")
        entry = stats["cmdstat_evalsha"]
        return float(entry["usec"]) / float(entry["calls"])

    ops = [take(n) for n in range(100)]
    single = [Take([Demand("d", f"rl:b:{LIMITS[0].code}|{n}", LIMITS[0])]) for n in range(100)]
    counter = spent(lambda n: client.evalsha(sha, 1, f"n{n % 100}", 60000))
    one = spent(lambda n: store.execute((single[n % 100],)))
    four = spent(lambda n: store.execute((ops[n % 100],)))
    print(f"server time: one counter {counter:.1f} us, one limit {one:.1f} us ({one / counter:.1f} x), "
          f"three limits and a quota {four:.1f} us ({four / counter:.1f} x)")  # fmt: skip
    kinds = {"quota": quota("10000000/month"), "credits": credits(10_000_000, refill=quota("10000000/month"))}
    for name, limit in kinds.items():
        alike = [Take([Demand("d", f"rl:b:{limit.code}|{n}", limit)]) for n in range(100)]
        pairs = [
            (
                spent(lambda n: store.execute((alike[n % 100],))),  # noqa: B023 - called here
                spent(lambda n: store.execute((single[n % 100],))),
            )
            for _ in range(5)
        ]
        found = statistics.median(kind / window for kind, window in pairs)
        print(f"server time of {name}: {found:.2f} of that of a window (median of {len(pairs)} pairs)")
    client.execute_command("CONFIG", "RESETSTAT")
    for n in range(100):
        store.execute((ops[n],))
    calls = client.execute_command("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    print(f"round trips a decision over three limits and a quota, warm: {calls / 100:.2f}")
    store.close()
    client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--server", default="valkey", choices=["valkey", "redis6"])
    options = parser.parse_args()
    with RedisServer(options.server) as server:
        threads(server.url, options.rounds, options.count)
        for flying in (1, 64):
            tasks(server.url, options.rounds, options.count, flying)
        server_time(server, 10_000)


if __name__ == "__main__":
    main()
