"""Where an app runs: the store that its environment names, and the processes that serve it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from keyguard.clock import travelling
from keyguard.errors import ConfigurationError
from keyguard.given import given
from keyguard.guard import Guard, declared
from keyguard.logs import logger
from keyguard.manual_clock import ManualClock
from keyguard.ops import Store, keep_decisions, tiers_of, traits_of
from keyguard.stores import open_store

log = logger("keyguard")


def named_store() -> str:
    """Return the URL of the store of a stack that was given none. Raises `ConfigurationError` for what names none."""
    text = os.environ.get("KEYGUARD_STORE", "").strip()
    if text == "-":
        raise ConfigurationError("KEYGUARD_STORE is '-', and an app reads no standard input: write the store's URL")
    return given(text, "the URL of a store") if text else "memory://"


def store_of_values(store: Store, keepers: Sequence[Guard]) -> Store:
    """Return where the caches of one stack share their values: the stack's store, if they name none.

    Raise `ConfigurationError` if they name different ones, or one that holds limits alone.
    """
    for guard in keepers:
        if guard.store is not None:
            guard.store = open_store(guard.store)
            if not traits_of(guard.store).holds_values:
                raise ConfigurationError(f"{guard!r} cannot be kept in {guard.store!r}, which holds limits alone")
    stores = [store if guard.store is None else open_store(guard.store) for guard in keepers]
    if any(other is not stores[0] for other in stores):
        raise ConfigurationError("the caches of one stack share one store: give all of them the same store object")
    return stores[0]


def tell_of_decisions(store: Any, guards: Iterable[Any]) -> None:
    """Tell a store that keys and counters are kept there, which nothing may push out."""
    if any("decisions" in declared(guard).keeps for guard in guards):
        keep_decisions(store)


def warn_of_workers(store: Any, guards: Iterable[Any], among: int) -> None:
    """Log that the processes of an app do not share what they count, if that is so."""
    alone = [tier for tier in tiers_of(store) if traits_of(tier).of_one_process]
    if not alone:
        return
    told = [declared(guard).warn_of_workers(among) for guard in guards]
    apart = [text for text in dict.fromkeys(told) if text]
    if apart:
        log.warning(
            "%d processes serve this app, and %s belongs to one: %s. Use sqlite:///file.db, redis:// or postgresql://, "
            "or say workers=1 if there is one process",
            among,
            "memory://" if traits_of(alone[0]).near else repr(alone[0]),
            ", and ".join(apart),
        )


def check_limitations(store: Store, guards: Sequence[Guard]) -> None:
    """Raise `ConfigurationError` for a store that cannot keep what these guards do; log what there is to know of it."""
    limitations = traits_of(store).limitations
    if limitations is None:
        return
    for guard in guards:
        if "holds" in guard.keeps:
            raise ConfigurationError(
                f"{store!r} takes nothing back, so {guard!r} could hold nothing there: use memory://, sqlite://, "
                "redis:// or postgresql://"
            )
    limits = [limit for guard in guards for counters in guard.counters for limit in counters.limits]
    notice = limitations(limits, keys=any("keys" in guard.keeps for guard in guards))
    if notice:
        log.warning("%s", notice)


def check_clock(store: Store, clock: ManualClock) -> None:
    """Raise `ConfigurationError` for a store of this process that goes by another clock than all of its stack is to.

    A store that processes share is taken as it is: what a stack does on a server whose time is another can be tested.
    """
    for tier in tiers_of(store):
        if traits_of(tier).near and traits_of(tier).clock not in (..., clock):
            raise ConfigurationError(
                f"clock={clock!r} is to move everything, and {tier!r} goes by another one: give it the same, as in "
                "MemoryStore(clock=clock), or give the stack the store's URL"
            )


def warn_of_travels(store: Store) -> None:
    """Log that a test has made another time, if that is not the store's."""
    traveller = travelling()
    for tier in tiers_of(store) if traveller else ():
        if traits_of(tier).clock is None:
            log.warning(
                "%s has made another time, and %r goes by its server's: limits and keys do not follow. In tests write "
                "`with guard.testing() as g:`, and move time by g.advance()",
                traveller,
                tier,
            )
