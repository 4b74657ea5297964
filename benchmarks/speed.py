"""Speed, as ratios in one run: `python benchmarks/speed.py`. Needs the `bench` extra.

Every variant runs in every round, a short while each, in changing order; what a variant *adds* is its time less the
bare app's in the same round. A ratio is made within a round; its median and quartiles over the rounds are printed.
The machine's noise is shared by both sides of a ratio that way, and its drift is not taken for a difference.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any

import apps
from rounds import Variants, run_rounds, show


def timings(rounds: int, count: int) -> dict[str, list[float]]:
    """Microseconds a request: a list over the rounds for each variant."""
    loop = asyncio.new_event_loop()

    def asgi(app: Any, key: str | None = None, expected: int = 200) -> Callable[[int], None]:
        scope = apps.scope_with(key)
        return lambda count: loop.run_until_complete(apps.run_asgi(app, scope, count, expected))

    def wsgi(app: Any) -> Callable[[int], None]:
        environ = apps.environ_with(None)
        return lambda count: apps.run_wsgi(app, environ, count)

    refusing = apps.refusing_fastapi()
    loop.run_until_complete(apps.run_asgi(refusing, apps.scope_with(None), 1))
    variants: Variants = {
        "bare fastapi": (asgi(apps.bare_fastapi()), count),
        "full stack": (asgi(*apps.keyguard_fastapi()), count),
        "full stack, 10 networks": (asgi(*apps.keyguard_fastapi(10)), count),
        "full stack, 10 paths": (asgi(*apps.keyguard_fastapi(1000, 10)), count),
        "full stack, 1000 paths": (asgi(*apps.keyguard_fastapi(1000, 1000)), count),
        "floor": (asgi(*apps.floor_fastapi()), count),
        "composed": (asgi(*apps.composed_fastapi()), count // 5),
        "one limit": (asgi(apps.one_limit_fastapi()), count),
        "one limit, floor": (asgi(apps.one_limit_floor()), count),
        "slowapi": (asgi(apps.slowapi_fastapi()), count),
        "refusal": (asgi(refusing, None, 429), count),
        "bare flask": (wsgi(apps.bare_flask()), count),
        "one limit, flask": (wsgi(apps.one_limit_flask()), count),
        "flask-limiter": (wsgi(apps.limiter_flask()), count),
    }
    times = run_rounds(variants, rounds, time.perf_counter)
    loop.close()
    return times


RATIOS: list[tuple[str, str, str, str, str]] = [
    # what is asked, numerator, denominator, bare app ("" compares whole times), bound
    ("full stack over the floor", "full stack", "floor", "bare fastapi", "at most 3"),
    (
        "APIKeyHeader + slowapi + fastapi-guard over the full stack",
        "composed",
        "full stack",
        "bare fastapi",
        "at least 30",
    ),
    ("slowapi over one limit", "slowapi", "one limit", "bare fastapi", "at least 15"),
    ("slowapi over one limit by hand", "slowapi", "one limit, floor", "bare fastapi", "for comparison"),
    ("flask-limiter over one limit", "flask-limiter", "one limit, flask", "bare flask", "at least 15"),
    ("1000 networks over 10", "full stack", "full stack, 10 networks", "bare fastapi", "at most 1.5"),
    ("1000 path rules over 10", "full stack, 1000 paths", "full stack, 10 paths", "bare fastapi", "at most 1.5"),
    ("a refusal over the app's own answer", "refusal", "bare fastapi", "", "below 1"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--count", type=int, default=500, help="requests of a variant in a round")
    options = parser.parse_args()
    times = timings(options.rounds, options.count)
    show("microseconds a request", times)
    print()
    ratios, wanted = {}, {}
    for label, above, below, bare, bound in RATIOS:
        less = times[bare] if bare else [0.0] * options.rounds
        ratios[label] = [(a - z) / (b - z) for a, b, z in zip(times[above], times[below], less, strict=True)]
        wanted[label] = bound
    show("ratio of what is added", ratios, wanted)


if __name__ == "__main__":
    main()
