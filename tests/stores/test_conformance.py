"""The conformance suite sees every kind of operation and limit, and every kind of mistake that a store may make."""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Any

import pytest

import keyguard
from keyguard import ops
from keyguard.clock import Clock
from keyguard.guards.cache.shared_ops import Enlist, Lease, Release, Stamp
from keyguard.ops import Authenticate, Authenticated, Change, CompareAndSet, Demand, Op, Put, Take, head_of
from keyguard.ops.usage import AddUsage, NoteProcess
from keyguard.rates import Limit, smooth, window
from keyguard.rates.window import WindowLog
from keyguard.testing import ManualClock, Reference, check_store
from keyguard.testing.conformance.drawing import LIMITS, Steps


def all_kinds(base: type) -> set[type]:
    """Every class of this kind that the package has, but for what classes have in common."""
    for module in pkgutil.walk_packages(keyguard.__path__, "keyguard."):
        if not module.name.endswith("__main__") and not module.name.startswith("keyguard.django."):  # needs settings
            importlib.import_module(module.name)
    found: set[type] = set()
    left = [base]
    while left:
        for kind in left.pop().__subclasses__():
            left.append(kind)
            if kind.__module__.startswith("keyguard.") and not kind.__name__.startswith("_"):
                found.add(kind)
    return found


def test_every_operation_and_every_kind_of_limit_is_drawn() -> None:
    """Whoever adds one must have it drawn, or no store is held to it."""
    clock = ManualClock()
    reference, source = Reference(clock), Steps(1, LIMITS, together=4)
    drawn: set[type] = set()
    for _ in range(1000):
        source.pass_time(clock, reference)
        for op in source.batch():
            drawn.add(type(op))
            source.saw(op, reference.execute([op])[0], reference)
    assert drawn | {AddUsage, NoteProcess} == all_kinds(Op)  # these are drawn by `check_usage`
    assert {type(limit) for limit in LIMITS} == all_kinds(Limit)


class Swap(Op[bytes | None]):
    """An operation of a user's own: exchange a value."""

    def __init__(self, key: str, value: bytes) -> None:
        self.keys = (key,)
        self.value = value

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bytes | None, Sequence[Change]]:
        return old[0], [(self.keys[0], self.value, None, None)]


class Own(WindowLog):
    """A limit of a user's own: units go by pairs."""

    def take(self, state: bytes | None, now: int, cost: int) -> Any:
        return super().take(state, now, cost + cost % 2)


OWN = Own(7, 5_000_000, "7/5 seconds")


class Wrong(Reference):
    """A store that does one thing in another way."""

    def __init__(self, clock: Clock, run: Callable[[Any, Wrong], Any]) -> None:
        super().__init__(clock)
        self.run = run

    def execute(self, batch: Sequence[Op[Any]]) -> list[Any]:
        return [self.run(op, self) for op in batch]

    def as_is(self, op: Op[Any]) -> Any:
        return ops.run(op, self.table, self.clock())


def caught(run: Callable[[Any, Wrong], Any], **options: Any) -> bool:
    try:
        check_store(lambda clock: Wrong(clock, run), **options)
    except AssertionError as error:
        return "expected" in str(error)
    return False


def test_operations_and_limits_of_one_s_own_are_drawn_among_the_others() -> None:
    seen: list[Op[Any]] = []

    def watch(op: Any, store: Wrong) -> Any:
        seen.append(op)
        return store.as_is(op)

    def swap(source: random.Random) -> Op[Any]:
        return Swap("k|own", source.randbytes(2))

    assert not caught(watch, steps=300, ops=[swap, Swap("k|other", b"x")], limits=[OWN])
    kinds = {(type(op), op.keys) for op in seen}
    assert {(Swap, ("k|own",)), (Swap, ("k|other",))} <= kinds
    assert any(demand.limit is OWN for op in seen if isinstance(op, Take) for demand in op.demands)


def test_a_mistake_with_one_s_own_operation_or_limit_is_caught() -> None:
    def forgets(op: Any, store: Wrong) -> Any:
        return None if isinstance(op, Swap) else store.as_is(op)

    def knows_better(op: Any, store: Wrong) -> Any:
        if isinstance(op, Take) and any(demand.limit is OWN for demand in op.demands):
            plain = window(7, 5_000_000, "7/5 seconds")
            op = Take([Demand(d.name, d.key, plain if d.limit is OWN else d.limit, d.cost) for d in op.demands])
        return store.as_is(op)

    assert caught(forgets, steps=300, ops=[Swap("k|own", b"x")])
    assert not caught(forgets, steps=300)
    assert caught(knows_better, steps=600, limits=[OWN])
    assert not caught(knows_better, steps=600)


def trusts_what_is_likely(op: Any, store: Wrong) -> Any:
    if op.likely is None:
        return store.as_is(op)
    result, changes = op.apply(op.likely, 0)
    for key, value, ttl, _ in changes:
        if value is None:
            store.table.pop(key, None)
        else:
            store.table[key] = (value, None if ttl is None else store.clock() + ttl)
    return result


def changed(kind: type, **changes: Any) -> Callable[[Any, Wrong], Any]:
    """Operations of a kind are done with other settings."""

    def run(op: Any, store: Wrong) -> Any:
        if type(op) is not kind:
            return store.as_is(op)
        kept = {name: getattr(op, name) for name in changes}
        for name, change in changes.items():
            setattr(op, name, change(kept[name]))
        try:
            return store.as_is(op)
        finally:
            for name, value in kept.items():
                setattr(op, name, value)

    return run


def compares_with_zeros(op: Any, store: Wrong) -> Any:
    """What was wrong with a version of the pepper that nobody knows: any secret passed."""
    result = store.as_is(op)
    if isinstance(op, Authenticate) and not result.valid:
        record = store.value(op.keys[0])
        head = None if record is None else head_of(record)
        if head is not None and head.place not in op.digests and compare_digest(head.digest, bytes(32)):
            return Authenticated(True, record, None, result.at)
    return result


def says_nothing_of_unknown_versions(op: Any, store: Wrong) -> Any:
    result = store.as_is(op)
    if isinstance(op, Authenticate) and not result.valid and result.record is not None:
        head = head_of(result.record)
        if head is None or head.place not in op.digests:
            return Authenticated(False, None, result.guesses, result.at)
    return result


def reads_version_0_for_all(op: Any, store: Wrong) -> Any:
    if isinstance(op, Authenticate):
        record = store.value(op.keys[0])
        head = None if record is None else head_of(record)
        if head is not None and head.place not in op.digests:
            op = Authenticate(op.keys[0], {**op.digests, head.place: next(iter(op.digests.values()), b"")}, op.guess)
    return store.as_is(op)


@pytest.mark.parametrize(
    "mistake",
    [
        trusts_what_is_likely,
        changed(Put, expected=lambda expected: ...),
        changed(Put, expected=lambda expected: ... if expected is None else expected),
        changed(Put, ttl=lambda ttl: None),
        changed(Put, ttl=lambda ttl: ttl and ttl + 1),
        changed(Put, value=lambda value: value or None),
        changed(CompareAndSet, values=lambda values: values[:1]),
        changed(Stamp, keys=lambda keys: ("rc:mark|2",)),
        changed(Enlist, max=lambda max: max + 1),
        changed(Enlist, ttl=lambda ttl: ttl + 1),
        changed(Lease, ttl=lambda ttl: 2 * ttl),
        changed(Release, hit_for_miss=lambda hit_for_miss: not hit_for_miss),
        changed(Release, token=lambda token: b"one"),
        compares_with_zeros,
        says_nothing_of_unknown_versions,
        reads_version_0_for_all,
    ],
)
def test_a_store_with_a_mistake_is_caught(mistake: Callable[[Any, Wrong], Any]) -> None:
    assert caught(mistake)


class Hasty(Op[int]):
    """What it makes of what is likely depends on the time, so it cannot be done without looking."""

    likely = (None,)

    def __init__(self) -> None:
        self.keys = ("k|hasty",)

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        return 1, [(self.keys[0], str(now).encode(), 1_000_000, None)]


def test_an_operation_with_a_wrong_likely_is_caught_on_any_store() -> None:
    with pytest.raises(AssertionError, match="what it makes of what is likely, now and at any time"):
        check_store(Reference, steps=300, ops=[Hasty()])


def test_limits_of_one_s_own_of_a_known_kind() -> None:
    check_store(Reference, steps=300, limits=[window(9, 7_000_000, "9/7 seconds"), smooth("3/minute", burst=2)])


class ReadsFirst(Reference):
    """A store that reads for all operations of a batch, and then writes for all."""

    def execute(self, batch: Sequence[Op[Any]]) -> list[Any]:
        before = dict(self.table)
        results, after = [], dict(self.table)
        for op in batch:
            self.table = dict(before)
            results.append(ops.run(op, self.table, self.clock()))
            for key in op.keys:
                after.pop(key, None)
                if key in self.table:
                    after[key] = self.table[key]
        self.table = after
        return results


class Backwards(Reference):
    """A store that runs the operations of a batch last first."""

    def execute(self, batch: Sequence[Op[Any]]) -> list[Any]:
        return super().execute(batch[::-1])[::-1]


@pytest.mark.parametrize("kind", [ReadsFirst, Backwards])
def test_a_store_that_does_not_keep_to_the_order_is_caught(kind: type[Reference]) -> None:
    with pytest.raises(AssertionError, match="expected"):
        check_store(kind)
