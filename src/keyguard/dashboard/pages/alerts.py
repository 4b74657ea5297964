"""Alerts: those that are open, those that were, and where they are sent to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Literal

from keyguard.alerts import book
from keyguard.dashboard.answers import Outcome, Shown
from keyguard.dashboard.pages.usage import Calendar, calendar, utc
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import Alert, Alerts, Delivery, Happening, Limit
from keyguard.rates import Quota

_PAST = 50
_STATES = {"given up": "failed", "failed": "failed", "waiting": "waiting", "sent": "sent", "disabled": "disabled"}


def alerts(reading: Reading) -> Outcome:
    """Show the alerts."""
    reading.look_around()
    found = reading.alerts
    if found is None:
        return Shown(Alerts(reading.shell("alerts"), None, None))
    past = [_alert(reading, one) for one in found if not one.open][:_PAST]
    return Shown(Alerts(reading.shell("alerts"), open_of(reading, found), tuple(past), _channels(found)))


def open_of(reading: Reading, found: Iterable[book.Alert]) -> tuple[Alert, ...]:
    """Return the alerts that are open."""
    return tuple([_alert(reading, one) for one in found if one.open])


def near_of(reading: Reading, found: Iterable[book.Alert]) -> tuple[Limit, ...]:
    """Return the limits that are nearly spent, as the alerts know them."""
    near = []
    for one in found:
        used, quota = one.facts.get("used"), one.facts.get("quota")
        if one.open and one.type == "keyguard.limit.threshold" and isinstance(used, int) and isinstance(quota, int):
            kind, period = _kind_of(reading, one.limit)
            near.append(
                Limit(
                    name=one.limit,
                    kind=kind,
                    limit=quota,
                    period=period,
                    used=used,
                    key=one.subject,
                    href=reading.href("keys", find=one.subject),
                )
            )
    return tuple(near[:8])


def _kind_of(reading: Reading, name: str) -> tuple[Literal["quota", "window", "at-once"], timedelta | Calendar | None]:
    """Return of what kind a limit is, and its period, as the rules have it."""
    for facts in [facts for rules in reading.service.rules for facts in rules.facts if facts.name == name]:
        if isinstance(facts.limit, Quota):
            return "quota", calendar(facts.limit.periods.unit)
        if facts.limit is not None and facts.limit.kind == "slots":
            return "at-once", None
        if facts.limit is not None:
            return "window", timedelta(microseconds=facts.limit.period)
    return "window", timedelta(0)


def happened_to(found: Iterable[book.Alert], subject: str) -> list[Happening]:
    """Return what the alerts know to have happened to a subject, or to the whole service."""
    happened = []
    for one in found:
        if one.subject not in ("", subject):
            continue
        kind = _KINDS.get(one.type, "other")
        for notice in one.notices or ():
            if notice.severity == "resolved":
                continue
            happened.append(
                Happening(
                    at=utc(notice.at),
                    kind=kind,  # type: ignore[arg-type]
                    level=notice.severity,
                    number=notice.level or None,
                    text="" if kind in ("threshold", "forecast") else one.title,
                    delivery=_delivery(notice),  # type: ignore[arg-type]
                    channel=_channel(notice),
                    again_at=min([utc(each.again) for each in notice.deliveries if each.again], default=None),
                    until=None if one.until is None else utc(one.until),
                )
            )
    return happened


_KINDS = {
    "keyguard.limit.threshold": "threshold",
    "keyguard.limit.forecast": "forecast",
    "keyguard.usage.anomaly": "anomaly",
    "keyguard.store.degraded": "store",
    "keyguard.overload": "overload",
}


def _delivery(notice: book.Notice) -> str:
    states = [_STATES.get(one.state, "") for one in notice.deliveries]
    return next((state for state in ("failed", "waiting", "sent") if state in states), "")


def _channel(notice: book.Notice) -> str:
    kinds = {each.to.partition(" ")[0] for each in notice.deliveries}
    return kinds.pop() if len(kinds) == 1 and kinds <= {"webhook", "slack"} else "message"


def _alert(reading: Reading, one: book.Alert) -> Alert:
    latest = one.notices[-1].deliveries if one.notices else ()
    return Alert(
        id=one.id,
        type=one.type,
        level="resolved" if one.until is not None else one.severity,
        at=utc(one.since),
        until=None if one.until is None else utc(one.until),
        subject=one.subject,
        href=reading.href("keys", find=one.subject) if one.subject else "",
        limit=one.limit,
        number=one.level or None,
        text=f"{one.title}. {one.text}" if one.type.startswith("keyguard.upstream.") else one.text,
        deliveries=tuple([_sent(each) for each in latest]),
    )


def _sent(each: book.Delivery) -> Delivery:
    return Delivery(
        to=each.to,
        state=_STATES.get(each.state, "failed"),  # type: ignore[arg-type]
        tries=each.tries,
        at=None if each.at is None else utc(each.at),
        again_at=None if each.again is None else utc(each.again),
    )


def _channels(found: Sequence[book.Alert]) -> tuple[Delivery, ...]:
    """Return the last delivery to each receiver that the alerts know of."""
    last: dict[str, book.Delivery] = {}
    for one in sorted([each for alert in found for each in alert.notices], key=lambda notice: notice.at):
        for delivery in one.deliveries:
            last[delivery.to] = delivery
    return tuple([_sent(last[to]) for to in sorted(last)])
