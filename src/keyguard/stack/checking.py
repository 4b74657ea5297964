"""Counters compared with the ledger: the reads that `keyguard.why.agreement` needs. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from keyguard.audit import AuditLog
from keyguard.clock import Clock, pause
from keyguard.counter_names import LimitFacts
from keyguard.ops import Store
from keyguard.rates import Quota
from keyguard.run import run_flow
from keyguard.stack.callers import Caller
from keyguard.stack.limit_actions import Actions, Seen
from keyguard.units import as_datetime
from keyguard.usage import UsageReport
from keyguard.why import Agreement, LimitReport
from keyguard.why.agreement import NO_LEDGER, agreement, begin_of, ledger_of


class Checking:
    """Compares the counters of a store with its ledger."""

    def __init__(self, store: Store, facts: Sequence[LimitFacts], clock: Clock, interval: float) -> None:
        self._store = store
        self._facts = facts
        self._clock = clock
        self._interval = interval

    def checked(
        self, limit: LimitReport, at: datetime, report: Callable[[datetime, bool], UsageReport | None], *, again: bool
    ) -> Agreement:
        """Compare a limit as it was at a moment. `again`: wait for two intervals if they do not say the same.

        `report` returns what the ledger has counted since a moment; it is read once more if that is asked for.
        """
        since = begin_of(limit, at)
        key_id = limit.caller if limit.by == "key" else ""
        known = report(since, False)
        if known is None:
            return NO_LEDGER
        found = agreement(limit, ledger_of(known, limit, at, key_id), at)
        if found.state == "agree" or not again:
            return found
        pause(2 * self._interval)
        known = report(since, True)
        if known is None:
            return NO_LEDGER
        after = self._spent_now(limit)
        given, changed = self._given(limit, since)
        ledger = ledger_of(known, limit, at, key_id)._replace(given=given, changed=changed)
        return agreement(limit, ledger, at, after)

    def _spent_now(self, limit: LimitReport) -> int:
        facts = [replace(one, plans=None) for one in self._facts if one.prefix == limit.prefix]
        caller = Caller(limit.caller, {limit.by: limit.caller})
        found = run_flow(self._store, Actions(self._store, facts, self._clock).see(caller, None)) if facts else []
        return max([seen.use.spent for seen in found], default=limit.spent)

    def _given(self, limit: LimitReport, since: datetime) -> tuple[int, datetime | None]:
        """Return how many units of a limit were given back by hand since a moment, and when the last ones were."""
        given, last = 0, None
        for record in AuditLog(self._store).list(since=since, action="limits", caller=limit.caller):
            before, after = record.before.get("spent"), record.after.get("spent")
            if record.limit == limit.name and isinstance(before, int) and isinstance(after, int):
                given, last = given + before - after, record.at
        return given, last


def limit_report(seen: Seen, now: int) -> LimitReport:
    """Return a limit that counts a caller, without what the ledger knows of it."""
    use, limit, facts = seen
    unit, begins, ends, period = "", None, None, None
    if isinstance(limit, Quota):
        unit = limit.periods.unit
        begin, end = limit.present(now)
        begins, ends, period = as_datetime(begin), as_datetime(end), timedelta(microseconds=end - begin)
    elif limit.kind not in ("credits", "slots"):
        period = timedelta(microseconds=limit.period)
    return LimitReport(
        name=use.name,
        guard=facts.guard,
        rate=use.rate,
        kind=limit.kind,
        unit=unit,
        period=period,
        by=use.by,
        caller=use.caller,
        prefix=facts.prefix,
        limit=use.limit,
        spent=use.spent,
        held=use.held,
        remaining=use.remaining,
        begins=begins,
        ends=ends,
        more_at=use.more_at,
        works_at=use.works_at,
    )
