"""The pools of upstream keys that a stack is told of, and what it tells of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from keyguard.errors import ConfigurationError
from keyguard.metrics.series import ANSWERS, BLOCKED, GAUGES, REMAINING, WAITING, Gauge, Numbers, Series, label

if TYPE_CHECKING:
    from keyguard.upstream.pool import KeyPool

_MOST = 40
"""Members of one gauge."""


def checked_pools(pools: Iterable[KeyPool]) -> tuple[KeyPool, ...]:
    """Return the pools of a stack. Raises `ConfigurationError` for what is not a pool, and two of one name."""
    if isinstance(pools, str) or not isinstance(pools, Iterable):
        raise ConfigurationError(f"pools is a list of KeyPool objects, and not a {type(pools).__name__}")
    given = tuple(pools)
    if not given:
        return ()
    from keyguard.upstream.pool import KeyPool  # most stacks have none

    names = set()
    for pool in given:
        if not isinstance(pool, KeyPool):
            raise ConfigurationError(f"pools is a list of KeyPool objects, and {type(pool).__name__} is not one")
        if pool.name in names:
            raise ConfigurationError(f"two pools are called {pool.name!r}: give them names, KeyPool(name=...)")
        names.add(pool.name)
    return given


def answers_of(pools: Sequence[KeyPool]) -> dict[Series, int]:
    """Return how many answers each pool had in this process, by cause."""
    return {
        (ANSWERS.name, label(pool.name), cause): number
        for pool in pools
        for cause, number in pool.parts.answers.copy().items()
    }


def numbers_of(pools: Sequence[KeyPool]) -> Numbers:
    """Return what is known of pools now, which may ask their stores. No id of a key stands in it."""
    found: dict[Gauge, list[tuple[tuple[str, ...], int]]] = {gauge: [] for gauge in GAUGES}
    for pool in pools:
        seen = pool.snapshot()
        found[WAITING].append(((pool.name,), seen.waiting))
        for group in seen.groups:
            named = (pool.name, group.name, group.model_class)
            if group.cause != "ok":
                found[BLOCKED].append(((*named, str(group.cause)), 1))
            found[REMAINING] += [((*named, one.name), one.remaining) for one in group.dimensions]
    return {gauge: members[:_MOST] for gauge, members in found.items()}
