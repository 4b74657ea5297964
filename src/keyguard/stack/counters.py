"""Owners of counters: limits of one process that would count different things under one name do not start.

Rules:
- Limits that mean the same share their counters, wherever they are made: a factory that is called twice, several apps.
- A limit is remembered as long as it is used and no longer, so a stack may take the place of another.
- Two stores are one if they keep what they are told in one place, however it is spelled. One in memory is only itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from keyguard.counter_names import Counters, LimitFacts
from keyguard.errors import ConfigurationError
from keyguard.guard import declared
from keyguard.guards.rate_limit import RateLimit
from keyguard.process.fork import ProcessLock
from keyguard.stack.policies import unwrapped
from keyguard.stores.places import place_of


def facts_of(guards: Iterable[Any], *, ipv6_prefix: int, overrides: bool) -> list[LimitFacts]:
    """Return what is known of the limits of guards; `overrides`: whether their stack reads these."""
    guards = [*guards]
    told = [(guard, facts) for guard in guards for counters in guard.counters for facts in counters.facts]
    told += [(guard, facts) for guard in guards for facts in guard.facts]
    return [
        replace(
            facts,
            ipv6_prefix=ipv6_prefix,
            overridable=overrides and isinstance(unwrapped(guard), RateLimit),
        )
        for guard, facts in told
    ]


class _Claim:
    """Where some counters are."""

    def __init__(self, guard: object) -> None:
        self.guard = repr(guard)
        self.places: list[object] = []
        """The places of the stores in which they count."""


_claims: WeakKeyDictionary[Counters, _Claim] = WeakKeyDictionary()
_lock = ProcessLock()


def claim(store: Any, guards: Iterable[Any], around: Iterable[Any] = ()) -> None:
    """Note that the limits of `guards` count in a store. Raise `ConfigurationError` if some of them would clash.

    `around` are guards further out, whose limits have been noted before.
    """
    counted = _counted(guards)
    _check_stack([*_counted(around), *counted])
    place = place_of(store)
    with _lock:
        for guard, counters in counted:
            if any(counters.differs_unseen_from(other) for other, _ in _claims_at(place)):
                gc.collect()  # of what is used no more, circles may be left
            for other, known in _claims_at(place):
                if counters.differs_unseen_from(other):
                    raise _shared(guard, counters, known.guard)
        for guard, counters in counted:
            places = _claims.setdefault(counters, _Claim(guard)).places
            if place not in places:
                places.append(place)


def _counted(guards: Iterable[Any]) -> list[tuple[Any, Counters]]:
    return [(guard, counters) for guard in guards for counters in declared(guard).counters]


def _claims_at(place: object) -> list[tuple[Counters, _Claim]]:
    return [(counters, claim) for counters, claim in list(_claims.items()) if place in claim.places]


def _check_stack(counted: list[tuple[Any, Counters]]) -> None:
    """Raise if limits of one stack share counters, even equal ones: a request would be counted twice."""
    for at, (guard, counters) in enumerate(counted):
        for other, others in counted[:at]:
            if counters.shares(others):
                raise _shared(guard, counters, repr(other))
            for name in counters.rules & others.rules:
                raise ConfigurationError(
                    f"two limits would be called {name!r}, and refusals would not tell which of them refused: give "
                    f"{guard!r} a name=..."
                )


def _shared(guard: Any, counters: Counters, other: str) -> ConfigurationError:
    why = "" if counters.named else "; a function without a name, a lambda say, gives a limit none"
    return ConfigurationError(
        f"two limits would share a counter: {guard!r} and {other} count under the name {counters.name!r} in one store"
        f"{why}. Give {guard!r} a name=..."
    )
