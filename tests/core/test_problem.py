"""Problem details: what is written from ready pieces is what `json` would write."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from keyguard import Cause, Refusal
from keyguard.problem import _json_of, problem_details

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9990, 1, 1), timezones=st.just(UTC))
REFUSALS = st.builds(
    Refusal,
    cause=st.sampled_from(Cause),
    status=st.sampled_from([400, 401, 403, 429, 503]),
    detail=st.text(),
    reason=st.just("reason"),
    request_id=st.from_regex(r"[A-Za-z0-9._~:@=+/-]{1,128}", fullmatch=True),
    retry_after=st.none() | st.integers(0, 10**9),
    recovers_at=st.none() | MOMENTS,
    policies=st.lists(st.text(max_size=20), max_size=3).map(tuple),
)


@given(REFUSALS)
def test_ready_pieces_say_what_json_says(refusal: Refusal) -> None:
    assert _json_of(refusal) == json.dumps(problem_details(refusal)).encode()
