"""What is counted for metrics: families, their labels, and a table of totals that stays small.

Rules:
- No key, no subject, no address and no path stands in a label: the rule is a limit's name, the route a template.
- A family has at most so many series; what comes beyond is added to one whose last labels are `other`. All families
  together have fewer than `MOST`.
- Totals are whole numbers, and never fall: times are microseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from keyguard.process.fork import check_process, renew_after_fork

MOST: Final = 1_000
OTHER: Final = "other"
"""The label of all that there is no room for."""
_LONGEST = 200  # characters of a label

Series: TypeAlias = tuple[str, ...]
"""The name of a family, and the values of its labels."""
Totals: TypeAlias = Mapping[Series, int]


class Family(NamedTuple):
    """Series of one meaning."""

    name: str
    """The name, without `keyguard_` and `_total`."""
    help: str
    labels: tuple[str, ...]
    most: int
    """The number of series that it has at most, but for those that are called `other`."""
    kept: int = 0
    """How many labels stay what they are beyond that; all after them are `other`."""


class Gauge(NamedTuple):
    """Numbers that go up and down, as of the moment at which they are asked for."""

    name: str
    """The name, without `keyguard_`."""
    help: str
    labels: tuple[str, ...]


Numbers: TypeAlias = Mapping[Gauge, Sequence[tuple[tuple[str, ...], int]]]
"""The members of gauges: the values of the labels, each with its number."""

WAITING = Gauge("upstream_waiting", "Requests of this process that wait for a key.", ("pool",))
BLOCKED = Gauge("upstream_group_blocked", "Limit groups that are left alone.", ("pool", "group", "models", "cause"))
REMAINING = Gauge(
    "upstream_remaining",
    "Units that are left of a limit group, as far as is known.",
    ("pool", "group", "models", "dimension"),
)
GAUGES: Final = (WAITING, BLOCKED, REMAINING)

REQUESTS = Family(
    "requests",
    "Requests by how they ended, the cause if they were refused or failed, the limit that refused, and the route.",
    ("outcome", "cause", "rule", "route"),
    500,
    2,
)
UNITS = Family("limit_units", "Units that requests were charged when they were let in, by limit.", ("rule",), 150)
DEGRADED = Family("degraded", "Decisions that were made without the store, by guard and what it did.", ("action",), 60)
CACHE = Family("cache_requests", "Requests to caches by their result.", ("result",), 8)
EVENTS = Family("cache_events", "What caches have done besides.", ("event",), 16)
ALERTS = Family("alerts", "Alerts that have been raised, by type.", ("type",), 20)
OVERFLOW = Family("usage_overflow", "Entries of the ledger of usage for which there was no room.", (), 1)
ANSWERS = Family(
    "upstream_answers", "Answers to requests that were sent with a pool's keys, by cause.", ("pool", "cause"), 40
)
DURATIONS = Family("store_operations", "Operations of stores by their duration.", ("store", "bucket"), 40)
WAITED = Family("store_microseconds", "Microseconds that operations of stores took.", ("store",), 3)

FAMILIES: Final = {
    family.name: family
    for family in (REQUESTS, UNITS, DEGRADED, CACHE, EVENTS, ALERTS, OVERFLOW, ANSWERS, DURATIONS, WAITED)
}
BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""The upper bounds of the buckets of durations, in seconds. There is one more, for all that is longer."""


class Table:
    """Totals of series, in this process or of a host."""

    def __init__(self) -> None:
        self._totals: dict[Series, int] = {}
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._totals, self._sizes, self._lock = {}, {}, threading.Lock()

    def add(self, amounts: Totals) -> None:
        """Add to series; those for which there is no room are `other`."""
        check_process()
        with self._lock:
            totals = self._totals
            for series, amount in amounts.items():
                found = series if series in totals else self._admitted(series)
                totals[found] = totals.get(found, 0) + amount

    def totals(self) -> dict[Series, int]:
        """Return a copy of the totals."""
        check_process()
        with self._lock:
            return dict(self._totals)

    def _admitted(self, series: Series) -> Series:
        """Return the series under which a new one is counted."""
        name, *labels = series
        family = FAMILIES[name]
        size = self._sizes.get(name, 0)
        if size >= family.most:
            return (name, *labels[: family.kept], *[OTHER] * (len(family.labels) - family.kept))
        self._sizes[name] = size + 1
        return series


def name_of(series: Series) -> str:
    """Return a series as one text."""
    return _BETWEEN.join(series)


def series_of(names: Iterable[tuple[str, int]]) -> dict[Series, int]:
    """Return totals by series. Those of families that this keyguard does not know are left out."""
    found: dict[Series, int] = {}
    for name, total in names:
        family, *labels = name.split(_BETWEEN)
        known = FAMILIES.get(family)
        if known is not None and len(labels) == len(known.labels):
            found[family, *labels] = total
    return found


def label(text: str) -> str:
    """Return a text as the value of a label: not too long, and without what stands between labels."""
    return text[:_LONGEST].replace(_BETWEEN, " ")


_BETWEEN = "\x1f"
