"""One key: is it exhausted, by what, since when, and who has spent it?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from keyguard.dashboard.answers import Outcome, Shown
from keyguard.dashboard.pages.alerts import happened_to
from keyguard.dashboard.pages.curve import limit_of, quota_of
from keyguard.dashboard.pages.heads import head_of
from keyguard.dashboard.pages.usage import (
    asked_span,
    causes_of,
    clients_of,
    refused_rows,
    report_of,
    requests_of,
    routes_of,
    utc,
)
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import Happening, KeyState, Notice, OneKey, Quota, Refused, Share, Shares, Verdict
from keyguard.errors import KeyNotFound
from keyguard.keys import KeyRecord
from keyguard.why import Diagnosis, Spent

_LATEST = 5
_MOST = 8
_DAY = timedelta(days=1)
_VERDICTS = {
    "works": "fine",
    "unused": "unused",
    "nearly": "fine",
    "exhausted": "exhausted",
    "revoked": "revoked",
    "expired": "expired",
    "replaced": "expired",
    "disabled": "disabled",
    "pending": "pending",
    "banned": "disabled",
}
_STATES: dict[str, KeyState] = {"exhausted": "exhausted", "banned": "refused"}
_DONE = ("revoked", "updated")


def key(
    reading: Reading,
    id: str,
    changing: str = "",
    form: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> Outcome:
    """Show a key. `changing` is the form that is open; with `errors` it was sent, and is wrong."""
    registry = reading.service.registry
    if registry is None:
        return reading.problem(404, "not-found")
    try:
        record = registry.get(id)
    except (KeyNotFound, ValueError):
        return reading.problem(404, "no-such-key")
    may_change = reading.operator is not None and reading.operator.may_change
    asked = reading.asked.query.get("change", "")
    if not changing and may_change and asked in ("rotate", "revoke", "update"):
        changing = asked
    reading.look_around()
    span = asked_span(reading)
    diagnosis: Diagnosis = reading.service.why(record.id, by="key")
    report = report_of(reading, record.subject, span)
    if report is not None and not report.complete:
        reading.tell(Notice("incomplete"))
    quota = quota_of(reading, record.subject, diagnosis.limits)
    done = reading.asked.query.get("done", "")
    shell = reading.shell(
        "keys", reload=0 if changing else 5, done=Notice("done", text=done) if done in _DONE else None
    )
    state = _STATES.get(diagnosis.state)
    if state is None and quota is not None and quota.forecast is not None and quota.forecast.likely is not None:
        state = "will-run-out"
    used = None if diagnosis.key is None else diagnosis.key.last_used
    page = OneKey(
        shell=shell,
        head=head_of(record, reading.now, last=used, last_known=reading.service.usage is not None, state=state),
        verdict=_verdict(diagnosis, quota),
        quota=quota,
        limits=tuple([limit_of(one) for one in diagnosis.limits]),
        requests=None if report is None else requests_of(report, span),
        refused=None if report is None else causes_of(reading, report, key=record.id),
        happened=_happened(reading, record, quota),
        routes=_spent(diagnosis.routes) or (None if report is None else routes_of(report)),
        addresses=_spent(diagnosis.addresses) or (None if report is None else clients_of(report)),
        latest=_latest(reading, record),
        example_url="https://api.example.com/",
        changing=changing,  # type: ignore[arg-type]
        form=form if form is not None else _form(record),
        errors=errors or {},
    )
    return Shown(page, 422 if errors else 200)


def _verdict(diagnosis: Diagnosis, quota: Quota | None) -> Verdict:
    kind = _VERDICTS.get(diagnosis.state, "unknown")
    first = diagnosis.limits[0] if diagnosis.limits else None
    guess = None if quota is None else quota.forecast
    sentences = (" ".join(diagnosis.headline), *diagnosis.details, *diagnosis.advice)
    if kind == "fine" and guess is not None and guess.likely is not None:
        kind, sentences = "will-run-out", ()
    routes = [one for one in diagnosis.routes if one.name != "other"]
    agreement = diagnosis.agreement
    counted = agreement.counter is not None and agreement.ledger is not None
    requests = diagnosis.requests
    refused = 0 if requests is None else requests.refused
    if first is not None and first.used_up_at is not None and first.refused is not None:
        refused = first.refused  # by this limit, since then
    return Verdict(
        kind=kind,  # type: ignore[arg-type]
        limit=quota.limit if quota is not None and guess is not None else None if first is None else limit_of(first),
        since=None if first is None or first.used_up_at is None else utc(first.used_up_at),
        back_at=None if first is None or first.works_at is None else utc(first.works_at),
        earliest=None if guess is None else guess.earliest,
        likely=None if guess is None else guess.likely,
        latest=None if guess is None else guess.latest,
        busiest=Share(routes[0].name, routes[0].units or routes[0].requests) if routes else None,
        whole=sum(one.units or one.requests for one in diagnosis.routes),
        refused=refused,
        agree={"agree": True, "differ": False}.get(agreement.state),
        difference=(agreement.counter or 0) - (agreement.ledger or 0) if counted else 0,
        sentences=sentences if diagnosis.headline else (),
    )


def _spent(rows: tuple[Spent, ...]) -> Shares | None:
    if not rows:
        return None
    shares = tuple([Share(one.name, one.units or one.requests) for one in rows])
    return Shares(shares, sum(one.count for one in shares))


def _happened(reading: Reading, record: KeyRecord, quota: Quota | None) -> tuple[Happening, ...] | None:
    """Return what happened in the last day, the latest first: alerts, and the beginning of the quota."""
    happened: list[Happening] = []
    if reading.alerts is not None:
        happened += happened_to(reading.alerts, record.subject)
    if quota is not None:
        happened.append(Happening(quota.begins, "renewed", limit=quota.limit))
        if quota.used_up_at is not None and not any(one.number == 100 for one in happened):
            happened.append(Happening(quota.used_up_at, "exhausted", limit=quota.limit))
    for moment, what in ((record.created, "issued"), (record.revoked, "revoked")):
        if moment is not None:
            happened.append(Happening(utc(moment), "key", text=what))
    recent = [one for one in happened if one.at > reading.now - _DAY]
    return tuple(sorted(recent, key=lambda one: one.at, reverse=True)[:_MOST])


def _latest(reading: Reading, record: KeyRecord) -> tuple[Refused, ...] | None:
    found = reading.ledger(lambda usage: reading.service.refusals(record.subject))
    if found is None:
        return None
    return refused_rows(reading, [one for one in found if one.key_id in ("", record.id)][:_LATEST])


def _form(record: KeyRecord) -> dict[str, str]:
    """Return what stands in the form that changes a key."""
    return {
        "owner": record.owner,
        "plan": record.plan or "",
        "scopes": " ".join(sorted(record.scopes)),
        "networks": " ".join(record.networks),
        "expires": "" if record.expires is None else f"{record.expires:%Y-%m-%d}",
        "overlap": "24 hours",
        "reason": "",
    }
