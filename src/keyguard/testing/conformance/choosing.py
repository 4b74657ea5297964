"""Choices of upstream keys close together, so that limits are met, learnt, and known again."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta

from keyguard.clock import SECOND
from keyguard.manual_clock import ManualClock
from keyguard.ops import Op, Store
from keyguard.testing.conformance.comparing import described, executed, opened, same
from keyguard.testing.conformance.reference import Reference
from keyguard.testing.conformance.upstream import UpstreamSteps

_SPANS = (0, 0, 1, 40, 1000, 80_000, 400_000, SECOND, 4 * SECOND, 30 * SECOND, 600 * SECOND, 3600 * SECOND)


class _Choices(UpstreamSteps):
    """Choices and reports alone, mostly of groups that work."""

    def __init__(self, seed: int, reference: Reference) -> None:
        self.random = random.Random(seed)
        self.reference = reference


def check_upstream(make_store: Callable[[ManualClock], Store], steps: int = 500) -> None:
    """Compare choices and reports, and the states that they leave."""
    clock = ManualClock()
    reference = Reference(clock)
    source = _Choices(1, reference)
    with opened(make_store, clock) as store:
        for step in range(steps):
            clock.advance(timedelta(microseconds=source.random.choice(_SPANS)))
            if source.random.random() < 0.01:
                clock.advance(-timedelta(microseconds=source.random.choice([1, SECOND, SECOND + 1, 3600 * SECOND])))
            op: Op[object] = source.choose() if source.random.random() < 0.6 else source.report()
            what = f"step {step} of choices"
            (got,) = executed(store, [op], what)
            (result,) = reference.execute([op])
            same(f"{what}, {described(op)}", result, got)
            source.chosen(op, result)
            if step % 5 == 0:
                same(f"{what}, the states", reference.scan("up:"), [*store.scan("up:")])
