"""The app's own keys at providers: that they are used up, dead, or have to be paid for.

What a pool tells of (`upstream/events.py`) is noted as it comes, by what it is about, and decided with all else that is
looked at. Rules:

- A limit group that is used up is told of if that is a quota, or lasts for `LONG`: shorter limits are reached all the
  time. It is over when it works, or at the moment that the provider has told.
- A key that is not valid and a group that has to be paid for are over when the pool's store says so: somebody else may
  have found out, or had it tried again.
- A pool without room is told of as long as requests are given up: it is over some minutes after the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from keyguard.alerts.messages import GROUP_BILLING, KEY_EXHAUSTED, KEY_INVALID, POOL_EXHAUSTED, moment_text
from keyguard.clock import SECOND, Clock
from keyguard.ops import FireAlert, ResolveAlert, traits_of
from keyguard.ops.alert_state import Standing
from keyguard.rates.limit import JSON
from keyguard.units import in_microseconds
from keyguard.upstream.causes import UpstreamCause
from keyguard.upstream.events import UpstreamEvent

if TYPE_CHECKING:
    from keyguard.upstream.pool import KeyPool
    from keyguard.upstream.snapshot import PoolSnapshot

LONG = 300 * SECOND
"""How long a limit has to be used up, if it is not a quota."""

_MINUTE = 60 * SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_SAID = _MINUTE  # for which nothing more is said about what goes on
_LASTS = 3 * _MINUTE  # without a request that is given up, after which a pool has room again
_LASTS_BY_HAND = 7 * _DAY  # for what only people can help with, if nobody hears anything more
_CHECKED = 10 * SECOND
_SETTLED = 30 * SECOND  # after which the pool's store has heard of it, too

_TYPES = {
    "key.exhausted": KEY_EXHAUSTED,
    "key.invalid": KEY_INVALID,
    "group.billing": GROUP_BILLING,
    "pool.exhausted": POOL_EXHAUSTED,
}
_SEVERITIES = {KEY_EXHAUSTED: "warning", KEY_INVALID: "critical", GROUP_BILLING: "critical", POOL_EXHAUSTED: "critical"}


class UpstreamWatch:
    """Tells of the pools of one stack."""

    def __init__(self, pools: Sequence[KeyPool], clock: Clock, wake: Callable[[], None]) -> None:
        self._pools = pools
        self._clock = clock
        self._wake = wake
        self._heard: dict[str, tuple[int, str, UpstreamEvent | None]] = {}
        self.after_fork()
        for pool in pools:
            self._listen(pool)

    def after_fork(self) -> None:
        """Forget what the parent has heard."""
        self._heard.clear()
        self._said: dict[str, int] = {}
        """When something was last said about what goes on, by the id of the alert."""
        self._left: dict[str, FireAlert | ResolveAlert] = {}
        """Decisions that wait for the store."""
        self._check_at = 0

    def _listen(self, pool: KeyPool) -> None:
        heard, clock, wake = self._heard, self._clock, self._wake

        def hear(kind: str, name: str, event: UpstreamEvent | None) -> None:
            type = _TYPES.get(kind)
            if type is None or (type == POOL_EXHAUSTED and event is None):
                return
            heard[f"{type}|{pool.name}|{name}"] = clock(), name, event
            wake()

        pool.parts.telling.listeners.append(hear)

    def look(self, now: int, known: Mapping[str, Standing], to: Sequence[str]) -> list[FireAlert | ResolveAlert]:
        """Return what is to be decided; until `decided` it is returned again."""
        for _ in range(len(self._heard)):
            id, (at, name, event) = self._heard.popitem()
            if event is None:
                self._end(id, at, known)
            elif _matters(event, at) and now - self._said.get(id, -_SAID) >= _SAID:
                self._said[id] = now
                self._left[id] = _fired(id, name, event, at, to)
        if now >= self._check_at or now < self._check_at - _CHECKED:
            self._check_at = now + _CHECKED
            self._check(now, known)
        return [*self._left.values()]

    def decided(self) -> None:
        """Note that what `look` has returned was decided."""
        self._left.clear()

    def _end(self, id: str, at: int, known: Mapping[str, Standing]) -> None:
        self._said.pop(id, None)
        self._left.pop(id, None)
        if id in known:
            self._left[id] = ResolveAlert(id, at)

    def _check(self, now: int, known: Mapping[str, Standing]) -> None:
        """Find out which keys and groups work again that only people could help with."""
        for pool in self._pools:
            of_pool = (f"{KEY_INVALID}|{pool.name}|", f"{GROUP_BILLING}|{pool.name}|")
            asked = [id for id, one in known.items() if id.startswith(of_pool) and one.seen < now - _SETTLED]
            if traits_of(pool.place.store).of_one_process:  # it knows nothing of what others have found out
                asked = [id for id in asked if id in self._said]
            if not asked:
                continue
            found = pool.snapshot()
            still = _still(found) if found.store_ok else asked
            for id in asked:
                if id not in still and id not in self._left:
                    self._said.pop(id, None)
                    self._left[id] = ResolveAlert(id)


def _still(found: PoolSnapshot) -> Collection[str]:
    """Return the ids of what only people can help with, as a pool is now."""
    ids = set()
    for group in found.groups:
        if group.cause == UpstreamCause.BILLING:
            ids.add(f"{GROUP_BILLING}|{found.name}|{group.name}")
        for key in group.keys:
            if key.state == "invalid" or group.cause == UpstreamCause.INVALID:
                ids.add(f"{KEY_INVALID}|{found.name}|{key.id}")
    return ids


def _matters(event: UpstreamEvent, at: int) -> bool:
    if event.kind != "key.exhausted" or event.cause == UpstreamCause.QUOTA:
        return True
    return event.until is not None and in_microseconds(event.until) - at >= LONG


def _fired(id: str, name: str, event: UpstreamEvent, at: int, to: Sequence[str]) -> FireAlert:
    type = _TYPES[event.kind]
    until = None if event.until is None else in_microseconds(event.until)
    facts: dict[str, JSON] = {
        "pool": event.pool,
        "group": event.group or "",
        "key": event.key or "",
        "models": _models(name, event),
        "cause": str(event.cause or ""),
    }
    if until is not None:
        facts["until"] = moment_text(until)
    about: dict[str, JSON] = {
        "type": type,
        "severity": _SEVERITIES[type],
        "subject": "",
        "limit": "",
        "loud": type == POOL_EXHAUSTED,
        "facts": facts,
    }
    return FireAlert(id, 0, "", about=about, to=to, seen=at, until=_end_of(event, at, until))


def _models(name: str, event: UpstreamEvent) -> str:
    """Return the class of models that an event is about, `*` for all others."""
    if event.kind == "pool.exhausted":
        return name
    return name.removesuffix(f"|{event.group}") if event.kind == "key.exhausted" else "*"


def _end_of(event: UpstreamEvent, at: int, until: int | None) -> int:
    """Return when an alert is over if nothing more is heard."""
    if event.kind == "pool.exhausted":
        return at + _LASTS
    if event.kind != "key.exhausted":
        return at + _LASTS_BY_HAND
    if event.cause == UpstreamCause.QUOTA:  # some tell the wait of a minute for the quota of a day
        return at + _DAY if until is None else max(until, at + _HOUR)
    return at + _DAY if until is None else until
