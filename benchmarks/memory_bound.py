"""How much memory the store takes under attack: `python benchmarks/memory_bound.py [ADDRESSES] [MIB]`.

Ten million distinct addresses ask once each, after a few callers have used up their limit. What the system says of the
process, before and after, must stay within the store's bound, and those few must still be refused.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

from keyguard.ops import Demand, Take
from keyguard.rates import Limit, window
from keyguard.stores.memory import MemoryStore


class Rule(NamedTuple):
    prefix: str
    limit: Limit


def resident() -> int:
    """KiB of memory that this process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    addresses = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    mib = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    limit = window(100, 3600 * 1_000_000, "100/hour")
    store = MemoryStore(mib * 1024 * 1024)
    prefix = f"rl:ip:{limit.code}|"
    pool = store.pool([Rule(prefix, limit)])
    assert pool is not None

    def take(caller: str) -> bool:
        if (answer := pool.take(caller)) is not None:
            return isinstance(answer, list)
        return not store.execute((Take([Demand("ip:100/hour", prefix + caller, limit)]),))[0].refused

    culprits = [f"192.0.2.{number}" for number in range(100)]
    for culprit in culprits:
        while take(culprit):
            pass
    before = peak = resident()
    start = time.perf_counter()
    for number in range(addresses):
        take(f"{number >> 24 & 255}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
        if number % 10_000 == 0:
            peak = max(peak, resident())
    seconds = time.perf_counter() - start
    forgiven = sum(map(take, culprits))
    grown = peak - before
    print(f"{addresses:,} addresses in {seconds:.0f} s, {seconds / addresses * 1e6:.1f} us each")
    print(store.stats())
    print(f"the process grew by {grown / 1024:.1f} MiB at most; the bound is {mib} MiB; forgiven: {forgiven} of 100")
    if grown > mib * 1024 or forgiven:
        return 1
    print("within the bound, and nobody was forgiven")
    return 0


if __name__ == "__main__":
    sys.exit(main())
