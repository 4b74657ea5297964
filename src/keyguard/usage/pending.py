"""Facts made into what is added to each value, within a bound. No I/O, no clock, no lock.

They are added up by the hour, for each subject and for all; the day's part is made of the hours' when it is sent. What
does not fit is counted as dropped, by the hour. Requests of a subject beyond `max_subjects` a day are counted for the
whole service alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keyguard.ops.usage import LATEST, Counts, Slotted, UsagePart, UsageRow, slots_text
from keyguard.usage.facts import FACTS, Facts, charges
from keyguard.usage.hours import (
    ANSWERED,
    ANY,
    LATEST_ROWS,
    NO_ROWS,
    RANKING_ROWS,
    SERVICE_ROWS,
    SUBJECT_ROWS,
    TOTALS,
    TOTALS_KEPT,
    Hour,
    added_up,
)
from keyguard.usage.names import (
    DAY,
    EVERYBODY,
    GAPS,
    HOUR,
    day_ranking_key,
    hour_ranking_key,
    hours_key,
    latest_key,
    minutes_key,
    shown,
    spelled,
    total_key,
)

CELLS = 250_000
"""Numbers that wait to be sent: some 30 MB, while the store is out of order."""

DROPPED, OVERFLOW = "dropped", "overflow"
"""Why requests are missing: there was no room at all, or none for their subject."""


class Pending:
    """The counts that are still to be sent."""

    def __init__(self, max_subjects: int, *, minutes: int, hours: int) -> None:
        self._max = max_subjects
        self._minutes, self._hours = minutes, hours
        self._known: dict[str, str] = {}
        """The subjects of today that have values of their own, as they are spelled."""
        self._day = 0
        self._noted: dict[tuple[str, str], int] = {}
        """The minute in which was last noted that a key was used."""
        self.dropped = 0
        """Requests that are not counted at all, since the start."""
        self.overflow = 0
        """Requests that are counted for the whole service alone, since the start."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._of: dict[str, dict[int, Hour]] = {}
        """By who it is about, as `spelled` writes it, and by hour."""
        self._subjects: dict[str, str] = {}
        """Those who are ranked, by how they are spelled."""
        self._gaps: dict[tuple[str, int], int] = {}
        self._totals: dict[str, dict[str, int]] = {}
        self._total_rows: dict[str, UsageRow] = {}
        self._cells = 0
        self._now = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return not (self._of or self._gaps or self._totals)

    # -- taking in ----------------------------------------------------------------------------------------

    def take_in(self, facts: Facts) -> None:
        """Add what some facts come to."""
        for (*fact, _), same in facts.requests.items():
            self._request(same.count, fact)
            subject, minute, word, _, method, route, key_id, _ = fact
            for prefix, of, units in charges(word, key_id, same.charged):
                self._units(units * same.count, (subject, minute, prefix, method, route, of))
        for unit, count in facts.units.items():
            self._units(count, unit)
        for (subject, key_id), second in facts.last.items():
            hours = self._of.get(self._who(subject, second // 3600))
            if hours is not None and (hour := hours.get(second // 3600)) is not None:
                hour.latest[ANY] = max(second, hour.latest.get(ANY, 0))
                if key_id:
                    hour.latest[key_id] = second

    def _request(self, count: int, fact: Sequence[Any]) -> None:
        subject, minute, word, rule, method, route, key, client = fact
        if self._cells >= CELLS:
            self.drop(minute, count)
            return
        number, slot = divmod(minute, 60)
        who = self._who(subject, number)
        if not who:
            self.pass_over(minute, count)
        template = f"{method} {route}"
        for one in (EVERYBODY, who) if who else (EVERYBODY,):
            hour = self._hour(one, number)
            self._add_slot(hour.n, word, slot, count)
            if rule:
                self._add_slot(hour.r, f"{word} {rule}", slot, count)
            self._add(hour.t, template, count)
            if client:
                self._add(hour.c, client, count)
            if key and one is not EVERYBODY:
                self._add(hour.k, key, count)

    def _units(self, count: int, fact: Sequence[Any]) -> None:
        subject, minute, prefix, method, route, key = fact
        if self._cells >= CELLS:
            return  # the request that has spent them is noted as dropped
        number, slot = divmod(minute, 60)
        who = self._who(subject, number)
        template = f"{prefix}{method} {route}"
        for one in (EVERYBODY, who) if who else (EVERYBODY,):
            hour = self._hour(one, number)
            self._add_slot(hour.u, prefix, slot, count)
            self._add(hour.v, template, count)
            if key and one is not EVERYBODY:
                self._add(hour.w, f"{prefix}{key}", count)

    def _add(self, names: dict[str, int], name: str, count: int) -> None:
        before = names.get(name)
        if before is None:
            names[name] = count
            self._cells += 1
        else:
            names[name] = before + count

    def _add_slot(self, names: dict[str, dict[int, int]], name: str, slot: int, count: int) -> None:
        row = names.get(name)
        if row is None:
            row = names[name] = {}
        before = row.get(slot)
        if before is None:
            row[slot] = count
            self._cells += 1
        else:
            row[slot] = before + count

    def _hour(self, who: str, number: int) -> Hour:
        hours = self._of.get(who)
        if hours is None:
            hours = self._of[who] = {}
        hour = hours.get(number)
        if hour is None:
            hour = hours[number] = Hour()
        return hour

    def _who(self, subject: str, hour: int) -> str:
        """Return a subject as it is spelled; empty if there is no room for it today."""
        day = hour // 24
        if day > self._day:
            self._day = day
            self._known.clear()
            self._noted.clear()
        known = self._known.get(subject)
        if known is None:
            if len(self._known) >= self._max and subject:
                return ""
            known = self._known[subject] = spelled(subject)
        if known not in self._subjects:
            self._subjects[known] = shown(subject)
        return known

    def drop(self, minute: int, count: int) -> None:
        """Note that so many requests could not be counted."""
        if count:
            self.dropped += count
            self._gap(DROPPED, minute, count)

    def pass_over(self, minute: int, count: int) -> None:
        """Note that so many requests are not counted where they belong."""
        if count:
            self.overflow += count
            self._gap(OVERFLOW, minute, count)

    def _gap(self, what: str, minute: int, count: int) -> None:
        # There is always room for it: it is one number an hour.
        self._gaps[what, minute // 60] = self._gaps.get((what, minute // 60), 0) + count

    def add_total(self, name: str, counts: Mapping[str, int], row: UsageRow, now: int) -> None:
        """Add to totals that go on for good."""
        names = {number: count for number, count in counts.items() if count}
        if names:
            self._now = now
            self._total_rows[name] = row
            totals = self._totals.setdefault(name, {})
            for number, count in names.items():
                totals[number] = totals.get(number, 0) + count

    # -- what is sent -------------------------------------------------------------------------------------

    def taken(self) -> list[list[UsagePart]]:
        """Return all that is to be sent, by who it is about, and begin anew."""
        found = [[*self._parts(who, hours)] for who, hours in self._of.items()]
        ranking = [*self._ranking()]
        gaps = [*self._gap_parts()]
        totals = [self._total(name, counts) for name, counts in self._totals.items()]
        self._begin_anew()
        return [parts for parts in (*found, ranking, gaps, totals) if parts]

    def _parts(self, who: str, hours: Mapping[int, Hour]) -> Iterator[UsagePart]:
        rows = SERVICE_ROWS if who == EVERYBODY else SUBJECT_ROWS
        days: dict[int, list[tuple[Slotted, Counts]]] = {}
        latest: dict[str, int] = {}
        for number, hour in hours.items():
            minutes, by_hour, counts = hour.parts(number % 24)
            yield self._part(minutes_key(who, number), minutes, counts, rows, (number + 1) * HOUR)
            days.setdefault(number // 24, []).append((by_hour, counts))
            latest.update(hour.latest)
        for day, found in days.items():
            slotted, counts = found[0] if len(found) == 1 else added_up(found)
            yield self._part(hours_key(who, day), slotted, counts, rows, (day + 1) * DAY)
        news = {key: second for key, second in latest.items() if key and self._is_news(who, key, second)}
        if news:
            until = max(days) * DAY + DAY
            yield self._part(latest_key(who), {}, {LATEST: news}, LATEST_ROWS, until)

    def _is_news(self, who: str, key: str, second: int) -> bool:
        """Tell whether it is to be noted that a key was used: once a minute."""
        if self._noted.get((who, key), -1) >= second // 60:
            return False
        if len(self._noted) >= FACTS:
            self._noted.clear()
        self._noted[who, key] = second // 60
        return True

    def _ranking(self) -> Iterator[UsagePart]:
        by_hour: dict[int, Counts] = {}
        by_day: dict[int, Counts] = {}
        for who, hours in self._of.items():
            name = self._subjects.get(who)
            if who == EVERYBODY or name is None:
                continue
            for number, hour in hours.items():
                sums = {word: sum(row.values()) for word, row in hour.n.items()}
                every = sum(sums.values())
                refused = every - sum(sums.get(word, 0) for word in ANSWERED)
                for counts in (by_hour.setdefault(number, {}), by_day.setdefault(number // 24, {})):
                    for kind, count in (("s", every), ("f", refused)):
                        if count:
                            names = counts.setdefault(kind, {})
                            names[name] = names.get(name, 0) + count
        for number, counts in by_hour.items():
            yield self._part(hour_ranking_key(number), {}, counts, RANKING_ROWS, (number + 1) * HOUR)
        for day, counts in by_day.items():
            yield self._part(day_ranking_key(day), {}, counts, RANKING_ROWS, (day + 1) * DAY)

    def _gap_parts(self) -> Iterator[UsagePart]:
        days: dict[int, dict[str, dict[int, int]]] = {}
        for (what, hour), count in self._gaps.items():
            days.setdefault(hour // 24, {}).setdefault(what, {})[hour % 24] = count
        for day, names in days.items():
            missing = {what: slots_text(slots) for what, slots in names.items()}
            yield self._part(hours_key(GAPS, day), {"x": missing}, {}, NO_ROWS, (day + 1) * DAY)

    def _total(self, name: str, counts: dict[str, int]) -> UsagePart:
        return self._part(total_key(name), {}, {TOTALS: counts}, {TOTALS: self._total_rows[name]}, self._now)

    def _part(self, key: str, slotted: Slotted, counts: Counts, rows: Mapping[str, UsageRow], until: int) -> UsagePart:
        kind = key[key.rindex("|") + 1]
        kept = self._minutes if kind in "ms" else TOTALS_KEPT if kind == "t" else self._hours
        return UsagePart(key, slotted, counts, rows, until + kept, kept + 2 * DAY)
