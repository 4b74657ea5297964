"""The algorithms: never more than N in any window, nearly all of N at saturation, and waits that are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import ConfigurationError, RateLimit, smooth
from keyguard.rates import NEVER, Limit, parse_rates, window
from keyguard.rates.notation import _read_by_limits

SECOND = 1_000_000
START = 1_800_000_000 * SECOND

quotas = st.one_of(st.integers(1, 8), st.integers(28, 36), st.integers(33, 400))
periods = st.sampled_from([1, 7, 60, 3600, 86400]).map(lambda seconds: seconds * SECOND)


STEP = 8
"""Bytes that say what a request is: one number to draw where there would be many, each of which takes its time."""


def requests_of(limit: Limit, drawn: bytes) -> list[tuple[int, int]]:
    """Requests as `(pause before it, cost)`: bursts, drips and long pauses, on the period's scale, and its bounds."""
    found = []
    for at in range(0, len(drawn) - STEP + 1, STEP):
        kind, price, part = drawn[at] % 8, drawn[at + 1] % 6, int.from_bytes(drawn[at + 2 : at + STEP])
        spans = (0, limit.period // limit.quota, limit.period // 8, 2 * limit.period)
        pause = (part * (spans[kind % 4] + 1)) >> 48 if kind < 5 else (*spans[1:3], limit.period)[kind - 5]
        cost = limit.quota if price == 5 else part % (limit.quota // 3 + 2) if price > 2 else 1
        found.append((pause, min(cost, limit.quota)))
    return found


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[Limit, list[tuple[int, int]]]:
    """A limit, and up to sixty requests."""
    limit = window(draw(quotas), draw(periods), "test")
    drawn = draw(st.one_of(st.binary(max_size=5 * STEP), st.binary(min_size=10 * STEP, max_size=60 * STEP)))
    return limit, requests_of(limit, drawn)


def run(limit: Limit, requests: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The admitted `(moment, cost)`; every refusal's wait is checked on the way."""
    now, state, expiry, admitted = START, None, 0, []
    for pause, cost in requests:
        now += pause
        if expiry <= now:
            state = None  # what a store does
        kept, ttl, remaining, reset, wait = limit.take(state, now, cost)
        assert remaining >= 0
        assert reset >= 0
        assert ttl >= 0
        if wait == 0:
            admitted.append((now, cost))
            if kept is not None:
                state, expiry = kept, now + ttl
                assert len(kept) <= 300
        elif wait != NEVER:
            assert kept is None
            at = now + wait
            assert limit.take(state if expiry > at else None, at, cost)[4] == 0, "refused at the moment it named"
            assert limit.take(state if expiry > at - 1 else None, at - 1, cost)[4] == 1, (
                "admitted, or another wait, before"
            )
    return admitted


def most_in_a_window(admitted: list[tuple[int, int]], period: int) -> int:
    return max((sum(c for t, c in admitted if end - period < t <= end) for end, _ in admitted), default=0)


@settings(max_examples=500)
@given(arrivals())
def test_never_more_than_n_in_any_window(given: tuple[Limit, list[tuple[int, int]]]) -> None:
    limit, requests = given
    assert most_in_a_window(run(limit, requests), limit.period) <= limit.quota


@settings(max_examples=350)
@given(arrivals(), st.one_of(st.integers(1, 5), st.integers(30, 36), st.integers(37, 200)))
def test_an_edited_limit_keeps_its_counters(given: tuple[Limit, list[tuple[int, int]]], quota: int) -> None:
    """Whatever algorithm the old and the new quota mean: what was taken under the old one counts under the new."""
    before, requests = given
    after = window(quota, before.period, f"{quota} a period")
    half = len(requests) // 2
    now, state = START, None
    admitted: list[tuple[int, int]] = []
    for place, (pause, cost) in enumerate(requests):
        now += pause
        limit = before if place < half else after
        kept, _, remaining, _, wait = limit.take(state, now, cost)
        state = kept if kept is not None else state
        used = sum(c for t, c in admitted if now - limit.period < t <= now)
        if cost == 0:
            assert wait == 0, "what costs nothing is never refused"
        elif wait == 0:
            admitted.append((now, cost))
            assert used + cost <= limit.quota
        else:
            assert remaining <= max(0, limit.quota - used)


@settings(max_examples=200)
@given(quota=st.integers(1, 50), burst=st.integers(1, 20), pauses=st.lists(st.integers(0, 3 * SECOND), max_size=80))
def test_even_pacing_admits_at_most_n_and_a_burst(quota: int, burst: int, pauses: list[int]) -> None:
    limit = smooth(f"{quota}/10 seconds", burst)
    admitted = run(limit, [(pause, 1) for pause in pauses])
    assert most_in_a_window(admitted, limit.period) <= quota + burst


@pytest.mark.parametrize("rate", ["1/second", "10/minute", "32/hour", "33/second", "1000/minute", "100000/day"])
@pytest.mark.parametrize("pattern", ["at once", "evenly", "as soon as it may"])
def test_at_saturation_nine_tenths_of_n_are_used(rate: str, pattern: str) -> None:
    ((quota, period, text),) = parse_rates(rate)
    limit = window(quota, period, text)
    periods = 20
    now, end, state, taken = START + 12345, START + 12345 + periods * period, None, 0
    step = max(1, period // (4 * quota))
    unit = max(1, quota // 500)  # large limits in larger steps, or this takes minutes
    while now < end:
        kept, _, _, _, wait = limit.take(state, now, unit)
        if wait == 0:
            state, taken = kept, taken + unit
            if pattern == "evenly":
                now += step * unit
        else:
            now += (
                wait if pattern == "as soon as it may" else (step * unit if pattern == "evenly" else period // 100 + 1)
            )
    assert taken >= 0.9 * quota * periods


@settings(max_examples=200)
@given(arrivals(), st.integers(0, 30 * 86400 * SECOND))
def test_time_set_back_forgives_nobody_and_locks_nobody_out(
    given: tuple[Limit, list[tuple[int, int]]], back: int
) -> None:
    limit, requests = given
    now, state = START, None
    for pause, cost in requests:
        now += pause
        kept, *_ = limit.take(state, now, cost)
        state = kept or state
    if state is None:
        return
    before = limit.take(state, now, 0)
    kept, _, after_remaining, _, _ = limit.take(state, now - back, 0)
    assert after_remaining <= before[2], "somebody was forgiven"
    wait = limit.take(kept or state, now - back, 1)[4]
    assert wait <= limit.period * 33 / 32 + 33, "longer than a period"


@settings(max_examples=200)
@given(arrivals(), st.integers(0, 3 * SECOND), st.integers(0, 2**63))
def test_what_is_given_back_is_as_if_never_taken(
    given: tuple[Limit, list[tuple[int, int]]], pause: int, seed: int
) -> None:
    limit, requests = given
    now, state = START, None
    for gap, cost in requests:
        now += gap
        state = limit.take(state, now, cost)[0] or state
    now += pause
    cost = 1 + seed % 3
    before = limit.take(state, now, 0)[2]
    kept, _, _, _, wait = limit.take(state, now, cost)
    if wait or kept is None:
        return
    taken_at = now
    later, *_ = limit.take(kept, now + 1, 1) if limit.take(kept, now + 1, 1)[4] == 0 else (kept,)
    assert later is not None
    others = 1 if later != kept else 0
    back = limit.give_back(later, now + 1, taken_at, cost)
    assert back is not None
    assert limit.take(back or None, now + 1, 0)[2] >= before - others
    assert limit.take(back or None, now + 1, 0)[2] <= limit.quota - others


class Bucket:
    """Even pacing as a bucket that leaks: the other form of the same algorithm (ITU-T I.371, annex A)."""

    def __init__(self, limit: Any) -> None:
        self.interval, self.room, self.burst = limit.interval, limit.burst * limit.interval, limit.burst
        self.level, self.at = 0, START

    def leak(self, now: int) -> None:
        self.level, self.at = max(0, self.level - (now - self.at)), now

    def take(self, now: int, cost: int) -> tuple[int, int, int]:
        """Units that may still be taken, when the next one comes back, and the wait of a refused request."""
        self.leak(now)
        wait = self.level + cost * self.interval - self.room
        if wait <= 0:
            self.level += cost * self.interval
        part = self.level % self.interval
        reset = 0 if not self.level else part or self.interval
        return (self.room - self.level) // self.interval, reset, NEVER if cost > self.burst else max(0, wait)

    def give_back(self, now: int, cost: int) -> None:
        self.leak(now)
        self.level = max(0, self.level - cost * self.interval)


class Diary:
    """A limit as its definition: all that was taken, and when it lapses."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.taken: list[tuple[int, int, int]] = []
        """Moment, cost, and when it lapses."""

    def lapses(self, now: int) -> int:
        if self.limit.quota <= 32:
            return now + self.limit.period
        width = -(-self.limit.period // 32)
        return (now // width + 33) * width

    def take(self, now: int, cost: int) -> tuple[int, int, int]:
        quota = self.limit.quota
        living = sorted((lapse, units) for _, units, lapse in self.taken if lapse > now and units)
        used = sum(units for _, units in living)
        wait = 0
        if used + cost > quota:
            over = used + cost - quota
            for lapse, units in living:
                over -= units
                if over <= 0:
                    wait = lapse - now
                    break
            return quota - used, living[0][0] - now if living else 0, NEVER if cost > quota else wait
        if cost:
            self.taken.append((now, cost, self.lapses(now)))
            living = sorted([*living, (self.lapses(now), cost)])
        return quota - used - cost, living[0][0] - now if living else 0, 0

    def give_back(self, now: int, cost: int) -> None:
        self.taken.pop()


limits_with_their_meaning = st.one_of(
    st.builds(
        lambda quota, span, burst: smooth(f"{quota}/{span}", burst),
        st.integers(1, 50),
        st.sampled_from(["second", "7 seconds", "hour"]),
        st.integers(1, 20),
    ).map(lambda limit: (limit, Bucket(limit))),
    st.builds(lambda quota, period: window(quota, period, "test"), quotas, periods).map(
        lambda limit: (limit, Diary(limit))
    ),
)


@settings(max_examples=500)
@given(
    limits_with_their_meaning,
    st.one_of(st.binary(max_size=10), st.binary(min_size=20, max_size=120)),
)
def test_every_figure_is_the_one_that_the_limit_means(given: tuple[Limit, Bucket | Diary], drawn: bytes) -> None:
    """What is left, when something comes back, and the wait, also after a request has given back what it took."""
    limit, meaning = given
    unit = max(1, limit.period // limit.quota // 7)
    now, state, expiry = START, None, 0
    for pause, rest in zip(drawn[::2], drawn[1::2], strict=False):
        pause, cost, large, gives_back = pause % 41, rest % 7, rest & 64, rest & 128
        now += pause * unit
        cost = min(cost * (limit.max_cost // 4 + 1), limit.max_cost + 1) if large else cost
        kept, ttl, remaining, reset, wait = limit.take(state if expiry > now else None, now, cost)
        assert (remaining, reset, wait) == meaning.take(now, cost)
        if kept is None:
            continue
        state, expiry = kept, now + ttl
        assert limit.take(state, expiry, 0)[2:] == (limit.max_cost, 0, 0), "it lives too short"
        assert limit.take(state, expiry - 1, 0)[2] < limit.max_cost, "it lives too long"
        if gives_back and cost and expiry > now + unit:
            taken_at, now = now, now + unit
            state = limit.give_back(state, now, taken_at, cost)
            assert state is not None
            meaning.give_back(now, cost)
            expiry = now + limit.take(state, now, 0)[1] if state else 0


@settings(max_examples=200)
@given(arrivals(), st.lists(st.integers(0, 10**12), max_size=40), st.integers(0, 10**12))
def test_callers_folded_together_are_forgiven_nothing(
    given: tuple[Limit, list[tuple[int, int]]], others: list[int], after: int
) -> None:
    limit, requests = given
    states = []
    for pauses in ([pause for pause, _ in requests], [pause % (limit.period * 2) for pause in others]):
        now, state = START, None
        for pause in pauses:
            now += pause
            state = limit.take(state, now, 1)[0] or state
        states.append((now, state))
    (one_now, one), (other_now, other) = states
    if one is None or other is None:
        return
    merged = limit.merge(one, other)
    assert limit.merge(other, one) == merged
    assert len(merged) <= 300
    at = max(one_now, other_now) + after % (limit.period + 1)
    for state in (one, other):
        assert limit.take(merged, at, 0)[2] <= limit.take(state, at, 0)[2]


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("10/second", [(10, 1, "10/second")]),
        ("10 per second", [(10, 1, "10/second")]),
        ("10/second; 5000/day", [(10, 1, "10/second"), (5000, 86400, "5000/day")]),
        ("100/5 minutes,1/hour", [(100, 300, "100/5 minutes"), (1, 3600, "1/hour")]),
        ("10 per 1 HOUR", [(10, 3600, "10/hour")]),
        ("3/30 days", [(3, 30 * 86400, "3/30 days")]),
        ("5/m", [(5, 60, "5/minute")]),
        ("10/s; 100/h, 1000/d", [(10, 1, "10/second"), (100, 3600, "100/hour"), (1000, 86400, "1000/day")]),
        ("100 per 5min", [(100, 300, "100/5 minutes")]),
        ("1/week", [(1, 7 * 86400, "1/week")]),
        ("20/2w | 3/2 weeks", [(20, 14 * 86400, "20/2 weeks"), (3, 14 * 86400, "3/2 weeks")]),
        ("7/7 days", [(7, 7 * 86400, "7/7 days")]),
    ],
)
def test_rates_are_read(text: str, rates: list[tuple[int, int, str]]) -> None:
    assert parse_rates(text) == [(quota, seconds * SECOND, name) for quota, seconds, name in rates]


def outcome(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ConfigurationError as error:
        return str(error)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 12).map(str), st.sampled_from(["010", "9" * 18, "9" * 5000, "-1", "x"])),
            st.sampled_from(["/", " per ", "per", " / ", "//"]),
            st.one_of(st.just(""), st.integers(0, 9000).map("{} ".format), st.sampled_from(["7", "014"])),
            st.sampled_from(
                [*"smhdw", "sec", "secs", "second", "min", "minutes", "hour", "hs", "days", "week", "year", "Day"]
            ),
        ).map("".join),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([";", "; ", ",", " | ", ";;"]),
)
def test_a_rate_is_what_the_limits_library_reads(parts: list[str], between: str) -> None:
    text = between.join(parts)
    assert outcome(parse_rates, text) == outcome(_read_by_limits, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot read the rate ''"),
        ("ten/second", "cannot read"),
        ("10/secnd", "cannot read"),
        ("10", "cannot read"),
        ("10/second garbage", "cannot read"),
        ("10/M", "cannot read"),  # a minute, or a month?
        ("10/ms", "cannot read"),
        ("10/hs", "cannot read"),
        ("0/w", "admits nothing, ever"),
        ("10/0w", "a period of 0"),
        ("1/2000 weeks", "a period is at most 7300 days"),
        ("1_0/second", "cannot read"),
        ("1.5/second", "cannot read"),
        ("-1/second", "cannot read"),
        ("١٠/second", "cannot read"),
        ("0/second", "admits nothing, ever"),
        ("10/second; 0/day", "admits nothing, ever"),
        ("10/0 seconds", "a period of 0"),
        ("10/year", r"a year has no fixed length; count by the calendar, quota\('10/year'\), or write days"),
        ("10/month", "'10/30 days'"),
        (10, "a rate is a text"),
        (None, "a rate is a text"),
    ],
)
def test_a_bad_rate_raises_at_once_and_says_what_is_right(text: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RateLimit(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "address"}, "by is 'ip', 'key', 'subject' or a function"),
        ({"cost": -1}, "cost is a whole number"),
        ({"cost": 1.5}, "cost is a whole number"),
        ({"cost": float("nan")}, "cost is a whole number"),
        ({"cost": True}, "cost is a whole number"),
        ({"cost": 11}, "more than it ever admits"),
        ({"methods": ["post"]}, "written in capitals"),
        ({"methods": []}, "methods is empty"),
        ({"paths": []}, "the list of paths is empty"),
        ({"paths": ["items"]}, "begins with '/'"),
        ({"paths": ["/a/*/b"]}, "stands alone"),
        ({"paths": ["/a/{id}x"]}, "a whole segment"),
        ({"headers": "draft-99"}, "headers are 'draft-11' or 'draft-next' or 'x-ratelimit'"),
        ({"when": "always"}, "when is a function"),
        ({"name": "a|b"}, "without '|'"),
        ({"methods": 5}, "methods are a list"),
        ({"paths": 5}, "paths are a list"),
        ({"headers": 5}, "headers are 'draft-11' or 'draft-next' or 'x-ratelimit'"),
        ({"by": lambda: 1}, "called with the request alone"),
        ({"cost": lambda a, b: 1}, "called with the request alone"),
        ({"when": lambda: True}, "called with the request alone"),
        ({"name": ""}, "a name is printable"),
    ],
)
def test_a_bad_setting_raises_at_once(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RateLimit("10/second", **options)  # type: ignore[arg-type]


def saturated(limit: Limit, microseconds: int, patiently: bool) -> int:
    """How many units are admitted of a caller that asks at every tick of the clock, or whenever it was told to."""
    state, expiry, taken, now = None, 0, 0, START
    end = START + microseconds
    while now < end:
        kept, ttl, _, _, wait = limit.take(state if expiry > now else None, now, 1)
        if wait == 0:
            state, expiry, taken = kept, now + ttl, taken + 1
        else:
            now += wait if patiently else 1
    return taken


@pytest.mark.parametrize("patiently", [True, False])
@pytest.mark.parametrize("burst", [1, 2, 50])
@pytest.mark.parametrize(
    "rate",
    [
        *("700000/second", "999999/second", "1000000/second", "1000001/second", "1500000/second", "2000000/second"),
        *(
            "333333/second",
            "500001/second",
            "13/100 seconds",
            "9901/second",
            "10000/second",
            "10001/second",
            "99/second",
        ),
        *("3000000000/hour", "50000000/minute", "7654321/second", "100000000/second", "163840000/second"),
    ],
)
def test_even_pacing_admits_nearly_all_of_every_rate_and_no_more(rate: str, burst: int, patiently: bool) -> None:
    ((quota, period, _),) = parse_rates(rate)
    limit = smooth(rate, burst)
    span = min(period, 500 * -(-period // quota))  # as long as it takes to tell
    if not patiently and span > 20_000:
        return
    taken = saturated(limit, span, patiently) - burst  # which come at once
    assert taken >= 0.99 * quota * span / period - 1
    assert taken <= quota * span / period


@settings(max_examples=200)
@given(
    rate=st.integers(1, 3_000_000),
    burst=st.integers(1, 20),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 21)), max_size=80),
)
def test_a_pace_of_parts_of_microseconds_keeps_all_promises(
    rate: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    """Never more than N and a burst in any window, exact waits, and a state that lives as long as it counts."""
    limit = smooth(f"{rate}/second", burst)
    now, state, expiry = START, None, 0
    admitted: list[tuple[int, int]] = []
    for pause, cost in steps:
        now += pause * max(1, SECOND // rate)
        known = state if expiry > now else None
        assert limit.take(known, now, cost) == limit.take(state, now, cost), "it lives too short"
        kept, ttl, remaining, reset, wait = limit.take(known, now, cost)
        assert 0 <= remaining <= burst
        assert (wait == NEVER) == (cost > burst)
        if wait > 0:
            at = now + wait
            assert limit.take(known if expiry > at else None, at, cost)[4] == 0
            assert limit.take(known if expiry > at - 1 else None, at - 1, cost)[4] == 1
        elif wait == 0 and cost:
            assert kept is not None
            state, expiry = kept, now + ttl
            admitted.append((now, cost))
            if reset and remaining < burst:
                assert limit.take(state, now + reset, 0)[2] > remaining
    for span in (1, 10, 1000, SECOND):
        assert most_in_a_window(admitted, span) <= rate * span / SECOND + burst


def test_a_pace_that_cannot_be_kept_does_not_start() -> None:
    for rate in ("200000000/second", "170000000/second", "10000000000000/minute"):
        with pytest.raises(ConfigurationError, match="faster than can be paced evenly"):
            smooth(rate)
    with pytest.raises(ConfigurationError, match="more than can be counted"):
        smooth("700000/second", burst=10**12)
    assert smooth("10000000000/day").pace > 0


def test_states_that_were_stored_before_paces_had_parts_are_read() -> None:
    """Eight bytes: the microsecond at which the next unit is due."""
    limit = smooth("700000/second", burst=10)
    assert limit.take((START + 5).to_bytes(8, "little"), START, 10)[4] == 5
    coarse = smooth("5/second", burst=1)
    assert coarse.take((START + 5).to_bytes(8, "little"), START, 1)[4] == 5
    # And one of parts, by a limit that was edited to be slower.
    assert coarse.take((START + 5).to_bytes(8, "little") + b"\1\0", START, 1)[4] == 6


def test_two_even_rates_of_one_pace_are_two_limits() -> None:
    assert len(RateLimit(smooth("5/second"), smooth("35/7 seconds")).rules) == 2


def test_rates_that_contradict_each_other_are_refused() -> None:
    for rates in (("10/second", "20/second"), ("40/minute; 50/minute",)):
        with pytest.raises(ConfigurationError, match="one limit a period"):
            RateLimit(*rates)
    with pytest.raises(ConfigurationError, match="at least one rate"):
        RateLimit()
    with pytest.raises(ConfigurationError, match="at most 4294967295"):
        RateLimit("4294967296/day")
    with pytest.raises(ConfigurationError, match="burst is a whole number"):
        smooth("1/second", burst=0)
    with pytest.raises(ConfigurationError, match="takes one rate"):
        smooth("1/second; 2/minute")
