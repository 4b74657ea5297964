"""Under trio: an engine that asks its store in a way that works there.

The asynchronous half of a store is made for asyncio, as a rule; its plain half works in any thread. A store may tell
more by an attribute `needs_asyncio`: if it is true, its app does not start; if it is false, `aexecute` works here too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from copy import copy
from functools import partial
from typing import Any, NoReturn

from keyguard.drivers.interpreter import Engine
from keyguard.errors import ConfigurationError
from keyguard.ops import Op, tiers_of, traits_of
from keyguard.process.event_loops import in_thread
from keyguard.request import CarriedRequest
from keyguard.stores.best_effort import BestEffortStore


def for_trio(engine: Engine) -> Engine:
    """Return the same engine, for trio's event loop."""
    twin = copy(engine)
    why = needs_asyncio(engine)
    if why:
        twin.ask = partial(_refuse, why)
        twin.instant = None
    if engine.aexecute is not None and not _is_at_home(engine.store):
        twin.aexecute = partial(in_thread, engine.execute)
    if engine.aside is not None and not _is_at_home(engine.aside.store):
        twin.aside = _InThreads(engine.aside)
    return twin


def _is_at_home(store: Any) -> bool:
    return traits_of(store).needs_asyncio is False


def needs_asyncio(engine: Engine) -> str:
    """Tell why the app cannot run under trio; the text is empty if it can."""
    aside = None if engine.aside is None else engine.aside.store
    for store in (*tiers_of(engine.store), *tiers_of(aside)):
        if traits_of(store).needs_asyncio:
            return (
                f"keyguard: {type(store).__name__} needs asyncio, and this is trio's event loop. Serve the app on "
                "asyncio (hypercorn without -k trio, say), or use memory:// or sqlite:///file.db"
            )
    return ""


def _refuse(why: str, request: CarriedRequest, place: int = 0) -> NoReturn:
    raise ConfigurationError(why)


class _InThreads(BestEffortStore):
    """The store for what no decision hangs on."""

    def __init__(self, aside: BestEffortStore) -> None:
        self.store, self.timeout = aside.store, aside.timeout
        self.reading, self.writing = aside.reading, aside.writing

    def aexecute(self, ops: Sequence[Op[Any]]) -> Awaitable[list[Any]]:
        """Ask it in a thread."""
        return in_thread(self.execute, ops)
