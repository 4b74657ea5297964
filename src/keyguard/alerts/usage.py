"""Forecast and anomaly, from the ledger of usage: how this caller's hours and minutes have been.

- Each process forecasts the quotas that its own callers spend; which of them decides does not matter.
- Anomalies are looked for once a minute by one process, whichever takes the turn: of all callers together, and of the
  twenty with the most requests in the last hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from keyguard.alerts.anomaly import MINUTES, Pace, pace_of
from keyguard.alerts.board import Board
from keyguard.alerts.forecast import HOUR, Forecast, forecast
from keyguard.alerts.messages import ANOMALY, FORECAST, moment_text, shortened
from keyguard.alerts.thresholds import Spent
from keyguard.buckets import bucket_text
from keyguard.clock import SECOND
from keyguard.ops import FireAlert, Put, ResolveAlert
from keyguard.rates.limit import JSON
from keyguard.rates.quotas import Quota
from keyguard.units import in_microseconds

_MINUTE = 60 * SECOND
_EVERY = 5 * _MINUTE  # between two forecasts
_SETTLED = 8 * SECOND  # until a minute has been written down by all processes
_TURN = "alert|turn"
_MOST_LOOKED_AT = 60
_MOST_KEPT = 2000
_TOP = 20
_LASTS = 5 * _MINUTE  # without a strange minute, after which an anomaly is over


class Bucket(Protocol):
    """Usage of some time."""

    @property
    def at(self) -> datetime: ...
    @property
    def requests(self) -> Mapping[str, int]: ...
    @property
    def units(self) -> Mapping[str, int]: ...


class Report(Protocol):
    """Usage of one caller."""

    @property
    def buckets(self) -> Sequence[Any]: ...


class Ledger(Protocol):
    """The reading part of the ledger."""

    def of(self, subject: str | None = None, since: timedelta = ...) -> Report: ...
    def top(self, number: int = 20, since: timedelta = ...) -> Iterable[Any]: ...


class UsageWatch:
    """Looks at the ledger of one stack."""

    def __init__(self, board: Board, ledger: Ledger, *, forecasts: bool, anomalies: bool) -> None:
        self._board = board
        self._ledger = ledger
        self._forecasts = forecasts
        self._anomalies = anomalies
        self.after_fork()

    def after_fork(self) -> None:
        """Forget what the parent has seen."""
        self._spent: dict[str, Spent] = {}
        """The units that were spent of quotas of a day or more, by counter: they may have to be forecast."""
        self._next = 0
        self._minute = 0

    def note(self, spent: Mapping[str, Spent]) -> None:
        """Take note of what callers have spent."""
        if not self._forecasts:
            return
        for key, one in spent.items():
            limit = one.demand.limit
            by_caller = one.facts is not None and one.facts.by in ("subject", "key") and one.decision.subject
            if isinstance(limit, Quota) and limit.periods.unit != "hour" and by_caller:
                self._spent[key] = one
        while len(self._spent) > _MOST_KEPT:
            del self._spent[min(self._spent, key=lambda key: _share(self._spent[key]))]

    def look(self, now: int, who: str) -> list[FireAlert | ResolveAlert]:
        """Return what is to be decided. Raises `StoreError` if the ledger cannot be read."""
        ops: list[FireAlert | ResolveAlert] = []
        if self._forecasts and now >= self._next:
            self._next = now + _EVERY
            ops += self._forecast(now)
        minute, past = divmod(now, _MINUTE)
        if self._anomalies and minute != self._minute and past >= _SETTLED:
            self._minute = minute
            (mine,) = self._board.execute([Put(_TURN, who.encode(), 50 * SECOND, expected=None)])
            if mine:
                ops += self._paces(minute)
        return ops

    # -- forecast -------------------------------------------------------------------------------------------------

    def _forecast(self, now: int) -> list[FireAlert | ResolveAlert]:
        for key in [key for key, one in self._spent.items() if one.end <= now]:
            del self._spent[key]
        ops: list[FireAlert | ResolveAlert] = []
        chosen = sorted(self._spent.items(), key=lambda pair: _share(pair[1]), reverse=True)
        chosen = [(key, one) for key, one in chosen if 0.25 <= _share(one) < 1]
        for key, one in chosen[:_MOST_LOOKED_AT]:
            limit = one.demand.limit
            assert isinstance(limit, Quota)
            begin, end = limit.present(one.at)
            hours = self._hours(one)
            found = forecast(hours, used=one.used, quota=limit.quota, begin=begin, end=end, now=now)
            id = f"{FORECAST}|{key}"
            if found is not None and found.likely is not None:
                if id not in self._board.known or self._board.known[id].period != one.period:
                    ops.append(self._foreseen(id, one, found, end))
            elif found is not None and found.earliest is None and id in self._board.known:
                ops.append(ResolveAlert(id))
        return ops

    def _foreseen(self, id: str, one: Spent, found: Forecast, end: int) -> FireAlert:
        about: dict[str, JSON] = {
            "type": FORECAST,
            "severity": "warning",
            "subject": one.subject,
            "limit": shortened(one.demand.name),
            "facts": {
                **one.about(),
                "likely": moment_text(found.likely or end),
                "earliest": moment_text(found.earliest or found.likely or end),
                "latest": moment_text(found.latest or end),
                "resets_at": moment_text(end),
                "method": found.method,
            },
        }
        return FireAlert(id, 0, one.period, about=about, to=self._board.to, seen=one.at, until=end)

    def _hours(self, one: Spent) -> dict[int, float]:
        prefix = f"{one.demand.key.partition('|')[0]}|"
        hours: dict[int, float] = {}
        for bucket in self._ledger.of(one.decision.subject, timedelta(days=8)).buckets:
            hours[in_microseconds(bucket.at) // HOUR] = bucket.units.get(prefix, 0)
        return hours

    # -- anomaly --------------------------------------------------------------------------------------------------

    def _paces(self, minute: int) -> list[FireAlert | ResolveAlert]:
        ops: list[FireAlert | ResolveAlert] = []
        names = [None, *[one.subject for one in self._ledger.top(_TOP, timedelta(hours=1))]]
        for name in dict.fromkeys(names):
            pace = self._pace(name, minute)
            id = ANOMALY if name is None else f"{ANOMALY}|{bucket_text(name) if name else ''}"
            if pace is not None and (pace.strange or (id in self._board.known and not pace.calm)):
                ops.append(self._strange(id, name, pace))
        return ops

    def _pace(self, name: str | None, minute: int) -> Pace | None:
        first = minute - MINUTES
        counts = [0] * MINUTES
        for bucket in self._ledger.of(name, timedelta(minutes=MINUTES + 2)).buckets:
            place = in_microseconds(bucket.at) // _MINUTE - first
            if 0 <= place < MINUTES:
                counts[place] += sum(bucket.requests.values())
        return pace_of(counts)

    def _strange(self, id: str, name: str | None, pace: Pace) -> FireAlert:
        about: dict[str, JSON] = {
            "type": ANOMALY,
            "severity": "warning",
            "subject": shortened(name or ""),
            "limit": "",
            "facts": {"requests": pace.requests, "usual": round(pace.usual, 1), "all": int(name is None)},
        }
        return FireAlert(id, 0, "", about=about, to=self._board.to, lasts=_LASTS)


def _share(one: Spent) -> float:
    return one.used / max(1, one.demand.limit.max_cost)
