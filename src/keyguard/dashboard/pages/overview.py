"""The overview: how does the service do?"""

from __future__ import annotations

from typing import Literal

from keyguard.dashboard.answers import Outcome, Shown
from keyguard.dashboard.pages.alerts import near_of, open_of
from keyguard.dashboard.pages.usage import (
    asked_span,
    callers_of,
    causes_of,
    refused_rows,
    report_of,
    requests_of,
    routes_of,
)
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import Notice, Overview, Verdict
from keyguard.usage import UsageReport

_LATEST = 5
_SOME = 0.05
"""The share of requests that may fail before it is said first."""


def overview(reading: Reading) -> Outcome:
    """Show how the service does."""
    reading.look_around()
    span = asked_span(reading)
    report = report_of(reading, None, span)
    if report is not None and not report.complete:
        reading.tell(Notice("incomplete"))
    found = reading.alerts
    latest = reading.ledger(lambda usage: reading.service.refusals())
    page = Overview(
        shell=reading.shell("overview"),
        verdict=_verdict(reading, report),
        requests=None if report is None else requests_of(report, span),
        refused=None if report is None else causes_of(reading, report),
        callers=callers_of(reading),
        near=None if found is None else near_of(reading, found),
        alerts=None if found is None else open_of(reading, found),
        routes=None if report is None else routes_of(report),
        latest=None if latest is None else refused_rows(reading, latest[:_LATEST]),
    )
    return Shown(page)


def _verdict(reading: Reading, report: UsageReport | None) -> Verdict:
    """Return what an operator has to know first."""
    health = reading.service.health
    if not health.ok:
        return Verdict("store-down", since=health.since)
    open = [one for one in reading.alerts or () if one.open]
    whole = 0 if report is None else report.requests
    refused = 0 if report is None else report.refused
    failed = 0 if report is None else report.failed
    beside = f", and the app failed at {failed}" if failed else ""
    counted = () if report is None else (f"{refused} of {whole} requests were refused{beside}.",)
    if open:
        critical = [one for one in open if one.severity == "critical"]
        first = (critical or open)[0]
        many = "1 alert is open" if len(open) == 1 else f"{len(open)} alerts are open"
        kind: Literal["exhausted", "will-run-out"] = "exhausted" if critical else "will-run-out"
        return Verdict(kind, sentences=(f"{many}: {first.title}.", *counted))
    if report is None:
        return Verdict("unknown")
    if failed > whole * _SOME:
        return Verdict("will-run-out", sentences=(f"The app failed at {failed} of {whole} requests.",))
    return Verdict("fine" if whole else "unused", refused=refused, whole=whole)
