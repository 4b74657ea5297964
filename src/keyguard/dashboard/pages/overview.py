"""The overview: how does the service do?"""

from __future__ import annotations

from keyguard.dashboard.answers import Outcome, Shown
from keyguard.dashboard.pages.alerts import alerts_read, near_of, open_of
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
from keyguard.dashboard.views import Overview, Verdict

_LATEST = 5


def overview(reading: Reading) -> Outcome:
    """Show how the service does."""
    reading.look_around()
    span = asked_span(reading)
    report = report_of(reading, None, span)
    found = alerts_read(reading)
    health = reading.service.health
    if not health.ok:
        verdict = Verdict("store-down", since=health.since)
    elif report is None:
        verdict = Verdict("unknown")
    else:
        kind = "fine" if report.requests else "unused"
        verdict = Verdict(kind, refused=report.refused, whole=report.requests)  # type: ignore[arg-type]
    latest = reading.ledger(lambda usage: reading.service.refusals())
    page = Overview(
        shell=reading.shell("overview"),
        verdict=verdict,
        requests=None if report is None else requests_of(report, span),
        refused=None if report is None else causes_of(reading, report),
        callers=callers_of(reading),
        near=None if found is None else near_of(reading, found),
        alerts=None if found is None else open_of(reading, found),
        routes=None if report is None else routes_of(report),
        latest=None if latest is None else refused_rows(reading, latest[:_LATEST]),
    )
    return Shown(page)
