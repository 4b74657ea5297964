"""Choosing an upstream key, and learning from what came of it: two operations on the states of limit groups.

The states of one pool and model class stand under keys `up:{pool}/{model class}|{group}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keyguard.clock import SECOND
from keyguard.learnt import Dimension, Seen
from keyguard.ops.op import Change, Op


class Candidate(NamedTuple):
    """A limit group from which a request may be sent."""

    state: str
    """The key of its state."""
    keys: tuple[str, ...]
    """The digests of its keys, those that are tried first in front. No secret stands in a store."""
    limits: tuple[tuple[Dimension, int], ...] = ()
    """The limits that were configured; others are learnt."""
    rank: int = 0
    """Groups of a higher rank are chosen only if none of a lower one has room in time."""


class Grant(NamedTuple):
    """Leave to send one request with one key."""

    at: int
    """The store's time, in microseconds."""
    candidate: int
    """The place of the group among the candidates."""
    key: str
    start: int
    """Microseconds from `at` before which it must not be sent: room was booked ahead."""
    number: int
    """The number of this grant in its group: what a later answer tells is as of its own grant."""
    cost: tuple[tuple[str, int], ...]
    """The units that were booked, by unit."""
    probe: bool = False
    """Whether this is the one request that finds out whether a blocked group or key works again."""


class NoGrant(NamedTuple):
    """No group has room in time."""

    at: int
    wait: int | None
    """Microseconds after which a group has room; `None` if waiting does not help."""
    causes: tuple[tuple[str, int | None], ...]
    """Of each candidate: why, in the words of `UpstreamCause`, and microseconds after which it has room."""


class Report:
    """What came of a grant, to be learnt from."""

    def __init__(
        self,
        candidate: Candidate,
        grant: Grant,
        *,
        cause: str = "ok",
        scope: str = "none",
        wait: int | None = None,
        seen: Sequence[Seen] = (),
        dimension: Dimension | None = None,
        spent: Mapping[str, int] | None = None,
    ) -> None:
        """`cause`, `scope`, `wait`, `seen` and `dimension` are those of a `Verdict`; `spent` are the units that the
        request cost in the end, if that is known. A request that was not sent has the cause `unsent`.
        """
        self.candidate = candidate
        self.grant = grant
        self.cause = cause
        self.scope = scope
        self.wait = wait
        self.seen = tuple(seen)
        self.dimension = dimension
        self.spent = spent


class Acquire(Op[Grant | NoGrant]):
    """Choose the first of some groups that has room, and book it; `reports` are learnt from before."""

    __slots__ = ("ahead", "candidates", "cost", "reports")

    def __init__(
        self,
        candidates: Sequence[Candidate],
        cost: Mapping[str, int],
        *,
        ahead: int = SECOND,
        reports: Sequence[Report] = (),
    ) -> None:
        """`candidates` are in the order of preference. `ahead`: how much later than now a grant may start, at most."""
        self.candidates = tuple(candidates)
        self.cost = dict(cost)
        self.ahead = ahead
        self.reports = tuple(reports)
        self.keys = tuple(dict.fromkeys([*[c.state for c in candidates], *[r.candidate.state for r in reports]]))

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Grant | NoGrant, Sequence[Change]]:
        states = _states(self.keys, old)
        for report in self.reports:
            _learn(states[report.candidate.state], report, now)
        causes: list[tuple[str, int | None]] = []
        found: Grant | NoGrant | None = None
        for place, candidate in enumerate(self.candidates):
            state = states[candidate.state]
            alive = [key for key in candidate.keys if key not in state["invalid"]]
            if alive and state["until"] <= now:
                state["n"] += 1
                found = Grant(now, place, alive[0], 0, state["n"], tuple(sorted(self.cost.items())))
                break
            causes.append((state["cause"], state["until"] - now) if alive else ("invalid", None))
        if found is None:
            waits = [wait for _, wait in causes if wait is not None]
            found = NoGrant(now, min(waits, default=None), tuple(causes))
        return found, _changes(states)


class Learn(Op[None]):
    """Learn from reports of one pool and model class."""

    __slots__ = ("reports",)

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports = tuple(reports)
        self.keys = tuple(dict.fromkeys([report.candidate.state for report in reports]))

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[None, Sequence[Change]]:
        states = _states(self.keys, old)
        for report in self.reports:
            _learn(states[report.candidate.state], report, now)
        return None, _changes(states)


def _states(keys: Sequence[str], old: Sequence[bytes | None]) -> dict[str, dict[str, Any]]:
    empty = {"n": 0, "until": 0, "cause": "ok", "invalid": []}
    return {key: {**empty, **json.loads(data or b"{}")} for key, data in zip(keys, old, strict=True)}


def _learn(state: dict[str, Any], report: Report, now: int) -> None:
    if report.cause == "invalid":
        state["invalid"] = sorted({*state["invalid"], report.grant.key})
    elif report.scope in ("group", "model"):
        state["until"] = max(state["until"], now + (report.wait or 5 * SECOND))
        state["cause"] = report.cause


def _changes(states: Mapping[str, dict[str, Any]]) -> Sequence[Change]:
    lasts = 2 * 86400 * SECOND
    return [(key, json.dumps(state, sort_keys=True).encode(), lasts, None) for key, state in states.items()]
