"""The contract of stores: what one must have, and what it may have.

`Store` is all that limits and keys need. `AsyncStore` and `ManagedStore` say what a store has that is used under load,
by event loops and by operators. A store of one's own derives from none of them: it has what it has, and `traits_of`,
which is the only place that looks, finds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from keyguard.manual_clock import ManualClock
from keyguard.ops.op import Op


class Store(Protocol):
    """The methods that every store has. Instances are safe to share between threads, and survive a fork."""

    def execute(self, ops: Sequence[Op[Any]], /) -> list[Any]:
        """Run each operation atomically, in order, and return their results.

        Raise `StoreError` if the store cannot answer, and `StoreBusy` if it answers others and only has no turn for
        this call. In both cases a decision is not charged, or will be given back.
        """
        ...

    def scan(self, prefix: str, /) -> Iterable[tuple[str, bytes]]:
        """Return every living key that starts with `prefix`, with its value, in the order of the keys.

        For operators, never on a request.
        """
        ...


class AsyncStore(Store, Protocol):
    """A store for which an event loop need not wait. A store without this is asked in the event loop's own thread."""

    def aexecute(self, ops: Sequence[Op[Any]], /) -> list[Any] | Awaitable[list[Any]]:
        """Do the same as `execute`: return the results if the store can answer at once, else an awaitable of them.

        It is made for asyncio. A store that has `needs_asyncio = False` says that any event loop can await it; one
        that has `needs_asyncio = True`, that its app must not start under another one. A store that says neither is
        asked in a thread there, by `execute`.
        """
        ...


class ManagedStore(Store, Protocol):
    """A store that outlives its process: it may be slow, it is found by a URL, and operators look after it."""

    timeout: float
    """Seconds that one operation may take, with everything. A store without this never waits."""

    @property
    def place(self) -> object:
        """Where it keeps what it is told: stores with equal places are one. A store without this is only itself."""
        ...

    def dump(self, prefix: str, /) -> Iterable[tuple[str, bytes, int | None]]:
        """Return what `scan` returns, each with its microseconds to live, `None` for ever: to copy a store."""
        ...

    def scratch(self, clock: ManualClock, /) -> Store:
        """Return an empty store of the same kind on the same server, for checks. Closing it removes what it holds."""
        ...

    def close(self) -> None:
        """Close what is open, when what is under way has ended. The next operation opens it again."""
        ...


class Values(dict[str, bytes]):
    """Values of a store in this process, by key. A new object takes the place of an old one.

    `version` is another object after each change, in this store and in any other one.
    """

    __slots__ = ("version",)

    def __init__(self) -> None:
        self.version = object()


T = TypeVar("T")


class _Trait(Generic[T]):
    """An attribute that a store may lack: then it is `default`."""

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, traits: Traits, owner: type) -> T:
        found: T = getattr(traits.of, self._name, self._default)
        return found


class Traits:
    """The attributes of a store besides `execute` and `scan`: `None`, or the usual value, for those it lacks."""

    def __init__(self, store: object) -> None:
        self.of = store

    # Of an `AsyncStore`:
    aexecute: _Trait[Callable[[Sequence[Op[Any]]], Any] | None] = _Trait(None)
    needs_asyncio: _Trait[bool | None] = _Trait(None)

    # Of a `ManagedStore`:
    timeout: _Trait[float | None] = _Trait(None)
    place: _Trait[object | None] = _Trait(None)
    dump: _Trait[Callable[[str], Iterable[tuple[str, bytes, int | None]]] | None] = _Trait(None)
    scratch: _Trait[Callable[[ManualClock], Store] | None] = _Trait(None)
    close: _Trait[Callable[[], Any] | None] = _Trait(None)

    # Of a store in this process, such as `MemoryStore`, whose methods tell more:
    pool: _Trait[Callable[..., Any] | None] = _Trait(None)
    """Return a pool, which takes from the limits of some rules at once; `None` if operations are to do it."""
    take_together: _Trait[Callable[[Sequence[tuple[Any, str, int]]], list[list[int]] | None] | None] = _Trait(None)
    """Take from several pools, from all of them or from none."""
    slots: _Trait[Callable[[str, Any, int], Any] | None] = _Trait(None)
    """Return a pool of the slots of a guard, which takes and frees them at once; `None` if operations are to do it."""
    values: _Trait[Values | None] = _Trait(None)
    """The values without a time to live, for reading alone."""

    # Of some:
    clock: _Trait[object] = _Trait(...)
    """The clock that it goes by; `None` for its server's, and `...` if it does not say."""
    some: _Trait[Callable[[str, int], tuple[Sequence[tuple[str, bytes]], bool]] | None] = _Trait(None)
    """Return what `scan` does, of so many keys at most, whichever they are, and whether these are all: for pages, which
    must not take longer the more keys there are."""
    aclose: _Trait[Callable[[], Awaitable[None]] | None] = _Trait(None)
    """Close what is open in this event loop, and all that `close` closes."""
    migrate: _Trait[Callable[[], tuple[int, int]] | None] = _Trait(None)
    """Make the tables, or bring them to the present layout; return the layouts before and after, 0 for none."""
    store: _Trait[Store | None] = _Trait(None)
    """The store behind this one, if it is a tier in front of it."""
    beside: _Trait[Callable[[bool], Store | None] | None] = _Trait(None)
    """Return a store object of its own, with the clock of this one, for what is written in the background, which must
    not hold up decisions; it may take a second. Told `False`, it makes nothing, and returns `None` if nothing is there.
    """
    here: _Trait[Callable[[Sequence[Op[Any]]], list[Any] | None] | None] = _Trait(None)
    """Return the results of operations that need no trip, also while the store behind is out of order; `None` for
    operations that need one."""
    holds_values: _Trait[bool] = _Trait(True)
    """Whether it keeps keys and cached responses, and not limits alone."""
    spread: _Trait[bool] = _Trait(False)
    """Whether several servers share the callers, so that what is asked about several of them is not one decision."""
    of_one_process: _Trait[bool] = _Trait(False)
    """Whether each process has one of its own, though they seem to share it."""
    limitations: _Trait[Callable[..., str] | None] = _Trait(None)
    """Return what a stack should know whose `limits` it keeps, and whose `keys` if that is true.

    It returns an empty text for nothing, and raises `ConfigurationError` for what cannot be done. A store that has this
    takes nothing back."""

    @property
    def near(self) -> bool:
        """Whether it lies in this process alone, and never waits."""
        return self.of_one_process and self.timeout is None


def traits_of(store: object) -> Traits:
    """Return what a store has, whatever class it is of. No other code asks."""
    return Traits(store)


def tiers_of(store: Store | None) -> Iterator[Store]:
    """Return a store, and what lies behind it if it is a tier."""
    while store is not None:
        yield store
        store = traits_of(store).store


def is_store(thing: object) -> bool:
    """Tell whether something can be asked as a store."""
    return callable(getattr(thing, "execute", None))


def keep_decisions(store: Store) -> None:
    """Tell a store, and those behind it, that keys and counters are kept there, which nothing may push out.

    A store that can lose them has an attribute `keeps_decisions`, which is set to true: it may look after itself then.
    """
    for tier in tiers_of(store):
        if hasattr(tier, "keeps_decisions"):
            tier.keeps_decisions = True


async def asked_in_loop(store: Store, ops: Sequence[Op[Any]]) -> list[Any]:
    """Run operations in an event loop, as the store can do it there."""
    results = (traits_of(store).aexecute or store.execute)(ops)
    return results if isinstance(results, list) else await results


async def close_in_loop(store: Store) -> None:
    """Close a store, if it can be, with what it holds of this event loop."""
    traits = traits_of(store)
    closing = (traits.aclose or traits.close or _nothing)()
    if closing is not None:
        await closing


def _nothing() -> None:
    """Close a store that has nothing to close."""
