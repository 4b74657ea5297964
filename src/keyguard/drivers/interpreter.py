"""The part that both drivers share: how guards start, how a flow is driven, what happens when one fails, and the end.

A flow is driven by `Engine.advance` to its next *stop*:

    Response    the guards are done
    CallApp     they want the app to run
    Pending     the store's answer must be waited for       (ASGI only)
    Foreign     they await something of the event loop      (ASGI only; an error under WSGI)

Everything else (an operation on a store that answers at once) is done on the spot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from keyguard.clock import monotonic
from keyguard.drivers.faults import answer_failure, tell_of_refusal
from keyguard.drivers.recording import asking
from keyguard.drivers.setup import Setup as Setup
from keyguard.errors import ConfigurationError, GuardError, StoreBusy, StoreError
from keyguard.flow import Blocking, Flow, Step, Wait
from keyguard.http.spelling import NOTHING, Inside
from keyguard.observer import begin_all
from keyguard.ops import BestEffort, Degraded, Op, Settle, SettleHere, TakeHere, traits_of
from keyguard.overrides import Overrides
from keyguard.refusal import Refusal
from keyguard.request import CarriedRequest, Deferred
from keyguard.response import Response
from keyguard.steps import CallApp, Detach, ReadBody, Unread

_WAITED = "the request has waited long enough for the store"

BUDGET = 0.15
"""Seconds that one request may wait for its store, all operations together."""


class Pending:
    """The store's answer to one operation, still to be awaited."""

    __slots__ = ("began", "results")

    def __init__(self, results: Awaitable[Sequence[Any]], began: float = 0.0) -> None:
        self.results = results
        self.began = began
        """When it was asked for, as `keyguard.clock.monotonic`; 0 if that does not matter."""


class Foreign:
    """Something that a guard awaits and that is not a step: it belongs to the event loop."""

    __slots__ = ("yielded",)

    def __init__(self, yielded: Any) -> None:
        self.yielded = yielded


class Engine:
    """A stack of guards with its store: all that a driver needs besides the app."""

    __slots__ = (
        "__weakref__",
        "_notify",
        "aexecute",
        "aside",
        "aside_patience",
        "ask",
        "asynchronous",
        "call",
        "chain",
        "clock",
        "detach",
        "drivers",
        "execute",
        "filters_addresses",
        "handlers",
        "here",
        "idle",
        "inside",
        "instant",
        "late",
        "longest",
        "needs",
        "note",
        "notes",
        "observers",
        "outlasts",
        "overrides",
        "patience",
        "patterns",
        "provides",
        "reads_bodies",
        "rendering",
        "request_id_header",
        "sinks",
        "source",
        "sources",
        "stack",
        "store",
        "strips",
        "timeout",
        "underscores",
        "wait",
        "watched",
    )

    def __init__(self, setup: Setup, inside: Inside = NOTHING, *, asynchronous: bool) -> None:
        chain, store, watched, aside = setup.chain, setup.store, setup.watched, setup.aside
        self.chain = chain
        self.ask = asking(chain.begin) if setup.sinks else chain.begin
        """Asks the guards in turn."""
        self.idle = chain.empty and not setup.notes and not setup.sinks
        self.store = store
        self.watched = watched
        self.here = setup.here
        asked: Any = watched or store
        self.execute = asked.execute
        self.aexecute: Callable[..., Any] | None = traits_of(asked).aexecute if asynchronous else None
        timeout = None if watched is None else watched.timeout
        self.timeout = timeout or 0.0
        self.patience = 0.0 if timeout is None else max(BUDGET, 2 * timeout) - timeout
        """Seconds after which a request's next operation could end beyond its budget; 0 if none ever waits."""
        self.asynchronous = asynchronous
        """Whether an event loop runs the guards."""
        self.aside = aside
        aside_timeout = (None if aside is None else aside.timeout) or 0.0
        self.aside_patience = max(BUDGET, 2 * aside_timeout) - aside_timeout
        """`patience` for that store, which may be another one."""
        self.longest = max(self.timeout, aside_timeout)
        """Seconds that one operation may take, of either store."""
        self.source = setup.source
        self.clock = setup.clock
        self.provides = setup.provides
        self.needs = setup.needs
        self.sources = setup.sources
        self.filters_addresses = setup.filters_addresses
        self.inside = inside
        """The app and all that stands in front of it, as far as it can be seen."""
        self._notify = setup.notify
        self.instant = setup.instant
        self.underscores = setup.underscores
        self.request_id_header = setup.request_id_header
        self.note = setup.note
        self.overrides = setup.overrides or Overrides(watching=False)
        self.notes, self.handlers, self.stack = setup.notes, setup.handlers, setup.stack
        self.strips, self.drivers = setup.strips, setup.drivers
        self.sinks, self.patterns, self.observers = setup.sinks, setup.patterns, setup.observers
        self.reads_bodies, self.rendering, self.outlasts = setup.reads_bodies, setup.rendering, setup.outlasts
        self.late: Callable[[Deferred], None] | None = None
        """Runs what is deferred after the end, set by the driver. It hangs here, and not on the request's own driver
        objects: they would refer to each other, and each request would be left to the garbage collector."""
        self.wait: Callable[[Wait], Any] = Wait.block
        """Waits for a signal: whether it came, or `Pending`. Set by the driver, like the next."""
        self.detach: Callable[[Detach], bool] = _cannot_detach
        self.call: Callable[[Blocking[Any]], Any] = Blocking.run
        """Calls a function that may block: in place, or as the driver sets it. Returns its result, or `Pending`."""

    def begin(self) -> None:
        """Do what is done once when an app begins: at its lifespan's start, or at its first request."""
        if self.note is not None:
            self.note.begin()
        begin_all(self.observers)
        if not self.chain.empty:
            self.inside.tell_of_cors()

    def advance(
        self,
        flow: Flow[Any],
        value: Any = None,
        error: BaseException | None = None,
        request: CarriedRequest | None = None,
    ) -> Any:
        """Drive `flow` to its next stop, sending in `value` or raising `error` at its `await`.

        `request` is the one whose time the store's answers take; `None` if nobody waits.
        """
        try:
            while True:
                if error is None:
                    step = flow.send(value)
                else:
                    step, error = flow.throw(error), None
                if isinstance(step, Op):
                    try:
                        value = self.ask_store(step, request)
                        if value.__class__ is Pending:
                            return value
                    except Exception as failure:
                        error = failure
                elif step.__class__ is CallApp:
                    return step
                elif step.__class__ is ReadBody:
                    value = read_ahead(step)
                    if value.__class__ is Pending:
                        return value
                elif step.__class__ is BestEffort:
                    try:
                        value = self._ask_aside(step, request)
                        if value.__class__ is Pending:
                            return value
                    except Exception as failure:
                        error = failure
                elif step.__class__ is Wait:
                    value = self.wait(step)
                    if value.__class__ is Pending:
                        return value
                elif step.__class__ is Detach:
                    value = self.detach(step)
                elif step.__class__ is Blocking:
                    try:
                        value = self.call(step)
                        if value.__class__ is Pending:
                            return value
                    except Exception as failure:
                        error = failure
                elif step.__class__ is TakeHere:
                    value = self.here.take_here(step.demands)
                elif step.__class__ is SettleHere:
                    self.here.settle_here(step.taken)
                    value = None
                elif step.__class__ is Degraded:
                    self.here.count(step.what)
                    value = None
                elif isinstance(step, Step):
                    error = GuardError(f"no driver knows the step {type(step).__name__}")
                else:
                    return Foreign(step)
        except StopIteration as stop:
            return stop.value

    def ask_store(self, op: Op[Any], request: CarriedRequest | None) -> Any:
        """Return the result, or `Pending` if it must be awaited and the request may still wait for the store."""
        began = 0.0
        if self.patience and request is not None:
            if request.state.waited > self.patience:
                if op.__class__ is Settle:
                    request.at_end(op)  # nobody waits for it then
                    return None
                raise self._out_of_time()
            began = monotonic()
        if self.aexecute is not None:
            results = self.aexecute((op,))
            if results.__class__ is not list:
                return Pending(results, began)
        else:
            try:
                results = self.execute((op,))
            finally:
                if began and request is not None:
                    self.waited(request, began)
        return results[0]

    def _out_of_time(self) -> StoreError:
        """Return the failure of an operation for which a request has no time left: why depends on who took it."""
        failing = self.watched is not None and self.watched.failing
        return StoreError(_WAITED) if failing else StoreBusy(_WAITED)

    def waited(self, request: CarriedRequest, began: float) -> None:
        """Note what a request has waited for one operation.

        No more than an operation may take is noted: during the rest, this process was busy with something else. So the
        first two operations are always attempted.
        """
        request.state.waited += min(monotonic() - began, self.longest)

    def _ask_aside(self, step: BestEffort, request: CarriedRequest | None) -> Any:
        """Return the results, or `Pending`. A request with a time budget waits for them, or nobody does."""
        store = self.aside
        if store is None:
            raise StoreError("nothing is shared by this store")
        began = 0.0
        if request is not None:
            if request.state.waited > self.aside_patience:
                raise self._out_of_time()
            began = monotonic()
        if not self.asynchronous:
            try:
                return store.execute(step.ops)
            finally:
                if request is not None:
                    self.waited(request, began)
        results = store.aexecute(step.ops)
        return results if isinstance(results, list) else Pending(_whole(results), began)

    def refused(self, refusal: Refusal, response: Response) -> None:
        """Tell of a refusal: the log, whoever listens, and the caller its id in a header field."""
        if self.rendering is not None:
            self.rendering.apply(response)
        if self.request_id_header is not None:
            response.headers.set(self.request_id_header, refusal.request_id)
        tell_of_refusal(refusal, self._notify)

    def render(self, response: Response) -> None:
        """Write the body of a refusal that a framework is to send."""
        if self.rendering is not None:
            self.rendering.apply(response)

    def fault(self, request: CarriedRequest, failure: BaseException) -> Response:
        """Return the refusal that stands for a failure of keyguard, its store or a guard."""
        return answer_failure(request, failure, self.sources)


def read_ahead(step: ReadBody) -> Any:
    """Return what comes of reading a body ahead, or `Pending`."""
    request = step.request
    ahead = getattr(request, "ahead", None)
    if ahead is not None:
        return ahead.read_ahead(step.most)
    if not getattr(request.settings, "reads_bodies", False):
        raise ConfigurationError(
            "json_field() and form_field() are given to RateLimit(by=...) as they are, not called by another function"
        )
    return b"", Unread.INCOMPLETE  # a request in the background, which has no body


async def _whole(results: Awaitable[Sequence[Any]]) -> Sequence[Any]:
    """Return all results as the only item of a sequence: `Pending` takes the first."""
    return (await results,)


def _cannot_detach(step: Detach) -> bool:
    return False


def is_heard_to_its_end(request: CarriedRequest) -> bool:
    """Tell whether more than its head is to be heard of a response, or told to the app: so it takes the long way."""
    if request.deferred or request.afterwards:
        return True
    return request.inherited and bool(request.state.caches or request.state.preflight)
