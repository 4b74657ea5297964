"""Records folded to facts: a tuple and a number in a table, since each request pays for it. No I/O, no clock, no lock.

Two kinds of facts are kept apart, or sums are wrong: *requests* by all that is known of them, each once, and *units* by
the limit that has counted them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from keyguard.clock import SECOND
from keyguard.decision import METHODS, OTHER, Decision
from keyguard.ops import Taken
from keyguard.refusal import Cause
from keyguard.request import Settled
from keyguard.usage.names import MINUTE

_STAYS = frozenset({Cause.CREDENTIALS.value, Cause.ADDRESS.value, Cause.REQUEST.value})
"""Refusals that leave limits by address charged (`guards/rate_limit/outcomes.py`)."""

_GIVEN_BACK = frozenset(cause.value for cause in Cause) - _STAYS

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


class Same:
    """Requests of which all is the same that is told apart."""

    __slots__ = ("charged", "count")

    def __init__(self, charged: tuple[Any, ...]) -> None:
        self.count = 1
        self.charged = charged
        """The demands that were met. Their numbers stand among what is told apart, so they are kept as long."""


class Facts:
    """The sums of records, until they are taken."""

    __slots__ = ("last", "requests", "units")

    def __init__(self) -> None:
        self.requests: dict[tuple[Any, ...], Same] = {}
        """By what `Request` lists, and the numbers of the demands that were met."""
        self.units: dict[tuple[Any, ...], int] = {}
        """Units that no record has, by what `Unit` lists."""
        self.last: dict[tuple[str, str], int] = {}
        """When a subject and one of its keys came last, in seconds."""

    def fold(self, records: Iterable[Decision], ahead: int) -> int:
        """Take records in. `ahead`: microseconds that the store's clock is before the stack's.

        Return how many records there was no room for.
        """
        requests, last = self.requests, self.last
        dropped = 0
        for record in records:
            at, _, _, subject, key_id, client, method, route, outcome, cause, reason, _, policies, taken, _ = record
            at += ahead
            if outcome == "refused":
                word = "fault" if cause is None else cause._value_
                rule = policies[0] if policies else reason or "refused"
            else:
                word, rule = outcome, ""
            met: tuple[Any, ...] = ()
            for decided in taken:
                # What is in shadow mode charges an account of its own.
                if decided.__class__ is Taken and not decided.refused:
                    met += (decided.demands,)
            numbers = id(met[0]) if len(met) == 1 else tuple(map(id, met))
            fact = (subject, at // MINUTE, word, rule, method, route, key_id, client, numbers)
            same = requests.get(fact)
            if same is not None:
                same.count += 1
            elif len(requests) < FACTS:
                requests[fact] = Same(met)
            else:
                dropped += 1
                continue
            last[subject, key_id] = at // SECOND
        return dropped

    def settle(self, settled: Iterable[Settled], ahead: int) -> None:
        """Take in what requests have cost besides what their records say."""
        for at, subject, key_id, method, route, units in settled:
            method = method if method in METHODS else OTHER
            for key, more in units:
                prefix, of = _counter(key, key_id)
                fact = (subject, (at + ahead) // MINUTE, prefix, method, route, of)
                self.units[fact] = self.units.get(fact, 0) + more


def charges(word: str, key_id: str, met: Iterable[Any]) -> Iterator[tuple[str, str, int]]:
    """Yield what demands charge that were met: the counter's prefix, the key that it counts by, and the units.

    What a refused request was charged was given back, but for what limits floods.
    """
    for demands in met:
        if word in _GIVEN_BACK:
            demands = ()
        elif word in _STAYS:
            demands = _staying(demands)
        for demand in demands:
            if demand.cost and not demand.lease:  # what is held is counted when it is settled
                yield (*_counter(demand.key, key_id), demand.cost)


def _counter(key: str, key_id: str) -> tuple[str, str]:
    prefix, bar, bucket = key.partition("|")
    return prefix + bar, key_id if bucket == key_id else ""


def _staying(demands: Any) -> list[Any]:
    rules = getattr(demands, "rules", None)
    if rules is None:
        return []
    pairs = zip(rules, demands, strict=True)
    return [demand for rule, demand in pairs if rule.by_address or demand.key.startswith(rule.prefix + "@")]
