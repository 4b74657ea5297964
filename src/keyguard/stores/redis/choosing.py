"""Choices of upstream keys, and reports, on the wire. `lua/groups.lua`, `lessons.lua` and `acquire.lua` read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from keyguard.learnt import costs_of
from keyguard.learnt.blocks import CAUSES
from keyguard.learnt.dimension import UNITS
from keyguard.learnt.group import UNIT_PLACES
from keyguard.learnt.marks import as_bytes
from keyguard.ops import Acquire, Candidate, Grant, Learn, NoGrant, Report

_MOST = 2**52  # more is more than any state holds


class Asked:
    """The arguments of a script: numbers, and ids by their place."""

    def __init__(self, op: Acquire | Learn) -> None:
        self._keys = {key: place for place, key in enumerate(op.keys, 1)}
        self._ids: dict[bytes, int] = {}
        told: dict[str, Any] = {"reports": [self._report(report) for report in op.reports]}
        if isinstance(op, Acquire):
            told["candidates"] = [self._candidate(candidate) for candidate in op.candidates]
            told |= {"costs": op.costs, "ahead": op.ahead}
        self.args = [json.dumps(told, separators=(",", ":")).encode(), b"".join(self._ids)]

    def _id(self, text: str) -> int:
        return self._ids.setdefault(as_bytes(text), len(self._ids) + 1) if text else 0

    def _candidate(self, candidate: Candidate) -> list[Any]:
        limits = [(UNIT_PLACES[dimension.unit], dimension.period, _most(n)) for dimension, n in candidate.limits]
        keys = [self._id(key) for key in candidate.keys]
        return [self._keys[candidate.state], keys, limits, candidate.rank, self._id(candidate.group)]

    def _report(self, report: Report) -> list[Any]:
        grant, spent, dimension = report.grant, report.spent, report.dimension
        seen = [
            (UNIT_PLACES[d.unit], d.period, max(0, _most(limit or 0)), _least(remaining), _least(reset))
            for d, limit, remaining, reset in report.seen
        ]
        return [
            self._candidate(report.candidate),
            report.cause,
            report.scope,
            -1 if report.wait is None else max(0, _most(report.wait)),
            seen,
            [UNIT_PLACES[dimension.unit], dimension.period] if dimension is not None else [],
            costs_of(dict(grant.cost)),
            [costs_of(spent), [unit in spent or unit == "tokens" for unit in UNITS.values()]] if spent else [],
            [grant.at, grant.start, grant.number, self._id(grant.key), grant.probe, grant.booked],
        ]


def _most(number: int) -> int:
    return min(number, _MOST)


def _least(number: int | None) -> int:
    return -1 if number is None or number < 0 else _most(number)


def chosen(op: Acquire, reply: Sequence[int]) -> Grant | NoGrant:
    """Return what was decided."""
    granted, at, *rest = reply
    if granted:
        place, key, start, number, probe, *booked = rest
        return Grant(at, place, op.candidates[place].keys[key], start, number, op.cost, probe == 1, tuple(booked))
    wait, *causes = rest
    told = [(CAUSES[cause], _or_none(over)) for cause, over in zip(causes[::2], causes[1::2], strict=True)]
    return NoGrant(at, _or_none(wait), tuple(told))


def _or_none(number: int) -> int | None:
    return None if number < 0 else number
