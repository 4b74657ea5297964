"""The operations by which processes share their alerts: what is decided is decided once, and delivered at least once.

Rules:
- All stands in one value (`alert_state.py`): the alerts that are open, the latest that are over, and what is to be
  delivered yet.
- An alert has an id and a level. It is told of when it opens, when its level rises within its period, and when it is
  over. A jump over several levels is one notice. In another period (which also has the quota in it, so an edited quota
  is another one) it opens anew.
- What is known from requests comes late, and out of order: each word about an alert says when it was `seen`, and what
  was seen before that which stands there already changes nothing.
- An alert has an end, if nothing more is heard of it: that of its period, say. Whichever operation comes first after it
  finds that the alert is over.
- A notice goes to each of its receivers, as a delivery of its own: it is leased, tried, and settled. Whoever leases and
  dies is followed by another. More than `DIGEST` of one receiver that are due become one.
- The value is bounded: `MOST_OPEN` alerts are open at most, and then one more says that there are too many.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from keyguard.clock import SECOND
from keyguard.ops.alert_state import AT_ONCE, DIGEST, FULL, KEY, MOST_OPEN, AlertState, Due, Standing, standing_of
from keyguard.ops.op import Change, Op
from keyguard.rates.limit import JSON, NEVER

_MUTED = 86400 * SECOND  # for an alert without an end


class Told(NamedTuple):
    """The outcome of an operation: the decision that it has made."""

    notices: tuple[dict[str, Any], ...]
    """The notices that this operation has made: nobody else has made them."""
    standing: Standing | None
    """The alert as it stands now; `None` if it is not open."""
    full: bool = False
    """Whether it is not open since too many others are, or since the value is a later keyguard's."""


class Leased(NamedTuple):
    """The deliveries that are due, and the alerts that are open."""

    at: int
    due: tuple[Due, ...]
    open: dict[str, Standing]
    notices: tuple[dict[str, Any], ...]
    """Notices that this operation has made, of alerts that it has found to be over."""
    next: int | None
    """The moment when the next delivery is due, or an alert ends; `None` for none."""


class FireAlert(Op[Told]):
    """Open an alert, or raise its level. Evaluates to what was decided.

    - `level`: a higher one is told of again, in the same period.
    - `period`: another one than before has it open anew.
    - `about`: what is to be told of it, as JSON has it: `type`, `severity`, `subject`, `limit`, `facts`. With
      `"loud": true` it is delivered in quiet hours as well. What processes decide each for itself has the same id in
      all of them if it has the same value under `"same"`.
    - `to`: the names of its receivers.
    - `seen`: when that was so which it tells of, by the store's clock; by default now.
    - `until`: when it is over if nothing more is heard, by the store's clock; or `lasts` microseconds from now.
    """

    __slots__ = ("about", "id", "lasts", "level", "period", "seen", "to", "until")

    def __init__(
        self,
        id: str,
        level: int,
        period: str,
        *,
        about: Mapping[str, JSON],
        to: Sequence[str] = (),
        seen: int | None = None,
        until: int | None = None,
        lasts: int | None = None,
    ) -> None:
        self.keys = (KEY,)
        self.id = id
        self.level = level
        self.period = period
        self.about = about
        self.to = tuple(to)
        self.seen = seen
        self.until = until
        self.lasts = lasts

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Told, Sequence[Change]]:
        state = AlertState(old[0], now)
        return self.decide(state), state.changes()

    def decide(self, state: AlertState) -> Told:
        """Do it in a value."""
        now = state.now
        seen = now if self.seen is None else self.seen
        until = self.until if self.lasts is None else now + self.lasts
        id, alert = self.id, state.open.get(self.id)
        full = state.foreign
        if full:
            pass
        elif (until is not None and until <= now) or seen <= state.over_since(id):
            pass  # it is over already, whatever was seen then
        elif state.is_muted(id, self.period, self.level):
            pass  # somebody has said so
        elif alert is not None and alert["period"] == self.period and self.level <= alert["level"]:
            if until is not None and (alert["until"] is None or until > alert["until"]):
                alert["until"], alert["seen"] = until, max(seen, alert["seen"])
                state.changed = True
        elif alert is not None and alert["period"] == self.period:
            alert.update(self.about, level=self.level, seen=max(seen, alert["seen"]), until=until, to=list(self.to))
            state.tell(id, self.level)
        elif alert is not None and seen <= alert["seen"]:
            pass  # of a period before
        elif alert is None and id != FULL and len(state.open) - (FULL in state.open) >= MOST_OPEN:
            full = True
            state.tell_of_too_many(self.to)
        else:
            if alert is not None:
                state.end(id)
            state.open[id] = {
                **self.about,
                "level": self.level,
                "period": self.period,
                "seen": seen,
                "since": min(seen, now),
                "until": until,
                "to": list(self.to),
                "notices": [],
            }
            state.tell(id, self.level)
        found = state.open.get(id)
        return Told(state.newly_told(), None if found is None else standing_of(found), full)


class ResolveAlert(Op[Told]):
    """Say that an alert is over, as of what was `seen`: an alert that was seen later stays open.

    `mute`: it is said by hand, so it does not open anew for the same reason, up to the end that it had.
    """

    __slots__ = ("id", "mute", "seen")

    def __init__(self, id: str, seen: int | None = None, *, mute: bool = False) -> None:
        self.keys = (KEY,)
        self.id = id
        self.seen = seen
        self.mute = mute

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Told, Sequence[Change]]:
        state = AlertState(old[0], now)
        return self.decide(state), state.changes()

    def decide(self, state: AlertState) -> Told:
        """Do it in a value."""
        alert = state.open.get(self.id)
        if alert is not None and (self.seen is None or self.seen > alert["seen"]):
            alert["seen"] = state.now if self.seen is None else self.seen
            if self.mute:
                alert["muted"] = state.now + _MUTED if alert["until"] is None else alert["until"]
            state.resolve(self.id)
            alert = None
        return Told(state.newly_told(), None if alert is None else standing_of(alert))


class DecideAlerts(Op[tuple[Told, ...]]):
    """Open several alerts, or say that they are over, at once: the value is read and written once for all of them."""

    __slots__ = ("several",)

    def __init__(self, several: Sequence[FireAlert | ResolveAlert]) -> None:
        self.keys = (KEY,)
        self.several = tuple(several)

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[tuple[Told, ...], Sequence[Change]]:
        state = AlertState(old[0], now)
        return tuple([one.decide(state) for one in self.several]), state.changes()


class LeaseDeliveries(Op[Leased]):
    """Lease what is due for some receivers, for a span: until it is over, no other process delivers that.

    - `who`: the process that leases it.
    - `to`: the receivers that it has.
    - `quiet`: whether only what is loud is to be delivered now.
    """

    __slots__ = ("quiet", "span", "to", "who")

    def __init__(self, who: str, span: int, to: Collection[str] = (), *, quiet: bool = False) -> None:
        self.keys = (KEY,)
        self.who = who
        self.span = span
        self.to = to
        self.quiet = quiet

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Leased, Sequence[Change]]:
        state = AlertState(old[0], now)
        state.forget()
        ready = [
            one
            for one in state.due
            if one["to"] in self.to and one["due"] <= now and one["end"] <= now and (one["loud"] or not self.quiet)
        ]
        turns: list[tuple[int, int, dict[str, Any]]] = []
        for name in sorted({one["to"] for one in ready}):
            mine = [one for one in ready if one["to"] == name]
            single = [one for one in mine if len(one["of"]) == 1]
            if len(single) > DIGEST:
                mine = [*[one for one in mine if len(one["of"]) > 1], state.digest(name, single)]
            mine.sort(key=lambda one: (one["tries"], one["n"]))
            turns += [(place, one["n"], one) for place, one in enumerate(mine)]  # no receiver waits for another's
        leased = [one for _, _, one in sorted(turns)[:AT_ONCE]]
        for one in leased:
            one["who"], one["end"] = self.who, now + self.span
            state.changed = True
        due = tuple([state.due_of(one) for one in leased])
        known = {id: standing_of(alert) for id, alert in state.open.items()}
        return Leased(now, due, known, state.newly_told(), state.next(self.to, self.quiet)), state.changes()


class SettleDelivery(Op[bool]):
    """Say what became of a delivery: it was made; or it is tried `again` after so many microseconds, `NEVER` for not.

    `tried=False`: it was not tried this time. `gone`: the receiver wants nothing more, now and later.

    Evaluates to whether this has changed anything: what another process has leased meanwhile is that one's, unless it
    was made after all.
    """

    __slots__ = ("again", "gone", "number", "tried", "who")

    def __init__(
        self, number: int, again: int | None = None, *, who: str, gone: bool = False, tried: bool = True
    ) -> None:
        self.keys = (KEY,)
        self.number = number
        self.again = again
        self.who = who
        self.gone = gone
        self.tried = tried

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bool, Sequence[Change]]:
        state = AlertState(old[0], now, ending=False)
        one = next((one for one in state.due if one["n"] == self.number), None)
        if one is None or (one["who"] != self.who and self.again is not None):
            return False, state.changes()
        one["tries"] += self.tried
        if self.gone:
            state.turn_off(one["to"])
        elif self.again is None:
            state.done(one, "sent")
        elif self.again == NEVER:
            state.done(one, "given up")
        else:
            one["due"], one["end"], one["who"] = now + self.again, 0, ""
            if self.tried:
                state.note(one, "failed", one["due"])
        state.changed = True
        return True, state.changes()


class ListenAgain(Op[bool]):
    """Deliver to a receiver again that wanted nothing more. Evaluates to whether it was one."""

    __slots__ = ("to",)

    def __init__(self, to: str) -> None:
        self.keys = (KEY,)
        self.to = to

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bool, Sequence[Change]]:
        state = AlertState(old[0], now, ending=False)
        found = state.off.pop(self.to, None) is not None
        state.changed |= found
        return found, state.changes()
