"""Facts made into what is added to each value, within a bound. No I/O, no clock, no lock.

What does not fit is counted as dropped, by the hour. Of a subject beyond `max_subjects` a day, requests are counted for
the whole service alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keyguard.ops.usage import LATEST, Counts, UsagePart, UsageRow
from keyguard.usage.facts import FACTS, Facts, Request, Unit
from keyguard.usage.names import (
    ANONYMOUS,
    DAY,
    EVERYBODY,
    GAPS,
    HOUR,
    hours_key,
    latest_key,
    minutes_key,
    ranking_key,
    spelled,
)

CELLS = 250_000
"""Numbers that wait to be sent: some 30 MB, while the store is out of order."""

SLOTS: Final = tuple([str(number) for number in range(60)])
ONE: Final = ""
"""The slot of a name that has no other."""

_US: Final = "\x1f"

_SUBJECT_ROWS: Final = {
    name: UsageRow(most) for name, most in {"r": 32, "u": 32, "t": 64, "v": 96, "k": 24, "w": 48, "c": 24}.items()
}
_SERVICE_ROWS: Final = {name: UsageRow(most) for name, most in {"r": 96, "u": 64, "t": 128, "v": 192, "c": 48}.items()}
"""How many names of a kind a value has rows for:

    n  requests by outcome, or by cause if they were refused      (as many as there are)
    r  refusals by `cause rule`
    u  units by the limit's prefix
    t  requests by `METHOD /route`, v  units by `METHOD /route` and prefix
    k  requests by key, w  units by key and prefix, of limits that count by key
    c  requests by address
    s  requests by subject, f  those of them that were refused     (of the ranking)
    l  when a key came last, and any request
"""
_RANKING_ROWS: Final = {"s": UsageRow(200), "f": UsageRow(200)}
_LATEST_ROWS: Final = {LATEST: UsageRow(64)}
_GAPS_ROWS: Final[Mapping[str, UsageRow]] = {}

DROPPED, OVERFLOW = "dropped", "overflow"
"""Why requests are missing: there was no room at all, or none for their subject."""


class _Delta:
    """What is to be added to one value."""

    __slots__ = ("counts", "period", "rows")

    def __init__(self, rows: Mapping[str, UsageRow], period: int) -> None:
        self.rows = rows
        self.period = period
        """The end of the time that it is about, in microseconds."""
        self.counts: Counts = {}

    def add(self, kind: str, name: str, slot: str, count: int) -> int:
        """Add a number. Return how many numbers there are more."""
        names = self.counts.get(kind)
        if names is None:
            names = self.counts[kind] = {}
        row = names.get(name)
        if row is None:
            names[name] = {slot: count}
            return 1
        before = row.get(slot)
        row[slot] = count if before is None else before + count
        return 1 if before is None else 0


class Pending:
    """The counts that are still to be sent."""

    def __init__(self, max_subjects: int, *, minutes: int, hours: int) -> None:
        self._max = max_subjects
        self._minutes, self._hours = minutes, hours
        self._of: dict[str, dict[str, _Delta]] = {}
        """By who it is about, as `spelled` writes it, and by key."""
        self._known: dict[str, str] = {}
        """The subjects of today that have values of their own, as they are spelled."""
        self._day = 0
        self._latest: dict[tuple[str, str], int] = {}
        """The minute in which was last noted that a key was used."""
        self._cells = 0
        self.dropped = 0
        """Requests that are not counted at all, since the start."""
        self.overflow = 0
        """Requests that are counted for the whole service alone, since the start."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return not self._of

    def take_in(self, facts: Facts) -> None:
        """Add what some facts come to."""
        for fact, count in facts.requests.items():
            self._request(Request._make(fact), count)
        for fact, count in facts.units.items():
            self._units(Unit._make(fact), count)
        for (subject, key_id), second in facts.last.items():
            self._last(subject, key_id, second)

    def drop(self, minute: int, count: int) -> None:
        """Note that so many requests could not be counted."""
        self.dropped += count
        self._gap(DROPPED, minute, count)

    def pass_over(self, minute: int, count: int) -> None:
        """Note that so many requests are not counted where they belong."""
        if count:
            self.overflow += count
            self._gap(OVERFLOW, minute, count)

    def _gap(self, what: str, minute: int, count: int) -> None:
        hour = minute // 60
        delta = self._delta(GAPS, hours_key(GAPS, hour // 24), _GAPS_ROWS, (hour // 24 + 1) * DAY)
        delta.add("x", what, SLOTS[hour % 24], count)  # which always has room: it is one number an hour

    def _delta(self, who: str, key: str, rows: Mapping[str, UsageRow], period: int) -> _Delta:
        theirs = self._of.get(who)
        if theirs is None:
            theirs = self._of[who] = {}
        found = theirs.get(key)
        if found is None:
            found = theirs[key] = _Delta(rows, period)
        return found

    def _who(self, subject: str, hour: int) -> str:
        """Return a subject as it is spelled; empty if there is no room for it today."""
        if not subject:
            return ANONYMOUS
        day = hour // 24
        if day > self._day:
            self._day = day
            self._known.clear()
            self._latest.clear()
        known = self._known.get(subject)
        if known is None:
            if len(self._known) >= self._max:
                return ""
            known = self._known[subject] = spelled(subject)
        return known

    def _request(self, fact: Request, count: int) -> None:
        hour = fact.minute // 60
        if self._cells >= CELLS:
            self.drop(fact.minute, count)
            return
        who = self._who(fact.subject, hour)
        if not who:
            self.pass_over(fact.minute, count)
        route = f"{fact.method} {fact.route}"
        rule = f"{fact.word} {fact.rule}" if fact.rule else ""
        refused = fact.word not in _ANSWERED
        minute, slot = SLOTS[fact.minute % 60], SLOTS[hour % 24]
        more = 0
        for one in (EVERYBODY, who) if who else (EVERYBODY,):
            minutes, hours = self._values(one, hour)
            more += minutes.add("n", fact.word, minute, count) + hours.add("n", fact.word, slot, count)
            if refused:
                more += minutes.add("r", rule, minute, count) + hours.add("r", rule, slot, count)
            more += hours.add("t", route, slot, count)
            if fact.client:
                more += hours.add("c", fact.client, slot, count)
            if fact.key_id and one is not EVERYBODY:
                more += hours.add("k", fact.key_id, slot, count)
        if who:
            day = hour // 24
            ranking = self._delta(EVERYBODY, ranking_key(day), _RANKING_ROWS, (day + 1) * DAY)
            more += ranking.add("s", _ranked(fact.subject, who), slot, count)
            if refused:
                more += ranking.add("f", _ranked(fact.subject, who), slot, count)
        self._cells += more

    def _units(self, fact: Unit, count: int) -> None:
        hour = fact.minute // 60
        who = self._who(fact.subject, hour) if self._cells < CELLS else ""
        route = f"{fact.method} {fact.route}{_US}{fact.prefix}"
        minute, slot = SLOTS[fact.minute % 60], SLOTS[hour % 24]
        if self._cells >= CELLS:
            return  # the request that has spent them is noted as dropped
        more = 0
        for one in (EVERYBODY, who) if who else (EVERYBODY,):
            minutes, hours = self._values(one, hour)
            more += minutes.add("u", fact.prefix, minute, count) + hours.add("u", fact.prefix, slot, count)
            more += hours.add("v", route, slot, count)
            if fact.key_id and one is not EVERYBODY:
                more += hours.add("w", f"{fact.key_id}{_US}{fact.prefix}", slot, count)
        self._cells += more

    def _last(self, subject: str, key_id: str, second: int) -> None:
        hour = second // 3600
        who = self._who(subject, hour)
        if not who or who not in self._of:
            return
        _, hours = self._values(who, hour)
        _raise(hours, ONE, second)
        if key_id and self._latest.get((who, key_id), -1) < second // 60:
            if len(self._latest) >= FACTS:
                self._latest.clear()
            self._latest[who, key_id] = second // 60
            delta = self._delta(who, latest_key(who), _LATEST_ROWS, (hour // 24 + 1) * DAY)
            _raise(delta, key_id, second)

    def _values(self, who: str, hour: int) -> tuple[_Delta, _Delta]:
        rows = _SERVICE_ROWS if who is EVERYBODY else _SUBJECT_ROWS
        minutes = self._delta(who, minutes_key(who, hour), rows, (hour + 1) * HOUR)
        return minutes, self._delta(who, hours_key(who, hour // 24), rows, (hour // 24 + 1) * DAY)

    # -- what is sent -------------------------------------------------------------------------------------

    def add_total(self, key: str, counts: Mapping[str, int], rows: Mapping[str, UsageRow], now: int) -> None:
        """Add to totals that go on for good."""
        delta = self._delta(EVERYBODY, key, rows, now)
        for name, count in counts.items():
            if count:
                self._cells += delta.add(TOTALS, name, ONE, count)

    def taken(self) -> list[list[UsagePart]]:
        """Return all that is to be sent, by who it is about, and begin anew."""
        found, self._of, self._cells = self._of, {}, 0
        return [[self._part(key, delta) for key, delta in deltas.items()] for deltas in found.values()]

    def _part(self, key: str, delta: _Delta) -> UsagePart:
        kind = key[key.rindex("|") + 1]
        kept = self._minutes if kind == "m" else TOTALS_KEPT if kind == "t" else self._hours
        return UsagePart(key, delta.counts, delta.rows, delta.period + kept, kept + 2 * DAY)


TOTALS = "a"
"""The kind of totals that go on for good."""
TOTALS_KEPT = 7 * DAY

_ANSWERED = frozenset({"served", "cached", "failed"})


def _ranked(subject: str, who: str) -> str:
    """Return the name of a subject in the ranking: what it is, so that it can be shown."""
    return subject if who[0] == "=" else f"{subject[:96]}…{who}" if who[0] == "#" else ""


def _raise(delta: _Delta, name: str, second: int) -> None:
    row = delta.counts.setdefault(LATEST, {}).setdefault(name, {})
    if row.get(ONE, 0) < second:
        row[ONE] = second
