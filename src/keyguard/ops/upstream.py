"""Choosing an upstream key, and learning from what came of it: two operations on the states of limit groups.

The states of a pool stand under keys `up:{pool}|{model class}/{group}` (`group_key`), and what its model classes share
under `up:{pool}|!` (`marks_key`). All of an operation are of one pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from keyguard.clock import SECOND
from keyguard.learnt import (
    Candidate,
    Grant,
    Group,
    Marks,
    NoGrant,
    Report,
    Unpacked,
    choose,
    costs_of,
    learn,
    marks_key,
)
from keyguard.ops.op import Change, Op

__all__ = ["Acquire", "Candidate", "Grant", "Learn", "NoGrant", "Report"]


class Acquire(Op[Grant | NoGrant]):
    """Choose the first of some groups that has room, and book it; `reports` are learnt from before.

    If none of a rank has room now, it is the one that has it first, if that is soon: the grant starts later then. Only
    if none of a rank has, the next rank comes.
    """

    __slots__ = ("ahead", "candidates", "cost", "costs", "reports")

    def __init__(
        self,
        candidates: Sequence[Candidate],
        cost: Mapping[str, int],
        *,
        ahead: int = SECOND,
        reports: Sequence[Report] = (),
    ) -> None:
        """`candidates` are in the order of preference, those of lower ranks in front; there is one at least. `ahead`:
        how much later than now a grant may start, at most, in microseconds.
        """
        self.candidates = tuple(candidates)
        self.cost = tuple(sorted(cost.items()))
        self.costs = costs_of(cost)
        """The units of it in the order of `UNITS`."""
        self.ahead = ahead
        self.reports = tuple(reports)
        self.keys = _keys([*self.candidates, *[report.candidate for report in self.reports]])

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Grant | NoGrant, Sequence[Change]]:
        states = _States(self.keys, old, now)
        states.learn(self.reports)
        found = choose(self.candidates, self.cost, self.costs, self.ahead, states.group, states.marks, now)
        return found, states.changes()


class Learn(Op[None]):
    """Learn from reports of one pool."""

    __slots__ = ("reports",)

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports = tuple(reports)
        self.keys = _keys([report.candidate for report in self.reports])

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[None, Sequence[Change]]:
        states = _States(self.keys, old, now)
        states.learn(self.reports)
        return None, states.changes()


def _keys(candidates: Iterable[Candidate]) -> tuple[str, ...]:
    states = dict.fromkeys([candidate.state for candidate in candidates])
    return (marks_key(next(iter(states))), *states) if states else ()


UNPACKED = Unpacked()


class _States:
    """The states of an operation: each is read when it is needed, and written if it has changed."""

    __slots__ = ("_groups", "_old", "_shared", "marks", "now")

    def __init__(self, keys: Sequence[str], old: Sequence[bytes | None], now: int) -> None:
        self.now = now
        self._old = dict(zip(keys, old, strict=True))
        self._shared = keys[0] if keys else ""
        self.marks = Marks(self._old.get(self._shared), now)
        self._groups: dict[str, Group] = {}

    def group(self, candidate: Candidate) -> Group:
        found = self._groups.get(candidate.state)
        if found is None:
            data = self._old[candidate.state]
            found = self._groups[candidate.state] = UNPACKED.take(data, candidate.limits, self.now)
        return found

    def learn(self, reports: Sequence[Report]) -> None:
        for report in reports:
            group = self.group(report.candidate)
            group.come_to(self.now)
            learn(group, self.marks, report, self.now)

    def changes(self) -> Sequence[Change]:
        """Return what has changed; the groups are no longer to be used."""
        now = self.now
        changes: list[Change] = []
        for key, group in self._groups.items():
            if group.changed and not group.foreign:
                changes.append((key, group.pack(now), group.lasts(now), None))
            UNPACKED.put_back(group)
        if self.marks.changed and not self.marks.foreign:
            value, lasts = self.marks.pack()
            changes.append((self._shared, value, lasts or None, None))
        return changes
