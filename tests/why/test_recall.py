"""The latest requests: found by their ids in the process, and refusals of all processes in the ledger's store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, RateLimit, StoreError, Usage
from keyguard.decision import Decision
from keyguard.ops.remembering import LONGEST_LINE, Remember, lines_of
from keyguard.refusal import Cause
from keyguard.run import run_flow
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, check_store, play
from keyguard.why.recall import A_FLUSH, Recall, latest, writing, written
from keyguard.why.requests import line_of, report_in, report_of
from tests.support.every_store import KINDS, store_of

NOON = 1_800_000_000_000_000


def decision(number: int = 0, **given: Any) -> Decision:
    members: dict[str, Any] = {
        "at": NOON + number,
        "request_id": f"r{number}",
        "trace_id": "",
        "subject": "acme",
        "key_id": "k",
        "client": "192.0.2.1",
        "method": "GET",
        "route": "/items/{id}",
        "outcome": "refused",
        "cause": Cause.CREDENTIALS,
        "reason": "revoked",
        "status": 401,
        "policies": (),
        "taken": (),
        "duration": 0.001,
    }
    return Decision(**members | given)


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_are_found_by_their_ids_and_by_their_subjects_in_each_store(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = store_of(kind, request, tmp_path)
    subjects = ["acme", "*", "bölt\n|:", ""]
    decisions = [decision(number, subject=subjects[number % 4], reason=f"x{number}") for number in range(8)]
    for _ in range(2):  # the second time changes nothing
        store.execute(writing(decisions))
    for one in decisions:
        assert run_flow(store, written(one.request_id, NOON + 5)) == report_of(one)
    assert run_flow(store, written("unheard", NOON)) is None
    assert [one.request_id for one in run_flow(store, latest("*"))] == ["r5", "r1"]
    assert [one.request_id for one in run_flow(store, latest(""))] == ["r7", "r3"]
    assert len(run_flow(store, latest(None))) == 8


def test_lines_are_the_same_on_every_store() -> None:
    ops = [Remember("recent:1|7", lines, 3, 5_000_000) for lines in ([b"a"], [b"b", b"c"], [b"a", b"d", b"", b"x\ny"])]
    check_store(lambda clock: MemoryStore(clock=clock), steps=200, ops=ops)


def test_the_last_lines_stay_and_none_stands_twice() -> None:
    op = Remember("k", [b"b", b"d", b"d", b"e", b"", b"two\nlines", b"x" * (LONGEST_LINE + 1)], 3, 1)
    kept, changes = op.apply([b"a\nb\nc"], 0)
    assert (kept, lines_of(changes[0][1])) == (3, [b"c", b"d", b"e"])
    assert Remember("k", [b"c"], 3, 1).apply([b"a\nb\nc"], 0) == (3, [])


def test_a_flood_hides_nobody_else_and_a_flush_writes_no_more_than_it_may() -> None:
    flood = [decision(number, subject="", client="203.0.113.9", reason="no-key") for number in range(5000)]
    served = [decision(7000 + number, outcome="served", cause=None, reason="") for number in range(10)]
    ops: list[Any] = writing([decision(9000), *flood, *served])
    ids = {report_in(line).request_id for op in ops for line in op.lines}  # type: ignore[union-attr]
    assert ids == {"r9000", *[f"r{number}" for number in range(4990, 5000)]}
    many: list[Any] = writing([decision(number, subject=f"s{number}") for number in range(1000)])
    lines = [line for op in many if op.keys[0] == "recent:who|*" for line in op.lines]
    assert len(lines) == A_FLUSH


def test_a_report_comes_back_from_its_line_and_a_damaged_one_hides_no_other() -> None:
    clock = ManualClock()
    guard = Keyguard(RateLimit("1/hour", "2/day", by="ip"), store="memory://", clock=clock, usage=Usage())
    play(guard)
    play(guard)
    clock.advance("2 seconds")
    (found,) = guard.refusals()
    assert report_in(line_of(found)) == found
    assert [(limit.name, limit.admitted) for limit in found.limits] == [("ip:1/hour", False), ("ip:2/day", True)]
    assert report_in(b'{"v": 2}') is None
    with pytest.raises(StoreError, match="damaged"):
        report_in(b'{"v": 1, "at": "soon"}')
    store = guard.usage._ledger()[0]
    store.execute([Remember("recent:who|*", [b"{", b'{"v": 1}'], 100, 10**9)])
    assert guard.refusals() == (found,)


def test_the_process_remembers_its_last_2000_requests_of_every_kind() -> None:
    clock = ManualClock()
    guard = Keyguard(RateLimit("1/minute", by="ip"), store="memory://", clock=clock, usage=Usage())
    play(guard, headers={"X-Request-ID": "a/b"})
    assert str(guard.explain("a/b")) == "GET of 198.51.100.1 at 08:00 UTC was served, with status 200."
    (recall,) = [one for one in guard._observers if isinstance(one, Recall)]
    for number in range(2000):
        recall._ring.append(decision(number))
    assert "No request of this id is known" in str(guard.explain("a/b"))
    assert str(guard.explain("r0")).startswith("GET /items/{id} of acme")


def test_a_store_that_fails_holds_up_nothing() -> None:
    class Failing(MemoryStore):
        def execute(self, ops: Any) -> Any:
            if any(isinstance(op, Remember) for op in ops):
                raise StoreError("no answer")
            return super().execute(ops)

    clock = ManualClock()
    guard = Keyguard(RateLimit("1/hour", by="ip"), store="memory://", clock=clock, usage=Usage(Failing(clock=clock)))
    play(guard)
    play(guard)
    clock.advance("2 seconds")
    assert (guard.usage.of("").requests, guard.refusals()) == (2, ())


REASONS = [
    (decision(reason="revoked"), "The key k was revoked.", "The client needs a new one."),
    (decision(reason="expired"), "The key k had expired.", "Let it work on: keyguard keys update k --expires 30d."),
    (
        decision(cause=Cause.FAULT, reason="store-failed", status=503),
        "keyguard's store did not answer. That is not the caller's doing: the key is not to blame.",
        "Look at the store: keyguard store check.",
    ),
    (
        decision(cause=Cause.OVERLOAD, reason="too-many-in-flight", status=503),
        "The app had more requests under way than it can serve. That is not the caller's doing: the key is not to "
        "blame.",
        "It may ask again at once.",
    ),
    (
        decision(outcome="failed", cause=Cause.FAULT, reason="app-failed", status=500),
        "The app has raised an error, or has answered with a status from 500 on. That is not the caller's doing: the "
        "key is not to blame.",
        "See the app's log.",
    ),
    (
        decision(cause=Cause.REQUEST, reason="of-my-own", status=400),
        "The request contradicts itself, or can be read in two ways. (of-my-own)",
        "The client has to send another.",
    ),
]


@pytest.mark.parametrize(("record", "details", "advice"), REASONS)
def test_what_is_said_of_each_reason(record: Decision, details: str, advice: str) -> None:
    found = report_of(record)
    assert (" ".join(found.details), " ".join(found.advice)) == (details, advice)
