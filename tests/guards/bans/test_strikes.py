"""The arithmetic of strikes: when a ban begins, how long it lasts, and what a clock that is set back does to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.rates.strikes import Ban, Strikes, ban_of, state_of

PERIOD, LENGTH, LONGEST = 60 * SECOND, 10 * SECOND, 45 * SECOND
START = 10**15


def strikes(quota: int, longest: int = LONGEST) -> Strikes:
    return Strikes(quota, PERIOD, f"{quota}/minute", LENGTH, longest)


@dataclass
class Model:
    """The rules in words: every strike by itself."""

    quota: int
    longest: int = LONGEST
    strikes: list[int] = field(default_factory=list)
    began: list[tuple[int, int]] = field(default_factory=list)
    """When each ban of a row began and ended."""

    def wait(self, now: int) -> int:
        return max(0, self.began[-1][1] - now) if self.began else 0

    def strike(self, now: int) -> None:
        if self.wait(now):
            return
        self.strikes = [*[at for at in self.strikes if at > now - PERIOD], now]
        if len(self.strikes) > self.quota:
            if self.began and now >= self.began[-1][1] + self.longest:
                self.began = []
            length = min(self.longest, LENGTH * 2 ** len(self.began))
            self.began.append((now, now + length))
            self.strikes = []


pauses = st.one_of(st.just(0), st.integers(0, SECOND), st.integers(0, 20 * SECOND), st.integers(0, 120 * SECOND))
stories = st.lists(pauses, min_size=1, max_size=60)


@settings(max_examples=150)
@given(st.integers(1, 8), stories, st.sampled_from([LENGTH, LONGEST]))
def test_bans_begin_and_grow_as_the_model_says(quota: int, pauses: list[int], longest: int) -> None:
    limit, model, now, state = strikes(quota, longest), Model(quota, longest), START, None
    for pause in pauses:
        now += pause
        assert limit.take(state, now, 0)[4] == model.wait(now)
        state, ttl = limit.charge(state, now, 1)
        model.strike(now)
        told = limit.take(state, now, 0)
        assert told[4] == model.wait(now)
        assert told[0] is None
        if model.wait(now):
            assert ban_of(state) == Ban(*model.began[-1], len(model.began))
            assert limit.take(state, now + model.wait(now) - 1, 0)[4] == 1
            assert limit.take(state, now + model.wait(now), 0)[4] == 0
        assert ttl > model.wait(now)


@settings(max_examples=60)
@given(st.integers(33, 60), st.lists(st.integers(0, 4 * SECOND), min_size=100, max_size=200))
def test_nobody_is_banned_early_where_strikes_are_many(quota: int, pauses: list[int]) -> None:
    """More than 32 are counted by a 32nd of the period: late by at most that much, and never early."""
    limit, now, state = strikes(quota), START, None
    since_ban: list[int] = []
    for pause in pauses:
        now += pause
        if limit.take(state, now, 0)[4]:
            continue
        state, _ = limit.charge(state, now, 1)
        since_ban.append(now)
        banned = limit.take(state, now, 0)[4] > 0
        whole = len([at for at in since_ban if at > now - PERIOD])
        surely = len([at for at in since_ban if at > now - PERIOD * 31 // 32])
        assert whole > quota if banned else surely <= quota
        assert len(state) <= 20 + 34 * 12
        if banned:
            since_ban = []


@settings(max_examples=100)
@given(st.integers(1, 40), stories, st.integers(1, 10**10))
def test_a_clock_that_is_set_back_forgives_no_ban_and_makes_none_longer(
    quota: int, pauses: list[int], back: int
) -> None:
    limit, now, state = strikes(quota), START, None
    for pause in pauses:
        now += pause
        state, _ = limit.charge(state, now, 1)
    _, ttl, left, _, wait = limit.take(state, now, 0)
    earlier = now - back
    moved, ttl, left_then, _, wait_then = limit.take(state, earlier, 0)
    if wait:
        assert 0 < wait_then <= ban_of(state).until - ban_of(state).since
    elif not wait_then:
        assert left_then <= left
    assert wait_then <= LONGEST
    if moved is not None:
        assert limit.take(moved, earlier, 0) == (None, ttl, left_then, limit.take(state, earlier, 0)[3], wait_then)
        assert limit.take(moved, earlier + wait_then, 0)[4] == 0


@settings(max_examples=100)
@given(st.integers(1, 50), stories, stories)
def test_callers_who_are_folded_together_are_forgiven_nothing(quota: int, one: list[int], other: list[int]) -> None:
    limit = strikes(quota)
    states, ends = [], []
    for pauses in (one, other):
        now, state = START, None
        for pause in pauses:
            now += pause
            state, _ = limit.charge(state, now, 1)
        assert state is not None
        states.append(state)
        ends.append(now)
    merged = limit.merge(*states)
    for now in (*ends, max(ends) + 5 * SECOND):
        apart = [limit.take(state, now, 0) for state in states]
        together = limit.take(merged, now, 0)
        if now >= max(ends):
            assert together[4] == max(taking[4] for taking in apart)
            assert together[2] <= min(taking[2] for taking in apart)
    assert len(merged) <= 20 + 34 * 12


def test_a_flood_of_strikes_at_once_is_one_ban() -> None:
    limit = strikes(3)
    state, ttl = limit.charge(None, START, 10**12)
    assert ban_of(state) == Ban(START, START + LENGTH, 1)
    assert ttl == LENGTH + LONGEST
    again, _ = limit.charge(state, START + 1, 10**12)
    assert again == state  # of requests that were let in before


def test_how_often_somebody_was_banned_is_remembered_for_as_long_as_the_longest_ban() -> None:
    limit = strikes(1)
    state = state_of(Ban(START, START + LENGTH, 1))
    end = START + LENGTH + LONGEST
    assert ban_of(limit.charge(state, end - 1, 2)[0]).number == 2
    assert ban_of(limit.charge(state, end, 2)[0]).number == 1


@pytest.mark.parametrize("state", [b"", b"x" * 19, b"x" * 21])
def test_what_is_not_a_state_is_not_read_as_one(state: bytes) -> None:
    with pytest.raises(ValueError, match="not the state of strikes"):
        ban_of(state)


def test_an_edited_limit_ends_no_ban() -> None:
    state, _ = strikes(3).charge(None, START, 9)
    for limit in (strikes(50), Strikes(2, SECOND, "2/second", SECOND, SECOND)):
        assert limit.code == strikes(3).code
        assert limit.take(state, START + 1, 0)[4] == LENGTH - 1
