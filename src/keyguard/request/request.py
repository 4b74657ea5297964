"""The request, as a guard sees it.

One class, two origins: the drivers for ASGI and WSGI subclass it, and everything a guard may ask means the
same in both. All of it is lazy: a request that no guard looks at costs one small object.

Rules kept here:
- Text that came from the wire is decoded as ISO 8859-1, so any bytes are text and nothing raises.
- Several lines of one header field are one list, joined by a comma (RFC 9110, section 5.3).
- The path is the one the app routes: decoded, without the prefix the app is mounted under. Reading one that could be
  read as another path raises, and so does reading the caller's identity before it was looked for.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from os import urandom
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from keyguard.errors import AmbiguousPath, ConfigurationError
from keyguard.http.fields import asks_for_another_method
from keyguard.http.spelling import Spelling
from keyguard.http.values import Fields, Values, cookie_values, query_values
from keyguard.identity import ANONYMOUS, Identity
from keyguard.request.head import RequestHead, RequestSettings
from keyguard.request.state import RequestState

if TYPE_CHECKING:
    from keyguard.clock import Clock
    from keyguard.flow import Step
    from keyguard.http.addresses import Address
    from keyguard.response import Response

Deferred: TypeAlias = "Step[Any] | Callable[[], Awaitable[None] | None]"
"""Work for the end of a request: a step, or a function (plain, or returning a coroutine that awaits steps)."""

SHARED_ASGI = "keyguard"
"""The key under which the state stands in an ASGI scope."""
SHARED_WSGI = "keyguard.request"
"""The same in a WSGI environ: keys of others than the server's have a dot (PEP 3333, "environ Variables")."""

UNKNOWN_IDENTITY = (
    "request.identity was read before any APIKeys had looked for a key. Put APIKeys() before the guard that reads it: "
    "Keyguard(APIKeys(), RateLimit(...)); stacked one by one, APIKeys is added last, so that it stands outside. A "
    "bridge between ASGI and WSGI that runs the app in another context hides what is outside: put APIKeys() on this "
    "side"
)

_ONE_WORD = re.compile(r"[^\s,]+")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:@=+/-]{1,128}")


def veiled(query: bytes) -> bytes:
    """A digest of a query, in which keys may stand; nothing for none."""
    return blake2b(query, digest_size=16).digest() if query else b""


class Request(RequestHead):
    """A request head. Guards read it; `forward` hands it on.

    - `method`, `scheme`, `path`, `raw_path`, `raw_query`, `root`, `websocket`: what is asked for.
    - `headers`, `query`, `cookies`: what it carries, as read-only mappings. `header(name)` is one field.
    - `client`, `identity`, `caller`, `id`: who asks, and what the request is called in the log.
    - `at_end(work)`, `after_app(work)`, `changed(fields)`: what a guard may do with it.

    All else is for keyguard's own parts, and may change.
    """

    websocket: ClassVar[bool] = False
    """True for a websocket handshake."""
    tells_by_names: ClassVar[bool] = False
    """Whether all of what is told of the caller stands under `names`."""
    shared: ClassVar[str] = SHARED_ASGI
    """The key under which the state stands in the scope."""

    # Slots, all set for each request: it costs half of what an instance with a `__dict__` does.
    __slots__ = (
        "_fields",
        "_plain",
        "_spelling",
        "afterwards",
        "clock",
        "copied",
        "deferred",
        "inherited",
        "late",
        "method",
        "reached_app",
        "read_body",
        "scope",
        "settings",
        "state",
        "taken_off",
    )

    method: str
    """As sent: methods are case-sensitive (RFC 9110, section 9.1). A websocket handshake is a `GET`."""
    scope: MutableMapping[str, Any]
    """The ASGI scope; under WSGI the environ."""
    state: RequestState
    inherited: bool
    """Whether layers further out have begun its state."""
    clock: Clock
    deferred: list[Deferred] | None
    """Work for the end of the request."""
    afterwards: list[Deferred] | None
    """Work for when the app has returned: background tasks and clean-up come after the last byte."""
    late: Callable[[Deferred], None] | None
    copied: bool
    """Whether the app's response may be copied: then it matters whether its client stays to the end."""
    reached_app: bool
    """Whether the app was called: what is raised at `forward` before that is a guard's failure."""
    read_body: bool
    """Whether the app has got a body that no header field had announced."""
    taken_off: Sequence[bytes]
    """Names of header fields that were taken off the scope."""
    _fields: dict[bytes, bytes] | None
    """What was read of the header fields."""
    _plain: str | None
    _spelling: Spelling | None

    def __init__(
        self,
        method: str,
        scope: MutableMapping[str, Any],
        settings: RequestSettings,
        state: RequestState | None = None,
        taken_off: Sequence[bytes] = (),
    ) -> None:
        """Begin a request. `state` is that of layers further out, if there are any."""
        self.method = method
        self.scope = scope
        self.settings = settings
        self.clock = settings.clock
        self.taken_off = taken_off
        self.deferred = self.afterwards = self.late = self._fields = self._plain = self._spelling = None
        self.copied = self.reached_app = self.read_body = False
        self.inherited = state is not None
        self.state = state or RequestState()

    # -- what guards use --------------------------------------------------------------------------------

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields by name, in any case. Several lines of one name are joined by `,`."""
        return Fields(self)

    @property
    def query(self) -> Values:
        """The parameters of the query by name: the first of each, and all of them by `get_all`. Read anew each time."""
        return query_values(self.raw_query)

    @property
    def cookies(self) -> Values:
        """The cookies by name: the first of each, and all of them by `get_all`. Read anew each time."""
        return cookie_values(self.header("cookie"))

    @property
    def path(self) -> str:
        """The decoded path that the app routes on: after `root_path` (ASGI) or `SCRIPT_NAME` (WSGI).

        Raises `AmbiguousPath` if it could be read as another path, until the app has been called: a guard that
        decides by it would decide about something else. The request is refused with 400 then. `raw_path` can always be
        read.
        """
        path = self.plain_path
        if path is None:
            spelling = self.spelling
            if (spelling.ambiguous or spelling.hidden) and not self.reached_app:
                raise AmbiguousPath
            path = spelling.path
        return path

    @property
    def plain_path(self) -> str | None:
        """The path, if nothing about its spelling needs a second look; else `None`, and `spelling` tells of it."""
        plain = self._plain
        if plain is None:
            plain = self._plain = self._find_plain()
        return plain or None

    def _find_plain(self) -> str:
        raise NotImplementedError

    @property
    def spelling(self) -> Spelling:
        """The path with all that it could be, for conditions; and for those who decide nothing by it."""
        spelling = self._spelling
        if spelling is None:
            spelling = self._spelling = self._spell()
        return spelling

    def _spell(self) -> Spelling:
        raise NotImplementedError

    @property
    def ambiguous(self) -> bool:
        """True if the path's spelling could be read as another path than the one the app routes."""
        return self.plain_path is None and self.spelling.ambiguous

    @property
    def identity(self) -> Identity:
        """The caller, as `APIKeys` found it: `ANONYMOUS` if no key was needed and none was sent.

        Raises `ConfigurationError` if it has not been looked for yet: no `APIKeys` stands outside of the guard that
        asks. Once the app was called, or the request refused, nothing is decided by it any more, and it is `ANONYMOUS`.
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
    def client(self) -> Address | None:
        """The caller's address behind the trusted proxies, or `None` if it cannot be known."""
        state = self.state
        if not state.client_known:
            peer, source = self.peer, self.settings.source
            state.client = source.direct.get(peer) or source.find(peer, self.header)
            state.client_known = True
        return state.client

    @property
    def id(self) -> str:
        """The request's id: a well-formed `X-Request-ID` that was sent, else a fresh random one."""
        state = self.state
        if state.request_id is None:
            sent = self.header("x-request-id")
            state.request_id = sent if sent and _REQUEST_ID.fullmatch(sent) else urandom(8).hex()
        return state.request_id

    @property
    def preflight(self) -> bool:
        """True for a CORS preflight request (Fetch standard, section 3.2.2), as browsers send it.

        It has no body, and no field by which some middleware turns it into a request of another method. Its two fields
        say one thing each: some CORS middleware takes a request whose `Origin` is empty for an ordinary one. Anybody
        else can send a preflight too. That it carries no key is not looked at here.
        """
        return (
            self.method == "OPTIONS"
            and _ONE_WORD.fullmatch(self.header("origin") or "") is not None
            and _ONE_WORD.fullmatch(self.header("access-control-request-method") or "") is not None
            and self.header("content-length") in (None, "", "0")
            and self.header("transfer-encoding") is None
            and not any(map(asks_for_another_method, self.field_names()))
        )

    @contextmanager
    def changed(self, fields: Mapping[str, str | None], *, whole_body: bool = False) -> Iterator[None]:
        """Give the request these header fields instead of its own, for what is called inside; `None` takes one off.

        `whole_body` keeps from the app the ways to answer past its `send` (ASGI's extensions for sending files).
        """
        self.copied = self.copied or whole_body
        before = self.scope
        scope = self._changed_scope(fields, whole_body)
        if scope is before:
            yield
            return
        ours = scope.keys() - before.keys()  # under WSGI each header field is a key
        self.scope = scope
        self._forget_fields()
        try:
            yield
        finally:
            self.scope = before
            self._forget_fields()
            for key, value in scope.items():  # others outside may look for what the app notes: `scope["route"]`
                if key not in ours:
                    before.setdefault(key, value)

    def at_end(self, work: Deferred) -> None:
        """Run `work` once when the request is over: after the last byte, or when it failed or was left.

        All of it runs, last first, even if one fails, and under cancellation. Registered after the end, it runs
        at once.
        """
        if self.late is not None:
            self.late(work)
        elif self.deferred is None:
            self.deferred = [work]
        else:
            self.deferred.append(work)

    def after_app(self, work: Deferred) -> None:
        """Run `work` once when the app has returned (ASGI) or its iterable was closed (WSGI), even if it failed.

        That may be long after the last byte: background tasks, and what dependencies do after their `yield`, run
        between the two. Called before the app has answered, or at its head.
        """
        if self.afterwards is None:
            self.afterwards = [work]
        else:
            self.afterwards.append(work)

    def not_at_end(self, work: Deferred) -> None:
        """Take work back from `at_end`: a request without any leaves the app's body to the server as it is."""
        if self.deferred is not None and work in self.deferred:
            self.deferred.remove(work)
            self.deferred = self.deferred or None


Forward: TypeAlias = "Callable[[Request], Awaitable[Response]]"
"""Calls the next guard or, innermost, the app; evaluates to the response at its head."""
