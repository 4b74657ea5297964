"""Choices of upstream keys, whatever comes: bytes that are no state, clocks, providers that keep to their limits."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyguard import ops
from keyguard.clock import SECOND
from keyguard.learnt import Candidate, Grant, NoGrant, Report, Seen, dimension_of, group_key, id_of, marks_key
from keyguard.ops import Acquire, Learn
from tests.upstream.simulation.provider import Group

NOW = 1_800_000_000 * SECOND
STATE = group_key("p", "*", "a")
KEY = id_of("secret")
CAUSES = (
    "ok",
    "exhausted",
    "quota",
    "ramp",
    "billing",
    "invalid",
    "unsent",
    "settled",
    "enable",
    "system",
    "unheard of",
)
SCOPES = ("none", "key", "group", "model", "pair", "endpoint", "request")

numbers = st.one_of(st.none(), st.integers(-2, 2**40), st.sampled_from([0, 1, 60 * SECOND, 10**30]))
seen = st.builds(
    Seen, st.sampled_from([dimension_of(word) for word in ("rpm", "tpm", "rpd", "itpm")]), numbers, numbers, numbers
)
limits = st.lists(
    st.tuples(st.sampled_from([dimension_of("rpm"), dimension_of("tpd")]), st.integers(1, 2**45)), max_size=2
).map(tuple)
candidates = st.builds(Candidate, st.just(STATE), st.just((KEY,)), limits, st.just(0), st.sampled_from(["", KEY]))
grants = st.builds(
    Grant,
    st.integers(0, 2 * NOW),
    st.just(0),
    st.just(KEY),
    st.integers(0, SECOND),
    st.integers(0, 2**40),
    st.sampled_from([(), (("requests", 1), ("tokens", 900)), (("input_tokens", 10**20),)]),
    st.booleans(),
    st.sampled_from([(), (1, 0, 0, 0), (5, 2**40, 7, 2**40)]),
)
waits = st.one_of(st.none(), st.integers(0, 10**15))
reports = st.builds(
    lambda candidate, grant, cause, scope, wait, seen, spent: Report(
        candidate, grant, cause=cause, scope=scope, wait=wait, seen=seen, spent=spent
    ),
    candidates,
    grants,
    st.sampled_from(CAUSES),
    st.sampled_from(SCOPES),
    waits,
    st.lists(seen, max_size=2),
    st.sampled_from([None, {}, {"tokens": 10**20}, {"requests": 0}]),
)


def state_after(told: list[Report]) -> tuple[bytes, bytes]:
    table: dict[str, tuple[bytes, int | None]] = {}
    for report in told:
        ops.run(Acquire([report.candidate], {"requests": 1}), table, NOW)
        ops.run(Learn([report]), table, NOW)
    none = (b"", None)
    return table.get(STATE, none)[0], table.get(marks_key(STATE), none)[0]


damage = st.one_of(
    st.none(),
    st.binary(max_size=400),
    st.binary(max_size=400).map(lambda data: b"\1" + data),
    st.tuples(
        st.lists(reports, min_size=1, max_size=3).map(state_after), st.integers(0, 300), st.binary(max_size=9)
    ).map(lambda drawn: drawn[0][0][: drawn[1]] + drawn[2] + drawn[0][0][drawn[1] + len(drawn[2]) :]),
)


@settings(max_examples=120, deadline=None)
@given(state=damage, marks=damage, told=st.lists(reports, max_size=3), now=st.sampled_from([0, 1, NOW, 2 * NOW]))
def test_whatever_stands_there_and_is_told_there_is_an_answer_and_always_the_same(
    state: bytes | None, marks: bytes | None, told: list[Report], now: int
) -> None:
    candidate = Candidate(STATE, (KEY,), ((dimension_of("rpm"), 5),), 0, id_of("a"))
    op = Acquire([candidate], {"requests": 1, "tokens": 900}, reports=told)
    first, again = op.apply([marks, state], now), op.apply([marks, state], now)
    assert first == again
    found, changes = first
    assert isinstance(found, (Grant, NoGrant))
    for _, value, ttl, _ in changes:
        assert value is None or (ttl is not None and ttl > 0)
    written = {key: value for key, value, _, _ in changes}
    later = op.apply([written.get(marks_key(STATE), marks), written.get(STATE, state)], now + SECOND)
    assert isinstance(later[0], (Grant, NoGrant))


@settings(max_examples=60, deadline=None)
@given(told=st.lists(reports, max_size=4), tokens=st.sampled_from([0, 1, 700]))
def test_who_waits_as_long_as_told_is_let_through(told: list[Report], tokens: int) -> None:
    candidate = Candidate(STATE, (KEY,), ((dimension_of("rpm"), 5), (dimension_of("tpm"), 1000)), 0, id_of("a"))
    table: dict[str, tuple[bytes, int | None]] = {}
    now = NOW
    for report in told:
        ops.run(Acquire([candidate], {"requests": 1}, reports=[report]), table, now)
    for _ in range(8):
        found: Any = ops.run(Acquire([candidate], {"requests": 1, "tokens": tokens}, ahead=0), table, now)
        if isinstance(found, NoGrant):
            break
    if isinstance(found, Grant) or found.wait is None:
        return
    assert found.wait > 0
    found = ops.run(Acquire([candidate], {"requests": 1, "tokens": tokens}, ahead=0), table, now + found.wait)
    assert isinstance(found, Grant)


steps = st.lists(
    st.tuples(st.integers(0, 20 * SECOND), st.integers(1, 900), st.integers(0, 3 * SECOND)), min_size=1, max_size=60
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, kind=st.sampled_from(["bucket", "window"]), fields=st.booleans(), rpm=st.integers(1, 9))
@example(steps=[(0, 1, 0)] * 30, kind="bucket", fields=False, rpm=3)
def test_a_provider_that_keeps_to_the_limits_that_are_configured_refuses_nothing(
    steps: list[tuple[int, int, int]], kind: str, fields: bool, rpm: int
) -> None:
    """Of a window, fields must tell when it ends, and the first answers are lost until it is known to be one."""
    if kind == "window" and not fields:
        fields = True
    provider = Group("a", rpm, kind, fields, tokens=1000)
    configured = ((dimension_of("rpm"), rpm), (dimension_of("tpm"), rpm * 1000))
    candidate = Candidate(STATE, (KEY,), configured, 0, id_of("a"))
    table: dict[str, tuple[bytes, int | None]] = {}
    now, refused = 61 * SECOND, 0
    for span, tokens, _ in steps:
        now += span
        cost = {"requests": 1, "tokens": tokens}
        found: Any = ops.run(Acquire([candidate], cost, ahead=0), table, now)
        if not isinstance(found, Grant):
            continue
        reply = provider.ask(cost, now)
        refused += not reply.admitted
        cause, scope = ("ok", "none") if reply.admitted else ("exhausted", "model")
        report = Report(candidate, found, cause=cause, scope=scope, wait=reply.wait, seen=reply.seen)
        ops.run(Learn([report]), table, now)
    assert refused <= (0 if kind == "bucket" else 1)
