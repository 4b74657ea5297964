"""A request under WSGI (PEP 3333) that takes the long way: guards are resumed when the app's head is known.

That is after the app has returned, if it called `start_response` at once; after the first item of its iterable, if it
calls it late (generator apps); or inside `write()`. The short way of a request that all guards have let pass is in
`telling.py`.

Rules:
- An untouched response returns the app's own iterable: its `len()` and `wsgi.file_wrapper` still count for the server.
- What wraps an iterable is a class, never a generator: `close()` of a generator that never started runs nothing.
- The app's iterable is closed exactly once, whether it is passed on, replaced, or cut short.
- No event loop: a guard that awaits anything but steps gets an error that says so.

    state     start_response                    write()                    the app's return
    IDLE      (the app has not run)
    WAIT      noted                             drive the guards -> ...    drive the guards -> ...
    STREAM    only with exc_info; passed on     passed on                  its iterable is passed on
    DISCARD   ignored                           ignored                    its iterable is closed
    DEAD      raise the failure                 raise the failure          answer the failure
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

from keyguard.chain import Begun, checked, within
from keyguard.drivers.bodies import feed, passed
from keyguard.drivers.bridges import pass_on, returned
from keyguard.drivers.interpreter import Engine, Foreign
from keyguard.drivers.stripping import strip_keys
from keyguard.drivers.wsgi.body import Ending, Feed, Filtered, Peeked, close
from keyguard.drivers.wsgi.driving import (
    NO_BODY,
    NO_HEAD,
    TWICE,
    ExcInfo,
    Pairs,
    StartResponse,
    Write,
    WSGIApp,
    answer,
    drive,
    status_line,
    status_of,
    with_ours,
)
from keyguard.drivers.wsgi.lasting import LastingBody, in_one_context
from keyguard.drivers.wsgi.noting import noting
from keyguard.drivers.wsgi.request import Environ
from keyguard.errors import GuardError, NoResponse
from keyguard.flow import Flow
from keyguard.logs import logger
from keyguard.request import CarriedRequest
from keyguard.response import APP, BodyFilter, Headers, Response, Tee
from keyguard.steps import CallApp

log = logger("keyguard")

IDLE, WAIT, STREAM, DISCARD, DEAD = range(5)


class Exchange(Ending):
    """One request through the guards and the app. The table at the top of this file is its theory."""

    failure: Exception | None = None
    filters: Sequence[BodyFilter] | None = None
    flow: Flow[Any] | None = None
    """The coroutine of the guards that go the long way."""
    head: tuple[str, Pairs] | None = None
    """The head that the app gave to `start_response`; once released, the one that the guards made of it."""
    replacement: Response | None = None
    server_write: Write | None = None
    state = IDLE
    tees: Sequence[Tee] = ()
    theirs: Pairs
    """The header fields of a released head as the app gave them."""

    def __init__(self, app: WSGIApp, engine: Engine, request: CarriedRequest, start_response: StartResponse) -> None:
        self.app = noting(app, request) if engine.notes else app
        self.engine = engine
        self.request = request
        self.server_start = start_response

    def run(self, begun: Begun) -> Iterable[bytes]:
        """Go on with what the guards have made of the request. Returns the body of the response."""
        body: Iterable[bytes] | None = None
        request = self.request
        watched = bool(request.state.caches)  # by one further out, to which it matters if the app fails
        try:
            stop = self._first(begun)
            while body is None:
                if isinstance(stop, Response):
                    body = answer(self.engine, request, stop, self.server_start)
                else:
                    stop, body = self._call_app(stop.request.scope)
        except BaseException as failure:
            self._let_go(failure)
            request.state.broken = request.state.broken or self.state == STREAM
            request.state.failure = failure
            self.end()
            self.closed(failed=True)
            raise
        if self.filters is not None and self.state == STREAM:
            body = Filtered(body, self.filters)
        if self.tees or watched:
            return self.until_its_end(body, self.feed if self.tees else None)
        return self.given_back(body)

    def given_back(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return the body as it is, if nothing is to be run at its end."""
        request = self.request
        if request.deferred is None and request.afterwards is None:
            request.late = self.engine.late
            request.state.failure = None  # its frames hold the request
            return body
        return self.until_its_end(body)

    def until_its_end(self, body: Iterable[bytes], feed: Feed | None = None) -> Iterable[bytes]:
        """Return the body, with all that is run at its end. That may come after its client has left."""
        lasting = getattr(self.request, "lasting", None) if self.engine.outlasts and self.state == STREAM else None
        return super().until_its_end(body, feed) if lasting is None else LastingBody(body, self, feed, lasting)

    # -- driving the guards -----------------------------------------------------------------------------

    def _first(self, begun: Begun) -> Any:
        """The first stop."""
        if isinstance(begun, Response):
            return begun
        if isinstance(begun, tuple):
            if not begun:
                return CallApp(self.request)
            begun = within(begun, self.request, CallApp)
        self.flow = begun
        try:
            return self._checked(self._advance())
        except Exception as failure:
            return self.engine.fault(self.request, failure)

    def _advance(self, value: Any = None, error: BaseException | None = None) -> Any:
        assert self.flow is not None
        stop = self.engine.advance(self.flow, value, error, self.request)
        while isinstance(stop, Foreign):
            error = GuardError(
                f"a guard awaited {type(stop.yielded).__name__}, which needs an event loop; there is none under WSGI. "
                "Use a plain function there, or serve the app over ASGI"
            )
            stop = self.engine.advance(self.flow, error=error)
        return stop

    def _checked(self, stop: Any) -> Any:
        return stop if stop.__class__ is CallApp else checked(stop, self.flow)

    def _call_app(self, environ: Environ) -> tuple[Any, Iterable[bytes] | None]:
        """Run the app up to its head, and the guards over that. Returns the next stop, or the body."""
        self.state, self.request.state.failure = WAIT, None
        self.request.reached_app = True
        if self.engine.strips:
            strip_keys(self.request, environ, self.engine.strips)
        self.head = None
        mark = pass_on(self.request, environ, "wsgi.url_scheme")
        error: Exception
        iterable: Iterable[bytes] | None = None
        try:
            if self.request.state.preflight and environ["REQUEST_METHOD"] == "OPTIONS":
                environ = {**environ, "wsgi.input": BytesIO(), "CONTENT_LENGTH": "0"}  # whatever comes, it has no body
            iterable = self._run_app(environ)
            if iterable is None:
                raise TypeError(NO_BODY)
            if self.head is None:  # start_response comes with the first item
                iterable = Peeked(iterable)
            if self.state == WAIT and self.head is not None:
                self._drive()
            if self.state == STREAM:
                return None, iterable
            if self.state == DISCARD:
                assert self.replacement is not None
                close(iterable)
                return self.replacement, None
            error = NoResponse(NO_HEAD)
        except Exception as failure:
            error = failure
        finally:
            returned(mark)
        self.request.state.failure = error
        if iterable is not None:
            close(iterable)
        if self.state == DEAD:
            assert self.failure is not None
            return self.engine.fault(self.request, self.failure), None
        if self.state == WAIT and self.flow is not None:
            try:
                return self._checked(self._advance(error=error)), None
            except Exception as failure:
                if failure is not error:
                    return self.engine.fault(self.request, failure), None
        raise error  # the app's own, and no guard had an answer to it

    def _run_app(self, environ: Environ) -> Iterable[bytes]:
        if self.engine.outlasts and getattr(self.request, "lasting", None) is not None:
            return in_one_context(self.app, environ, self.start_response)
        return self.app(environ, self.start_response)

    def _drive(self) -> None:
        """Hand the app's head to the guards, and what they make of it to the server."""
        assert self.head is not None
        status, pairs = self.head
        if self.flow is None:
            self._release(status, pairs)
            return
        code = status_of(status)
        head = Response(code, Headers(pairs), APP)
        try:
            stop = self._advance(head)
            if not isinstance(stop, Response):
                raise GuardError("a guard called forward again, or returned no response, after the app had answered")
        except Exception as failure:
            self.state, self.failure = DEAD, failure
            raise
        if stop.body is APP:
            self.tees, self.filters = stop.tees or (), stop.filters
            self._release(status if stop.status == code else status_line(stop.status), list(stop.headers))
        else:
            self.state, self.replacement = DISCARD, stop

    def _release(self, status: str, pairs: Pairs) -> None:
        assert self.head is not None
        self.theirs = self.head[1]
        self.head = (status, pairs)
        self.state = STREAM
        self.server_write = self.server_start(status, pairs)

    # -- what the app calls -----------------------------------------------------------------------------

    def start_response(self, status: str, headers: Pairs, exc_info: ExcInfo | None = None) -> Write:
        """Serve the app as its `start_response`."""
        try:
            if self.state == DEAD:
                assert self.failure is not None
                raise self.failure
            if self.head is not None and not exc_info:
                raise AssertionError(TWICE)
            if self.state == STREAM:
                self._cut("the app began its response again")  # what comes now is another one's body
                # Too late for the guards, but not for what they had to say: the server may still take another head.
                # It raises exc_info if the first one has gone (PEP 3333, "The start_response() Callable").
                assert self.head is not None
                self.server_write = self.server_start(status, with_ours(headers, self.head[1], self.theirs), exc_info)
            elif self.state == WAIT:
                self.head = (status, headers)
            return self.write
        finally:
            exc_info = None  # or the traceback's frames and this one hold each other

    def write(self, data: bytes) -> None:
        """Serve the app as the `write` that `start_response` returns."""
        if self.state == WAIT:
            self._drive()
        if self.state == DEAD:
            assert self.failure is not None
            raise self.failure
        if self.state == STREAM:
            assert self.server_write is not None
            if self.filters is not None:
                data = passed(self.filters, data, last=False)
            if self.tees:
                self.feed(data)
            try:
                self.server_write(data)
            except BaseException:
                self._cut("its client left before it was whole")
                raise

    # -- copies of the body -----------------------------------------------------------------------------

    def feed(self, part: bytes, *, last: bool = False) -> None:
        """Give a part of the body to the copies, before it leaves."""
        # An iterable cannot hide that it lacks a part: an error goes on to whoever iterates, and a client that leaves
        # closes it. Only something in between may keep an error to itself, and end the body.
        if last and self.request.state.broken:
            self._cut("the app failed before it was whole")
        for flow in feed(self.tees, part, last=last, sure=True):
            self._finish(flow)

    def _finish(self, flow: Flow[None]) -> None:
        try:
            drive(self.engine, flow, self.request)
        except Exception:
            log.exception("what a copy of the body was for failed")

    def _cut(self, why: str) -> None:
        for tee in self.tees:
            tee.close(why)

    # -- the end ----------------------------------------------------------------------------------------

    def end(self, *, whole: bool = False) -> None:
        """Close the copies, and run what was deferred."""
        for tee in self.tees:
            if not tee.ended:
                tee.close("the response ended before it was whole")
        super().end(whole=whole)

    def closed(self, *, failed: bool) -> None:
        """Note that the app's iterable was closed, or failed at that, or that there was none."""
        super().closed(failed=failed)
        if failed:
            self._cut("the app failed while its response was closed")
        for tee in self.tees:
            flow = tee.returned()
            if flow is not None:
                self._finish(flow)

    def _let_go(self, failure: BaseException) -> None:
        """Tell guards that still wait that the app ended in something that is not an `Exception`."""
        if self.flow is not None and self.state == WAIT:
            try:
                self.engine.advance(self.flow, error=failure)
            except BaseException:
                return  # the failure itself, most of all; it is raised by the caller
            self.flow.close()
