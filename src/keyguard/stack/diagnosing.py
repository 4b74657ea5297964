"""Why a caller is refused: what stores say of it, gathered in a few reads of keys that are known beforehand.

Rules:
- Nothing is looked through for a page. Which keys a subject has the ledger tells; without one, and only if limits count
  by key, all keys of the store are looked through.
- The decisions' store has to answer. What the ledger cannot tell is left out, and said.
- Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from keyguard.buckets import bucket_text
from keyguard.clock import Clock
from keyguard.counter_names import LimitFacts
from keyguard.errors import StoreError
from keyguard.http.addresses import IPV6_PREFIX, bucket_named
from keyguard.keys import KeyRecord, record_key
from keyguard.keys.format import ALPHABET, ID_LENGTH
from keyguard.keys.record import decode
from keyguard.ops import ReadWithTime, Store, traits_of
from keyguard.run import run_flow
from keyguard.stack.bans import Banned, in_force
from keyguard.stack.callers import Caller, Kind, find_caller
from keyguard.stack.checking import Checking, limit_report
from keyguard.stack.limit_actions import Actions, Seen
from keyguard.units import Duration, as_datetime
from keyguard.usage import UsageReport
from keyguard.usage.asking import Asking
from keyguard.usage.reading import begin_of as moment_of
from keyguard.why import Agreement, BanState, Diagnosis, KeyState, LimitReport, RefusedFor
from keyguard.why.agreement import LEAST, NOT_COMPARED, compared
from keyguard.why.keys import state_of
from keyguard.why.recall import latest
from keyguard.why.spending import addresses_of, counts_of, refused_among, refused_in, routes_of, used_up_at
from keyguard.why.verdict import deciding, judged

INTERVAL = 2.0
"""Seconds between two flushes of a ledger, if that is not known."""
_FINE = timedelta(hours=47)
"""For so long the ledger's minutes are there."""
_KEYS = 20
"""Keys of a subject that are looked at."""
_ADDRESSES = 8
"""Addresses of a caller whose bans are looked for."""
_UNITS = ("quota", "window", "smooth", "credits", "")
"""The kinds of limits whose units are spent."""


class Diagnoses:
    """Answers why callers are refused, by a store and its ledger."""

    def __init__(
        self,
        store: Store,
        facts: Iterable[LimitFacts],
        clock: Clock,
        *,
        ledger: Asking | None = None,
        bans: Iterable[str] = (),
        interval: float = INTERVAL,
    ) -> None:
        self._store = store
        self._facts = tuple(facts)
        self._clock = clock
        self._ledger = ledger
        self._bans = tuple(bans)
        self._interval = interval

    def of(
        self,
        who: str,
        *,
        by: Kind | None = None,
        plan: str | None = None,
        since: Duration | datetime = "24 hours",
        check: bool = False,
    ) -> Diagnosis:
        """Return what is known of a caller.

        `check` waits for two intervals of the ledger if it does not say what the counter says, and compares them again.
        Raises `ValueError` for who is nobody, and `StoreError` if the decisions' store fails.
        """
        keys = traits_of(self._store).holds_values
        caller: Caller = run_flow(self._store, find_caller(who, by, self._facts, keys=keys))
        if plan is not None:
            caller = replace(caller, plan=plan, plan_is_known=True)
        return _One(self, caller, moment_of(since, self._clock())).diagnosis(check)


class _One:
    """The diagnosis of one caller, in the making."""

    def __init__(self, parts: Diagnoses, caller: Caller, since: int) -> None:
        self._parts = parts
        self._store = parts._store
        self._caller = caller
        self._since = as_datetime(since)
        self._subject = caller.subject
        if caller.subject is None and caller.buckets.get("ip"):
            self._subject = ""  # callers without a key are one for the ledger
        self._unreadable = False
        self._reports: dict[tuple[datetime, bool], UsageReport] = {}
        self._used: Mapping[str, datetime] = {}
        """When the keys of the subject were last used."""

    def diagnosis(self, check: bool) -> Diagnosis:
        caller = self._caller
        record, now = self._record()
        at = as_datetime(now)
        report = self._report(self._since)
        if report is not None and (report.refused or report.failed):
            report = self._report(self._since, fine=True)  # it is told to the minute when that was last
        kind = self._kind(record, report)
        self._used = self._last_used() if self._subject else {}
        keys = self._keys_of(report) if kind == "subject" else []
        seen, unseen = self._seen(record, keys, kind)
        limits = [limit_report(one, now) for one in seen]
        first = deciding(limits)
        whole = report
        if first is not None:
            limits = [first, *[limit for limit in _ranked(limits) if limit is not first]]
            whole, limits = self._with_ledger(report, limits, at)
        spends = bool(limits) and limits[0].kind in _UNITS and limits[0].by in ("subject", "key")
        spent_by = limits[0].prefix if spends else None
        own = report if self._subject else None  # of callers without a key each is counted with all others
        if kind == "key" and record is None:
            own = None
        found = Diagnosis(
            caller=caller.name,
            kind=kind,
            at=at,
            since=self._since if report is None else report.since,
            state="works",
            level="good",
            subject="" if record is None and kind == "key" else caller.subject or "",
            key=self._key_state(record, report, at) if kind == "key" else None,
            keys=tuple([self._state_of(one, report, at) for one in keys]),
            limits=tuple(limits),
            unseen=tuple(unseen),
            bans=self._bans(record, report),
            requests=None if own is None else counts_of(own),
            refused=self._tried() if own is None else refused_in(own),
            routes=() if own is None or whole is None else routes_of(whole, spent_by),
            addresses=() if own is None or whole is None else addresses_of(whole),
            spent_of=limits[0].name if spends and own is not None else "",
            spent_since=None if own is None or whole is None else whole.rows_since,
            ledger=self._ledger_state(report),
            agreement=self._agreement(limits, at, check),
        )
        return judged(found)

    # -- the key ------------------------------------------------------------------------------------------

    def _record(self) -> tuple[KeyRecord | None, int]:
        """Return the record of the key that is meant, if one is, and the store's time."""
        id = self._caller.name if "key" in self._caller.buckets and not self._caller.guessed else ""
        read: Any = self._store.execute([ReadWithTime(record_key(id))])[0]
        now, (stored,) = read
        return (None if not id or stored is None else decode(stored)), now

    def _kind(self, record: KeyRecord | None, report: UsageReport | None) -> Any:
        caller = self._caller
        if record is not None or set(caller.buckets) == {"key"}:
            return "key"
        if "ip" in caller.buckets or caller.name.startswith("@"):
            return "address"
        if set(caller.buckets) == {"function"}:
            return "function"
        # An id that nobody has used as a subject is that of a key which is not there.
        if _is_like_an_id(caller.name) and (report is None or not report.requests):
            return "key"
        return "subject"

    def _key_state(self, record: KeyRecord | None, report: UsageReport | None, at: datetime) -> KeyState:
        if record is not None:
            return self._state_of(record, report, at)
        return KeyState(self._caller.name, "unknown")

    def _state_of(self, record: KeyRecord, report: UsageReport | None, at: datetime) -> KeyState:
        used = {} if report is None else {key.key_id: key.requests for key in report.by_key}
        requests = None if report is None else used.get(record.id, 0)
        return state_of(record, at, self._used.get(record.id), requests)

    def _last_used(self) -> Mapping[str, datetime]:
        if self._parts._ledger is None or self._unreadable or not self._subject:
            return {}
        try:
            used = self._parts._ledger.last_used(self._subject)
        except StoreError:
            self._unreadable = True
            return {}
        return {id: when.replace(second=0, microsecond=0) for id, when in used.items()}  # it is known to the minute

    def _keys_of(self, report: UsageReport | None) -> list[KeyRecord]:
        """Return the records of the keys with which a subject has called."""
        if report is None or not traits_of(self._store).holds_values:
            return []
        never = as_datetime(0)
        known = [key.key_id for key in report.by_key if key.key_id]
        ids = sorted(known, key=lambda id: self._used.get(id, never), reverse=True)[:_KEYS]
        if not ids:
            return []
        read: Any = self._store.execute([ReadWithTime(*map(record_key, ids))])[0]
        return [decode(stored) for stored in read[1] if stored is not None]

    # -- limits -------------------------------------------------------------------------------------------

    def _seen(self, record: KeyRecord | None, keys: list[KeyRecord], kind: str) -> tuple[list[Seen], list[str]]:
        """Return the limits that count the caller, and of which nothing can be told."""
        caller, facts = self._caller, self._parts._facts
        if kind == "key" and record is None:
            return [], []
        actions = Actions(self._store, facts, self._parts._clock)
        callers = [caller]
        if keys and actions.asks_for_keys(caller, None):
            callers = actions.with_keys(caller, keys)
        elif self._parts._ledger is None and actions.asks_for_keys(caller, None):
            callers = actions.with_keys(caller)
        found: list[Seen] = []
        unseen: dict[str, None] = {}
        for each in callers:
            counting = []
            for one in facts:
                if each.bucket(one.by) is None:
                    continue
                if one.limit is None and one.plans is None:
                    unseen[f"a function chooses the limits of {one.guard!r} on each request"] = None
                elif one.plans is not None and not each.plan_is_known:
                    unseen[f"{one.guard!r} depends on the caller's plan, which no key tells (--plan)"] = None
                else:
                    counting.append(one)
            if counting:
                found += run_flow(self._store, Actions(self._store, counting, self._parts._clock).see(each, None))
        return found, list(unseen)

    # -- bans ---------------------------------------------------------------------------------------------

    def _bans(self, record: KeyRecord | None, report: UsageReport | None) -> tuple[BanState, ...]:
        buckets = set(self._caller.buckets.values())
        if record is not None:
            buckets |= {bucket_text(record.id), bucket_text(record.subject)}
        if report is not None and self._subject:
            prefixes = {one.ipv6_prefix for one in self._parts._facts} or {IPV6_PREFIX}
            for client in report.by_client[:_ADDRESSES]:
                buckets |= {bucket for prefix in prefixes if (bucket := bucket_named(client.client, prefix))}
        buckets |= {f"@{bucket}" for bucket in buckets if not bucket.startswith("@")}
        found: Sequence[Banned] = run_flow(self._store, in_force(self._parts._bans, sorted(buckets)))
        return tuple([BanState(one.caller, one.guard, one.since, one.until, one.number) for one in found])

    # -- the ledger ---------------------------------------------------------------------------------------

    def _agreement(self, limits: list[LimitReport], at: datetime, check: bool) -> Agreement:
        limit = compared(limits)
        if limit is None or not self._subject:
            return NOT_COMPARED
        parts = self._parts
        checking = Checking(parts._store, parts._facts, parts._clock, parts._interval)
        by_minutes = limit.kind == "window"

        def report(since: datetime, again: bool) -> UsageReport | None:
            if again:
                self._reports.clear()
            return self._report(since, fine=by_minutes)

        return checking.checked(limit, at, report, again=check)

    def _report(self, since: datetime, *, fine: bool = False) -> UsageReport | None:
        """Return what the ledger has counted since a moment, `fine` by the minute if it can; each is read once."""
        if self._parts._ledger is None or self._subject is None or self._unreadable:
            return None
        fine = fine and as_datetime(self._parts._clock()) - since < _FINE
        known = self._reports.get((since, True)) or self._reports.get((since, fine))
        if known is not None:
            return known
        try:
            found = self._parts._ledger.of(self._subject, since, bucket=60 if fine else None)
        except StoreError:
            self._unreadable = True
            return None
        self._reports[since, fine] = found
        return found

    def _tried(self) -> tuple[RefusedFor, ...]:
        """Return why a caller was refused of whom the ledger does not count by itself, as far as the latest tell."""
        if self._parts._ledger is None or self._unreadable:
            return ()
        try:
            known = run_flow(self._parts._ledger._ledger()[0], latest(""))
        except StoreError:
            self._unreadable = True
            return ()
        names = {*self._caller.buckets.values(), self._caller.name}
        prefixes = {one.ipv6_prefix for one in self._parts._facts} or {IPV6_PREFIX}
        mine = [
            one
            for one in known
            if one.at is not None
            and one.at >= self._since
            and (one.key_id in names or any(bucket_named(one.client, prefix) in names for prefix in prefixes))
        ]
        return refused_among(mine)

    def _ledger_state(self, report: UsageReport | None) -> Any:
        if self._unreadable:
            return "unreadable"
        if report is None:
            return "none" if self._parts._ledger is None else "complete"
        return "complete" if report.complete else "incomplete"

    def _with_ledger(
        self, report: UsageReport | None, limits: list[LimitReport], at: datetime
    ) -> tuple[UsageReport | None, list[LimitReport]]:
        """Return what the ledger says since the deciding limit's period began, and the limits with what it knows."""
        if report is None or not self._subject:
            return report, limits
        refused = {rule.name: rule.count for rule in report.by_rule if rule.cause == "usage"}
        limits = [replace(limit, refused=refused.get(limit.name, 0)) for limit in limits]
        first = limits[0]
        since = first.begins or self._since
        if first.begins is None and first.period is not None and first.period >= LEAST:
            since = at - first.period
        whole = self._report(since, fine=first.exhausted)
        if whole is None:
            return report, limits
        since_then = {rule.name: rule.count for rule in whole.by_rule if rule.cause == "usage"}
        limits[0] = replace(first, refused=since_then.get(first.name, 0), used_up_at=used_up_at(whole, first))
        return whole, limits


def _ranked(limits: Iterable[LimitReport]) -> list[LimitReport]:
    return sorted(limits, key=lambda limit: (not limit.exhausted, -limit.share, limit.name))


def _is_like_an_id(name: str) -> bool:
    return len(name) == ID_LENGTH and all(one in ALPHABET for one in name)
