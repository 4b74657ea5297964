"""The request as drivers carry it: with all that keyguard's own parts need of it, and authors of guards do not.

One class, two origins: the drivers for ASGI and WSGI subclass it. A request that no guard looks at costs one small
object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from os import urandom
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from keyguard.errors import AmbiguousPath
from keyguard.http.fields import FieldSet, asks_for_another_method
from keyguard.http.shown_path import shown_path
from keyguard.http.spelling import Spelling
from keyguard.http.values import Fields
from keyguard.request.request import Deferred, Request
from keyguard.request.settings import RequestSettings
from keyguard.request.state import SharedState

if TYPE_CHECKING:
    from keyguard.http.addresses import Address
    from keyguard.http.callers import Told
    from keyguard.http.spelling import Inside
    from keyguard.response import FieldNames, Headers

SHARED_ASGI = "keyguard"
"""The key under which the state stands in an ASGI scope."""
SHARED_WSGI = "keyguard.request"
"""The same in a WSGI environ: keys of others than the server's have a dot (PEP 3333, "environ Variables")."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:@=+/-]{1,128}")
_ONE_WORD = re.compile(r"[^\s,]+")


def veiled(query: bytes) -> bytes:
    """A digest of a query, in which keys may stand; nothing for none."""
    return blake2b(query, digest_size=16).digest() if query else b""


class Lasting(NamedTuple):
    """How far an app's answer is read on after its client has left."""

    seconds: float
    most: int
    """Bytes."""


class CarriedRequest(Request):
    """A request with what drivers note about it, and with its head as the server gives it."""

    tells_by_names: ClassVar[bool] = False
    """Whether all of what is told of the caller stands under `names`."""
    shared: ClassVar[str] = SHARED_ASGI
    """The key under which the state stands in the scope."""

    # Slots, nearly all set for each request: it costs half of what an instance with a `__dict__` does.
    __slots__ = (
        "_fields",
        "_plain",
        "_spelling",
        "afterwards",
        "ahead",
        "asked_for",
        "clock",
        "copied",
        "deferred",
        "inherited",
        "lasting",
        "late",
        "method",
        "over",
        "reached_app",
        "read_body",
        "scope",
        "settings",
        "state",
        "stripped",
        "tab",
        "taken_off",
    )

    scope: MutableMapping[str, Any]
    """The ASGI scope; under WSGI the environ."""
    state: SharedState
    inherited: bool
    """Whether layers further out have begun its state."""
    deferred: list[Deferred] | None
    """Work for the end of the request."""
    afterwards: list[Deferred] | None
    """Work for when the app has returned: background tasks and clean-up come after the last byte."""
    late: Callable[[Deferred], None] | None
    lasting: Lasting | None
    """How far the app's answer is read on if its client leaves. Only in stacks with a guard that `outlasts`, and not
    set before it says so."""
    copied: bool
    """Whether the app's response may be copied: then it matters whether its client stays to the end."""
    read_body: bool
    """Whether the app has got a body that no header field had announced."""
    asked_for: bool
    """Whether a handler has asked which request it works for. Set if the request is noted."""
    over: bool
    """Whether the app has returned. Set then, and only in stacks that note their requests for handlers."""
    ahead: Any
    """Reads the body before the app does, if some guard of the stack may ask for it. Set then."""
    stripped: set[str]
    """The keys that were taken off the request before the app saw it. Set then."""
    tab: Any
    """The charges of handlers to the request. Set when they first make one."""
    taken_off: Sequence[bytes]
    """Names of header fields that were taken off the scope."""
    _fields: dict[bytes, bytes] | None
    """The header fields, as far as they were read."""
    _plain: str | None
    _spelling: Spelling | None

    def __init__(
        self,
        method: str,
        scope: MutableMapping[str, Any],
        settings: RequestSettings,
        state: SharedState | None = None,
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
        self.state = state or SharedState()

    # -- what is public, for both drivers ---------------------------------------------------------------

    @property
    def headers(self) -> Mapping[str, str]:
        return Fields(self)

    @property
    def path(self) -> str:
        path = self.plain_path
        if path is None:
            spelling = self.spelling
            if (spelling.ambiguous or spelling.hidden) and not self.reached_app:
                raise AmbiguousPath
            path = spelling.path
        return path

    @property
    def ambiguous(self) -> bool:
        return self.plain_path is None and self.spelling.ambiguous

    @property
    def client(self) -> Address | None:
        state = self.state
        if not state.client_known:
            peer, source = self.peer, self.settings.source
            state.client = source.direct.get(peer) or source.find(peer, self.header)
            state.client_known = True
        return state.client

    @property
    def id(self) -> str:
        state = self.state
        if state.request_id is None:
            sent = self.header("x-request-id")
            state.request_id = sent if sent and _REQUEST_ID.fullmatch(sent) else urandom(8).hex()
        return state.request_id

    @property
    def preflight(self) -> bool:
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
        self.copied = self.copied or whole_body
        before = self.scope
        scope = self._changed_scope(fields, whole_body)
        if scope is before:
            yield
            return
        ours = scope.keys() - before.keys()  # under WSGI each header field is a key
        self.scope = scope
        self.forget_fields()
        try:
            yield
        finally:
            self.scope = before
            self.forget_fields()
            for key, value in scope.items():  # others outside may look for what the app notes: `scope["route"]`
                if key not in ours:
                    before.setdefault(key, value)

    def at_end(self, work: Deferred) -> None:
        if self.late is not None:
            self.late(work)
        elif self.deferred is None:
            self.deferred = [work]
        else:
            self.deferred.append(work)

    def after_app(self, work: Deferred) -> None:
        if self.afterwards is None:
            self.afterwards = [work]
        else:
            self.afterwards.append(work)

    # -- what keyguard's own parts use ------------------------------------------------------------------

    def not_at_end(self, work: Deferred) -> None:
        """Take work back from `at_end`: a request without any leaves the app's body to the server as it is."""
        if self.deferred is not None and work in self.deferred:
            self.deferred.remove(work)
            self.deferred = self.deferred or None

    def of_the_same_caller(self) -> dict[str, Any]:
        """Return a scope or environ for another request of the same caller, with the same head."""
        found, state = self.state, SharedState()
        state.identity, state.client, state.client_known = found.identity, found.client, found.client_known
        state.decided = found.decided  # its handlers charge the same caller
        state.recorder = False
        return {**self.scope, self.shared: state}

    @property
    def route(self) -> str:
        """The route that the app has matched, if it tells; else the path, as a log may hold it."""
        matched = (self.state.route or self.matched_route()) if self.reached_app else None
        return shown_path(self._told_path()) if matched is None else matched

    @property
    def inside(self) -> Inside:
        """The app and all that stands in front of it, as far as it can be seen."""
        return self.settings.inside

    @property
    def plain_path(self) -> str | None:
        """The path, if nothing about its spelling needs a second look; else `None`, and `spelling` tells of it."""
        plain = self._plain
        if plain is None:
            plain = self._plain = self._find_plain()
        return plain or None

    @property
    def spelling(self) -> Spelling:
        """The path with all that it could be, for conditions; and for those who decide nothing by it."""
        spelling = self._spelling
        if spelling is None:
            spelling = self._spelling = self._spell()
        return spelling

    def takes_off(self, name: str) -> bool:
        """Tell whether fields of this name are taken off every request: it has an underscore, and nobody wants it."""
        return "_" in name and name.lower().encode("latin-1") not in self.settings.underscores

    def folded(self, name: str) -> str | None:
        """Return what an app reads as a field of a name that is taken off: under WSGI, the field with hyphens."""
        return None

    # -- what each driver supplies ----------------------------------------------------------------------

    def sends(self, fields: FieldSet) -> bool:
        """Whether the request has any of these header fields."""
        raise NotImplementedError

    def sole(self, fields: FieldSet) -> tuple[Any, bytes] | None:
        """Return the only one of these header fields that the request has, with its name as the server gives it.

        `None` if it has none of them, or more than one; or one in several lines, which may be joined by `,` instead.
        """
        raise NotImplementedError

    def names(self) -> Collection[Any]:
        """The names of header fields as the server gives them; under WSGI those of all variables."""
        raise NotImplementedError

    def field_name(self, raw: Any) -> str | None:
        """The name, in lower case, of what `names` lists; `None` for a variable that is not a header field."""
        raise NotImplementedError

    def field_value(self, raw: Any) -> str:
        """The value of what `names` lists."""
        raise NotImplementedError

    def told(self) -> Told:
        """Return what the server, or somebody further out, says of the caller besides header fields."""
        raise NotImplementedError

    def field_names(self) -> Iterable[str]:
        """The names of all header fields, in lower case and with `-` for `_`, as some bridges hand them on."""
        raise NotImplementedError

    def address(self) -> tuple[object, ...]:
        """All that the request line, `Host` and the server say of what is asked for; queries, which may hold keys, as
        digests."""
        raise NotImplementedError

    def raw_fields(self, pairs: Iterable[tuple[str, str]]) -> list[Any]:
        """Response header fields in the form that the server takes, ready to be sent many times."""
        raise NotImplementedError

    def head_of(self, pairs: tuple[tuple[bytes, bytes], ...], names: FieldNames) -> Headers:
        """Response headers that begin with these, which are as ASGI has them, and well-formed."""
        raise NotImplementedError

    def headers_of(self, raw: list[Any]) -> Headers:
        """Response headers over what `raw_fields` made, which stays as it is."""
        raise NotImplementedError

    def _changed_scope(self, fields: Mapping[str, str | None], whole_body: bool) -> MutableMapping[str, Any]:
        raise NotImplementedError

    def _told_path(self) -> str:
        """Return the path, to tell of it: nothing is decided by that, so how it may be read does not matter."""
        raise NotImplementedError

    def matched_route(self) -> str | None:
        """Return the pattern of the route that a framework has matched, if it is known to tell it."""
        raise NotImplementedError

    def forget_fields(self) -> None:
        """Drop what was read from the scope's header fields."""

    def _find_plain(self) -> str:
        raise NotImplementedError

    def _spell(self) -> Spelling:
        raise NotImplementedError


def carried(request: Request) -> CarriedRequest:
    """Return the request with all of its names. Raise `TypeError` for what no driver has made."""
    if isinstance(request, CarriedRequest):
        return request
    raise TypeError(f"this needs the request that the guard was called with, not {type(request).__name__}")
