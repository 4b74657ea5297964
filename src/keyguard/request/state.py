"""The state of one request: `RequestState` as handlers and guards see it, `SharedState` as layers share it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from keyguard.http.fields import LIMIT_FIELDS
from keyguard.identity import ANONYMOUS, Identity
from keyguard.request.limits import LimitState, limit_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyguard.http.addresses import Address
    from keyguard.refusal import Refusal
    from keyguard.request.limits import Decided
    from keyguard.response import Response


class RequestState:
    """The state of a request: one object for all layers of keyguard that it passes.

    - `identity`: who calls, as `APIKeys` has found it. `caller`: the same, and never `None`.
    - `limits`: what its limits have answered. `pressure`: how much of them the caller has spent.
    - `refusal`: why it was refused, if it was. `shadows`: why guards in shadow mode would have refused it.

    A handler has it from `here()` and as `scope["keyguard"]` (ASGI) or `environ["keyguard.request"]` (WSGI), a guard as
    `request.state`. Nothing of it is worked out before it is asked for.
    """

    # Class attributes: each request makes one of these, and most of them are never set.
    identity: Identity | None = None
    """The caller: `ANONYMOUS` if no key was needed and none was sent, `None` if no `APIKeys` has looked for one."""
    refusal: Refusal | None = None
    """Why keyguard has refused the request; `None` if it has not."""

    shadows: tuple[Refusal, ...] = ()
    """The refusals that guards in shadow mode would have made. They did not happen."""

    @property
    def caller(self) -> Identity:
        """The identity, and `ANONYMOUS` if nothing is known of it: for those who decide nothing by it."""
        return self.identity or ANONYMOUS

    @property
    def limits(self) -> tuple[LimitState, ...]:
        """The answer of each limit, in the order in which they were asked; nothing of those that did not apply.

        Remaining units are told as of then. Limits that were decided without the store, while that is out of order, are
        not listed: what is left of them is not known.
        """
        raise NotImplementedError

    @property
    def pressure(self) -> float:
        """The greatest share that is spent of any limit that was asked, from 0.0 (nothing) to 1.0 (all of it).

        The units of this request are included, a slot too. A handler can do with less before its caller is refused.
        Limits in shadow mode are left out. 0.0 if no limit was asked.
        """
        return max([limit.pressure for limit in self.limits if not limit.shadow], default=0.0)


class SharedState(RequestState):
    """A state with all that layers tell each other."""

    broken = False
    """Whether the app failed after its head, or somebody was told before its end that the client has gone. Layers
    further out may see a body that ends well: what stands between them and the app may have ended it."""
    failure: BaseException | None = None
    """The error that has ended the request before its time, while the work for its end is done."""
    whole = False
    """Whether the last of the response has left."""
    preflight = False
    """Whether it is a CORS preflight that `APIKeys` has let pass, which no limit further in counts."""
    client: Address | None = None
    client_known = False
    request_id: str | None = None
    refusal: Refusal | None = None
    """Why keyguard refused the request, once it has."""
    refused_inside: Response | None = None
    """The refusal of units that a handler wanted to reserve. It is the request's refusal if that is what it answers."""
    unserved = False
    """Whether that refusal is the request's whatever it is answered with: no view has run."""
    inside: Mapping[object, Any] = MappingProxyType({})
    """By stack: its hand inside the app, if rules stand there, as decorators or dependencies of views."""
    waited = 0.0
    """Seconds that the request has waited for stores."""
    sources: tuple[Any, ...] = ()
    """Where the guards that found the identity look for credentials."""
    own_limits: tuple[tuple[str, str], ...] | None = None
    """The fields about limits that the app itself set, if a guard has changed them and a cache stands outside."""
    caches: tuple[object, ...] = ()
    """The response caches it is passing: one that is mounted twice acts once."""
    decided: tuple[Decided, ...] = ()
    """The decisions of limits, in order."""
    exhaustion: Any = None
    """The exhaustion of upstream keys behind the error that the app's framework is about to answer, as it has told."""
    cached = False
    """Whether a response cache has answered."""
    route: str | None = None
    """The template of the route, if a middleware of its framework has told."""
    recorder: Any = None
    """Makes the record of the request; `False` if there is none to be made, since it is of nobody's."""

    def note_own_limits(self, headers: Iterable[tuple[str, str]]) -> None:
        """Note the fields about limits that the app itself set, before the first guard changes them."""
        if self.own_limits is None:
            self.own_limits = tuple([pair for pair in headers if pair[0].lower() in LIMIT_FIELDS])

    @property
    def limits(self) -> tuple[LimitState, ...]:
        return tuple([state for decided in self.decided for state in limit_states(decided)])
