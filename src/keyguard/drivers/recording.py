"""The record of a request, made when the head of its response leaves, and told to all who listen.

Rules:
- A request has one record, however many layers it passes: the outermost that has listeners makes it, and tells those
  of layers further in as well, each once.
- What listens never ends a request: its errors are told to the log, each kind once.
- Requests in the background are nobody's, and have none.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from sys import modules
from typing import Any, NamedTuple, TypeAlias

from keyguard.clock import monotonic
from keyguard.decision import METHODS, OTHER, Decision, Result
from keyguard.errors import NoResponse
from keyguard.identity import ANONYMOUS
from keyguard.logs import logger
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest
from keyguard.request.limits import unmarked
from keyguard.request.tracing import SPANS, trace_of

log = logger("keyguard")

RECORD = "keyguard.record"
"""The key under which a recorder stands in a scope or an environ, until the request is made."""
Sink: TypeAlias = Callable[[Decision], None]

_MOST = 20  # kinds of errors that are told

_tuple = tuple.__new__


APP_FAILED = "app-failed"


class Ending(NamedTuple):
    """The end of a request that has no answer."""

    status: int
    cause: Cause | None
    reason: str


RAISED = Ending(500, Cause.FAULT, APP_FAILED)
SILENT = Ending(500, Cause.FAULT, "no-response")
CANCELLED = Ending(499, None, "cancelled")


def ending_of(error: BaseException) -> Ending:
    """Return the end of a request whose app has let an error pass before its head."""
    if isinstance(error, NoResponse):
        return SILENT
    return RAISED if isinstance(error, Exception) else CANCELLED


def asking(begin: Callable[..., Any]) -> Callable[[CarriedRequest], Any]:
    """Return the function that asks guards, for a stack that has listeners: it shows them the request first."""

    def ask(request: CarriedRequest) -> Any:
        recorder = request.scope.pop(RECORD, None)
        if recorder is not None:
            recorder.meet(request)
        return begin(request)

    return ask


class Recorder:
    """Makes the record of one request."""

    __slots__ = ("_at", "_began", "_engine", "_on", "_path", "_request", "_routes", "_sinks", "scope", "told")

    def __init__(self, driver: Any, scope: MutableMapping[str, Any], on: Any) -> None:
        """Begin. `on` is what the driver's answer goes on to: `send`, or `start_response`."""
        self._engine = engine = driver.engine
        self._on = on
        self._began = monotonic()
        self._at: int = engine.clock()
        self._sinks: tuple[Sink, ...] = engine.sinks
        self._routes = driver.routes
        self._request: CarriedRequest | None = None
        self._path = ""
        self.scope = scope
        self.told = False
        """Whether nothing more is to be told: the record is, or another layer makes it."""
        scope[RECORD] = self

    def meet(self, request: CarriedRequest) -> None:
        """Take note of the request, before any guard is asked."""
        outer = request.state.recorder
        if outer is None:
            request.state.recorder = self
            self._request = request
            try:
                self._path = _path_of(request)  # now, since what stands further in may cut some of it off
            except Exception as error:
                _note("the path of a request cannot be read for its record", error)
            return
        self.told = True
        if outer:
            outer.join(self._sinks)

    def join(self, sinks: tuple[Sink, ...]) -> None:
        """Tell those as well who listen further in."""
        self._sinks += tuple([sink for sink in sinks if sink not in self._sinks])

    def tell(self, status: int, *, closed: bool = False, ending: Ending | None = None) -> None:
        """Tell all who listen. `closed` says that a websocket was not accepted: a refusal has a status of its own then.

        `ending` says that there is no answer.
        """
        if self.told:
            return
        self.told = True
        duration = monotonic() - self._began
        self.scope.pop(RECORD, None)
        try:
            decision = self._made(status, closed, ending, duration)
        except Exception as error:
            _note("a record could not be made", error)
            return
        finally:
            if self._request is not None:
                self._request.state.recorder = False  # which would hold this, and this the state
                self._request = None
        for sink in self._sinks:
            try:
                sink(decision)
            except Exception as error:
                _note("on_decision failed, and the request went on", error)

    def note_route(self) -> None:
        """Note the route that the app has matched, if its framework tells."""
        request = self._request
        if request is not None and request.reached_app:
            state = request.state
            state.route = state.route or request.matched_route()

    def request_of(self) -> CarriedRequest:
        """Return the request, for an answer that was given before one was made."""
        raise NotImplementedError

    def _made(self, status: int, closed: bool, ending: Ending | None, duration: float) -> Decision:
        request, instant = self._request, False
        if request is None:  # it was answered from a cache, before any was made, or none can be asked about
            request = self.request_of()
            instant = ending is None and not request.inherited
            self._path = _path_of(request)
        state = request.state
        identity, refusal = state.identity or ANONYMOUS, state.refusal
        key_id, subject, cause, reason = identity.key_id, identity.subject, None, ""
        policies: tuple[str, ...] = ()
        outcome: Result
        if refusal is not None and (closed or status == refusal.status or (state.unserved and status >= 400)):
            outcome, cause, reason = "refused", refusal.cause, refusal.reason
            policies, key_id, subject = refusal.policies, refusal.key_id, refusal.subject
            if closed:
                status = refusal.status
        elif ending is not None:
            outcome = "failed"
            status, cause, reason = ending
        elif state.cached or instant:
            outcome = "cached"
        elif status >= 500 and request.reached_app:
            outcome, cause, reason = "failed", Cause.FAULT, APP_FAILED
        else:
            outcome = "served"
        client = request.client
        return _tuple(
            Decision,
            (
                self._at,
                request.id,
                trace_of(request) if SPANS in modules or request.header("traceparent") else "",
                subject,
                key_id,
                "" if client is None else client.text,
                request.method if request.method in METHODS else OTHER,
                state.route or self._routes.template_of(request, self._path),
                outcome,
                cause,
                reason,
                status,
                policies,
                unmarked(state.decided),
                duration,
            ),
        )


def _path_of(request: CarriedRequest) -> str:
    plain = request.plain_path
    return request.spelling.path if plain is None else plain


_noted: set[tuple[str, type[BaseException]]] = set()


def _note(what: str, error: BaseException) -> None:
    """Tell the log of an error, each kind once, and not too many."""
    kind = what, type(error)
    if kind not in _noted and len(_noted) < _MOST:
        _noted.add(kind)
        log.error("%s (told once)", what, exc_info=error)
