"""Reports about a subject: which values are read, and what they come to. It is one trip, to keys known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

from keyguard.clock import SECOND, Clock
from keyguard.ops import BestEffort, Read, ReadWithTime
from keyguard.ops.usage import LATEST, OTHER, PROCESSES, USAGE_VERSION, Counts, processes_in, usage_value
from keyguard.units import Duration, as_datetime, microseconds, moment
from keyguard.usage.names import (
    DAY,
    EVERYBODY,
    GAPS,
    HOUR,
    MINUTE,
    hours_key,
    minutes_key,
    spelled,
)
from keyguard.usage.pending import ONE
from keyguard.usage.report import (
    ClientUse,
    KeyUse,
    RouteUse,
    RuleUse,
    UsageBucket,
    UsageReport,
)

Since: TypeAlias = "Duration | datetime"
"""A moment, or how long ago that is."""

_FINE = 48 * HOUR
"""Microseconds back from now for which minutes are looked at."""
_ANSWERED = ("served", "cached", "failed")
_NEVER_HEARD = 30.0  # seconds, besides six intervals, after which a process has vanished
_MOST = 400 * DAY


def begin_of(since: Since, now: int) -> int:
    """Return the moment that is meant, in microseconds. Raises `ConfigurationError` for what is none."""
    if isinstance(since, datetime):
        return max(min(moment("since", since), now), now - _MOST)
    return now - min(microseconds("since", since), _MOST)


class _Asked:
    """The keys that a report needs, by a clock that may be a little wrong."""

    def __init__(self, subject: str | None, since: Since, now: int) -> None:
        self.subject = subject
        who = EVERYBODY if subject is None else spelled(subject)
        begin = begin_of(since, now)
        self.fine = begin >= now - _FINE
        self.hours = range(begin // HOUR, now // HOUR + 2) if self.fine else range(0)
        self.days = range(begin // DAY, (now + HOUR) // DAY + 1)
        self.read = BestEffort(
            ReadWithTime(*[minutes_key(who, hour) for hour in self.hours], *[hours_key(who, day) for day in self.days]),
            Read(*[hours_key(GAPS, day) for day in self.days]),
            Read(PROCESSES),
        )


async def report(subject: str | None, since: Since, clock: Clock, size: int | None = None) -> UsageReport:
    """Return what somebody has asked for. `size`: seconds of a bucket."""
    asked = _Asked(subject, since, clock())
    (now, values), gaps, processes = await asked.read
    if abs(now - clock()) > HOUR:  # the store goes by another time altogether
        asked = _Asked(subject, since, now)
        (now, values), gaps, processes = await asked.read
    begin = begin_of(since, now)
    begin -= begin % (MINUTE if asked.fine else HOUR)
    counted = _Counted(begin, now)
    minutes = dict(zip(asked.hours, values, strict=False))
    for day, value in zip(asked.days, values[len(asked.hours) :], strict=True):
        counted.add_hours(day, _counts(value, counted))
    for hour in asked.hours:
        if minutes[hour] is None:
            counted.whole_hour(hour)
        else:
            counted.add_minutes(hour, _counts(minutes[hour], counted))
    if not asked.fine:
        for hour in list(counted.hours):
            counted.whole_hour(hour)
    for day, value in zip(asked.days, gaps, strict=True):
        counted.look_for_gaps(day, _counts(value, counted))
    counted.look_forvanished(processes[0])
    return counted.report(subject, size)


def _counts(value: bytes | None, counted: _Counted) -> Counts:
    found = usage_value(value)
    if found is None or found["v"] != USAGE_VERSION:
        counted.complete = False
        return {}
    counts: Counts = found["c"]
    return counts


class _Counted:
    """What is found of a span of time."""

    def __init__(self, begin: int, now: int) -> None:
        self.begin, self.now = begin, now
        self.first = begin // HOUR
        """The hour from which on rows are counted."""
        self.complete = True
        self.rows: dict[str, dict[str, int]] = {}
        self.last: dict[str, int] = {}
        self.hours: dict[int, Counts] = {}
        self.cells: dict[str, dict[str, dict[int, int]]] = {"n": {}, "r": {}, "u": {}}
        """Numbers by kind, name and moment."""

    def add_hours(self, day: int, counts: Counts) -> None:
        """Take in the hours of a day."""
        for kind, names in counts.items():
            if kind == LATEST:
                for name, slots in names.items():
                    self.last[name] = max(self.last.get(name, 0), slots.get(ONE, 0))
                continue
            for name, slots in names.items():
                for slot, count in slots.items():
                    hour = day * 24 + int(slot)
                    if hour < self.first:
                        continue
                    if kind in self.cells:
                        self.hours.setdefault(hour, {}).setdefault(kind, {}).setdefault(name, {})[ONE] = count
                    else:
                        rows = self.rows.setdefault(kind, {})
                        rows[name] = rows.get(name, 0) + count

    def whole_hour(self, hour: int) -> None:
        """Count an hour as one piece, whose minutes are not kept any more."""
        at = max(hour * HOUR, self.begin)
        for kind, names in self.hours.get(hour, {}).items():
            for name, slots in names.items():
                self._count(kind, name, at, slots[ONE])

    def add_minutes(self, hour: int, counts: Counts) -> None:
        """Take in the minutes of an hour."""
        for kind in self.cells:
            for name, slots in counts.get(kind, {}).items():
                for slot, count in slots.items():
                    at = hour * HOUR + int(slot) * MINUTE
                    if at >= self.begin:
                        self._count(kind, name, at, count)

    def _count(self, kind: str, name: str, at: int, count: int) -> None:
        row = self.cells[kind].setdefault(name, {})
        row[at] = row.get(at, 0) + count

    def look_for_gaps(self, day: int, counts: Counts) -> None:
        """Look whether something is missing."""
        for slots in counts.get("x", {}).values():
            if any(day * 24 + int(slot) >= self.first for slot in slots):
                self.complete = False

    def look_forvanished(self, value: bytes | None) -> None:
        """Look whether a process has vanished, which may have had something to write."""
        known = processes_in(value)
        if known is None:
            self.complete = False
            return
        for facts in known.values():
            if facts["seen"] >= self.begin and vanished(facts, self.now):
                self.complete = False

    # -- the report ---------------------------------------------------------------------------------------

    def report(self, subject: str | None, size: int | None) -> UsageReport:
        """Put the report together."""
        words = _sums(self.cells["n"])
        refused = {word: count for word, count in words.items() if word not in _ANSWERED}
        rules = _sums(self.cells["r"])
        last = self.last.get(ONE, 0)
        return UsageReport(
            subject=subject,
            since=as_datetime(self.begin),
            until=as_datetime(self.now),
            requests=sum(words.values()),
            served=words.get("served", 0),
            cached=words.get("cached", 0),
            refused=sum(refused.values()),
            failed=words.get("failed", 0),
            by_cause=most_first(refused),
            by_rule=tuple([_rule_use(name, count) for name, count in most_first(named(rules)).items()]),
            by_route=self._routes(),
            by_client=tuple(
                [ClientUse(name, count) for name, count in most_first(named(self.rows.get("c", {}))).items()]
            ),
            by_key=self._keys(),
            units=most_first(_sums(self.cells["u"])),
            buckets=self._buckets(size or _size_for(self.now - self.begin)),
            other=self._others(rules),
            rows_since=as_datetime(self.first * HOUR),
            last=as_datetime(last * SECOND) if last else None,
            complete=self.complete,
        )

    def _routes(self) -> tuple[RouteUse, ...]:
        units = _units_of(self.rows.get("v", {}))
        found = []
        for name, count in most_first(named(self.rows.get("t", {}))).items():
            method, _, route = name.partition(" ")
            found.append(RouteUse(method, route, count, units.get(name, {})))
        return tuple(found)

    def _keys(self) -> tuple[KeyUse, ...]:
        units = _units_of(self.rows.get("w", {}))
        found = []
        for name, count in most_first(named(self.rows.get("k", {}))).items():
            last = self.last.get(name)
            found.append(KeyUse(name, count, None if last is None else as_datetime(last * SECOND), units.get(name, {})))
        return tuple(found)

    def _others(self, rules: Mapping[str, int]) -> dict[str, int]:
        rows = {"rules": rules, **{what: self.rows.get(kind, {}) for what, kind in _ROWS.items()}}
        return {what: names[OTHER] for what, names in rows.items() if names.get(OTHER)}

    def _buckets(self, size: int) -> tuple[UsageBucket, ...]:
        span = size * SECOND
        first = self.begin // span
        buckets = [({}, {}) for _ in range(first, self.now // span + 1)]  # type: list[tuple[dict[str, int], dict[str, int]]]
        for place, kind in enumerate("nu"):
            for name, moments in self.cells[kind].items():
                for at, count in moments.items():
                    bucket = buckets[min(at // span - first, len(buckets) - 1)][place]  # a clock may be ahead
                    bucket[name] = bucket.get(name, 0) + count
        return tuple(
            [UsageBucket(as_datetime((first + place) * span), size, *numbers) for place, numbers in enumerate(buckets)]
        )


_ROWS = {"routes": "t", "clients": "c", "keys": "k"}


def _sums(names: Mapping[str, Mapping[int, int]]) -> dict[str, int]:
    return {name: sum(moments.values()) for name, moments in names.items()}


def most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def named(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name != OTHER}


def _rule_use(name: str, count: int) -> RuleUse:
    cause, _, rule = name.partition(" ")
    return RuleUse(rule, cause, count)


def _units_of(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, count in counts.items():
        of, _, prefix = name.rpartition("\x1f")
        found.setdefault(of, {})[prefix] = count
    return found


def _size_for(span: int) -> int:
    """Return the seconds of a bucket that suit a span."""
    if span <= 3 * HOUR:
        return 60
    if span <= _FINE + HOUR:
        return 900
    return 3600 if span <= 15 * DAY else 86400


def vanished(facts: Mapping[str, Any], now: int) -> bool:
    every = facts.get("every")
    return bool(facts["seen"] + (_NEVER_HEARD + 6 * (every if isinstance(every, (int, float)) else 0)) * SECOND < now)
