"""Observers: parts of a stack that hear of each request and work in the background, such as a ledger of usage.

Rules:
- `attach` is called once for each stack, when that is built. It returns the function that is told of each request, the
  sink, or `None`; or raises `ConfigurationError` if the observer cannot stand there.
- A sink is called on the request, by any thread: it takes note, and does the work later. Two stacks around one app that
  have the same sink tell it once.
- `begin` is called when the app begins, in each of its processes, maybe several times. In a process that only forks
  workers (`forks_in_c`) it leaves no thread behind.
- `close` does what is left to do, within a bounded time; what is told to it afterwards has it begin again. It is called
  at the end of the app's lifespan and by `Keyguard.close()`, maybe several times, before the stack's store is closed.
- None of them is called for requests of a test (`Keyguard.testing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from keyguard.clock import Clock
from keyguard.counter_names import LimitFacts
from keyguard.decision import Decision
from keyguard.logs import logger
from keyguard.manual_clock import ManualClock
from keyguard.ops import Store
from keyguard.stores.health import StoreHealth

log = logger("keyguard")

K = TypeVar("K")

Sink: TypeAlias = Callable[[Decision], None]
"""A function that is told of each request."""


class Observed(NamedTuple):
    """A stack, as far as an observer is told."""

    name: str
    """The name under which it writes its limits into its store."""
    store: Store
    clock: Clock
    """The clock of the stack: `Decision.at` goes by it."""
    manual: ManualClock | None
    """The same, if it goes only when it is told to: for a store that the observer opens."""
    facts: Callable[[], Sequence[LimitFacts]]
    """Returns what its limits are, as far as they are known by now."""
    health: Callable[[], StoreHealth]
    """Returns how its store does, and what was decided without it, as this process sees it."""
    cache: Callable[[], Mapping[str, int]]
    """Returns the counts of its caches in this process since the start, added up; empty if there is none."""
    before: tuple[Observer, ...] = ()
    """The observers of the stack that were attached before this one: the ledger of usage is the first."""
    pools: tuple[Any, ...] = ()
    """The pools of upstream keys of the stack, each a `KeyPool`."""


class Observer(Protocol):
    """The methods of an observer."""

    def attach(self, stack: Observed, /) -> Sink | None:
        """Take note of a stack; return what is told of each request."""
        ...

    def begin(self) -> None:
        """Begin, in this process."""
        ...

    def close(self) -> None:
        """Do what is left to do, and end."""
        ...


def observer_of(observers: Iterable[object], kind: type[K]) -> K | None:
    """Return the first observer of a kind; `None` if there is none."""
    return next((one for one in observers if isinstance(one, kind)), None)


def begin_all(observers: Iterable[Observer]) -> None:
    """Have observers begin. What goes wrong with one stops neither the app nor the others."""
    for observer in observers:
        try:
            observer.begin()
        except Exception:
            log.exception("%r could not begin, and the app goes on", observer)


def close_all(observers: Sequence[Observer]) -> None:
    """Close observers, the last one first: it may still tell those before it."""
    for observer in reversed(observers):
        try:
            observer.close()
        except Exception:
            log.exception("%r could not end as it should", observer)
