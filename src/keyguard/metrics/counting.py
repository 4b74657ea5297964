"""Requests counted for metrics: records in, amounts of series out."""

from __future__ import annotations

from collections.abc import Iterable

from keyguard.decision import Decision
from keyguard.metrics.series import REQUESTS, UNITS, Series, label
from keyguard.ops import Taken

_requests, _units = REQUESTS.name, UNITS.name


def counted(decisions: Iterable[Decision]) -> dict[Series, int]:
    """Count requests, and the units that they were charged."""
    requests: dict[tuple[str, str | None, tuple[str, ...], str], int] = {}
    units: dict[str, int] = {}
    for decision in decisions:
        kind = decision.outcome, decision.cause, decision.policies, decision.route
        requests[kind] = requests.get(kind, 0) + 1
        for decided in decision.taken:
            taken = decided if isinstance(decided, Taken) else decided.taken
            if not taken.refused:
                for demand in taken.demands:
                    units[demand.name] = units.get(demand.name, 0) + demand.cost
    amounts: dict[Series, int] = {}
    for (outcome, cause, policies, route), number in requests.items():
        rule = label(policies[0]) if policies else ""
        _add(amounts, (_requests, outcome, "" if cause is None else str(cause), rule, label(route)), number)
    for name, number in units.items():
        _add(amounts, (_units, label(name)), number)
    return amounts


def _add(amounts: dict[Series, int], series: Series, number: int) -> None:
    amounts[series] = amounts.get(series, 0) + number
