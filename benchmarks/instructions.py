"""Instructions a request, counted by valgrind: `python benchmarks/instructions.py`. Needs valgrind on the machine.

Each variant runs twice, with few and with many requests; the difference is what the requests cost, start-up left out.
Counts repeat within about one per cent, whatever else the machine is doing. `PYTHONHASHSEED` is fixed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys

import apps

FEW, MANY = 10, 510
VARIANTS = ("bare", "full", "floor", "one")


def run(variant: str, count: int) -> None:
    if variant == "bare":
        app, key = apps.bare_fastapi(), None
    elif variant == "full":
        app, key = apps.keyguard_fastapi()
    elif variant == "floor":
        app, key = apps.floor_fastapi()
    else:
        app, key = apps.one_limit_fastapi(), None
    asyncio.run(apps.run_asgi(app, apps.scope_with(key), 50))  # the interpreter specialises what has run a few times
    gc.collect()
    gc.freeze()  # or collections walk the framework's modules, and one more or less of them hides what is measured
    asyncio.run(apps.run_asgi(app, apps.scope_with(key), count))


def counted(variant: str, count: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*command, sys.executable, __file__, variant, str(count)], capture_output=True, text=True, env=environment
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(done.stderr)
    return int(found.group(1))


def main() -> None:
    if len(sys.argv) == 3:
        run(sys.argv[1], int(sys.argv[2]))
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed")
    costs = {name: (counted(name, MANY) - counted(name, FEW)) // (MANY - FEW) for name in VARIANTS}
    for name, cost in costs.items():
        print(f"{name:6} {cost:9,} instructions a request, {cost - costs['bare']:+9,} over the bare app")


if __name__ == "__main__":
    main()
