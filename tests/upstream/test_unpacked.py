"""Groups that are kept unpacked: no answer and no value tells that they are, and who looks at one has it alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.learnt import Candidate, Grant, Group, Report, Seen, Unpacked, dimension_of, group_key, id_of
from keyguard.learnt.meter import EVEN, LEARNT, TOLD, WINDOW, Meter
from keyguard.ops import Acquire, Learn, run, upstream
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.upstream.test_choices_of_all_kinds import NOW, reports

MINUTE = 60 * SECOND
FULL = ((dimension_of("rpd"), 1),)


PACES = [(EVEN, 0, 0), (700, 0, MINUTE), (700, 0, 100 * MINUTE), (700, 0, 100 * MINUTE + 1), (EVEN, 1, 101 * MINUTE)]
"""The pace, the largest burst, and for how long the pace is used up."""


@pytest.mark.parametrize("flags", [TOLD, LEARNT, TOLD | WINDOW, LEARNT | WINDOW])
def test_a_group_has_room_at_the_same_moment_whether_time_has_passed_in_it_or_not(flags: int) -> None:
    """At all borders: of windows and debts that are too far away, and of a time that was set back."""
    moments = [NOW + many * MINUTE + more for many in (-1, 0, 1, 2, 3, 5, 6) for more in (-1, 0, 1, MINUTE // 3)]
    looked_at = 0
    for when, used, (pace, cap, paced) in product(moments, (0, 2), PACES):
        for at in (NOW, NOW + SECOND, NOW + SECOND + 1):
            group = Group(None, at)
            group.number = 4 if at > NOW else 0  # these are all that it gives at once, until an answer comes
            group.meters = [Meter(0, flags, pace, MINUTE, 2, 0, when, used, cap=cap, set_at=NOW, paced=NOW + paced)]
            data = group.pack(at)
            still, come = Group(data, NOW), Group(data, NOW)
            come.come_to(NOW)
            if still.steady_from > NOW:
                continue
            looked_at += 1
            for units, wait in product((1, 2, 3), (0, 1, 2 * MINUTE)):
                found, others = still.start([units, 0, 0, 0], NOW + wait), come.start([units, 0, 0, 0], NOW + wait)
                assert (found[:2], place(still, found[2])) == (others[:2], place(come, others[2]))
    assert (looked_at > 0) == (flags != LEARNT | WINDOW)


def place(group: Group, meter: Meter | None) -> int | None:
    return None if meter is None else group.meters.index(meter)


spans = st.sampled_from([0, 0, 1, SECOND // 3, SECOND, 7 * SECOND, MINUTE, 86400 * SECOND, -1, -5 * SECOND])
configured = st.sampled_from([(), ((dimension_of("rpm"), 1),), ((dimension_of("rpm"), 2), (dimension_of("tpd"), 2000))])


class ReadEachTime(Unpacked):
    """Reads each group when it is needed, and has all time pass in it at once."""

    def take(self, data: bytes | None, limits: Any, now: int) -> Group:
        group = Group(data, now)
        group.configure(limits)
        group.come_to(now)
        return group


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(spans, configured, st.sampled_from("ab"), st.lists(reports, max_size=2)), max_size=12),
)
def test_answers_and_values_are_those_of_groups_that_are_read_each_time(
    steps: list[tuple[int, tuple[Any, ...], str, list[Any]]],
) -> None:
    kept: dict[str, tuple[bytes, int | None]] = {}
    read: dict[str, tuple[bytes, int | None]] = {}
    now = NOW
    for span, limits, first, told in steps:
        now += span
        both = [Candidate(group_key("p", "*", name), (id_of(name),), limits, 0, id_of(name)) for name in "ab"]
        op: Any = Acquire(both if first == "a" else both[::-1], {"tokens": 900}, reports=told)
        if told and span == 0:
            op = Learn(told)
        found = run(op, kept, now)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(upstream, "UNPACKED", ReadEachTime())
            assert found == run(op, read, now)
        assert kept == read


def test_what_is_configured_holds_again_once_more_is_told() -> None:
    store, minute = MemoryStore(clock=ManualClock()), dimension_of("rpm")
    group = Candidate(group_key("p", "*", "a"), (id_of("a"),), ((minute, 100),))
    for told in (50, 80):
        (grant,) = store.execute([Acquire([group], {})])
        store.execute([Learn([Report(group, grant, seen=[Seen(minute, told, told, 0)])])])
    (grant,) = store.execute([Acquire([group], {"requests": 70})])
    assert isinstance(grant, Grant)


def test_groups_without_room_are_not_read_again_while_they_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    groups = [Candidate(group_key("many", "*", name), (id_of(name),), FULL, 0, id_of(name)) for name in "abcdefgh"]
    for group in groups:
        assert isinstance(store.execute([Acquire([group], {})])[0], Grant)
        clock.advance("1 second")

    def read(data: bytes, now: int) -> Group:
        raise AssertionError("a group is read")

    monkeypatch.setattr("keyguard.learnt.unpacked.Group", read)
    (none,) = store.execute([Acquire(groups, {})])
    assert [cause for cause, _ in none.causes] == ["quota"] * 8


def test_a_group_that_somebody_looks_at_is_nobody_elses() -> None:
    """Stores of one process may hold the same value, and each of them changes its own."""
    unpacked, data = Unpacked(), Group(None, NOW).pack(NOW)
    one = unpacked.take(data, (), NOW)
    other = unpacked.take(data, (), NOW)
    assert one is not other
    unpacked.put_back(one)
    assert unpacked.take(data, (), NOW) is one


def test_a_group_that_was_not_written_as_it_is_is_not_kept() -> None:
    unpacked, data = Unpacked(), Group(None, NOW).pack(NOW)
    group = unpacked.take(data, (), NOW)
    group.come_to(NOW)
    unpacked.put_back(group)
    unpacked.put_back(Group(None, NOW))
    unpacked.put_back(Group(b"\2 of a later version", NOW))
    assert len(unpacked) == 0


def test_what_cannot_be_read_is_not_kept() -> None:
    """More than any state can count would be read as nothing."""
    unpacked, group = Unpacked(), Group(None, NOW)
    group.booked[0] = 2**53
    group.pack(NOW)
    unpacked.put_back(group)
    assert len(unpacked) == 0


def test_no_more_are_kept_than_a_bound() -> None:
    unpacked = Unpacked()
    for moment in range(1000):
        unpacked.put_back(Group(Group(None, NOW + moment).pack(NOW), NOW))
    assert 0 < len(unpacked) <= 256
