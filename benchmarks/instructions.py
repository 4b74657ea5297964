"""Instructions a request, counted by valgrind: `python benchmarks/instructions.py`. Needs valgrind on the machine.

Counts repeat within a per cent, whatever else the machine is doing. What is printed is what keyguard adds to the bare
app of the same kind, with as many callers as `--callers` says, who take turns. Work that a clock drives is left out:
clocks stand still, or valgrind, which is fifty times slower than life, would count it fifty-fold.

`--check FILE` compares with the figures in FILE, and fails if one is more than 5 % above; `--write FILE` writes them.
Only the kinds of app that the file names are counted then. Figures depend on the interpreter: the file says of which
one they are, and on another one nothing is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import apps

FEW, MANY = 200, 1000
TOLERANCE = 1.05


def interpreter() -> str:
    """Name the interpreter that the figures are of: version, architecture, and how its build was configured.

    A distribution may optimise its own without saying so there, as Debian does: its figures are of another interpreter.
    """
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    optimised = f"configured {'with' if '--enable-optimizations' in flags else 'without'} --enable-optimizations"
    return f"{platform.python_implementation()} {platform.python_version()} {platform.machine()} {optimised}"


# -- inside of valgrind ---------------------------------------------------------------------------------------


def dump() -> None:
    """Make valgrind write down what it has counted, and count anew: it is told to do so before this function of C."""
    os.sched_yield()


async def measure_asgi(run: Callable[[int], Any]) -> None:
    await run(FEW)  # the interpreter specialises what has run a few times
    gc.collect()
    gc.freeze()  # or collections walk the framework's modules, and one more or less of them hides what is measured
    dump()
    await run(MANY)
    dump()


def measure_wsgi(run: Callable[[int], Any]) -> None:
    run(FEW)
    gc.collect()
    gc.freeze()
    dump()
    run(MANY)
    dump()


def measure_all(callers: int, kinds: Collection[str]) -> None:
    for variant in apps.variants(callers, kinds=kinds):
        if variant.asynchronous:
            asyncio.run(measure_asgi(variant.run))
        else:
            measure_wsgi(variant.run)


# -- outside of it --------------------------------------------------------------------------------------------


def count_all(callers: int, kinds: Collection[str] = ()) -> dict[str, int]:
    """Return the instructions of a request of each variant, of all kinds of app or of these.

    Each kind has a process of its own, as ASGI apps and WSGI apps have in life: only where both are, do layers look out
    for requests that come over a bridge from one to the other.
    """
    all_kinds = list(dict.fromkeys(variant.name.partition(":")[0] for variant in apps.variants(callers, build=False)))
    counts: dict[str, int] = {}
    for kind in kinds or all_kinds:
        counts |= count_kind(callers, kind)
    return counts


def count_kind(callers: int, kind: str) -> dict[str, int]:
    """Do the same for one kind of app."""
    with tempfile.TemporaryDirectory() as folder:
        # Found by name, since a stripped interpreter has no other symbols than those of the C library.
        command = ["valgrind", "--tool=callgrind", "--dump-before=sched_yield", f"--callgrind-out-file={folder}/out"]
        done = subprocess.run(
            [*command, sys.executable, __file__, "--inside", str(callers), "--kinds", kind],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        parts = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        totals = [int(re.findall(r"^(?:totals|summary): (\d+)", part.read_text(), re.M)[-1]) for part in parts]
    names = [variant.name for variant in apps.variants(callers, build=False, kinds=[kind])]
    # Two dumps a variant: what lies before the first is preparation.
    return {name: totals[2 * place + 1] // MANY for place, name in enumerate(names)}


def added(counts: dict[str, int]) -> dict[str, int]:
    """Return what each variant adds to the bare app that its name begins with."""
    bare = {name.partition(":")[0]: count for name, count in counts.items() if name.endswith(": bare")}
    return {name: count - bare[name.partition(":")[0]] for name, count in counts.items() if not name.endswith(": bare")}


def check(figures: dict[str, int], file: Path) -> bool:
    """Print how the figures compare with the file's. Returns whether all of them are within the tolerance."""
    fine = True
    for name, before in json.loads(file.read_text())["added"].items():
        now = figures[name]
        verdict = "" if now <= before * TOLERANCE else "   MORE THAN 5 % ABOVE"
        fine = fine and not verdict
        print(f"{name:40} {now:8,}  was {before:8,}{verdict}")
    return fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--check", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kinds", nargs="*", default=(), help="of apps that are counted: asgi, fastapi, wsgi, flask")
    options = parser.parse_args()
    if options.inside:
        measure_all(options.inside, options.kinds)
        return
    if shutil.which("valgrind") is None:
        print("not counted: valgrind is not installed (apt-get install -y valgrind)")
        return
    kinds = options.kinds
    if options.check:
        wanted = json.loads(options.check.read_text())
        if wanted["interpreter"] != interpreter():
            print(f"not counted: {options.check} is of {wanted['interpreter']}, and this is {interpreter()}")
            return
        kinds = sorted({name.partition(":")[0] for name in wanted["added"]})
    counts = count_all(options.callers, kinds)
    figures = added(counts)
    if options.write:
        options.write.write_text(json.dumps({"interpreter": interpreter(), "added": figures}, indent=2) + "\n")
    if options.check:
        if not check(figures, options.check):
            raise SystemExit(1)
        return
    print(f"{interpreter()}, {options.callers} callers")
    for name, count in counts.items():
        print(f"{name:40} {count:9,} instructions a request, {figures.get(name, 0):+9,}")


if __name__ == "__main__":
    main()
