"""What people change by hand: units that are granted, and what is set as spent, of every kind of limit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import ConfigurationError, smooth
from keyguard.clock import SECOND
from keyguard.rates import Limit, Slots, described, limit_of, window
from keyguard.rates.strikes import Strikes
from keyguard.testing.conformance.drawing import LIMITS, Foreign

NOW = 1_800_000_000 * SECOND
OWN = [limit for limit in LIMITS if type(limit) not in (Foreign, Slots, Strikes)]
"""Kinds of which units are spent."""


WRITTEN = [limit for limit in LIMITS if type(limit) is not Foreign]


class Caller:
    """One caller's state, as a store keeps it."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.now = NOW
        self.state: bytes | None = None
        self.expiry = 0

    def keep(self, state: bytes | None, ttl: int) -> None:
        self.state, self.expiry = state, self.now + ttl

    def living(self) -> bytes | None:
        return self.state if self.expiry > self.now else None

    def take(self, cost: int) -> int:
        """Take units, and return what is left."""
        kept, ttl, left, _, _ = self.limit.take(self.living(), self.now, cost)
        if kept is not None:
            self.keep(kept, ttl)
        return left

    @property
    def spent(self) -> int:
        return self.limit.spent(self.living(), self.now)

    def change(self, word: str, units: int) -> None:
        self.keep(*getattr(self.limit, word)(self.living(), self.now, units))


actions = st.lists(
    st.tuples(st.sampled_from(["take", "granted", "set_spent", "charge"]), st.integers(0, 50), st.floats(0, 0.4)),
    max_size=12,
)


@given(st.sampled_from(OWN), actions)
def test_left_and_spent_are_the_limit_at_every_step(limit: Limit, steps: list[tuple[str, int, float]]) -> None:
    caller = Caller(limit)
    for word, units, pause in steps:
        caller.now += round(pause * limit.period)
        before = caller.spent
        if word == "take":
            caller.take(units)
        elif word == "set_spent":
            units = min(units, limit.max_cost)
            caller.change(word, units)
            assert caller.spent == units
        else:
            caller.change(word, max(1, units))
        if word == "granted":
            floor = -(10**9) if limit.keeps_grants else 0
            assert caller.spent == max(floor, before - max(1, units))
        assert max(0, limit.max_cost - caller.spent) == caller.take(0)


@given(st.sampled_from(OWN), st.integers(1, 50), st.integers(1, 50))
def test_the_units_that_were_taken_last_come_back_first(limit: Limit, first: int, granted: int) -> None:
    """After a grant of all that came later, the state means what it did before."""
    caller, other = Caller(limit), Caller(limit)
    first, granted = min(first, limit.max_cost), min(granted, max(0, limit.max_cost - first))
    period = min(limit.period, 40 * 86400 * SECOND)
    for one in (caller, other):
        one.take(first)
        one.now += period // 3
    if granted and caller.limit.take(caller.living(), caller.now, granted)[4] == 0:
        caller.take(granted)
        caller.change("granted", granted)
    for step in range(12):
        caller.now = other.now = NOW + period // 3 + step * period // 8
        assert caller.take(0) == other.take(0)


def test_what_was_taken_in_the_future_counts_as_taken_now() -> None:
    for limit in OWN:
        caller = Caller(limit)
        caller.take(min(2, limit.max_cost))
        spent = caller.spent
        caller.now -= limit.period // 2
        assert caller.spent >= spent  # even pacing counts a full burst
        left = limit.take(caller.living(), caller.now, 0)[2]
        assert caller.spent == limit.max_cost - left
        caller.change("set_spent", spent)
        assert caller.spent == spent


# -- as plain data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", WRITTEN, ids=lambda limit: limit.text)
def test_a_limit_that_is_written_down_is_read_as_the_same(limit: Limit) -> None:
    told = json.loads(json.dumps(described(limit)))
    made = limit_of(told)
    assert (type(made), made.text, made.code) == (type(limit), limit.text, limit.code)
    assert made.numbers(NOW) == limit.numbers(NOW)
    assert described(made) == told


def test_a_rate_reads_well() -> None:
    assert described(window(10, SECOND, "10/second")) == {
        "kind": "window", "quota": 10, "period": SECOND, "text": "10/second",
    }  # fmt: skip
    assert described(smooth("7/hour"))["kind"] == "smooth"


def test_a_kind_of_its_own_cannot_be_written_down() -> None:
    with pytest.raises(ConfigurationError, match="Foreign"):
        described(Foreign(6, SECOND, "6/second"))


@pytest.mark.parametrize(
    "wrong", [{}, {"kind": "sundial"}, {"kind": 7}, {"kind": "window", "quota": 5}, {"kind": "smooth", "colour": "red"}]
)
def test_what_does_not_describe_a_limit_says_so(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="kind"):
        limit_of(wrong)
