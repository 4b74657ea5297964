"""A stack as the drivers see it, whichever app it stands around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keyguard.chain import Chain
from keyguard.clock import Clock
from keyguard.decision import Decision
from keyguard.drivers.rendering import Rendering
from keyguard.http.forwarding import ClientAddress
from keyguard.keys.credentials import Sources
from keyguard.observer import Observer
from keyguard.ops import Store
from keyguard.overrides import Overrides
from keyguard.refusal import Refusal
from keyguard.stores.best_effort import BestEffortStore
from keyguard.stores.circuit_breaker import CircuitBreaker


class Setup(NamedTuple):
    """A stack as its engines see it, whichever app they stand around."""

    chain: Chain
    store: Store
    watched: CircuitBreaker | None
    """The store under watch; `None` for one that cannot fail."""
    here: CircuitBreaker
    """Decides without the store. A store that cannot fail has this too, since a subclass of it may."""
    aside: BestEffortStore | None
    """The store for what no decision hangs on, by circuit breakers of its own; `None` if nothing is shared."""
    source: ClientAddress
    clock: Clock
    provides: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    """The needs of these guards that the stack itself does not meet, and layers further out must."""
    sources: Sequence[Sources] = ()
    """Where these guards look for credentials."""
    filters_addresses: bool = False
    """Whether one of them refuses callers by address, which no cache may stand outside of."""
    notify: Callable[[Refusal], None] | None = None
    instant: Callable[..., Any] | None = None
    """Answers with ASGI messages what needs no request: the plain hits of a cache that stands outermost."""
    underscores: frozenset[bytes] = frozenset()
    """Names of request fields with an underscore that reach guards and app."""
    request_id_header: str | None = None
    """The response field in which refusals tell the request's id."""
    note: Any = None
    """Has a method `begin`, which is called when the app begins: it writes the rules of the stack down."""
    overrides: Overrides | None = None
    """Other limits for some subjects."""
    notes: bool = False
    """Whether requests are noted for handlers (`keyguard.request.current`)."""
    stack: Any = None
    """The stack itself, whose `check_routes(app, around)` is called when the app has all its routes."""
    rendering: Rendering | None = None
    """Writes the bodies of refusals, if the app has a function for it."""
    reads_bodies: bool = False
    """Whether a guard may ask for the body of a request."""
    outlasts: bool = False
    """Whether a guard may have the app's answer read on after the client has left."""
    strips: Sequence[Sources] = ()
    """The places in which keys are taken off before the app sees a request."""
    drivers: Any = None
    """A set of the drivers around apps: each can be given another engine."""
    handlers: bool = False
    """Whether handlers are expected: what makes bodies under WSGI is one too, and what they are refused is answered."""
    sinks: tuple[Callable[[Decision], None], ...] = ()
    """Functions that are told of each request."""
    observers: Sequence[Observer] = ()
    """Those that begin when the app begins, and are closed at its end."""
    patterns: Sequence[str] = ()
    """The patterns of paths that rules are about, in their order."""
