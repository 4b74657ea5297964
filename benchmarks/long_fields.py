"""How long a megabyte of one request field holds up the event loop, at its worst, beside a field that nobody reads.

python -m benchmarks.long_fields [size]
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.support import long_fields

MOST = 8
"""How many times as long as an unknown field of the same size a field may take."""


def worst(runner: asyncio.Runner, field: str, size: int) -> float:
    """Seconds of this process's own time that the worst value of a field takes: the better of two tries."""
    found = 0.0
    for app in long_fields.stacks():
        runner.run(long_fields.ask(app, long_fields.scope_with(field, "a")))
        for value in long_fields.values(size):
            tries = []
            for _ in range(2):
                scope = long_fields.scope_with(field, value)
                began = time.process_time()
                runner.run(long_fields.ask(app, scope))
                tries.append(time.process_time() - began)
            found = max(found, min(tries))
    return found


def main() -> None:
    """Print a line for each field."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with asyncio.Runner() as runner:
        usual = worst(runner, "x-unknown", size)
        print(f"{'unknown':32} {usual * 1000:8.2f} ms")
        for field in long_fields.FIELDS:
            took = worst(runner, field, size)
            mark = "" if took <= MOST * usual else f"  more than {MOST} times as long"
            print(f"{field:32} {took * 1000:8.2f} ms{mark}")


if __name__ == "__main__":
    main()
