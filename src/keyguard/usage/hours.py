"""The requests of somebody in an hour, as they are added up in memory; and the kinds of numbers that values hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from keyguard.ops.usage import LATEST, Counts, Slotted, UsageRow, slots_text, with_slots
from keyguard.usage.names import DAY

ANY: Final = ""
"""The name of the latest of all requests, whatever key they had."""

SUBJECT_ROWS: Final = {
    name: UsageRow(most)
    for name, most in {"r": 32, "u": 32, "t": 64, "v": 96, "k": 24, "w": 48, "c": 24, LATEST: 32}.items()
}
SERVICE_ROWS: Final = {name: UsageRow(most) for name, most in {"r": 96, "u": 64, "t": 128, "v": 192, "c": 48}.items()}
"""How many names of a kind a value has rows for:

    n  requests by outcome, or by cause if they were refused      (as many as there are)
    r  refusals by `cause rule`
    u  units by the limit's prefix
    t  requests by `METHOD /route`, v  units by prefix and `METHOD /route`
    k  requests by key, w  units by prefix and key, of limits that count by key
    c  requests by address
    l  when a key came last, and any request
    s  requests by subject, f  those of them that were refused     (in rankings)
    x  requests that are missing, by why                           (of gaps)
    a  totals that go on for good
"""
RANKING_ROWS: Final = {"s": UsageRow(200), "f": UsageRow(200)}
LATEST_ROWS: Final = {LATEST: UsageRow(64)}
NO_ROWS: Final[Mapping[str, UsageRow]] = {}

TOTALS: Final = "a"
TOTALS_KEPT: Final = 7 * DAY

ANSWERED: Final = frozenset({"served", "cached", "failed"})
"""The outcomes that are not refusals."""


class Hour:
    """The requests of somebody in an hour."""

    __slots__ = ("c", "k", "latest", "n", "r", "t", "u", "v", "w")

    def __init__(self) -> None:
        self.n: dict[str, dict[int, int]] = {}
        self.r: dict[str, dict[int, int]] = {}
        self.u: dict[str, dict[int, int]] = {}
        self.t: dict[str, int] = {}
        self.v: dict[str, int] = {}
        self.k: dict[str, int] = {}
        self.w: dict[str, int] = {}
        self.c: dict[str, int] = {}
        self.latest: dict[str, int] = {}

    def parts(self, number: int) -> tuple[Slotted, Slotted, Counts]:
        """Return the numbers by the minute, by the hour, and those without. `number` is that of the hour in its day."""
        kinds = {"n": self.n, "r": self.r, "u": self.u}
        minutes = {kind: {name: slots_text(row) for name, row in rows.items()} for kind, rows in kinds.items() if rows}
        hours = {
            kind: {name: f"{number}:{sum(row.values())}" for name, row in rows.items()}
            for kind, rows in kinds.items()
            if rows
        }
        counts = {"t": self.t, "v": self.v, "k": self.k, "w": self.w, "c": self.c, LATEST: self.latest}
        return minutes, hours, {kind: names for kind, names in counts.items() if names}


def added_up(found: Iterable[tuple[Slotted, Counts]]) -> tuple[Slotted, Counts]:
    """Return the hours of a day as one."""
    slotted: Slotted = {}
    counts: Counts = {}
    for by_hour, some in found:
        for kind, rows in by_hour.items():
            for name, slots in rows.items():
                known_slots = slotted.setdefault(kind, {})
                known_slots[name] = with_slots(known_slots[name], slots) if name in known_slots else slots
        for kind, names in some.items():
            known = counts.setdefault(kind, {})
            for name, count in names.items():
                before = known.get(name, 0)
                known[name] = max(before, count) if kind == LATEST else before + count
    return slotted, counts
