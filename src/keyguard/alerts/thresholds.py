"""Thresholds: who has spent so much of a limit that people want to know.

Rules:
- What a request was told by its limits says exactly what is left, for all processes: nothing is asked for it.
- A quota is told of by its period, and anew in the next one. Other limits have *episodes*: one is over when use has
  fallen ten points below the lowest threshold, or when nothing more is heard of it for as long as the limit looks back.
- A quota that was edited is another period, so it is told of anew.
- Looked at are quotas, credits, and rates over an hour or more, of callers that are not told apart by address alone:
  that a minute's limit is reached is what it is there for, and addresses are anybody's. Or those that are named.
- What limits say while they are in shadow mode is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from keyguard.alerts.messages import THRESHOLD, moment_text, shortened
from keyguard.checks import is_number
from keyguard.clock import SECOND
from keyguard.counter_names import LimitFacts
from keyguard.decision import Decision
from keyguard.errors import ConfigurationError
from keyguard.ops import Demand, FireAlert, ResolveAlert, Taken
from keyguard.ops.alert_state import Standing
from keyguard.rates.limit import JSON, Taking
from keyguard.rates.quotas import Quota

BELOW = 10
"""Points below the lowest threshold, at which an alert is over."""

_HOUR = 3600 * SECOND
_BALANCE = 30 * 86400 * SECOND  # for which an alert of a balance stays that nothing fills
_MOST = 10_000  # limits of which it is known whether they are looked at
_PLAIN = frozenset({"quota", "credits", "window", ""})  # the others are full all the time, or never


class Spent(NamedTuple):
    """The units that one caller had spent of a limit, at the latest moment that was heard of."""

    at: int
    demand: Demand
    taking: Taking
    decision: Decision
    facts: LimitFacts | None

    @property
    def used(self) -> int:
        limit = self.demand.limit
        return max(0, limit.max_cost - self.taking[2])

    @property
    def subject(self) -> str:
        if self.facts is not None and self.facts.by == "ip":
            return self.decision.client
        return shortened(self.decision.subject or self.decision.client)

    @property
    def end(self) -> int:
        """The moment at which an alert is over, if nothing more is heard."""
        limit = self.demand.limit
        if isinstance(limit, Quota):
            return limit.present(self.at)[1]
        if limit.kind == "credits":
            return self.at + (self.taking[3] or _BALANCE)
        return self.at + max(limit.period, self.taking[3])

    @property
    def period(self) -> str:
        limit = self.demand.limit
        begin = self.end if isinstance(limit, Quota) else ""
        return f"{begin}/{limit.max_cost}"

    def about(self) -> dict[str, JSON]:
        """Return the figures, for an alert."""
        limit = self.demand.limit
        back = self.taking[3]
        by_key = self.facts is not None and self.facts.by == "key" and self.decision.key_id
        return {
            **({"key": self.decision.key_id} if by_key else {}),
            "used": self.used,
            "quota": limit.max_cost,
            "remaining": self.taking[2],
            "percent": self.used * 100 // max(1, limit.max_cost),
            "rate": limit.text,
            "resets_at": moment_text(self.at + back) if back > 0 else "",
        }


def checked_levels(at: object) -> tuple[int, ...]:
    """Return thresholds, the highest first. Raise `ConfigurationError` for what is none."""
    try:
        levels = sorted(set(at), reverse=True)  # type: ignore[call-overload]
    except TypeError:
        levels = []
    if not levels or not all(is_number(one) and one == int(one) and 1 <= one <= 100 for one in levels):
        raise ConfigurationError(
            f"at is a list of whole numbers from 1 to 100, such as (50, 80, 90, 100), not {at!r:.80}"
        )
    return tuple([int(one) for one in levels])


class Thresholds:
    """Looks at what requests were told by their limits."""

    def __init__(self, at: object, limits: Iterable[str] | None, facts: Callable[[], Sequence[LimitFacts]]) -> None:
        self.levels = checked_levels(at)
        self._named = None if limits is None else frozenset(limits)
        self._facts = facts
        self._watched: dict[str, tuple[bool, LimitFacts | None]] = {}

    def latest(self, decisions: Sequence[Decision]) -> dict[str, Spent]:
        """Return what callers had spent, by the keys of their counters."""
        found: dict[str, Spent] = {}
        others: set[str] = set()
        for decision in reversed(decisions):  # so that nearly always the first one of a counter is the latest
            for taken in decision.taken:
                if taken.__class__ is not Taken:  # of a limit in shadow mode
                    continue
                moments = taken.moments
                for place, demand in enumerate(taken.demands):
                    key = demand.key
                    if key in others:
                        continue
                    known = found.get(key)
                    if known is not None and known.at >= (moments[place] if moments else taken.at):
                        continue
                    watched, facts = self._looks_at(demand)
                    if watched:
                        at = moments[place] if moments else taken.at
                        found[key] = Spent(at, demand, taken.takings[place], decision, facts)
                    else:
                        others.add(key)
        return dict(reversed(found.items()))

    def judge(
        self, spent: Mapping[str, Spent], known: Mapping[str, Standing], to: Sequence[str]
    ) -> list[FireAlert | ResolveAlert]:
        """Return what is to be decided, given the alerts that are open."""
        ops: list[FireAlert | ResolveAlert] = []
        for key, one in spent.items():
            id, used, most = f"{THRESHOLD}|{key}", one.used, one.demand.limit.max_cost
            standing = known.get(id)
            level = next((level for level in self.levels if used * 100 >= level * most), 0)
            if level and _is_new(standing, level, one):
                about: dict[str, JSON] = {
                    "type": THRESHOLD,
                    "severity": "critical" if level >= 100 else "warning",
                    "subject": one.subject,
                    "limit": shortened(one.demand.name),
                    "facts": one.about(),
                }
                ops.append(FireAlert(id, level, one.period, about=about, to=to, seen=one.at, until=one.end))
            elif standing is not None and not level and one.at > standing.seen:
                below = (self.levels[-1] - BELOW) * most
                if used * 100 <= max(0, below) or one.period != standing.period:
                    ops.append(ResolveAlert(id, one.at))
        return ops

    def _looks_at(self, demand: Demand) -> tuple[bool, LimitFacts | None]:
        prefix = demand.key.partition("|")[0]
        found = self._watched.get(prefix)
        if found is None:
            if len(self._watched) >= _MOST:
                self._watched.clear()
            facts = self._facts_of(f"{prefix}|")
            found = self._watched[prefix] = self._is_asked_for(demand, facts), facts
        return found

    def _facts_of(self, prefix: str) -> LimitFacts | None:
        near = [each for each in self._facts() if prefix.startswith(each.prefix)]
        return max(near, key=lambda each: len(each.prefix), default=None)

    def _is_asked_for(self, demand: Demand, facts: LimitFacts | None) -> bool:
        limit = demand.limit
        if self._named is not None:
            return demand.name in self._named or (facts is not None and facts.guard in self._named)
        if limit.kind not in _PLAIN or (facts is not None and facts.by == "ip"):
            return False
        return limit.kind in ("quota", "credits") or limit.period >= _HOUR


def _is_new(standing: Standing | None, level: int, one: Spent) -> bool:
    if standing is None or level > standing.level:
        return True
    if one.period != standing.period:
        return one.at > standing.seen
    # An episode goes on: that is noted when a good part of the time has passed in which it would end.
    later = one.end - (standing.until if standing.until is not None else one.end)
    return later > one.demand.limit.period // 4 and not isinstance(one.demand.limit, Quota)
