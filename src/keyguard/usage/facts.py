"""Records folded to facts: a tuple and a number in a table, since each request pays for it. No I/O, no clock, no lock.

Two kinds of facts are kept apart, or sums are wrong: *requests* by all that is known of them, each once, and *units* by
the limit that has counted them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from keyguard.clock import SECOND
from keyguard.decision import METHODS, OTHER, Decision
from keyguard.ops import Taken
from keyguard.refusal import Cause
from keyguard.request import Settled
from keyguard.usage.names import MINUTE

_STAYS = frozenset({Cause.CREDENTIALS, Cause.ADDRESS, Cause.REQUEST})
"""Refusals that leave limits by address charged (`guards/rate_limit/outcomes.py`)."""

FACTS = 200_000
"""Facts that are held between two flushes."""


class Request(NamedTuple):
    """All that requests are told apart by."""

    subject: str
    minute: int
    word: str
    """The outcome; of a refusal its cause."""
    rule: str
    """The limit that has refused it, else the reason; empty if it was not refused."""
    method: str
    route: str
    key_id: str
    client: str


class Unit(NamedTuple):
    """All that units are told apart by."""

    subject: str
    minute: int
    prefix: str
    """The beginning of the counter's key, with the bar."""
    method: str
    route: str
    key_id: str
    """The key that the limit counts by; empty if it counts by something else."""


class Facts:
    """What records come to, until they are taken."""

    __slots__ = ("last", "requests", "units")

    def __init__(self) -> None:
        self.requests: dict[tuple[Any, ...], int] = {}
        """By what `Request` lists."""
        self.units: dict[tuple[Any, ...], int] = {}
        """By what `Unit` lists."""
        self.last: dict[tuple[str, str], int] = {}
        """When a subject and one of its keys came last, in seconds."""

    def fold(self, records: Iterable[Decision], ahead: int) -> int:
        """Take records in. `ahead`: microseconds that the store's clock is before the stack's.

        Return how many records there was no room for.
        """
        requests, units, last = self.requests, self.units, self.last
        dropped = 0
        for record in records:
            at, _, _, subject, key_id, client, method, route, outcome, cause, reason, _, policies, taken, _ = record
            at += ahead
            minute = at // MINUTE
            if outcome == "refused":
                word, rule = (
                    ("fault" if cause is None else cause._value_),
                    policies[0] if policies else reason or "refused",
                )
            else:
                word, rule = outcome, ""
            fact = (subject, minute, word, rule, method, route, key_id, client)
            known = requests.get(fact)
            if known is None and len(requests) >= FACTS:
                dropped += 1
                continue
            requests[fact] = 1 if known is None else known + 1
            last[subject, key_id] = at // SECOND
            for decided in taken:
                if decided.__class__ is Taken:  # what is in shadow mode charges an account of its own
                    self._charge(
                        decided, outcome == "refused", cause, (subject, minute), (method, route), key_id, units
                    )
        return dropped

    def settle(self, settled: Iterable[Settled], ahead: int) -> None:
        """Take in what requests have cost besides what their records say."""
        for at, subject, key_id, method, route, units in settled:
            who, where = (subject, (at + ahead) // MINUTE), (method if method in METHODS else OTHER, route)
            for key, more in units:
                prefix, _, bucket = key.partition("|")
                self.add_units(who, f"{prefix}|", where, key_id if bucket == key_id else "", more)

    def _charge(
        self,
        taken: Any,
        refused: bool,
        cause: Cause | None,
        who: tuple[str, int],
        where: tuple[str, str],
        key_id: str,
        units: dict[tuple[Any, ...], int],
    ) -> None:
        """Count what stays charged."""
        if taken.refused:
            return
        demands = taken.demands
        if refused:  # it was given back, but for what limits floods
            demands = _staying(demands) if cause in _STAYS else ()
        for demand in demands:
            if demand.cost and not demand.lease:  # what is held is counted when it is settled
                prefix, _, bucket = demand.key.partition("|")
                self.add_units(who, f"{prefix}|", where, key_id if bucket == key_id else "", demand.cost)

    def add_units(self, who: tuple[str, int], prefix: str, where: tuple[str, str], key_id: str, count: int) -> None:
        """Count units."""
        fact = (*who, prefix, *where, key_id)
        self.units[fact] = self.units.get(fact, 0) + count


def _staying(demands: Any) -> list[Any]:
    rules = getattr(demands, "rules", None)
    if rules is None:
        return []
    pairs = zip(rules, demands, strict=True)
    return [demand for rule, demand in pairs if rule.by_address or demand.key.startswith(rule.prefix + "@")]
