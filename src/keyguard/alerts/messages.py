"""Messages about alerts: in words, as data, and as the JSON that webhooks carry.

A notice, as it stands in the store, has facts alone; the words are made here, so that all who tell of it use the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from keyguard.clock import SECOND
from keyguard.logs import plain
from keyguard.ops.alert_state import Due
from keyguard.units import as_datetime, rfc3339

Severity: TypeAlias = Literal["warning", "critical", "resolved"]

THRESHOLD: Final = "keyguard.limit.threshold"
FORECAST: Final = "keyguard.limit.forecast"
ANOMALY: Final = "keyguard.usage.anomaly"
DEGRADED: Final = "keyguard.store.degraded"
OVERLOAD: Final = "keyguard.overload"
FULL: Final = "keyguard.alerts.full"
KEY_EXHAUSTED: Final = "keyguard.upstream.key.exhausted"
KEY_INVALID: Final = "keyguard.upstream.key.invalid"
GROUP_BILLING: Final = "keyguard.upstream.group.billing"
POOL_EXHAUSTED: Final = "keyguard.upstream.pool.exhausted"
UPSTREAM: Final = (KEY_EXHAUSTED, KEY_INVALID, GROUP_BILLING, POOL_EXHAUSTED)
TEST: Final = "keyguard.test"
DIGEST: Final = "keyguard.digest"

LOUD: Final = frozenset({DEGRADED, OVERLOAD, FULL, POOL_EXHAUSTED})
"""The types that are delivered in quiet hours as well."""

_LONGEST = 256  # characters of a text that came from outside


@dataclass(frozen=True, slots=True)
class AlertMessage:
    """A message about an alert: that it has opened, that it is worse, or that it is over."""

    id: str
    """The same each time that this message is delivered: `webhook-id`."""
    type: str
    """The kind of alert, such as `keyguard.limit.threshold`; with `.resolved` behind it when it is over."""
    severity: Severity
    title: str
    """A sentence that says what it is."""
    text: str
    """More of it, in plain sentences."""
    subject: str
    """The caller that it is about; empty if it is about none."""
    limit: str
    """The public name of the limit that it is about; empty if it is about none."""
    level: int
    """The threshold in per cent; 0 for other kinds."""
    alert: str
    """The id of the alert, in all messages about it."""
    since: datetime
    """When the alert opened."""
    at: datetime
    """When this was decided."""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    """The figures behind it."""
    members: tuple[AlertMessage, ...] = ()
    """Of a digest: the messages that it stands for, the first 50 of them."""
    count: int = 1
    """How many messages it stands for."""


def message_of(notice: Mapping[str, Any]) -> AlertMessage:
    """Return the message of a notice."""
    title, text = words_of(notice)
    over = notice["severity"] == "resolved"
    return AlertMessage(
        id=notice["id"],
        type=f"{notice['type']}.resolved" if over else notice["type"],
        severity=notice["severity"],
        title=title,
        text=text,
        subject=notice["subject"],
        limit=notice["limit"],
        level=notice["level"],
        alert=notice["alert"],
        since=as_datetime(notice["since"]),
        at=as_datetime(notice["at"]),
        facts=notice["facts"],
    )


def message_of_delivery(due: Due, now: int) -> AlertMessage:
    """Return what a delivery is to tell: a message, or a digest of several."""
    members = tuple([message_of(notice) for notice in due.notices])
    if due.many == 1 and len(members) == 1:
        return members[0]
    severities = {member.severity for member in members}
    severity: Severity = next((one for one in _WORST if one in severities), "warning")
    shown = [f"- {member.title}" for member in members]
    if due.many > len(members):
        shown.append(f"- and {due.many - len(members)} more")
    at = max((member.at for member in members), default=as_datetime(now))
    return AlertMessage(
        id=due.id,
        type=DIGEST,
        severity=severity,
        title=f"{due.many} alerts",
        text="\n".join(shown),
        subject="",
        limit="",
        level=0,
        alert="",
        since=min((member.since for member in members), default=at),
        at=at,
        members=members,
        count=due.many,
    )


_WORST: tuple[Severity, ...] = ("critical", "warning", "resolved")


def body_of(message: AlertMessage) -> bytes:
    """Return a message as JSON, in the form that Standard Webhooks recommend: type, time and data."""
    at = rfc3339(_second(message.at))
    return json.dumps({"type": message.type, "timestamp": at, "data": _data(message)}, allow_nan=False).encode()


def _data(message: AlertMessage) -> dict[str, Any]:
    if message.type == DIGEST:
        members = [
            {"id": one.id, "type": one.type, "timestamp": rfc3339(_second(one.at)), "data": _data(one)}
            for one in message.members
        ]
        told = {"severity": message.severity, "title": message.title, "count": message.count}
        return {**told, "alerts": members}
    return {
        "alert": message.alert,
        "severity": message.severity,
        "title": message.title,
        "text": message.text,
        "subject": message.subject,
        "limit": message.limit,
        "level": message.level,
        "since": rfc3339(_second(message.since)),
        "facts": dict(message.facts),
    }


def _second(when: datetime) -> int:
    return int(when.timestamp())


def shortened(text: str) -> str:
    """Return a text from outside as it may stand in an alert."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


# -- words ------------------------------------------------------------------------------------------------------------


def words_of(notice: Mapping[str, Any]) -> tuple[str, str]:
    """Return the title and the text of a notice. No text from outside breaks a line in them."""
    make = _WORDS.get(notice["type"], _other)
    title, text = make(notice, notice["severity"] == "resolved")
    return plain(title), plain(text)


def _who(notice: Mapping[str, Any]) -> str:
    key = notice["facts"].get("key")
    who: str = notice["subject"] or "A caller without a key"
    return f"{who} (key {key})" if key else who


def _threshold(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    who, limit = _who(notice), notice["limit"]
    if over:
        return f"{who} is well within {limit} again", "Its use has fallen, or a new period has begun."
    title = (
        f"{who} has used up {limit}" if notice["level"] >= 100 else f"{who} has used {facts['percent']} % of {limit}"
    )
    text = f"{_number(facts['used'])} of {_number(facts['quota'])} units are spent"
    text += {0: ", and none is left.", 1: ", one is left."}.get(
        facts["remaining"], f", {_number(facts['remaining'])} are left."
    )
    if facts.get("resets_at"):
        text += f" More come at {_moment(facts['resets_at'])}."
    return title, text


def _forecast(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    who, limit = _who(notice), notice["limit"]
    if over:
        return (
            f"{who} will do with {limit} after all",
            "It is not expected to use it up any more, or a new period began.",
        )
    title = f"{who} will use up {limit} at about {_moment(facts['likely'])}"
    text = f"Between {_moment(facts['earliest'])} and {_moment(facts['latest'])}, if it goes on as on other days."
    if facts.get("method") == "trend":
        text = f"Between {_moment(facts['earliest'])} and {_moment(facts['latest'])}, if it goes on as today."
    used = f" {_number(facts['used'])} of {_number(facts['quota'])} units are spent."
    return title, f"{text}{used} More come at {_moment(facts['resets_at'])}."


def _anomaly(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    who = notice["subject"] or ("All callers together" if facts["all"] else "Callers without a key")
    if over:
        return f"{who}: as many requests as usual again", "The last minutes were like those before."
    text = f"{_number(facts['requests'])} requests in a minute, where {_number(facts['usual'])} are usual."
    return f"{who}: far more requests than usual", text


def _degraded(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    where = f" (seen by {facts['process']})" if facts.get("process") else ""
    if over:
        return f"The store of {facts['stack']} answers again", f"Limits are counted for all processes again{where}."
    part = "A part of the store" if facts.get("partial") else "The store"
    text = f"Since {_moment(facts['since'])}{where}: {facts['failure'].rstrip('.') or 'it does not answer'}."
    return f"{part} of {facts['stack']} is out of order", text


def _overload(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    if over:
        return f"{facts['stack']} is not overloaded any more", "No requests were refused for it in the last minutes."
    text = f"{_number(facts['refused'])} requests were refused for it within a minute by {facts['process']}."
    return f"{facts['stack']} is overloaded", text


def _key_exhausted(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    whose = f"The limit group {facts['group']} of the pool {facts['pool']}{_models(facts)}"
    if over:
        return f"{whose} works again", "Its limit has room again, as far as is known."
    key = f", as the key {facts['key']} was told" if facts["key"] else ""
    return f"{whose} is used up", f"A limit of the provider is reached ({facts['cause']}){key}.{_again(facts)}"


def _key_invalid(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    whose = f"The key {facts['key']} of the pool {facts['pool']}"
    if over:
        return f"{whose} is used again", "The provider has taken it, or somebody had it tried again."
    text = f"It is unknown, revoked, or its account is closed (limit group {facts['group']}).{_again(facts)}"
    return f"{whose} is not valid any more", text


def _group_billing(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    whose = f"The limit group {facts['group']} of the pool {facts['pool']}"
    if over:
        return f"{whose} is used again", "The provider has taken its keys, or somebody had them tried again."
    text = f"The provider wants to be paid, or a spending limit is reached (key {facts['key']}).{_again(facts)}"
    return f"{whose} has no money left", text


def _pool_exhausted(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    facts = notice["facts"]
    pool = f"the pool {facts['pool']}{_models(facts)}"
    if over:
        return f"No requests are given up any more by {pool}", "None was in the last minutes."
    text = f"Requests are given up, since no key has room in time ({facts['cause']}).{_again(facts)}"
    return f"All keys of {pool} are used up", text


def _models(facts: Mapping[str, Any]) -> str:
    return "" if facts["models"] == "*" else f" for {facts['models']}"


def _again(facts: Mapping[str, Any]) -> str:
    until = facts.get("until")
    return f" It works again at {_moment(until)}." if until else " Nobody knows when it works again."


def _full(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    if over:
        return "Alerts are decided for everybody again", "There is room for more of them."
    return (
        "There are too many alerts",
        f"{notice['facts']['open']} are open. No others open until some of them are over.",
    )


def _test(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    return "This is a test of keyguard's alerts", "Nothing has happened. It was sent by hand."


def _other(notice: Mapping[str, Any], over: bool) -> tuple[str, str]:
    return f"{notice['type']}{' is over' if over else ''}", f"{notice['subject']} {notice['limit']}".strip()


_WORDS: Mapping[str, Callable[[Mapping[str, Any], bool], tuple[str, str]]] = {
    THRESHOLD: _threshold,
    FORECAST: _forecast,
    ANOMALY: _anomaly,
    DEGRADED: _degraded,
    OVERLOAD: _overload,
    FULL: _full,
    KEY_EXHAUSTED: _key_exhausted,
    KEY_INVALID: _key_invalid,
    GROUP_BILLING: _group_billing,
    POOL_EXHAUSTED: _pool_exhausted,
    TEST: _test,
}


def _number(value: Any) -> str:
    return (
        f"{value:,}".replace(",", " ")
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _moment(text: Any) -> str:
    """Return a moment, RFC 3339 text, as people say it."""
    return f"{str(text)[:16].replace('T', ' ')} UTC"


def moment_text(moment: int) -> str:
    """Return a moment in microseconds as it stands among facts."""
    return rfc3339(moment // SECOND)
