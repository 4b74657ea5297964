"""How long the dashboard's pages take: 10,000 keys, and 30 days of one caller whom everybody looks at.

    python benchmarks/dashboard.py
    python benchmarks/dashboard.py --stores memory sqlite --keys 1000

Starts servers of its own on 127.0.0.1. The caller asks for 20 routes from 3 addresses in each hour of 30 days; each of
the others has asked a few times today. Pages are asked for in this process, one after the other; a log-in is not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.harness import Ask, ask_wsgi

from keyguard import APIKeys, Keyguard, RateLimit, Usage
from keyguard.clock import SECOND, wall_clock
from keyguard.ops import Demand, Taken
from keyguard.rates import quota
from keyguard.stores import open_store
from usage import STORES, decision, url_of

HOUR = 3600 * SECOND
DAYS = 30
ROUNDS = 15


def filled(url: str, keys: int) -> tuple[Keyguard, str]:
    """A stack on a store with keys and a ledger; the id of the caller's key."""
    source = random.Random(1)
    usage = Usage(max_subjects=keys + 1)
    guard = Keyguard(
        *(APIKeys(pepper="a pepper that is long enough"), RateLimit(quota("100000/day"), by="subject", name="daily")),
        store=open_store(url if url == "memory://" else f"{url}?timeout=1"),
        usage=usage,
        name="shop",
    )
    prefix = guard.limits.facts[0].prefix
    limit = guard.limits.facts[0].limit
    assert limit is not None
    ids = {f"owner{number}": guard.keys.issue(f"owner{number}").record.id for number in range(keys)}
    hear = usage._sink
    now = wall_clock()

    def ask(subject: str, at: int) -> None:
        demand = Demand("daily:100000/day", f"{prefix}{subject}", limit)
        record = decision(source, at)
        taken = Taken([demand], [(None, 0, 10, 0, SECOND if record.outcome == "refused" else 0)], at, False)
        policies = ("daily:100000/day",) if record.outcome == "refused" else ()
        hear(record._replace(subject=subject, key_id=ids[subject], policies=policies, taken=(taken,)))

    for hour in range(DAYS * 24, -1, -1):
        for number in range(60):
            ask("owner0", now - hour * HOUR - number * SECOND)
        if hour % 24 == 0:
            usage.flush()
    for place, subject in enumerate(ids):
        for _ in range(3):
            ask(subject, now - source.randrange(60 * SECOND))
        if place % 500 == 0:
            usage.flush()
    usage.flush()
    while usage.failure:  # on a busy machine; it tries again less and less often
        time.sleep(1)
        usage.flush()
    return guard, ids["owner0"]


def pages(guard: Keyguard, key: str) -> dict[str, list[float]]:
    app: Any = guard.dashboard(auth=lambda request: "ada").wsgi
    found = {}
    for target in ("/", f"/keys/{key}", f"/keys/{key}?span=30d", "/keys", "/keys?find=owner77", "/refusals", "/stores"):
        took = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            answer = ask_wsgi(app, Ask(target), lint=False)
            took.append((time.perf_counter() - began) * 1000)
            assert answer.status == 200, (target, answer)
        found[f"{target.replace(key, 'ID')} ({len(answer.body) // 1000} kB)"] = sorted(took)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--keys", type=int, default=10_000)
    options = parser.parse_args()
    for kind in options.stores:
        with tempfile.TemporaryDirectory() as folder, url_of(kind, folder) as url:
            began = time.monotonic()
            guard, key = filled(url, options.keys)
            print(f"{kind}: {options.keys:,} keys, {DAYS} days, filled in {time.monotonic() - began:.0f} s")
            for target, took in pages(guard, key).items():
                print(
                    f"  {target:34} median {took[len(took) // 2]:7.1f} ms, the longest {took[-1]:7.1f} ms", flush=True
                )
            guard.close()


if __name__ == "__main__":
    main()
