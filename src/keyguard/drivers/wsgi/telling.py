"""The short way under WSGI: a request that all guards have let pass goes to the app, its head to the server at once.

Guards that have left a mark are told of the head inside `start_response`. The app's iterable goes back as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from keyguard.chain import Marks, tell
from keyguard.drivers.bridges import pass_on, returned
from keyguard.drivers.interpreter import Engine
from keyguard.drivers.wsgi.body import Peeked, close
from keyguard.drivers.wsgi.driving import NO_BODY, NO_HEAD, TWICE, ExcInfo, StartResponse, Write, WSGIApp, drive
from keyguard.drivers.wsgi.exchange import Exchange
from keyguard.drivers.wsgi.request import Environ
from keyguard.errors import NoResponse
from keyguard.request import Request
from keyguard.response import Headers


class Telling:
    """One request to the app, of whose head marks are told."""

    failure: Exception | None = None
    """Of a mark, when it was told: what the app does from then on fails too, and a 503 stands in for it."""
    began = False
    """Whether the app has called `start_response`."""

    def __init__(self, engine: Engine, request: Request, marks: Marks, start_response: StartResponse) -> None:
        self.engine = engine
        self.request = request
        self.marks = marks
        self.server_start = start_response

    def run(self, app: WSGIApp, environ: Environ) -> Iterable[bytes]:
        """Call the app. Returns the body of the response."""
        request = self.request
        request.reached_app = True
        mark = pass_on(request, environ, "wsgi.url_scheme")
        iterable: Iterable[bytes] | None = None
        try:
            iterable = body = app(environ, self.start_response)
            if body is None or not self.began:
                body = self._begun(iterable)
        except BaseException as failure:
            if iterable is not None:
                close(iterable)
            if self.failure is None or not isinstance(failure, Exception):
                exchange = Exchange(app, self.engine, request, self.server_start)
                exchange.end()
                exchange.closed(failed=True)
                raise
            iterable = None
        finally:
            returned(mark)
        if self.failure is not None:
            if iterable is not None:
                close(iterable)
            exchange = Exchange(app, self.engine, request, self.server_start)
            return exchange.run(self.engine.fault(request, self.failure))
        if request.deferred is None and request.afterwards is None:
            request.late = self.engine.late
            return body
        return Exchange(app, self.engine, request, self.server_start).given_back(body)

    def _begun(self, iterable: Iterable[bytes] | None) -> Iterable[bytes]:
        """The body of an app that calls `start_response` with its first item."""
        if iterable is None:
            raise TypeError(NO_BODY)
        peeked = Peeked(iterable)
        if not self.began:
            raise NoResponse(NO_HEAD)
        return peeked

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Write:
        """Serve the app as its `start_response`."""
        try:
            if self.failure is not None:
                raise self.failure
            if self.began and not exc_info:
                raise AssertionError(TWICE)
            self.began = True
            if self.marks:
                headers = self._told(int(status[:3]), Headers(headers))
            # A second head is for the server to take or not: it raises exc_info if the first one has gone (PEP 3333,
            # "The start_response() Callable").
            return self.server_start(status, headers, exc_info) if exc_info else self.server_start(status, headers)
        finally:
            exc_info = None  # or the traceback's frames and this one hold each other

    def _told(self, status: int, headers: Headers) -> list[tuple[str, str]]:
        try:
            flow = tell(self.marks, self.request, status, headers)
            if flow is not None:
                drive(self.engine, flow, self.request)
        except Exception as failure:
            self.failure = failure
            raise
        return list(headers)
