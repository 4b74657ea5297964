"""The alerts of a store, for reading: those that are open, and the latest that are over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from keyguard.alerts.messages import Severity, words_of
from keyguard.audit import checked_actor, new_record, writing
from keyguard.clock import Clock, wall_clock
from keyguard.errors import StoreError
from keyguard.ops import ListenAgain, Read, ResolveAlert, Store
from keyguard.ops.alert_state import KEY, LaterVersion, read_state
from keyguard.process.event_loops import in_thread
from keyguard.units import as_datetime

STATE_KEY: Final = KEY
"""The key of the store under which all of this stands."""

DeliveryState: TypeAlias = Literal["waiting", "sent", "failed", "given up", "disabled"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notice on its way to one receiver."""

    to: str
    """The receiver's name, such as `webhook example.com`."""
    state: DeliveryState
    """`failed` will be tried again; `given up` will not; `disabled`: the receiver wants nothing more."""
    tries: int
    """How often it was tried."""
    at: datetime | None
    """When it was tried last; `None` for not yet."""
    again: datetime | None
    """When it is tried again."""

    def __str__(self) -> str:
        """Return it in words, such as `webhook example.com failed, again 15:30`."""
        name = self.to.partition(" #")[0]
        again = "" if self.again is None else f", again {self.again:%H:%M}"
        return f"{name} {self.state}{again}"


@dataclass(frozen=True, slots=True)
class Notice:
    """A moment of an alert at which people were told."""

    id: str
    """The same each time that it is delivered: `webhook-id`."""
    level: int
    severity: Severity
    at: datetime
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that people are told of: from when it was noticed until it is over."""

    id: str
    type: str
    """The kind, such as `keyguard.limit.threshold`."""
    severity: Literal["warning", "critical"]
    level: int
    """The threshold that was reached, in per cent; 0 for other kinds."""
    title: str
    """A sentence that says what it is."""
    text: str
    """More of it, in plain sentences."""
    subject: str
    """The caller that it is about; empty if it is about none."""
    limit: str
    """The public name of the limit that it is about; empty if it is about none."""
    since: datetime
    """When it opened."""
    at: datetime
    """When people were told last."""
    until: datetime | None
    """When it was over; `None` if it is open."""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    """The figures behind it."""
    notices: tuple[Notice, ...] = ()
    """Whenever people were told of it, in order."""

    @property
    def open(self) -> bool:
        """Whether it is not over."""
        return self.until is None


def alerts_of(data: bytes | None) -> list[Alert]:
    """Return the alerts that stand in a store's value: open ones first, and each time the latest first.

    Raises `StoreError` for what a later keyguard has written.
    """
    try:
        state = read_state(data)
    except LaterVersion:
        raise StoreError("the alerts in the store were written by a later keyguard") from None
    open = sorted(state["open"].items(), key=lambda pair: pair[1]["since"], reverse=True)
    listed = [(id, alert, None) for id, alert in open]
    listed += [(alert["id"], alert, alert["over"]) for alert in state["past"]]
    return [_alert(id, alert, over) for id, alert, over in listed]


def _alert(id: str, alert: Mapping[str, Any], over: int | None) -> Alert:
    title, text = words_of({**alert, "alert": id})
    notices = tuple([_notice(one) for one in alert["notices"]])
    return Alert(
        id=id,
        type=alert["type"],
        severity=alert["severity"],
        level=alert["level"],
        title=title,
        text=text,
        subject=alert["subject"],
        limit=alert["limit"],
        since=as_datetime(alert["since"]),
        at=notices[-1].at if notices else as_datetime(alert["since"]),
        until=None if over is None else as_datetime(over),
        facts=alert["facts"],
        notices=notices,
    )


def _notice(one: Mapping[str, Any]) -> Notice:
    deliveries = [
        Delivery(
            to,
            state,
            tries,
            None if at is None else as_datetime(at),
            None if again is None else as_datetime(again),
        )
        for to, (state, at, tries, again) in one["to"].items()
    ]
    return Notice(one["id"], one["level"], one["severity"], as_datetime(one["at"]), tuple(deliveries))


class AlertBook:
    """The alerts of a store.

    The methods with an `a` before their name are the same for event loops.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock = wall_clock,
        counts: Callable[[], Mapping[str, int]] | None = None,
        of_process: Callable[[], list[Alert]] | None = None,
    ) -> None:
        self.store = store
        self._clock = clock
        self._counts = counts
        self._of_process = of_process

    def list(self) -> list[Alert]:
        """Return the alerts that are open, the latest first, and then those that are over, at most 100.

        Those that this process has decided while the store was out of order are among them; if it does not answer now,
        they are all there is. Raises `StoreError` if there are none of these and it does not answer.
        """
        mine = [] if self._of_process is None else self._of_process()
        try:
            (values,) = self.store.execute([Read(KEY)])
        except StoreError:
            if any(alert.open for alert in mine):
                return mine
            raise
        (data,) = values
        found = [*mine, *alerts_of(data)] if mine else alerts_of(data)
        return sorted(found, key=lambda alert: not alert.open)

    async def alist(self) -> Sequence[Alert]:
        """Do as `list` does, under an event loop."""
        return await in_thread(self.list)

    @property
    def counts(self) -> Mapping[str, int]:
        """The alerts that this process has decided since its start, by type; those that are over count once."""
        return {} if self._counts is None else self._counts()

    def resolve(self, id: str, *, actor: str) -> bool:
        """Say that an alert is over, by hand; its receivers are told. Return whether it was open.

        It does not open anew for the same reason before its end: that of the period of a quota, say.
        `actor` stands in the audit log. Raises `StoreError` if the store fails.
        """
        who = checked_actor(actor)
        (told,) = self.store.execute([ResolveAlert(id, mute=True)])
        for notice in told.notices:
            if notice["alert"] == id:
                after = {"type": notice["type"], "level": notice["level"], "severity": notice["severity"]}
                record = new_record(
                    self._clock(),
                    actor=who,
                    action="alerts.resolve",
                    caller=notice["subject"] or None,
                    limit=notice["limit"] or None,
                    after=after,
                )
                self.store.execute([writing(record)])
                return True
        return False

    def enable(self, to: str, *, actor: str) -> bool:
        """Deliver to a receiver again that wanted nothing more (it had answered 410). Return whether it was one.

        `to` is its name, as deliveries have it. `actor` stands in the audit log. Raises `StoreError` if the store
        fails.
        """
        who = checked_actor(actor)
        (found,) = self.store.execute([ListenAgain(to)])
        if found:
            record = new_record(self._clock(), actor=who, action="alerts.enable", after={"to": to})
            self.store.execute([writing(record)])
        return bool(found)

    async def aenable(self, to: str, *, actor: str) -> bool:
        """Do as `enable` does, under an event loop."""
        return await in_thread(self.enable, to, actor=actor)

    async def aresolve(self, id: str, *, actor: str) -> bool:
        """Do as `resolve` does, under an event loop."""
        return await in_thread(self.resolve, id, actor=actor)
