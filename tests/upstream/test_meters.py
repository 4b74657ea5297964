"""What is learnt of one limit: who waits for as long as told has room then."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.learnt.meter import EVEN, LEARNT, TOLD, WINDOW, Meter
from tests.upstream.test_choices_of_all_kinds import NOW

MINUTE = 60 * SECOND

spans = st.one_of(st.integers(0, MINUTE), st.integers(0, 10 * MINUTE))  # in which a cap of two fifths stays one


@settings(max_examples=1000)
@given(
    flags=st.sampled_from([TOLD, LEARNT, TOLD | WINDOW, LEARNT | WINDOW]),
    pace=st.integers(50, 3 * EVEN),
    period=st.sampled_from([10 * SECOND, MINUTE, 60 * MINUTE]),
    limit=st.integers(1, 300),
    share=st.integers(0, 40),
    units=st.integers(1, 300),
    ago=spans,
    ahead=st.tuples(spans, spans),
)
@example(TOLD, EVEN * 5 // 4, MINUTE, 60, 33, 1, 0, (0, 20 * SECOND))  # a burst that was capped a moment ago
@example(TOLD, 50, MINUTE, 100, 40, 1, 0, (0, 600 * SECOND))  # and one of a pace that was very slow
def test_there_is_room_at_the_moment_that_is_told(
    flags: int, pace: int, period: int, limit: int, share: int, units: int, ago: int, ahead: tuple[int, int]
) -> None:
    """Although the pace rises until then, and the faster it is the less may come at once."""
    when, paced = NOW + ahead[0], NOW + ahead[1]
    cap = limit * share // 100
    meter = Meter(0, flags, pace, period, limit, limit, when, limit // 2, cap=cap, set_at=NOW - ago, paced=paced)
    meter.pass_time(NOW)
    units = min(units, limit)
    start = meter.start(units, NOW)
    meter.pass_time(start)
    assert meter.start(units, start) == start
