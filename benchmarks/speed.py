"""Speed, as ratios in one run: `python benchmarks/speed.py`. Needs the `bench` extra; takes about a minute and a half.

Every variant runs in every round, a short while each, in changing order; what a variant *adds* is its time less the
bare app's in the same round. A ratio is made within a round; its median and quartiles over the rounds are printed,
and beside them the ratio of what was fastest in any round, which a busy machine disturbs least. The machine's noise is
shared by both sides of a ratio that way, and its drift is not taken for a difference.

Callers take turns: `--callers` of them, unless a row says how many. The clock of a variant goes only while it has
its turn, so its limits and keys see as many requests a second as if it ran alone. ASGI and WSGI have a process each,
one after the other, since a process with both looks out for bridges between them; so have the rows about the number of
callers, whose tables would push those of the others out of the processor's caches.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import apps
import peers
from asking import asgi_run, wsgi_run
from keyguard import Keyguard
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from rounds import Variants, run_rounds, show


class Ratio(NamedTuple):
    """A row: (`above` less `less`) over (`below` less `less_below`), each the time of a variant."""

    label: str
    above: str
    below: str
    less: str = ""
    less_below: str = ""
    wanted: str = "for comparison"


def added(label: str, above: str, below: str, bare: str, wanted: str = "for comparison") -> Ratio:
    """Compare what two variants add to a bare app."""
    return Ratio(label, above, below, bare, bare, wanted)


FASTAPI, FLASK, RAW = "fastapi: bare", "flask: bare", "asgi: bare"
ONE, ONE_FLASK, WHOLE = "fastapi: one limit", "flask: one limit", "fastapi: networks, key, three limits"

ASGI_ROWS = [
    Ratio("one limit adds, of a bare FastAPI request", ONE, FASTAPI, FASTAPI, wanted="at most 0.15"),
    Ratio("three limits add", "fastapi: three limits", FASTAPI, FASTAPI, wanted="at most 0.18"),
    Ratio("1000 networks, key and three limits add", WHOLE, FASTAPI, FASTAPI, wanted="at most 0.30"),
    Ratio("a refusal, of FastAPI's own answer", "asgi: refusal", FASTAPI, wanted="at most 0.5"),
    Ratio(
        "a cache hit less the least app, of a bare FastAPI request",
        "asgi: cache hit",
        FASTAPI,
        RAW,
        wanted="at most 0.05",
    ),
    Ratio(
        "the same within APIKeys, less the least app",
        "asgi: cache hit within APIKeys",
        FASTAPI,
        RAW,
        wanted="at most 0.10",
    ),
    Ratio("a cache hit, all of it", "asgi: cache hit", FASTAPI),
    Ratio("a cache hit within APIKeys, all of it", "asgi: cache hit within APIKeys", FASTAPI),
    added("one limit over fastapi-limiter's", ONE, "fastapi-limiter", FASTAPI, "at most 0.25"),
    added("one limit over slowapi's", ONE, "slowapi", FASTAPI, "at most 0.25"),
    added("one limit by hand over slowapi's", "one limit by hand", "slowapi", FASTAPI),
    added("the whole stack over the same by hand", "full stack", "floor", FASTAPI, "at most 3"),
    added("APIKeyHeader + slowapi + fastapi-guard over it", "composed", "full stack", FASTAPI, "at least 30"),
    added("1000 networks over 10", "full stack", "full stack, 10 networks", FASTAPI, "at most 1.5"),
    added("1000 path rules over 10", "full stack, 1000 paths", "full stack, 10 paths", FASTAPI, "at most 1.5"),
]
WSGI_ROWS = [
    Ratio("one limit adds, of a bare Flask request", ONE_FLASK, FLASK, FLASK, wanted="at most 0.18"),
    Ratio("three limits add", "flask: three limits", FLASK, FLASK, wanted="at most 0.18"),
    added("one limit over flask-limiter's", ONE_FLASK, "flask-limiter", FLASK, "at most 0.25"),
]
FEW, MANY, VERY_MANY = 10, 1000, 20_000


def callers_rows(kind: str) -> list[Ratio]:
    """Compare what the whole stack adds for few callers and for many."""
    few, bare = f"{kind}: {FEW} callers", f"{kind}: bare"
    return [
        added(f"{kind}: {MANY} callers over {FEW}", f"{kind}: {MANY} callers", few, bare, "at most 1.8"),
        added(f"{kind}: {VERY_MANY} callers over {FEW}", f"{kind}: {VERY_MANY} callers", few, bare, "at most 2.6"),
    ]


# -- time --------------------------------------------------------------------------------------------------------


class Turns(ManualClock):
    """The time that has passed in the turns of the variant that runs."""

    others = 0
    """Microseconds that the turns of the others took, which it has not seen."""

    def __call__(self) -> int:
        return time.time_ns() // 1000 - self.others


clock = Turns()


def stack(*guards: Any) -> Keyguard:
    return Keyguard(*guards, store=MemoryStore(clock=clock), clock=clock)


def in_turn(run: Callable[[int], Any]) -> Callable[[int], None]:
    """Let time pass for a variant while it runs, and only then."""
    mine = clock()

    def turn(count: int) -> None:
        nonlocal mine
        clock.others += clock() - mine
        run(count)
        mine = clock()

    return turn


# -- what runs --------------------------------------------------------------------------------------------------------


def asgi_times(options: argparse.Namespace) -> dict[str, list[float]]:
    with asyncio.Runner() as runner:

        def of(app: Any, keys: list[str] | None = None, callers: int = 1) -> Callable[[int], None]:
            run = asgi_run(app, keys or [], callers, 200)
            return lambda count: runner.run(run(count))

        def of_one(app: Any, key: str | None = None) -> Callable[[int], None]:
            return of(app, [key] if key else None)

        count = options.count
        variants: Variants = {
            variant.name: (in_turn(lambda count, run=variant.run: runner.run(run(count))), count)
            for variant in apps.variants(options.callers, kinds=["asgi", "fastapi"], stack=stack)
        }
        variants |= {
            "fastapi-limiter": (of(peers.limiter_fastapi(), callers=options.callers), count),
            "slowapi": (of(peers.slowapi_fastapi(), callers=options.callers), count),
            "one limit by hand": (of(apps.one_limit_floor(), callers=options.callers), count),
            "floor": (of_one(*apps.floor_fastapi()), count),
            "full stack": (of_one(*apps.keyguard_fastapi()), count),
            "composed": (of_one(*peers.composed_fastapi()), count // 20),
            "full stack, 10 networks": (of_one(*apps.keyguard_fastapi(10)), count),
            "full stack, 10 paths": (of_one(*apps.keyguard_fastapi(1000, 10)), count),
            "full stack, 1000 paths": (of_one(*apps.keyguard_fastapi(1000, 1000)), count),
        }
        return run_rounds(variants, options.rounds, time.perf_counter, options.callers)


def wsgi_times(options: argparse.Namespace) -> dict[str, list[float]]:
    variants: Variants = {
        variant.name: (in_turn(variant.run), options.count)
        for variant in apps.variants(options.callers, kinds=["wsgi", "flask"], stack=stack)
    }
    variants["flask-limiter"] = (wsgi_run(peers.limiter_flask(), [], options.callers, 200), options.count)
    return run_rounds(variants, options.rounds, time.perf_counter, options.callers)


def callers_times(options: argparse.Namespace) -> dict[str, list[float]]:
    """Time the whole stack around the least app and around FastAPI. All callers have been there once before."""
    with asyncio.Runner() as runner:
        variants: Variants = {}
        for kind, inner in {"asgi": apps.raw_asgi, "fastapi": apps.bare_fastapi}.items():
            count = options.count * (8 if kind == "asgi" else 2)
            bare = asgi_run(inner(), [], FEW, 200)
            variants[f"{kind}: bare"] = ((lambda count, run=bare: runner.run(run(count))), count)
            for callers in (FEW, MANY, VERY_MANY):
                run = asgi_run(*apps.whole(inner, "asgi")(stack, callers)[:2], callers, 200)
                runner.run(run(callers))
                variants[f"{kind}: {callers} callers"] = (in_turn(lambda count, run=run: runner.run(run(count))), count)
        return run_rounds(variants, options.rounds, time.perf_counter, MANY)


def alone(times: Callable[[argparse.Namespace], dict[str, list[float]]], options: argparse.Namespace) -> Any:
    """Run one of these in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(times, options).result()


def table(rows: list[Ratio], times: Mapping[str, list[float]]) -> None:
    """Print each ratio of these times: its quartiles over the rounds, and that of the fastest times."""
    times = {**times, "": [0.0] * len(next(iter(times.values())))}
    fastest = {name: [min(values)] for name, values in times.items()}
    ratios = {row.label: ratios_of(row, times) for row in rows}
    show(
        "ratio", ratios, {row.label: f"{ratios_of(row, fastest)[0]:9.3f}  {row.wanted}" for row in rows}, "    fastest"
    )


def ratios_of(row: Ratio, times: Mapping[str, list[float]]) -> list[float]:
    columns = zip(times[row.above], times[row.less], times[row.below], times[row.less_below], strict=True)
    return [(above - less) / (below - less_below) for above, less, below, less_below in columns]


PARTS = {
    "asgi": (asgi_times, ASGI_ROWS),
    "wsgi": (wsgi_times, WSGI_ROWS),
    "callers": (callers_times, [*callers_rows("asgi"), *callers_rows("fastapi")]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--count", type=int, default=200, help="requests of a variant in a round")
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument(
        "--parts", nargs="*", default=list(PARTS), choices=list(PARTS), help="all, unless it says which"
    )
    options = parser.parse_args()
    for part in options.parts:
        times, rows = PARTS[part]
        found = alone(times, options)
        show("microseconds a request", found)
        print()
        table(rows, found)
        print(flush=True)


if __name__ == "__main__":
    main()
