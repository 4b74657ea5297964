"""The board: where this process decides alerts together with the others, and what it knows of those that are open.

Rules:
- What is decided stands in the stack's store. What must be told although the store is out of order (that it is, say) is
  decided in a store of this process alone meanwhile: then each process tells of it for itself.
- A decision is logged once, by the process that has made it, and noted in the audit log.
- It is asked in the background alone, under a circuit breaker of its own: what fails here does not count against the
  store of decisions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from logging import ERROR, WARNING
from typing import Any, Protocol

from keyguard.alerts.book import Alert, alerts_of
from keyguard.alerts.messages import words_of
from keyguard.audit import new_record, writing
from keyguard.clock import Clock
from keyguard.errors import StoreBusy, StoreError
from keyguard.logs import logger, word
from keyguard.manual_clock import ManualClock
from keyguard.ops import DecideAlerts, FireAlert, LeaseDeliveries, Op, Read, ResolveAlert, Store, traits_of
from keyguard.ops.alert_state import KEY, Standing
from keyguard.ops.alerting import Leased, Told
from keyguard.stores.circuit_breaker import CircuitBreaker
from keyguard.stores.memory import MemoryStore

log = logger("keyguard.alerts")

ACTOR = "keyguard"
_AT_ONCE = 64  # operations of one trip


class Executes(Protocol):
    """Something that runs operations, as a store does."""

    def execute(self, ops: Sequence[Op[Any]], /) -> list[Any]: ...


class Board:
    """The alerts of one stack, as this process decides them."""

    def __init__(self, store: Store, clock: Clock, manual: ManualClock | None, to: Sequence[str]) -> None:
        self.to = tuple(to)
        self.clock = clock
        self.known: dict[str, Standing] = {}
        """The alerts that are open, as far as this process has heard."""
        self.full: set[str] = set()
        """Those for which there was no room when they were last asked for."""
        self.counts: dict[str, int] = {}
        self.told = False
        """Whether anything was decided since somebody looked here: it may have to be delivered."""
        self._local = MemoryStore(1 << 22, clock=manual)
        self._of_process = not traits_of(store).holds_values
        """Whether the stack's store keeps limits alone, so that alerts are those of each process."""
        self._store = CircuitBreaker(store, workers=1, clock=clock, of="alerts", alike=True)
        self._locally = False

    def decide(self, ops: Iterable[FireAlert | ResolveAlert], *, locally: bool = False) -> None:
        """Decide alerts. Raise `StoreError` if the store does not answer.

        `locally`: they are decided in this process then.
        """
        left = [*ops]
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            try:
                (results,) = self._main([DecideAlerts(some)])
            except StoreError:
                if not locally:
                    raise
                self._locally = True
                (results,) = self._local.execute([DecideAlerts(some)])
            for op, told in zip(some, results, strict=True):
                self._note(op.id, told)

    def decide_locally(self, ops: Sequence[FireAlert | ResolveAlert]) -> None:
        """Decide alerts in this process alone."""
        self._locally = True
        for told in self._local.execute([DecideAlerts(ops)])[0]:
            self._tell(told.notices, audit=False)

    def known_locally(self, id: str) -> bool:
        """Tell whether an alert is open that was decided in this process alone."""
        return self._locally and any(alert.open and alert.id == id for alert in self.of_process())

    def of_process(self) -> list[Alert]:
        """Return the alerts that were decided in this process alone."""
        if not self._locally:
            return []
        return alerts_of(self._local.execute([Read(KEY)])[0][0])

    def lease(self, who: str, span: int, to: Collection[str], *, quiet: bool) -> list[tuple[Executes, Leased]]:
        """Lease what is due for some receivers, and hear what is open: of the stack's store, and of this process's own.

        Raises `StoreError` only if there is nothing of this process's own.
        """
        op = LeaseDeliveries(who, span, to, quiet=quiet)
        found: list[tuple[Executes, Leased]] = []
        if self._locally or self._of_process:
            local: Leased = self._local.execute([op])[0]
            self._tell(local.notices, audit=False)
            found.append((self._local, local))
        if self._of_process:
            self.known = found[0][1].open
            return found
        try:
            main: Leased = self._store.execute([op])[0]
        except StoreError:
            if not found:
                raise
            return found
        self.known = main.open
        self._tell(main.notices)
        return [*found, (self._store, main)]

    def write_down(self, ops: Sequence[FireAlert | ResolveAlert]) -> None:
        """Write down what was decided, and told, by this process alone."""
        for told in self._main([DecideAlerts(ops)])[0]:
            self._audit(told.notices)

    def execute(self, ops: Sequence[Op[Any]], /) -> list[Any]:
        """Run other operations on the stack's store."""
        return self._main(ops)

    def _main(self, ops: Sequence[Any]) -> list[Any]:
        return (self._local if self._of_process else self._store).execute(ops)

    def _note(self, id: str, told: Told) -> None:
        if told.standing is None:
            self.known.pop(id, None)
        else:
            self.known[id] = told.standing
        if told.full:
            self.full.add(id)
        self._tell(told.notices)

    def _tell(self, notices: Sequence[Mapping[str, Any]], *, audit: bool = True) -> None:
        """Tell of what this process has decided: no other one does."""
        self.told |= bool(notices)
        for notice in notices:
            over = notice["severity"] == "resolved"
            if not over:
                self.counts[notice["type"]] = self.counts.get(notice["type"], 0) + 1
            title, text = words_of(notice)
            level = ERROR if notice["severity"] == "critical" else WARNING
            log.log(
                level,
                "%s: %s. %s type=%s severity=%s subject=%s limit=%s id=%s",
                *("alert is over" if over else "alert", title, text, notice["type"], notice["severity"]),
                *map(word, (notice["subject"] or "-", notice["limit"] or "-")),
                notice["id"],
            )
        if audit:
            self._audit(notices)

    def _audit(self, notices: Sequence[Mapping[str, Any]]) -> None:
        if notices and not self._of_process:
            try:
                self._store.execute([writing(_record(self.clock(), notice)) for notice in notices])
            except (StoreBusy, StoreError) as error:
                log.warning("alerts are not noted in the audit log: %s", error)


def _record(now: int, notice: Mapping[str, Any]) -> Any:
    return new_record(
        now,
        actor=ACTOR,
        action="alerts.resolve" if notice["severity"] == "resolved" else "alerts.fire",
        caller=notice["subject"] or None,
        limit=notice["limit"] or None,
        after={"type": notice["type"], "level": notice["level"], "severity": notice["severity"]},
    )
