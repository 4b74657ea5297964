"""The conformance suite of stores: every store means what `Op.apply` means.

Public as `keyguard.testing.check_store`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keyguard.manual_clock import ManualClock
from keyguard.ops import Op, Store
from keyguard.rates import Limit
from keyguard.testing.conformance.choosing import check_upstream, check_upstream_stories
from keyguard.testing.conformance.comparing import twins
from keyguard.testing.conformance.drawing import EDITED, LIMITS, Draw, Steps
from keyguard.testing.conformance.limits import (
    check_all_or_nothing,
    check_expiry,
    check_holds,
    check_refunds,
    check_set_back,
    check_settlements,
)
from keyguard.testing.conformance.periods import check_periods
from keyguard.testing.conformance.reference import Reference
from keyguard.testing.conformance.steps import check_async, check_random_steps, check_threads, check_traits
from keyguard.testing.conformance.usage import check_usage
from keyguard.testing.conformance.values import check_plain_values, check_puts, check_records

__all__ = ["Reference", "check_store"]

__all__ = ["Reference", "check_store"]


def check_store(
    make_store: Callable[[ManualClock], Store],
    *,
    steps: int = 3000,
    seed: int = 1,
    compensates: bool = False,
    ops: Sequence[Op[Any] | Draw] = (),
    limits: Sequence[Limit] = (),
    tell: Callable[[float], None] | None = None,
) -> None:
    """Hold a store to the meaning of every operation. Raises `AssertionError` that says what went wrong.

    `make_store` opens an empty store that takes its time from the clock it is given. `steps` random operations of every
    kind, on limits of every kind, run on it and on a reference, and every answer is compared, and what they left; then
    come values and keys of odd kinds, all-or-nothing, expiry, `scan`, threads, and `aexecute` if there is one.

    `ops` are operations of your own, or functions that make one from a `random.Random`, and `limits` are limits of your
    own: they are drawn among the others. `compensates` is for a store that takes from several callers' counters one
    after the other, and gives back if one refuses (a cluster): it is then not asked what a clock that is set back
    does to states in which a charge came and went. `tell` is called with the share of all that is done, from 0 to 1.
    """
    back = not compensates
    done, total = 0, steps + len(EDITED) * (steps // 2)

    def step() -> None:
        nonlocal done
        done += 1
        if tell is not None:
            tell(done / total)

    check_random_steps(make_store, steps, [Steps(seed, (*LIMITS, *limits), together=4, back=back, ops=ops)], step)
    edited = [Steps(seed, variants, together=1, edited=True) for variants in EDITED]
    check_random_steps(make_store, steps // 2, edited, step)
    with twins(make_store) as compared:
        check_plain_values(compared)
        check_records(compared)
        check_puts(compared)
        check_usage(compared)
    with twins(make_store) as compared:
        check_upstream_stories(compared)
        check_upstream(compared, max(20, steps // 4))
    with twins(make_store) as compared:
        check_expiry(compared)
        check_refunds(compared)
        check_settlements(compared)
        check_holds(compared)
        check_periods(compared)
        check_set_back(compared)
        check_all_or_nothing(compared)
    check_threads(make_store)
    check_async(make_store, back=back)
    check_traits(make_store)
