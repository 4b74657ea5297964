"""Guards: what a stack may ask of them, and what each has to keep to.

A guard decides about a request. Two shapes:

    def no_robots(request: Request) -> Response | None:         # plain: None lets the request through
        ...

    async def timed(request: Request, forward: Forward) -> Response:
        response = await forward(request)                       # the next guard or, innermost, the app
        return response

Rules:
- A guard awaits steps and other guards; under ASGI it may await anything. It keeps nothing of a request on itself.
- It may be resumed in another task than it started in: it holds nothing bound to a task (a lock, a time-out
  scope, the token of a context variable) across `await forward(...)`.
- An `async` guard returns a `Response`. `None` is an error and refuses the request: a forgotten `return` must not
  let anybody in.
- What else a guard has to say to its stack, it says by the attributes and methods of `Guard`, its base class.

Most requests need no coroutine. So each guard is asked one question first, `decide(request)`, which has five answers:

    None        the request goes on to the next guard
    Response    it goes no further
    a `Mark`    it goes on, and the guard wants to be told how that ends
    an `Ask`    the store has to be asked first; its `answered` then gives one of these answers, but for LONG
    LONG        ask with `__call__`; nothing has happened yet

- A plain guard is its own `decide`. An `async` guard may have a method `decider(store)`, which returns one; without it
  the answer is `LONG`. `decider` is called once for each stack, with the stack's store if that answers at once and
  cannot fail, else with `None`.
- `decide` gives the answers that `__call__` would give. A method that a subclass overrides is always called: the
  `decider` of its parent is not asked then.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from keyguard.aside import in_turn
from keyguard.clock import Clock
from keyguard.counter_names import Counters, LimitFacts
from keyguard.errors import ConfigurationError, StoreError
from keyguard.flow import Flow, is_async, is_blocking
from keyguard.keys.credentials import Sources
from keyguard.marks import Mark as Mark
from keyguard.marks import Told as Told
from keyguard.ops import Op, Store
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response

if TYPE_CHECKING:
    from keyguard.keys import KeyRegistry


class Guard:
    """The base of guards that tell their stack more than a function can. All of it is optional.

        class Quarantine(Guard):
            filters_addresses = True

            def __call__(self, request: Request) -> Response | None: ...

    A stack asks this of guards that inherit from the class. Of others, functions say, it reads `provides` and `needs`.
    """

    __call__: Callable[..., Any]
    """The guard itself, in one of the two shapes."""

    provides: Collection[str] = frozenset()
    """The facts that it finds out about a request, for those further in: `{"identity"}`."""
    needs: Collection[str] = frozenset()
    """The facts that must be provided further out. A stack in which they are not does not start."""
    keeps: Collection[str] = frozenset({"decisions"})
    """The kinds of things that it keeps in stores: `"decisions"`, which nothing may push out; `"keys"`, which
    `registry` gives access to; `"holds"`, units of limits that it gives back later, for which a store is needed that
    takes back; `"values"`, which may be lost at any time and are asked for without holding up a decision."""
    store: str | Store | None = None
    """Where it keeps its values, if not in the stack's store: a URL or a store, and the same for all of one stack."""
    lets_anonymous_pass: bool = False
    """Whether it looks for callers' keys, and lets some pass without one."""
    wants_keys: bool = False
    """Whether it fails for a caller without a key: a stack in which one may come that far does not start."""
    answers_early: bool = False
    """Whether it may answer before the guards further in are asked. No address filter may stand there then."""
    filters_addresses: bool = False
    """Whether it refuses callers for their address."""
    judges_credentials: bool = False
    """Whether it hears how requests with wrong credentials end: so it stands outside of what refuses them."""
    sources: Sources | Sequence[str] = ()
    """Where it looks for credentials: names of header fields, `"cookie:name"`, `"query:name"` and what else
    `keyguard/keys/places.py` lists. Caches keep such requests apart, and what stands there is in no log."""
    reads_bodies: bool = False
    """Whether it may read the body of a request before the app does."""
    outlasts: bool = False
    """Whether it may have the app's answer read to its end after the client has left (`CarriedRequest.lasting`)."""
    strips: bool = False
    """Whether what stands in its `sources` is taken off before the app sees the request."""
    handlers: bool = False
    """Whether handlers turn to it while the app runs, and hear of their request: as with `Keyguard(handlers=True)`."""
    notes: bool = False
    """Whether requests are noted while the app runs (`keyguard.request.current`), also with `handlers=False`."""
    innermost: bool = False
    """Whether it stands inside of all guards that count, rules at routes too, since it answers in the app's place."""
    counters: Sequence[Counters] = ()
    """The limits it counts, so that no two of one process share a counter by chance."""
    facts: Sequence[LimitFacts] = ()
    """The facts that operators need to look at its limits, if that does not stand in `counters`."""
    counting: Literal["charges", "checks"] | None = None
    """Says that its `decide` only looks at the request until it answers with an `Ask` for a `Take`, so that it may be
    asked in one operation with its neighbours outside. `"charges"`: it refuses since too little is left. `"checks"`: it
    takes nothing, and refuses for what has been before. It stands in the class of the `decider` it speaks for."""
    unshadowed: str = ""
    """Why it cannot stand in shadow mode, in which it refuses nobody: "a cache refuses nobody". Empty if it can."""
    joined: Callable[[Sequence[Any]], Any] | None = None
    """A static method that makes one guard of several that stand next to each other. It stands in the class of the
    `__call__` it speaks for: a subclass that overrides it is not joined."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "__init__" in vars(cls):
            cls.__init__ = _naming_errors(cls.__init__)  # type: ignore[method-assign]

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """Return its settings that are functions of the request. Those that read the identity make it a need."""
        return {}

    def asynchronous(self) -> Mapping[str, object]:
        """Return its settings that only an event loop can run: a stack that has any does not start under WSGI."""
        return {}

    def attach(self, stack: Surroundings) -> None:
        """Take note of the stack, when it is built. Raise `ConfigurationError` if the guard cannot stand there."""

    def add_sources(self, sources: Sequence[Sources]) -> None:
        """Take note of the places in which layers further in look for credentials."""

    def after_fork(self) -> None:
        """Make anew what belongs to one process: called in a forked child, before any other code of it runs."""

    def set_aside(self) -> Callable[[], None]:
        """Begin anew, as one that has seen no request, for a test; return what puts back all that was.

        It is attached to the test's store and clock then, by which time may stand still, and afterwards to its own.
        """
        return in_turn()

    def registry(self, store: Store) -> KeyRegistry:
        """Return the registry of the keys that it keeps in a store."""
        raise ConfigurationError(f"{self!r} keeps no keys")

    def warn_of_workers(self, workers: int) -> str:
        """Say what goes wrong if so many processes do not share their store; empty if nothing does."""
        return ""

    def around_limits(self) -> AsyncGuard | None:
        """Return a guard to stand outside of the limits right before this one, which are looked for; `None` for none.

        It can answer callers whom these limits refuse.
        """
        return None

    def instant(self, clock: Clock) -> Callable[[MutableMapping[str, Any]], Any] | None:
        """Return what answers plain requests from their ASGI scope alone, if it stands outermost; `None` for nothing.

        It returns the two messages of a response, or `None` for the way through the guards. It speaks for `__call__` as
        `decider` does.
        """
        return None

    def decider(self, store: Any) -> Decide | None:
        """Return the function that is asked before `__call__`, as described above; `None` if there is none."""
        return None


def _naming_errors(init: Callable[..., None]) -> Callable[..., None]:
    """Return an `__init__` whose errors of settings begin with the guard's class."""

    @functools.wraps(init)
    def named(guard: Guard, *args: Any, **settings: Any) -> None:
        try:
            init(guard, *args, **settings)
        except ConfigurationError as error:
            if type(guard).__init__ is named:  # and not that of a class it inherits from, or it would be named twice
                error.args = (f"{type(guard).__name__}: {error}",)
            raise

    return named


class Surroundings(NamedTuple):
    """The stack that a guard stands in, as far as the guard is told."""

    store: Store
    """Where it keeps what it keeps: for values that is the store of the stack's values."""
    shared: bool
    """Whether values in that store are shared with other processes, and asked for by `BestEffort`."""
    sources: Sequence[Sources]
    """Where the guards of the stack look for credentials."""
    clock: Clock
    books: Store  # the stack's own, in which its audit log stands


# Guards are called with a `CarriedRequest`. A stranger's takes it as a `Request`, which is all that is meant for it.


class AsyncGuard(Protocol):
    """A guard that surrounds the app."""

    def __call__(self, request: CarriedRequest, forward: Forward, /) -> Flow[Response]: ...


PlainGuard: TypeAlias = Callable[[CarriedRequest], Response | None]
"""A guard that only looks at the request head."""

AnyGuard: TypeAlias = AsyncGuard | PlainGuard


class Long(enum.Enum):
    """The type of `LONG`."""

    LONG = "long"


LONG: Final = Long.LONG
"""The answer of a guard that has to be asked with `__call__`."""


class Ask:
    """The answer of a guard that has to ask the store first: an operation, and what follows from its result.

    While the store is asked no coroutine waits, only the driver. `__call__` is not called after it.
    """

    __slots__ = ("chain", "marks", "op", "place")

    marks: tuple[Mark, ...]
    """Those of the guards further out. For the chain, which goes on from here, like the next two."""
    place: int
    chain: Any

    def __init__(self, op: Op[Any]) -> None:
        self.op = op

    def stand_beside(self, asks: Sequence[Ask | None]) -> None:
        """Hear which guards further out are asked in the same operation, with `None` for those that ask nothing."""

    def answered(self, result: Any, request: CarriedRequest) -> Answer:
        """Decide by the result of the operation."""
        raise NotImplementedError

    def spared(self, result: Any, request: CarriedRequest) -> Mark | None:
        """Hear that nothing was taken, though it would have been: a guard that was asked beside this one refuses."""
        return None

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        """Go on as `__call__` would, since the store could not answer. It happens seldom, so it is a coroutine."""
        raise error


Answer: TypeAlias = "Response | Mark | Ask | None"
Decide: TypeAlias = "Callable[[CarriedRequest], Answer | Literal[Long.LONG]]"


# -- asking what a guard is -------------------------------------------------------------------------------------


def may_decide(guard: object, what: str = "decider") -> bool:
    """Tell whether a guard has a `decider`, or another method, that speaks for its `__call__`.

    It does not if anything has been overridden since: by a class derived from the one that defines it, or by an
    attribute of the instance.
    """
    bases = type(guard).__mro__
    place = next((place for place, base in enumerate(bases) if what in vars(base)), None)
    if place is None:
        return False
    derived = {name for base in bases[:place] for name in vars(base)}
    attributes = {name for name in getattr(guard, "__dict__", ()) if callable(getattr(type(guard), name, None))}
    return not any(_is_of_behaviour(name) and hasattr(bases[place], name) for name in derived | attributes)


def _is_of_behaviour(name: str) -> bool:
    """Tell whether what a class has by this name says how it decides, not how it is made, shown or stacked."""
    special = name.startswith("__") and name.endswith("__")
    return name in ("__call__", "__getattribute__") if special else name not in vars(Guard)


def speaks_for_call(guard: object, name: str) -> bool:
    """Tell whether a method stands in the class that has the `__call__`: a subclass with its own is always called."""
    calls = next((base for base in type(guard).__mro__ if "__call__" in vars(base)), object)
    return name in vars(calls)


def counting(guard: object) -> Literal["charges", "checks"] | None:
    """Return what a guard says of its `decider`; `None` for one that a subclass has changed."""
    base = next((base for base in type(guard).__mro__ if "decider" in vars(base)), object)
    return vars(base).get("counting") if isinstance(guard, Guard) else None


def declared(guard: object) -> Guard:
    """Return what a guard tells its stack."""
    if isinstance(guard, Guard):
        return guard
    told = Guard()
    told.provides = frozenset(getattr(guard, "provides", ()))
    told.needs = frozenset(getattr(guard, "needs", ()))
    return told


def sources_of(guard: object) -> Sources:
    """Return the places in which a guard looks for credentials."""
    sources = declared(guard).sources
    return sources if isinstance(sources, Sources) else Sources(sources)


def is_plain(guard: object) -> bool:
    """Tell whether a guard only looks at the head. Raise `ConfigurationError` for what is not a guard."""
    name = getattr(guard, "__name__", type(guard).__name__)
    if isinstance(guard, type) or not callable(guard):
        raise ConfigurationError(f"{name} is not a guard: pass an instance or a function, such as {name}(...)")
    if is_blocking(guard):
        raise ConfigurationError(
            f"a plain guard runs in place: make {name} an `async def`, and await `blocking(function)(...)` in it"
        )
    asynchronous = is_async(guard)
    try:
        inspect.signature(guard).bind(*range(2 if asynchronous else 1))
    except TypeError:
        raise ConfigurationError(
            f"the guard {name} must be `async def {name}(request, forward)` or `def {name}(request)`"
        ) from None
    return not asynchronous
