"""Choices of upstream keys close together, so that limits are met, learnt, and known again."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

from keyguard.clock import SECOND
from keyguard.learnt import Candidate, Grant, Report, Seen, dimension_of, id_of
from keyguard.ops import Acquire, Learn, Op
from keyguard.testing.conformance.comparing import Twins, described, executed, same
from keyguard.testing.conformance.reference import Reference
from keyguard.testing.conformance.upstream import UpstreamSteps

_SPANS = (0, 0, 1, 40, 1000, 80_000, 400_000, SECOND, 4 * SECOND, 30 * SECOND, 600 * SECOND, 3600 * SECOND)


class _Choices(UpstreamSteps):
    """Choices and reports alone, mostly of groups that work."""

    def __init__(self, seed: int, reference: Reference) -> None:
        self.random = random.Random(seed)
        self.reference = reference


def check_upstream(compared: Twins, steps: int = 500) -> None:
    """Compare choices and reports, and the states that they leave."""
    store, reference, clock = compared
    source = _Choices(1, reference)
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


def check_upstream_stories(compared: Twins) -> None:
    """Compare what drawn steps seldom come to: bursts refused again, early ones, ends that move, and debts."""
    store, reference, clock = compared
    minute, tokens = dimension_of("rpm"), dimension_of("tpm")

    def told(op: Op[Any]) -> Any:
        (got,) = executed(store, [op], "a story of choices")
        (result,) = reference.execute([op])
        same(f"a story of choices, {described(op)}", result, got)
        if isinstance(op, Learn):  # what choices left shows then as well
            same("a story of choices, the states", reference.scan("up:"), [*store.scan("up:")])
        return result

    def granted(group: Candidate, span: int) -> Grant:
        clock.advance(timedelta(microseconds=span))
        grant = told(Acquire([group], {"tokens": 10}, ahead=20 * SECOND))
        return grant if isinstance(grant, Grant) else Grant(0, 0, group.keys[0], 0, 0, ())

    burst = Candidate("up:story|*/burst", (id_of("one"),))
    for _ in range(4):
        grants = [granted(burst, 10_000) for _ in range(30)]
        seen = [Seen(minute, 600, 400, 20 * SECOND)]
        told(Learn([Report(burst, grant, seen=seen) for grant in grants[:-1]]))
        told(Learn([Report(burst, grants[-1], cause="exhausted", scope="model", seen=seen)]))
        clock.advance(timedelta(seconds=4))
    early = Candidate("up:story|*/early", (id_of("three"),))
    for span in (1, 30, 119, 120, 400):
        grants = [granted(early, SECOND) for _ in range(12)]
        told(Learn([Report(early, grants[0], cause="unsent")]))
        for number, grant in enumerate(grants[:1:-1]):  # they passed each other
            told(Learn([Report(early, grant, seen=[Seen(minute, 60, 40 - number, (20 + number) * SECOND)])]))
        seen = [Seen(minute, 60, 0, 60 * SECOND), Seen(tokens, 600, 3, 60 * SECOND)]
        told(Learn([Report(early, grants[1], cause="exhausted", scope="model", wait=10, seen=seen)]))
        clock.advance(timedelta(seconds=span))
    kinds = Candidate("up:story|*/kinds", (id_of("four"),))
    ends = clock() + 60 * SECOND
    for number in range(22):  # an end that stands still, and then one that moves
        grant = granted(kinds, SECOND)
        moved = 4 * SECOND * number // 5 if number > 11 else 0
        told(Learn([Report(kinds, grant, seen=[Seen(minute, 60, 50 - number, ends + moved - clock())])]))
    old = Grant(clock(), 0, kinds.keys[0], 0, 1, ())  # it tells nothing of what was booked
    told(Learn([Report(kinds, old, seen=[Seen(minute, 60, 30, 30 * SECOND)])]))
    shut = Candidate("up:story|*/shut", (id_of("five"),))
    for grant in [granted(shut, 0), granted(shut, 0)]:
        told(Learn([Report(shut, grant, cause="exhausted", scope="model", wait=5 * SECOND)]))
    debt = Candidate("up:story|*/debt", (id_of("two"),))
    for _ in range(6):
        both = [granted(debt, 70 * SECOND), granted(debt, 0)]
        for grant in both:  # both were let go before the first one's refusal was known
            told(Learn([Report(debt, grant, cause="exhausted", scope="none", wait=0, dimension=tokens)]))
    told(Learn([Report(debt, grant, cause="settled", spent={"tokens": 0})]))
    told(Learn([Report(debt, grant, cause="settled", spent={"tokens": 10**9}) for grant in both * 40]))
    clock.advance(timedelta(seconds=1))
    granted(debt, SECOND)
