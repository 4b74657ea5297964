"""False exhaustion: whether the counter of a limit says what the ledger says.

Both count the same requests, on ways of their own: the counter when a request is admitted, the ledger up to an
interval later. So, with all processes running,

    counter at first  <=  ledger, two intervals later  <=  counter after that

holds for a limit whose units all come from requests. If the ledger has less than the counter had before it, units were
charged of which nobody knows: callers may be refused without a reason. It is reported and never repaired: after a
process was killed it is the ledger that is short, and a repair would admit more than the limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from keyguard.usage import UsageReport
from keyguard.why.diagnosis import Agreement, LimitReport
from keyguard.why.words import clock, number

LEAST = timedelta(hours=1)
"""The period of the shortest limit that is compared: of shorter ones the ledger's minutes are too coarse."""

NOT_COMPARED = Agreement("not compared", "There is no limit of an hour or more whose counter the ledger could check.")
NO_LEDGER = Agreement("not known", "No ledger was kept that the counter could be compared with.")


class Ledger(NamedTuple):
    """The ledger's word on one limit of a caller."""

    least: int
    """The units that it has surely counted in the limit's present period."""
    most: int
    """The units that it may have counted there: its minutes do not begin with the period of a window."""
    complete: bool
    begun: datetime | None = None
    """When it was begun, if that is known."""
    given: int = 0
    """The units that were given back by hand in that period; less than 0 if some were taken."""
    changed: datetime | None = None
    """When they were changed by hand last."""


def compared(limits: Iterable[LimitReport]) -> LimitReport | None:
    """Return the first of some limits whose counter can be compared with the ledger."""
    for limit in limits:
        counted = limit.kind in ("quota", "window") and limit.by in ("subject", "key") and not limit.held
        if counted and limit.period is not None and limit.period >= LEAST:
            return limit
    return None


def begin_of(limit: LimitReport, now: datetime) -> datetime:
    """Return from when on the ledger is asked about a limit."""
    if limit.begins is not None:
        return limit.begins
    return now - (limit.period or timedelta(0)) - _slice(limit)


def ledger_of(report: UsageReport, limit: LimitReport, now: datetime, key_id: str = "") -> Ledger:
    """Return what a report says of a limit. `key_id` is that of the key, if the limit counts by key."""
    if limit.begins is not None:
        units = report.units.get(limit.prefix, 0)
        if key_id:
            units = sum(key.units.get(limit.prefix, 0) for key in report.by_key if key.key_id == key_id)
        return Ledger(units, units, report.complete, report.begun)
    surely = now - (limit.period or timedelta(0))
    least = most = 0
    for bucket in report.buckets:
        units = bucket.units.get(limit.prefix, 0)
        most += units
        if bucket.at >= surely:
            least += units
    return Ledger(least, most, report.complete, report.begun)


def _slice(limit: LimitReport) -> timedelta:
    """Return by how much longer than its period a window of many units may remember one."""
    return (limit.period or timedelta(0)) / 32


def agreement(limit: LimitReport, ledger: Ledger, now: datetime, again: int | None = None) -> Agreement:
    """Compare a counter with the ledger.

    `again` is the counter once more, after the ledger was read, if that was two intervals later; without it a
    difference may be on its way.
    """
    counter = limit.spent + ledger.given
    told = min(max(counter, ledger.least), ledger.most)
    """The number of the ledger's that is nearest to the counter."""

    def verdict(state: str, because: str) -> Agreement:
        return Agreement(state, because, limit.name, limit.spent, told - ledger.given)  # type: ignore[arg-type]

    after = counter if again is None else again + ledger.given
    if counter <= ledger.most and ledger.least <= after:
        return verdict("agree", "The counter and the ledger agree.")
    numbers = f"The counter says {number(limit.spent)}, the ledger {number(told - ledger.given)}"
    begins = limit.begins if limit.begins is not None else now - (limit.period or timedelta(0))
    if ledger.begun is not None and ledger.begun > begins and counter > ledger.most:
        return verdict("not known", f"{numbers}, which was begun {clock(ledger.begun, now)}, after the limit's period.")
    if not ledger.complete:
        return verdict(
            "not known", f"{numbers}, which is not whole: a process has vanished, or there was no room for all."
        )
    if again is None:
        return verdict(
            "unsettled", f"{numbers}: what came in the last seconds may be on its way (--check waits for it)."
        )
    by_hand = "" if ledger.changed is None else f", with what was changed by hand {clock(ledger.changed, now)}"
    if counter > ledger.most:
        return verdict(
            "differ",
            f"{numbers}{by_hand}: {number(counter - ledger.most)} units were charged for requests that nobody has "
            "recorded. If that bars somebody, it is set right by hand.",
        )
    return verdict(
        "differ",
        f"{numbers}{by_hand}: {number(ledger.least - after)} units were given back after they were recorded, or "
        "admitted without the store. Nobody is barred by that.",
    )
