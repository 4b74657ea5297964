"""Refusals: who was refused, why, and what came of one request."""

from __future__ import annotations

from keyguard.dashboard.answers import Outcome, Shown
from keyguard.dashboard.pages.usage import (
    asked_span,
    callers_of,
    causes_of,
    refused_row,
    refused_rows,
    report_of,
    requests_of,
)
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import Explained, Refusals
from keyguard.errors import KeyNotFound
from keyguard.refusal import Cause

_LATEST = 50
_LONGEST = 128


def refusals(reading: Reading) -> Outcome:
    """Show refusals by cause."""
    reading.look_around()
    query = reading.asked.query
    span = asked_span(reading)
    cause = query.get("cause", "") if query.get("cause") in [one.value for one in Cause] else ""
    key = query.get("key", "")[:64]
    subject = None
    if key:
        registry = reading.service.registry
        try:
            subject = None if registry is None else registry.get(key).subject
        except (KeyNotFound, ValueError):
            key = ""
    report = report_of(reading, subject, span)
    rows = None
    if report is not None:
        rows = tuple([row for row in causes_of(reading, report, key=key, span=span) if cause in ("", row.cause)])
    found = reading.ledger(lambda usage: reading.service.refusals(subject))
    latest = None
    if found is not None:
        wanted = [one for one in found if cause in ("", one.cause) and key in ("", one.key_id)]
        latest = refused_rows(reading, wanted[:_LATEST])
    page = Refusals(
        shell=reading.shell("refusals"),
        span=span,
        cause=cause,
        key=key,
        rows=rows,
        requests=None if report is None else requests_of(report, span),
        latest=latest,
        callers=None if key else callers_of(reading, refused=True),
        explained=_explained(reading, query.get("request", "").strip()),
    )
    return Shown(page)


def _explained(reading: Reading, request_id: str) -> Explained | None:
    if not request_id:
        return None
    if len(request_id) > _LONGEST:
        return Explained(request_id[:_LONGEST], found=False)
    found = reading.service.explain(request_id)
    sentences = (*found.headline, *found.details, *found.advice)
    if not found.found:
        return Explained(request_id, found=False, sentences=sentences)
    return Explained(request_id, True, refused_row(reading, found), sentences)
