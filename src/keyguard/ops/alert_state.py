"""The value in which alerts stand: what is open, what is over, and what is still to be delivered.

It is JSON with a version, `1`, under one key. A damaged one counts as none: alerts begin anew then, and nothing else
hangs on them. One of a later keyguard is left as it is, and this one decides nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from keyguard.clock import SECOND
from keyguard.ops.op import Change

KEY = "alert|state"

MOST_OPEN = 500
MOST_PAST = 100
DIGEST = 20
FULL = "keyguard.alerts.full"
"""The id and the type of the alert that there are too many."""

AT_ONCE = 5
"""Deliveries of one lease: each may take five seconds."""
_IN_DIGEST = 50  # notices of which it tells more than their number
_MOST_DUE = 2000  # deliveries; beyond them the oldest is given up
_FORGOTTEN = 3 * 86400 * SECOND  # how long a delivery waits that nobody leases: no process has its receiver any more
_LASTS = 400 * 86400 * SECOND  # for which the value is kept after its last change
_VERSION = 1
_RESOLVED = "resolved"


class Standing(NamedTuple):
    """An alert that is open, as far as processes have to know it before they decide."""

    level: int
    period: str
    seen: int
    until: int | None
    """When it is over if nothing more is heard of it, by the store's clock; `None` for never."""


class Due(NamedTuple):
    """A delivery that this process is to make, alone until its lease ends."""

    number: int
    to: str
    """The name of the receiver."""
    id: str
    """The same each time that it is tried."""
    tries: int
    """How often it was tried before."""
    notices: tuple[dict[str, Any], ...]
    many: int
    """The number of its notices; a digest leaves some out."""


def read_state(data: bytes | None) -> dict[str, Any]:
    """Return the value as it was written; an empty one for none, and for one that cannot be read.

    Raises `LaterVersion` for that of a later keyguard.
    """
    if data:
        try:
            found: dict[str, Any] = json.loads(data)
            version = found["v"]
            if isinstance(version, int) and version > _VERSION:
                raise LaterVersion
            whole = version == _VERSION and all(isinstance(found[name], kind) for name, kind in _FORM.items())
            alerts = [*found["open"].values(), *found["past"]]
            if (
                whole
                and all(alert.keys() >= _ALERT for alert in alerts)
                and all(d.keys() >= _DUE for d in found["due"])
            ):
                return found
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
    return {"v": _VERSION, **{name: kind() for name, kind in _FORM.items()}}


class LaterVersion(Exception):
    """The value was written by a later keyguard."""


_ALERT = {"type", "severity", "subject", "limit", "facts", "level", "period", "seen", "since", "until", "to", "notices"}
_DUE = {"n", "to", "of", "id", "loud", "who", "due", "end", "tries", "since"}
_FORM: dict[str, type] = {"n": int, "open": dict, "past": list, "due": list, "what": dict, "off": dict}
"""What it has: the number of the last delivery; open alerts, and those that are over; deliveries, the notices that they
are about, and receivers that want nothing more."""


def standing_of(alert: Mapping[str, Any]) -> Standing:
    """Return what processes have to know of an alert."""
    return Standing(alert["level"], alert["period"], alert["seen"], alert["until"])


class AlertState:
    """The value, while an operation changes it."""

    def __init__(self, data: bytes | None, now: int, *, ending: bool = True) -> None:
        """`ending` says that alerts are found to be over whose end has come: who asks tells of them then."""
        self.now = now
        self.foreign = False
        """Whether it is of a later keyguard, which is left as it is."""
        try:
            self._all = read_state(data)
        except LaterVersion:
            self._all, self.foreign = read_state(None), True
        self.open: dict[str, Any] = self._all["open"]
        self.past: list[Any] = self._all["past"]
        self.due: list[Any] = self._all["due"]
        self.what: dict[str, Any] = self._all["what"]
        self.off: dict[str, int] = self._all["off"]
        self.told: list[dict[str, Any]] = []
        self.changed = False
        for id, alert in [*self.open.items()] if ending else ():
            if alert["until"] is not None and alert["until"] <= now:
                alert["seen"] = max(alert["seen"], alert["until"])
                self.resolve(id)

    def changes(self) -> Sequence[Change]:
        if not self.changed or self.foreign:
            return ()
        text = json.dumps(self._all, allow_nan=False, separators=(",", ":"))
        return [(KEY, text.encode(), _LASTS, None)]

    def over_since(self, id: str) -> int:
        """Return up to when an alert has been heard of that is over; -1 if it is not among the latest."""
        return next((alert["seen"] for alert in self.past if alert["id"] == id and not alert["replaced"]), -1)

    def newly_told(self) -> tuple[dict[str, Any], ...]:
        """Return the notices that were made since this was asked last."""
        told, self.told = tuple(self.told), []
        return told

    def is_muted(self, id: str, period: str, level: int) -> bool:
        """Tell whether somebody has said by hand that an alert is over, for this reason or a graver one."""
        return id not in self.open and any(
            alert["id"] == id and alert["period"] == period and alert["level"] >= level
            for alert in self.past
            if alert.get("muted", 0) > self.now
        )

    # -- alerts -------------------------------------------------------------------------------------------------------

    def tell(self, id: str, level: int, severity: str = "") -> None:
        """Make a notice of an alert, and a delivery of it for each receiver."""
        self.changed = True
        alert = self.open[id]
        severity = severity or alert["severity"]
        seed = json.dumps([id, alert["period"], alert.get("same", alert["since"]), level, severity])
        notice = {name: alert[name] for name in ("type", "subject", "limit", "facts", "since", "period")}
        notice |= {"alert": id, "id": _id_of(seed), "at": self.now, "level": level, "severity": severity}
        alert["notices"].append({"id": notice["id"], "at": self.now, "level": level, "severity": severity, "to": {}})
        self.told.append(notice)
        for name in alert["to"]:
            if name in self.off:
                alert["notices"][-1]["to"][name] = ["disabled", self.now, 0, None]
                continue
            self.what[notice["id"]] = notice
            self._add(name, [notice["id"]], notice["id"], loud=alert.get("loud") is True)
            alert["notices"][-1]["to"][name] = ["waiting", None, 0, None]

    def tell_of_too_many(self, to: Sequence[str]) -> None:
        if FULL in self.open:
            return
        about = {"type": FULL, "severity": "critical", "subject": "", "limit": "", "facts": {"open": MOST_OPEN}}
        times = {"period": "", "seen": self.now, "since": self.now, "until": None}
        self.open[FULL] = {**about, **times, "level": 0, "to": list(to), "notices": []}
        self.tell(FULL, 0)

    def resolve(self, id: str) -> None:
        """Tell that an alert is over."""
        self.tell(id, self.open[id]["level"], _RESOLVED)
        self.end(id)
        if FULL in self.open and len(self.open) - 1 <= MOST_OPEN * 4 // 5:
            self.resolve(FULL)

    def end(self, id: str) -> None:
        """Put an alert to those that are over."""
        alert = self.open.pop(id)
        replaced = alert["notices"][-1]["severity"] != _RESOLVED
        self.past.insert(0, {"id": id, **alert, "over": self.now, "replaced": replaced})
        del self.past[MOST_PAST:]
        self.changed = True

    # -- deliveries ---------------------------------------------------------------------------------------------------

    def _add(self, to: str, of: list[str], id: str, *, loud: bool) -> dict[str, Any]:
        self._all["n"] += 1
        times = {"due": self.now, "end": 0, "tries": 0, "since": self.now}
        if len(self.due) >= _MOST_DUE:
            self.done(self.due[0], "given up")
        one = {"n": self._all["n"], "to": to, "of": of, "id": id, "loud": loud, "who": "", **times}
        self.due.append(one)
        return one

    def digest(self, to: str, several: list[dict[str, Any]]) -> dict[str, Any]:
        """Make one delivery of several."""
        of = [id for one in several for id in one["of"]]
        numbers = {one["n"] for one in several}
        self.due[:] = [one for one in self.due if one["n"] not in numbers]
        self._drop(of[_IN_DIGEST:])
        return self._add(to, of, _id_of(json.dumps([to, of])), loud=any(one["loud"] for one in several))

    def due_of(self, one: Mapping[str, Any]) -> Due:
        notices = [self.what[id] for id in one["of"][:_IN_DIGEST] if id in self.what]
        return Due(one["n"], one["to"], one["id"], one["tries"], tuple(notices), len(one["of"]))

    def note(self, one: Mapping[str, Any], word: str, again: int | None = None) -> None:
        """Note at the alerts what became of their delivery."""
        for alert in self._alerts():
            for notice in alert["notices"]:
                if notice["id"] in one["of"] and one["to"] in notice["to"]:
                    notice["to"][one["to"]] = [word, self.now, one["tries"], again]

    def done(self, one: Mapping[str, Any], word: str) -> None:
        """Take a delivery from those that are to be made."""
        self.note(one, word)
        self.due.remove(one)
        self._drop(one["of"])

    def _drop(self, ids: Collection[str]) -> None:
        """Forget notices, if no delivery tells more than their number."""
        needed = {id for other in self.due for id in other["of"][:_IN_DIGEST]}
        for id in ids:
            if id not in needed:
                self.what.pop(id, None)

    def turn_off(self, to: str) -> None:
        self.off[to] = self.now
        for one in [one for one in self.due if one["to"] == to]:
            self.done(one, "disabled")

    def forget(self) -> None:
        """Give up what nobody has leased for long: no process has its receiver any more."""
        for one in [one for one in self.due if one["since"] + _FORGOTTEN < self.now and one["end"] <= self.now]:
            self.done(one, "given up")
            self.changed = True

    def next(self, to: Collection[str], quiet: bool) -> int | None:
        mine = [one for one in self.due if one["to"] in to and (one["loud"] or not quiet)]
        moments = [max(one["due"], one["end"]) for one in mine]
        moments += [alert["until"] for alert in self.open.values() if alert["until"] is not None]
        return min(moments, default=None)

    def _alerts(self) -> Iterator[dict[str, Any]]:
        yield from self.open.values()
        yield from self.past


def _id_of(seed: str) -> str:
    """Return the id of a notice or a digest: the same wherever it is made."""
    return f"msg_{hashlib.blake2b(seed.encode(), digest_size=16).hexdigest()}"
