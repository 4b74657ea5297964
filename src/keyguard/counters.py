"""Whose counters are whose: limits of one process that would count different things under one name do not start.

Rules:
- Limits that mean the same share their counters, wherever they are made: a factory that is called twice, several apps.
- A limit is remembered as long as it is used and no longer, so a stack may take the place of another.
- Two stores are one if they were opened by the same URL; one in memory is only itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from keyguard.errors import ConfigurationError
from keyguard.fork import ProcessLock
from keyguard.guards.rate_limit import RateLimit
from keyguard.stores import url_digest


class _Place:
    """One store, by whatever objects it is reached."""

    __slots__ = ("__weakref__", "limits")

    def __init__(self) -> None:
        self.limits: WeakSet[RateLimit] = WeakSet()


_places: WeakKeyDictionary[Any, _Place] = WeakKeyDictionary()
_by_url: WeakValueDictionary[bytes, _Place] = WeakValueDictionary()
_lock = ProcessLock()


def claim(store: Any, guards: Iterable[Any]) -> None:
    """Note that the limits among `guards` count in a store. Raises `ConfigurationError` if some of them would clash."""
    limits = [guard for guard in guards if isinstance(guard, RateLimit)]
    _check_stack(limits)
    with _lock:
        place = _place_of(store)
        if place is None:
            return
        for limit in limits:
            if any(map(limit.differs_unseen_from, place.limits)):
                gc.collect()  # of what is used no more, circles may be left
            for other in place.limits:
                if limit.differs_unseen_from(other):
                    raise _shared(limit, other)
        place.limits.update(limits)


def _place_of(store: Any) -> _Place | None:
    try:
        place = _places.get(store)
        if place is None:
            url = url_digest(store)
            place = _Place() if url is None else _by_url.setdefault(url, _Place())
            _places[store] = place
    except TypeError:  # an object that cannot be referred to weakly
        return None
    return place


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
