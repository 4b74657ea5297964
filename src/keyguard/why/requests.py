"""Why one request ended as it did: its record, and sentences about it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from keyguard.decision import Decision
from keyguard.errors import StoreError
from keyguard.request import LimitState
from keyguard.units import as_datetime, in_microseconds
from keyguard.why.diagnosis import plain_data
from keyguard.why.words import CAUSES, ahead, clock, joined, number

NOT_FOUND = (
    "No request of this id is known: each process remembers its last 2 000, and refusals stand in the store for an "
    "hour, if Keyguard(usage=Usage()) keeps a ledger."
)


@dataclass(frozen=True, slots=True)
class RequestReport:
    """The record of a request that was found by its id, in words and as data. The fields are those of a `Decision`."""

    request_id: str
    found: bool
    at: datetime | None = None
    trace_id: str = ""
    subject: str = ""
    key_id: str = ""
    client: str = ""
    method: str = ""
    route: str = ""
    outcome: str = ""
    cause: str = ""
    reason: str = ""
    status: int = 0
    policies: tuple[str, ...] = ()
    limits: tuple[LimitState, ...] = ()
    duration: float = 0.0
    headline: tuple[str, ...] = (NOT_FOUND,)
    """Sentences: what came of it, and why."""
    details: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    """Sentences: what would have admitted it."""

    @property
    def works_at(self) -> datetime | None:
        """When the limits that refused it admit it again; `None` if none did, or if waiting does not help."""
        return max([one.works_at for one in self._refusing() if one.works_at is not None], default=None)

    def _refusing(self) -> list[LimitState]:
        return [one for one in self.limits if not one.admitted and not one.shadow]

    def __str__(self) -> str:
        return "\n".join([" ".join(part) for part in (self.headline, self.details, self.advice) if part])

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it: moments as RFC 3339 text."""
        found = plain_data(self)
        assert isinstance(found, dict)
        return found


def report_of(decision: Decision) -> RequestReport:
    """Return the report of a record."""
    return told(
        RequestReport(
            decision.request_id,
            True,
            as_datetime(decision.at),
            decision.trace_id,
            decision.subject,
            decision.key_id,
            decision.client,
            decision.method,
            decision.route,
            decision.outcome,
            "" if decision.cause is None else decision.cause.value,
            decision.reason,
            decision.status,
            decision.policies,
            decision.limits,
            decision.duration,
        )
    )


# -- as a line of the store -----------------------------------------------------------------------------------------

_VERSION = 1
_WRITTEN = (
    "request_id", "trace_id", "subject", "key_id", "client", "method", "route", "outcome", "cause", "reason", "status",
    "policies", "duration",
)  # fmt: skip
_MOMENTS = ("more_at", "works_at")


def line_of(report: RequestReport) -> bytes:
    """Return a report as one line of JSON, as it stands in a store."""
    limits = [{each.name: getattr(one, each.name) for each in fields(LimitState)} for one in report.limits]
    for limit in limits:
        for name in _MOMENTS:
            limit[name] = None if limit[name] is None else in_microseconds(limit[name])
    members = {name: getattr(report, name) for name in _WRITTEN}
    at = 0 if report.at is None else in_microseconds(report.at)
    return json.dumps({"v": _VERSION, "at": at, **members, "limits": limits}, separators=(",", ":")).encode()


def report_in(line: bytes) -> RequestReport | None:
    """Return the report in a line; `None` for one of a later version. Raises `StoreError` for what is none."""
    try:
        found: dict[str, Any] = json.loads(line)
        if found["v"] != _VERSION:
            return None
        limits = []
        for limit in found["limits"]:
            moments = {name: None if limit[name] is None else as_datetime(int(limit[name])) for name in _MOMENTS}
            limits.append(LimitState(**{**limit, **moments}))
        members = {name: found[name] for name in _WRITTEN}
        members |= {"at": as_datetime(int(found["at"])), "policies": tuple(map(str, found["policies"]))}
        return told(RequestReport(found=True, limits=tuple(limits), **members))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise StoreError("the record of a request is damaged") from None


# -- in words -------------------------------------------------------------------------------------------------------


def told(report: RequestReport) -> RequestReport:
    """Return a report with its sentences."""
    assert report.at is not None
    what = f"{report.method} {report.route}".strip()
    whose = report.subject or report.client or "somebody"
    head = f"{what} of {whose} {clock(report.at, report.at)} UTC"
    if report.outcome == "served":
        return replace(report, headline=(f"{head} was served, with status {report.status}.",))
    if report.outcome == "cached":
        return replace(report, headline=(f"{head} was answered from the cache, with status {report.status}.",))
    words = CAUSES.get(report.cause)
    title = "" if words is None else f": {words.title[0].lower()}{words.title[1:]}"
    verb = "was refused" if report.outcome == "refused" else "failed"
    headline = [f"{head} {verb}, with status {report.status}{title}."]
    details, advice = _limits(report) if report.cause == "usage" else ([], [])
    said, help = _REASONS.get(report.reason, ("", ""))
    if said and not details:
        details.append(said.format(**_names(report)))
    elif words is not None and not details:
        details.append(f"{words.meaning} ({report.reason})" if report.reason else words.meaning)
    if words is not None and words.blames_nobody:
        details.append("That is not the caller's doing: the key is not to blame.")
    if help:
        advice.append(help.format(**_names(report)))
    elif not advice and words is not None:
        advice.append(words.action)
    return replace(report, headline=tuple(headline), details=tuple(details), advice=tuple(advice))


def _names(report: RequestReport) -> dict[str, str]:
    return {"key": report.key_id or "the key", "client": report.client or "the address", "id": report.key_id or "ID"}


def _limits(report: RequestReport) -> tuple[list[str], list[str]]:
    details, advice = [], []
    refusing = report._refusing()
    if not refusing and report.policies:
        return [f"It was refused by {joined(list(report.policies))}."], []
    for limit in refusing:
        asked = "" if limit.cost == 1 else f", and it asked for {number(limit.cost)}"
        details.append(f"{limit.name} had {number(limit.remaining)} of {number(limit.limit)} units left{asked}.")
    if any(limit.cost > limit.limit for limit in refusing):
        advice.append("It costs more than the limit ever admits: ask for less at a time, or raise the limit.")
    elif refusing and report.works_at is not None and report.at is not None:
        missing = max(limit.missing for limit in refusing)
        advice.append(
            f"It would have been admitted with {number(missing)} more, or {ahead(report.works_at, report.at)}."
        )
    elif refusing:
        advice.append("Nothing of it comes back by itself: only a grant helps.")
    return details, advice


_REASONS: dict[str, tuple[str, str]] = {
    "no-key": ("No key was sent.", "Send one."),
    "other-scheme": ("What stood in Authorization has another form than a key.", "Send the key in the right place."),
    "two-keys": ("Two different keys were sent.", "Send one."),
    "unknown": ("No such key stands in the store: it was never issued here, or it was deleted.", "Issue a new one."),
    "malformed": ("What was sent is no key: its form or its checksum is wrong.", "Look for a slip in copying it."),
    "expired": ("The key {key} had expired.", "Let it work on: keyguard keys update {id} --expires 30d."),
    "revoked": ("The key {key} was revoked.", "The client needs a new one."),
    "replaced": ("The key {key} was replaced by its successor.", "The client has to use that."),
    "disabled": ("The key {key} is disabled.", "Let it work again: keyguard keys enable {id}."),
    "pending": ("The key {key} does not work yet.", "Wait for its begin."),
    "pepper": ("The key {key} was made with a pepper that the app has not.", "Set KEYGUARD_PEPPER as it was."),
    "tampered": ("The record of the key {key} was changed without the pepper.", "Revoke it, and find out who did."),
    "layout": ("The record of the key {key} cannot be read.", "It may be of a later keyguard, or damaged."),
    "scope": ("The key {key} lacks a scope that the route asks for.", "keyguard keys update {id} --scope SCOPE."),
    "key-network": (
        "The key {key} may not be used from {client}.",
        "Let it be used from there: keyguard keys update {id} --network NETWORK.",
    ),
    "guessing": ("Too many wrong keys came from {client}.", "Wait, and send the right one."),
    "banned": ("{client} was banned for what it had sent before.", "keyguard bans lift {client}."),
    "denied-address": ("{client} is denied by an IPFilter of the stack.", "Take it off that list."),
    "address-not-allowed": ("{client} is not among the addresses that are let in.", "Add it to that list."),
    "unknown-address": ("The address of the client is not known.", "See which proxies the stack trusts."),
    "store-failed": ("keyguard's store did not answer.", "Look at the store: keyguard store check."),
    "store-busy": ("keyguard's store had too much to do.", "Wait a moment."),
    "guard-failed": ("A guard has raised an error.", "See the app's log of that time."),
    "app-failed": ("The app has raised an error, or has answered with a status from 500 on.", "See the app's log."),
    "no-response": ("The app has not answered.", "See the app's log."),
    "slots-in-use": ("All places for requests at a time were in use.", "Wait until one of them ends."),
    "too-many-in-flight": ("The app had more requests under way than it can serve.", "It may ask again at once."),
    "waited-too-long": ("It had waited too long before the app could begin.", "It may ask again at once."),
    "event-loop-late": ("The app's event loop was too late.", "It may ask again at once."),
    "ambiguous-path": ("Its path can be read in more than one way.", "Send it without what is ambiguous."),
}
"""By reason: what was the matter, and what would have helped."""
