"""Periods of the calendar: their first moment, and what comes after their end."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

from keyguard.clock import SECOND
from keyguard.ops import Demand, Op, Settle, Take
from keyguard.rates import credits, quota
from keyguard.testing.conformance.comparing import Twins, asked_both
from keyguard.testing.conformance.reference import Reference as Reference


def check_periods(compared: Twins) -> None:
    """Check the first moment of a period, and what of a period that is over is settled or edited in the next one."""
    store, reference, clock = compared
    hour = 3600 * SECOND
    never = credits(9)
    limits = (quota("9/hour"), credits(9, refill=quota("1/hour")), credits(9, refill=quota("9/hour")), never)

    def ask(*asked: Op[Any]) -> Any:
        """Ask all at once, and return what came of the first."""
        return asked_both(store, reference, asked, "a period that is over")[0]

    for step, (at, later, more, settled) in enumerate(product((0, hour - 1), (0, 1, hour), (0, 1), (0, 14))):
        clock.advance(timedelta(microseconds=hour - clock() % hour + at))
        keys = [f"rl:period{place}:{limit.code}|{step}" for place, limit in enumerate(limits)]

        def take(cost: int, keys: list[str] = keys) -> Take:
            return Take([Demand("limit", key, limit, cost) for key, limit in zip(keys, limits, strict=True)])

        taken = ask(take(3))
        clock.advance(timedelta(microseconds=later))
        ask(take(more), Settle(taken, [settled] * len(limits)), take(0))
        clock.advance(timedelta(microseconds=hour))
        # Nothing fills this balance any more.
        ask(Take([Demand("limit", keys[1], never, 0)]), take(0))
