"""The request, as a guard's author sees it: `Request` has the names that are meant for guards, and no others.

Rules kept here:
- Text that came from the wire is decoded as ISO 8859-1, so any bytes are text and nothing raises.
- Several lines of one header field are one list, joined by a comma (RFC 9110, section 5.3).
- The path is the one the app routes: decoded, without the prefix the app is mounted under. Reading one that could be
  read as another path raises, and so does reading the caller's identity before it was looked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from keyguard.errors import ConfigurationError
from keyguard.http.values import Values, cookie_values, query_values
from keyguard.identity import ANONYMOUS, Identity
from keyguard.request.state import RequestState

if TYPE_CHECKING:
    from keyguard.clock import Clock
    from keyguard.flow import Step
    from keyguard.http.addresses import Address
    from keyguard.response import Response

Deferred: TypeAlias = "Step[Any] | Callable[[], Awaitable[None] | None]"
"""Work for the end of a request: a step, or a function (plain, or returning a coroutine that awaits steps)."""

UNKNOWN_IDENTITY = (
    "request.identity was read before any APIKeys had looked for a key. Put APIKeys() before the guard that reads it: "
    "Keyguard(APIKeys(), RateLimit(...)); stacked one by one, APIKeys is added last, so that it stands outside. A "
    "bridge between ASGI and WSGI that runs the app in another context hides what is outside: put APIKeys() on this "
    "side"
)


class Request:
    """A request head. Guards read it; `forward` hands it on.

    - `method`, `scheme`, `path`, `raw_path`, `raw_query`, `root`, `websocket`, `preflight`: what is asked for.
      `ambiguous` tells whether `path` raises.
    - `headers`, `query`, `cookies`: what it carries, as read-only mappings. `header(name)` is one field.
    - `client`, `peer`, `identity`, `caller`, `id`: who asks, and what the request is called in the log.
    - `state`: what guards have found out about it. `clock`: the stack's time. `reached_app`: whether the app was
      called.
    - `at_end(work)`, `after_app(work)`, `changed(fields)`: what a guard may do with it.

    A driver makes it, and means the same by all of it under ASGI and WSGI. All of it is lazy.
    """

    __slots__ = ()

    websocket: ClassVar[bool] = False
    """True for a websocket handshake."""

    method: str
    """As sent: methods are case-sensitive (RFC 9110, section 9.1). A websocket handshake is a `GET`."""
    state: RequestState
    """The state of the request, shared by all layers of keyguard that it passes."""
    clock: Clock
    """Returns the time of the stack in microseconds since the Unix epoch."""
    reached_app: bool
    """Whether the app was called: what is raised at `forward` before that is a guard's failure."""

    # -- what is asked for ------------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        """`http`, `https`, `ws` or `wss`, as the server says."""
        raise NotImplementedError

    @property
    def path(self) -> str:
        """The decoded path that the app routes on: after `root_path` (ASGI) or `SCRIPT_NAME` (WSGI).

        Raises `AmbiguousPath` if it could be read as another path, until the app has been called: a guard that
        decides by it would decide about something else. The request is refused with 400 then. `raw_path` can always be
        read.
        """
        raise NotImplementedError

    @property
    def ambiguous(self) -> bool:
        """True if the path's spelling could be read as another path than the one the app routes."""
        raise NotImplementedError

    @property
    def raw_path(self) -> bytes | None:
        """The path as it stood in the request line, percent-encoded, if the server tells; else `None`."""
        raise NotImplementedError

    @property
    def raw_query(self) -> bytes:
        """The query, percent-encoded, without the `?`."""
        raise NotImplementedError

    @property
    def root(self) -> str:
        """The prefix that the app is mounted under: `root_path` (ASGI), `SCRIPT_NAME` (WSGI)."""
        raise NotImplementedError

    @property
    def preflight(self) -> bool:
        """True for a CORS preflight request (Fetch standard, section 3.2.2), as browsers send it.

        It has no body, and no field by which some middleware turns it into a request of another method. Its two fields
        say one thing each: some CORS middleware takes a request whose `Origin` is empty for an ordinary one. Anybody
        else can send a preflight too. That it carries no key is not looked at here.
        """
        raise NotImplementedError

    # -- what it carries --------------------------------------------------------------------------------

    def header(self, name: str) -> str | None:
        """The value of a header field, or `None`. `name` is lower case; several lines are joined by `,`.

        Raises `ConfigurationError` for a name with an underscore, unless `Keyguard(underscores=[...])` keeps that
        field: it would never be there.
        """
        raise NotImplementedError

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields by name, in any case. Several lines of one name are joined by `,`."""
        raise NotImplementedError

    @property
    def query(self) -> Values:
        """The parameters of the query by name: the first of each, and all of them by `get_all`. Read anew each time."""
        return query_values(self.raw_query)

    @property
    def cookies(self) -> Values:
        """The cookies by name: the first of each, and all of them by `get_all`. Read anew each time."""
        return cookie_values(self.header("cookie"))

    # -- who asks ---------------------------------------------------------------------------------------

    @property
    def client(self) -> Address | None:
        """The caller's address behind the trusted proxies, or `None` if it cannot be known."""
        raise NotImplementedError

    @property
    def peer(self) -> str | None:
        """The address that opened the connection, as the server gives it; `None` for a unix socket."""
        raise NotImplementedError

    @property
    def identity(self) -> Identity:
        """The caller, as `APIKeys` found it: `ANONYMOUS` if no key was needed and none was sent.

        Raises `ConfigurationError` if it has not been looked for yet: no `APIKeys` stands outside of the guard that
        asks. Once the app was called, or the request refused, nothing is decided by it any more, and it is `ANONYMOUS`.
        A guard that has found the caller sets it.
        """
        state = self.state
        identity = state.identity
        if identity is None:
            if self.reached_app or state.refusal is not None:
                return ANONYMOUS
            raise ConfigurationError(UNKNOWN_IDENTITY)
        return identity

    @identity.setter
    def identity(self, identity: Identity) -> None:
        self.state.identity = identity

    @property
    def caller(self) -> Identity:
        """The same if it is known, else `ANONYMOUS`: for those who tell of a request, and decide nothing by it."""
        return self.state.identity or ANONYMOUS

    @property
    def id(self) -> str:
        """The request's id: a well-formed `X-Request-ID` that was sent, else a fresh random one."""
        raise NotImplementedError

    # -- what a guard may do with it --------------------------------------------------------------------

    def at_end(self, work: Deferred) -> None:
        """Run `work` once when the request is over: after the last byte, or when it failed or was left.

        All of it runs, last first, even if one fails, and under cancellation. Registered after the end, it runs
        at once.
        """
        raise NotImplementedError

    def after_app(self, work: Deferred) -> None:
        """Run `work` once when the app has returned (ASGI) or its iterable was closed (WSGI), even if it failed.

        That may be long after the last byte: background tasks, and what dependencies do after their `yield`, run
        between the two. Called before the app has answered, or at its head.
        """
        raise NotImplementedError

    def changed(self, fields: Mapping[str, str | None], *, whole_body: bool = False) -> AbstractContextManager[None]:
        """Give the request these header fields instead of its own, for what is called inside; `None` takes one off.

        `whole_body` keeps from the app the ways to answer past its `send` (ASGI's extensions for sending files).
        """
        raise NotImplementedError


Forward: TypeAlias = "Callable[[Request], Awaitable[Response]]"
"""Calls the next guard or, innermost, the app; evaluates to the response at its head."""
