"""Reports of the ledger, as pages show them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import KINDS, SPANS, Bucket, CauseRow, Refused, Requests, Share, Shares, Span
from keyguard.usage import UsageReport
from keyguard.why.requests import RequestReport

_SIZES = {"1h": 60, "24h": 900, "7d": 7200, "30d": 28800}
"""Seconds of one bar: some sixty to a hundred of them."""
Calendar: TypeAlias = Literal["minute", "hour", "day", "week", "month", "year"]
_UNITS: tuple[Calendar, ...] = ("minute", "hour", "day", "week", "month", "year")
_RANKED = 1000
MOST = 8
"""Rows of a list of shares."""


def asked_span(reading: Reading) -> Span:
    """Return the span that the query asks for; a day if it asks for none that there is."""
    for span in SPANS:
        if reading.asked.query.get("span") == span:
            return span
    return "24h"


def report_of(reading: Reading, subject: str | None, span: Span) -> UsageReport | None:
    """Return what the ledger tells of somebody, or of all; `None` if it cannot."""
    return reading.ledger(lambda usage: usage.of(subject, SPANS[span], bucket=_SIZES[span]))


def requests_of(report: UsageReport, span: Span) -> Requests:
    """Return requests over time."""
    if not report.requests:
        return Requests(span, ())
    buckets = [
        Bucket(
            at=utc(one.at),
            span=timedelta(seconds=one.seconds),
            counts={kind: count for kind, count in one.requests.items() if kind in KINDS and count},
            finished=one.at + timedelta(seconds=one.seconds) <= report.until,
        )
        for one in report.buckets
    ]
    return Requests(span, tuple(buckets))


def causes_of(reading: Reading, report: UsageReport, **query: str) -> tuple[CauseRow, ...]:
    """Return refusals by cause, most first. What the app has failed at is a fault as well."""
    counts = dict(report.by_cause)
    if report.failed:
        counts["fault"] = counts.get("fault", 0) + report.failed
    rows = []
    for cause, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        words = (cause, "failed") if cause == "fault" else (cause,)
        last = [one for one in report.buckets if any(one.requests.get(word) for word in words)]
        end = min(last[-1].at + timedelta(seconds=last[-1].seconds), report.until) if last else None
        rows.append(
            CauseRow(
                cause=cause,
                requests=count,
                last=None if end is None else utc(end),
                policies=tuple([rule.name for rule in report.by_rule if rule.cause == cause][:3]),
                href=reading.href("refusals", cause=cause, **query),
            )
        )
    return tuple(rows)


def routes_of(report: UsageReport) -> Shares:
    """Return the busiest routes."""
    rows = [Share(f"{one.method} {one.route or '(route not known)'}", one.requests) for one in report.by_route]
    return shares(rows, report.other.get("routes", 0))


def clients_of(report: UsageReport) -> Shares:
    """Return the busiest addresses."""
    return shares([Share(one.client, one.requests) for one in report.by_client], report.other.get("clients", 0))


def callers_of(reading: Reading, *, refused: bool = False) -> Shares | None:
    """Return the busiest callers of a day, or those that were refused most, by subject; `None` if that is not known."""
    found = reading.ledger(lambda usage: usage.top(_RANKED, timedelta(days=1)))
    if found is None:
        return None
    counted = [(one.subject, one.refused if refused else one.requests) for one in found]
    return shares(
        [
            Share(subject or "anonymous", count, reading.href("keys", find=subject) if subject else "")
            for subject, count in counted
            if count
        ],
        0,
    )


def shares(rows: Iterable[Share], other: int) -> Shares:
    """Return the largest parts, and all the rest as one."""
    ranked = sorted([row for row in rows if row.name], key=lambda row: -row.count)
    rest = other + sum(row.count for row in ranked[MOST:])
    whole = sum(row.count for row in ranked) + other
    return Shares((*ranked[:MOST], *([Share("other", rest)] if rest else [])), whole)


def refused_rows(reading: Reading, found: Iterable[RequestReport]) -> tuple[Refused, ...]:
    """Return refusals that are remembered, as rows."""
    return tuple([refused_row(reading, one) for one in found])


def refused_row(reading: Reading, one: RequestReport) -> Refused:
    """Return one request that was refused."""
    at, works_at = one.at or reading.now, one.works_at
    return Refused(
        at=utc(at),
        request_id=one.request_id,
        cause=one.cause,
        reason=one.reason,
        policies=tuple(one.policies),
        method=one.method,
        route=one.route,
        client=one.client,
        retry_after=None if works_at is None or works_at <= at else works_at - at,
        key_id=one.key_id,
        key_name=one.subject or one.key_id,
        href=reading.href("keys", one.key_id) if one.key_id else "",
        status=one.status,
        detail=" ".join(one.headline),
    )


def calendar(unit: str) -> Calendar | None:
    """Return the period of a quota as a word; `None` for another limit."""
    return next((known for known in _UNITS if known == unit), None)


def utc(moment: datetime) -> datetime:
    """Return the same moment, in UTC."""
    return moment.astimezone(UTC)
