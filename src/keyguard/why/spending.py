"""What the ledger says of a caller: what was refused and why, who has spent a limit, and since when it is used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from keyguard.usage import UsageBucket, UsageReport
from keyguard.why.diagnosis import Counts, LimitReport, RefusedFor, Spent
from keyguard.why.requests import RequestReport
from keyguard.why.words import CAUSES, CauseWords

MOST = 8
"""Routes and addresses that are told, besides `other`."""
_UNKNOWN = CauseWords("Refused", "A guard of the app has refused it.", "See what that guard says.")


def counts_of(report: UsageReport) -> Counts:
    """Return how many requests there were."""
    return Counts(report.requests, report.served, report.cached, report.refused, report.failed, report.last)


def refused_in(report: UsageReport) -> tuple[RefusedFor, ...]:
    """Return what was refused, by cause, most first. Requests that failed in the app are faults, too."""
    causes = dict(report.by_cause)
    rules: dict[str, dict[str, int]] = {}
    for rule in report.by_rule:
        rules.setdefault(rule.cause, {})[rule.name] = rule.count
    if report.failed:
        causes["fault"] = causes.get("fault", 0) + report.failed
        rules.setdefault("fault", {})[APP_FAILED] = report.failed
    found = []
    for cause, count in sorted(causes.items(), key=lambda pair: (-pair[1], pair[0])):
        words = CAUSES.get(cause, _UNKNOWN)
        named = tuple(sorted(rules.get(cause, {}).items(), key=lambda pair: (-pair[1], pair[0])))
        found.append(
            RefusedFor(
                cause,
                words.title,
                words.meaning,
                words.action,
                "nobody" if words.blames_nobody else "caller",
                count,
                named,
                _last(report, {cause, "failed"} if cause == "fault" else {cause}),
            )
        )
    return tuple(found)


def refused_among(latest: Iterable[RequestReport]) -> tuple[RefusedFor, ...]:
    """Return the causes of some refusals."""
    causes: dict[str, list[RequestReport]] = {}
    for one in latest:
        causes.setdefault(one.cause, []).append(one)
    found = []
    for cause, reports in sorted(causes.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        words = CAUSES.get(cause, _UNKNOWN)
        blames: Literal["caller", "nobody"] = "nobody" if words.blames_nobody else "caller"
        rules = Counter(one.policies[0] if one.policies else one.reason for one in reports)
        named = tuple(sorted(rules.items(), key=lambda pair: (-pair[1], pair[0])))
        last = max([one.at for one in reports if one.at is not None], default=None)
        found.append(RefusedFor(cause, words.title, words.meaning, words.action, blames, len(reports), named, last))
    return tuple(found)


APP_FAILED = "app-failed"
"""The name in the place of a rule for requests that have failed in the app."""


def _last(report: UsageReport, words: set[str]) -> datetime | None:
    for bucket in reversed(report.buckets):
        if any(bucket.requests.get(word) for word in words):
            return min(report.until, max(bucket.at, report.since))
    return None


# -- who has spent it -----------------------------------------------------------------------------------------------


def routes_of(report: UsageReport, prefix: str | None) -> tuple[Spent, ...]:
    """Return the routes that have spent the limit of a prefix; all routes by their requests, without one."""
    if prefix is None:
        whole = report.requests
        rows = [(route_name(row.method, row.route), row.requests, row.requests) for row in report.by_route]
    else:
        whole = report.units.get(prefix, 0)
        rows = [
            (route_name(row.method, row.route), row.units[prefix], row.requests)
            for row in report.by_route
            if row.units.get(prefix)
        ]
    return _ranked(rows, whole, report.other.get("routes", 0) if prefix is None else 0)


def route_name(method: str, route: str) -> str:
    """Return what a route is called: method and template."""
    return f"{method} {route}" if route else f"{method} (route not known)"


def addresses_of(report: UsageReport) -> tuple[Spent, ...]:
    """Return the addresses from which it was asked, by requests: of them units are not counted."""
    rows = [(row.client or "unknown", row.requests, row.requests) for row in report.by_client]
    whole = sum(row.requests for row in report.by_client) + report.other.get("clients", 0)
    return _ranked(rows, whole, report.other.get("clients", 0))


def _ranked(rows: list[tuple[str, int, int]], whole: int, other: int) -> tuple[Spent, ...]:
    ranked = sorted(rows, key=lambda row: (-row[1], row[0]))
    whole = max(whole, sum(row[1] for row in rows))  # rows begin with the full hour, the whole with a minute
    found = [Spent(name, units, units / whole if whole else 0.0, requests) for name, units, requests in ranked[:MOST]]
    rest, asked = sum(row[1] for row in ranked[MOST:]) + other, sum(row[2] for row in ranked[MOST:]) + other
    if rest:
        found.append(Spent(OTHER, rest, rest / whole if whole else 0.0, asked))
    return tuple(found)


OTHER = "other"
"""The row of all that have none of their own."""


# -- since when -----------------------------------------------------------------------------------------------------


def used_up_at(report: UsageReport, limit: LimitReport) -> datetime | None:
    """Return when a limit was used up, as the ledger has counted its units; `None` if it has not counted so many.

    Of a quota or a balance that is the span in which their sum has reached what is spent; of others the first in which
    requests were refused without one in between that was admitted.
    """
    if not limit.exhausted:
        return None
    if limit.kind == "quota":
        total, wanted = 0, max(1, min(limit.spent, limit.limit))
        for bucket in report.buckets:
            if limit.begins is not None and bucket.at + timedelta(seconds=bucket.seconds) <= limit.begins:
                continue
            total += bucket.units.get(limit.prefix, 0)
            if total >= wanted:
                return max(bucket.at, report.since)
        return None
    return _run(report.buckets, limit.prefix)


def _run(buckets: Sequence[UsageBucket], prefix: str) -> datetime | None:
    begin: datetime | None = None
    for bucket in reversed(buckets):
        requests, units = bucket.requests, bucket.units
        if requests.get("usage"):
            begin = bucket.at
        if units.get(prefix):
            break
    return begin
