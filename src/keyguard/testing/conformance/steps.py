"""Random operations, held to a reference; from threads and tasks too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from keyguard.clock import SECOND
from keyguard.manual_clock import ManualClock
from keyguard.ops import (
    CompareAndSet,
    Demand,
    Op,
    Read,
    Store,
    Take,
    close_in_loop,
    traits_of,
)
from keyguard.rates import window
from keyguard.testing.conformance.comparing import (
    Twins,
    answers,
    close,
    described,
    executed,
    one,
    opened,
    plain,
    same,
    twins,
)
from keyguard.testing.conformance.drawing import LIMITS, Steps
from keyguard.testing.conformance.reference import Reference as Reference


def check_random_steps(
    make_store: Callable[[ManualClock], Store],
    steps: int,
    sources: Sequence[Steps],
    tell: Callable[[], None] = lambda: None,
) -> None:
    """Compare what random operations do, so many of each source; `tell` is called after each step."""
    with twins(make_store) as compared:
        for source in sources:
            _run_steps(compared, steps, source, tell)


def _run_steps(compared: Twins, steps: int, source: Steps, tell: Callable[[], None]) -> None:
    store, reference, clock = compared
    for step in range(steps):
        source.pass_time(clock, reference)
        batch = source.batch()
        what = f"step {step} of seed {source.seed}"
        compare(source, reference, batch, executed(store, batch, what), what)
        if step % 50 == 49 or step == steps - 1:
            _compare_contents(store, reference, what, by_dump=step // 50 % 2)
        tell()


def _compare_contents(store: Store, reference: Reference, what: str, *, by_dump: int) -> None:
    """Compare what a few prefixes list, each by `scan` and `dump` in turn, and the names of all keys."""
    dump = traits_of(store).dump
    for place, prefix in enumerate(("k|", "rc:", "up:")):
        if dump is not None and (place + by_dump) % 2:
            same(f"{what}, dump", reference.dump(prefix), [*dump(prefix)])
        else:
            same(f"{what}, scan", reference.scan(prefix), [*store.scan(prefix)])
    keys = [key for key, _ in store.scan("")]
    same(f"{what}, the keys of all", sorted(keys), keys)


def compare(source: Steps, reference: Reference, batch: Sequence[Op[Any]], got: list[Any], what: str) -> None:
    """Hold the answers to a batch to what the reference answers."""
    same(f"{what}, the number of results", len(batch), len(got))
    for op, other in zip(batch, got, strict=True):
        old = [reference.value(key) for key in op.keys]
        (result,) = reference.execute([op])
        told = f"{what}, {described(op)}"
        if op.likely is not None:
            now = reference.clock()
            writes, later = op.apply(op.likely, 0)[1], op.apply(op.likely, now)[1]
            same(f"{told}: what it makes of what is likely, now and at any time", writes, later)
            if old == [*op.likely] and plain(other) == plain(op.apply(op.likely, 0)[0]):
                other = result  # it was done without looking first
        same(told, plain(result), plain(other))
        source.saw(op, result, reference)


def check_threads(make_store: Callable[[ManualClock], Store]) -> None:
    with opened(make_store, ManualClock()) as store:
        take = Take([Demand("limit", "rl:limit|threads", window(100, 60 * SECOND, "100/minute"))])
        admitted: list[bool] = []
        failures: list[BaseException] = []

        def hammer() -> None:
            try:
                for _ in range(20):
                    admitted.append(not one(store, take).refused)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=hammer) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        same("threads that ask at once raise nothing", [], failures)
        same("16 threads that ask 320 times for 100", 100, sum(admitted))


def check_async(make_store: Callable[[ManualClock], Store], *, back: bool) -> None:
    clock = ManualClock()
    with opened(make_store, clock) as store:
        if traits_of(store).aexecute is not None:
            asyncio.run(_check_loop(store, clock, back))


async def _check_loop(store: Any, clock: ManualClock, back: bool) -> None:
    reference, source = Reference(clock), Steps(2, LIMITS, together=4, back=back)

    async def ask(batch: list[Op[Any]]) -> list[Any]:
        results = store.aexecute(batch)
        return answers(results if isinstance(results, list) else await results)

    try:
        for step in range(200):
            source.pass_time(clock, reference)
            batch = source.batch()
            compare(source, reference, batch, await ask(batch), f"aexecute, step {step}")
        take = Take([Demand("limit", "rl:limit|tasks", window(100, 60 * SECOND, "100/minute"))])
        together = await asyncio.gather(*[ask([take]) for _ in range(150)])
        same("150 tasks that ask at once for 100", 100, sum(not results[0].refused for results in together))
    finally:
        await close_in_loop(store)


def check_traits(make_store: Callable[[ManualClock], Store]) -> None:
    """Check that what a store may have beside is of the right kind, and does what `keyguard.ops.store` says."""
    clock, take = ManualClock(), Take([Demand("limit", "rl:limit|traits", window(9, 60 * SECOND, "9/minute"))])
    with opened(make_store, clock) as store:
        traits = traits_of(store)
        same("timeout is a number of seconds above 0, if there is one", True, (traits.timeout or 1) > 0)
        same("needs_asyncio is a truth value, if it is there", True, traits.needs_asyncio in (None, True, False))
        same("a place is equal to itself, and has a hash", True, {traits.place: 1}.get(traits_of(store).place) == 1)
        same("holds_values", True, traits.holds_values)
        same("a store that takes back what it gave has no limitations", None, traits.limitations)
        if traits.here is not None:
            found = traits.here([take])
            same("here returns a list of results, or None", True, found is None or len(found) == 1)
        one(store, take)
        if traits.scratch is not None:
            with opened(traits.scratch, clock) as beside:
                same("a store that is made for a check is empty", [], [*beside.scan("")])
                one(beside, CompareAndSet({"k|traits": None}, {"k|traits": b"beside"}))
            same("what is done there is not done here", (None,), one(store, Read("k|traits")))
        if traits.close is not None:
            with opened(make_store, clock) as other:
                one(other, take)
                close(other)  # and once more at the end
