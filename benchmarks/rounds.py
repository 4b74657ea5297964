"""Variants that take turns: each runs in every round, a short while each, in changing order."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence

Variants = dict[str, tuple[Callable[[int], None], int]]
"""What runs so many requests, and how many in a round."""


def run_rounds(variants: Variants, rounds: int, clock: Callable[[], float], lead_in: int = 0) -> dict[str, list[float]]:
    """Microseconds a request, by `clock`: a list over the rounds for each variant.

    So many requests as `lead_in` says come first in each turn and are not timed: they find the processor's caches full
    of what the others left there, as in a process that does one thing they would not.
    """
    for run, number in variants.values():
        run(number)  # warm
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            run, number = variants[name]
            run(min(lead_in, 3 * number))
            start = clock()
            run(number)
            times[name].append((clock() - start) / number * 1e6)
    return times


def show(
    title: str, rows: Mapping[str, Sequence[float]], wanted: Mapping[str, str] | None = None, more: str = ""
) -> None:
    """Print the quartiles of each row, and what was wanted of it; `more` is the title of a column before that."""
    print(f"{title:62} {'quartile':>9} {'median':>9} {'quartile':>9}{more}{'  wanted' if wanted else ''}")
    for name, values in rows.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"{name:62} {low:9.3f} {median:9.3f} {high:9.3f}  {(wanted or {}).get(name, '')}".rstrip())
