"""Reports about a subject: which values are read, and what they come to. It is one trip, to keys known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from keyguard.clock import SECOND, Clock
from keyguard.ops import BestEffort, Read, ReadWithTime
from keyguard.ops.usage import LATEST, OTHER, PROCESSES, Counts, UsageValue, processes_in, slots_in
from keyguard.units import Duration, as_datetime, microseconds, moment
from keyguard.usage.hours import ANSWERED, ANY
from keyguard.usage.names import BEGUN, DAY, EVERYBODY, GAPS, HOUR, MINUTE, hours_key, minutes_key, spelled
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

FINE = 48 * HOUR
"""Microseconds back from now for which minutes are looked at."""
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
        who = EVERYBODY if subject is None else spelled(subject)
        begin = begin_of(since, now)
        self.fine = begin >= now - FINE
        self.hours = range(begin // HOUR, now // HOUR + 2) if self.fine else range(0)
        self.days = range(begin // DAY, (now + HOUR) // DAY + 1)
        minutes = [minutes_key(who, hour) for hour in self.hours]
        self.read = BestEffort(
            ReadWithTime(*minutes, *[hours_key(who, day) for day in self.days]),
            Read(*[hours_key(GAPS, day) for day in self.days], BEGUN),
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
    counted = _Counted(begin - begin % (MINUTE if asked.fine else HOUR), now)
    counted.take_in(asked, values)
    for day, value in zip(asked.days, gaps, strict=False):
        counted.look_for_gaps(day, value)
    counted.look_for_vanished(processes[0])
    return counted.report(subject, size, gaps[-1])


class _Counted:
    """The sums that are found for a span of time."""

    def __init__(self, begin: int, now: int) -> None:
        self.begin, self.now = begin, now
        self.rows_since = begin
        self.complete = True
        self.rows: Counts = {}
        self.last: dict[str, int] = {}
        self.cells: dict[str, dict[str, dict[int, int]]] = {"n": {}, "r": {}, "u": {}}
        """Numbers by kind, name and moment."""

    def take_in(self, asked: _Asked, values: Sequence[bytes | None]) -> None:
        """Take in the hours and the days. Hours whose minutes are not kept any more are counted as one piece."""
        hours = {hour: self._read(value) for hour, value in zip(asked.hours, values, strict=False) if value is not None}
        days = {day: self._read(value) for day, value in zip(asked.days, values[len(asked.hours) :], strict=True)}
        rough = False
        for day, value in days.items():
            for kind, names in value.slotted.items():
                for name, text in names.items():
                    for slot, count in slots_in(text).items():
                        hour = day * 24 + slot
                        if hour >= self.begin // HOUR and hour not in hours:
                            rough = True
                            self._count(kind, name, max(hour * HOUR, self.begin), count)
        for hour, value in hours.items():
            for kind, names in value.slotted.items():
                for name, text in names.items():
                    for slot, count in slots_in(text).items():
                        at = hour * HOUR + slot * MINUTE
                        if at >= self.begin:
                            self._count(kind, name, at, count)
        self.rows_since -= self.begin % (DAY if rough or not asked.fine else HOUR)
        for value in days.values() if rough or not asked.fine else hours.values():
            for kind, counts in value.counts.items():
                if kind != LATEST:
                    rows = self.rows.setdefault(kind, {})
                    for name, count in counts.items():
                        rows[name] = rows.get(name, 0) + count
        for value in (*days.values(), *hours.values()):
            for name, second in value.counts.get(LATEST, {}).items():
                self.last[name] = max(second, self.last.get(name, 0))

    def _read(self, value: bytes | None) -> UsageValue:
        found = UsageValue.read(value)
        if found is None:
            self.complete = False
            return UsageValue()
        return found

    def _count(self, kind: str, name: str, at: int, count: int) -> None:
        row = self.cells[kind].setdefault(name, {})
        row[at] = row.get(at, 0) + count

    def look_for_gaps(self, day: int, value: bytes | None) -> None:
        """Look whether something is missing."""
        for text in self._read(value).slotted.get("x", {}).values():
            if any(day * 24 + slot >= self.begin // HOUR for slot in slots_in(text)):
                self.complete = False

    def look_for_vanished(self, value: bytes | None) -> None:
        """Look whether a process has vanished, which may have had something to write."""
        known = processes_in(value)
        if known is None:
            self.complete = False
            return
        for facts in known.values():
            if facts["seen"] >= self.begin and vanished(facts, self.now):
                self.complete = False

    # -- the report ---------------------------------------------------------------------------------------

    def report(self, subject: str | None, size: int | None, begun: bytes | None) -> UsageReport:
        """Put the report together."""
        words = _sums(self.cells["n"])
        refused = {word: count for word, count in words.items() if word not in ANSWERED}
        rules = _sums(self.cells["r"])
        last = self.last.get(ANY, 0)
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
            rows_since=as_datetime(self.rows_since),
            last=as_datetime(last * SECOND) if last else None,
            begun=as_datetime(int(begun)) if begun is not None and begun.isdigit() else None,
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
        prefix, bar, of = name.partition("|")
        found.setdefault(of, {})[prefix + bar] = count
    return found


def _size_for(span: int) -> int:
    """Return the seconds of a bucket that suit a span."""
    if span <= 3 * HOUR:
        return 60
    if span <= FINE + HOUR:
        return 900
    return 3600 if span <= 15 * DAY else 86400


def vanished(facts: Mapping[str, Any], now: int) -> bool:
    every = facts.get("every")
    return bool(facts["seen"] + (_NEVER_HEARD + 6 * (every if isinstance(every, (int, float)) else 0)) * SECOND < now)
