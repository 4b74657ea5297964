"""Whose counters are whose: limits of one process that would count different things under one name do not start.

Rules:
- Limits that mean the same share their counters, wherever they are made: a factory that is called twice, several apps.
- A limit is remembered as long as it is used and no longer, so a stack may take the place of another.
- Two stores are one if they keep what they are told in one place, however it is spelled. One in memory is only itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from keyguard.errors import ConfigurationError
from keyguard.guards.rate_limit.guard import RateLimit
from keyguard.process.fork import ProcessLock
from keyguard.stores.places import place_of

_claims: WeakKeyDictionary[RateLimit, list[object]] = WeakKeyDictionary()
"""The places of the stores in which a limit counts."""
_lock = ProcessLock()


def claim(store: Any, guards: Iterable[Any]) -> None:
    """Note that the limits among `guards` count in a store. Raises `ConfigurationError` if some of them would clash."""
    limits = [guard for guard in guards if isinstance(guard, RateLimit)]
    _check_stack(limits)
    place = place_of(store)
    with _lock:
        for limit in limits:
            if any(map(limit.differs_unseen_from, _limits_at(place))):
                gc.collect()  # of what is used no more, circles may be left
            for other in _limits_at(place):
                if limit.differs_unseen_from(other):
                    raise _shared(limit, other)
        for limit in limits:
            places = _claims.setdefault(limit, [])
            if place not in places:
                places.append(place)


def _limits_at(place: object) -> list[RateLimit]:
    return [limit for limit, places in list(_claims.items()) if place in places]


def _check_stack(limits: list[RateLimit]) -> None:
    """Within one stack not even equal limits may share: a request would be counted twice."""
    for place, limit in enumerate(limits):
        for other in limits[:place]:
            if limit.shares_counters(other):
                raise _shared(limit, other)
            names = {rule.name for rule in other.rules}
            for rule in limit.rules:
                if rule.name in names:
                    raise ConfigurationError(
                        f"two limits would be called {rule.name!r}, and nobody could tell which of them refused: give "
                        f"{limit!r} a name=..."
                    )


def _shared(limit: RateLimit, other: RateLimit) -> ConfigurationError:
    why = "" if limit.named else "; a function without a name, a lambda say, gives a limit none"
    return ConfigurationError(
        f"two limits would share a counter: {limit!r} and {other!r} count under the name {limit.counter!r} in one store"
        f"{why}. Give {limit!r} a name=..."
    )
