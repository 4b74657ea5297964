"""The short way under WSGI: a request that all guards have let pass goes to the app, its head to the server at once.

Guards that have left a mark are told of the head inside `start_response`. The app's iterable goes back as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from keyguard.drivers import bridges
from keyguard.drivers.interpreter import Engine
from keyguard.drivers.stripping import strip_keys
from keyguard.drivers.wsgi.body import Ending, Peeked, close
from keyguard.drivers.wsgi.driving import (
    NO_BODY,
    NO_HEAD,
    TWICE,
    ExcInfo,
    Pairs,
    StartResponse,
    Write,
    WSGIApp,
    drive,
    status_of,
    with_ours,
)
from keyguard.drivers.wsgi.exchange import Exchange
from keyguard.drivers.wsgi.noting import MADE, answer_refused, noted, noted_body
from keyguard.drivers.wsgi.request import WSGIRequest
from keyguard.errors import NoResponse
from keyguard.flow import Flow
from keyguard.marks import Marks, answered, give_up, tell
from keyguard.refused import Refused
from keyguard.request.current import enter, leave_here
from keyguard.response import Headers, Response

_new = object.__new__


class Telling(Ending):
    """One request to the app, of whose head marks are told. It is made by `object.__new__`, which costs less."""

    __slots__ = ("answer", "began", "failure", "head", "marks", "server_start", "theirs")

    answer: Response | Flow[Response] | None
    """The response that takes the place of the app's, if a mark has one."""
    head: Pairs
    """The fields of the first head, with what marks have added to it."""
    theirs: Pairs
    """The same as the app gave them."""

    def run(
        self, app: WSGIApp, engine: Engine, request: WSGIRequest, marks: Marks, server_start: StartResponse
    ) -> Iterable[bytes]:
        """Call the app. Returns the body of the response."""
        self.engine = engine
        self.request = request
        self.marks = marks
        self.server_start = server_start
        self.began = False
        """Whether the app has called `start_response`."""
        self.answer = None
        self.failure: Exception | None = None
        """Of a mark, when it was told: what the app does from then on fails too, and a 503 stands in for it."""
        request.reached_app = True
        if engine.strips:
            strip_keys(request, request.scope, engine.strips)
        mark = bridges.pass_on(request, request.scope, "wsgi.url_scheme") if bridges.crossing else ""
        iterable: Iterable[bytes] | None = None
        try:
            if engine.handlers:
                iterable = body = noted(app, request, request.scope, self.start_response)
            elif engine.notes:
                token, request.asked_for = enter(request), False
                try:
                    iterable = body = app(request.scope, self.start_response)
                except Refused as refused:  # no framework has made an answer of it
                    iterable = body = [answer_refused(refused, request, self.start_response)]
                finally:
                    leave_here(token)
                    request.over = True  # unless parts of its body are still to be made
                if body.__class__ not in MADE and (request.asked_for or not self._sized()):
                    request.over = False
                    iterable = body = noted_body(body, request, self.start_response)
            else:
                iterable = body = app(request.scope, self.start_response)
            if body is None or not self.began:
                body = self._begun(iterable)
        except BaseException as failure:
            if not self.began:
                self.answer = answered(self.marks, request, failure)
            if self.failure is not None or not (self.began or self.answer):
                give_up(self.marks)
            if iterable is not None:
                close(iterable)
            if (self.failure is None and self.answer is None) or not isinstance(failure, Exception):
                request.state.failure = failure
                self.end()
                self.closed(failed=True)
                raise
            iterable = None
        finally:
            if mark:
                bridges.returned(mark)
        if self.failure is not None:
            give_up(self.marks)
            self.answer = engine.fault(request, self.failure)
        if self.answer is not None:
            if iterable is not None:
                close(iterable)
            return Exchange(app, engine, request, server_start).run(self.answer)
        if request.deferred is None and request.afterwards is None:
            request.late = engine.late
            return body
        return self.until_its_end(body)

    def _sized(self) -> bool:
        """Tell whether the app has said how long its body is: most likely it has made it then, and runs no more."""
        if self.began:
            for name, _ in self.head:
                if name == "Content-Length" or name.lower() == "content-length":
                    return True
        return False

    def _begun(self, iterable: Iterable[bytes] | None) -> Iterable[bytes]:
        """The body of an app that calls `start_response` with its first item."""
        if iterable is None:
            raise TypeError(NO_BODY)
        peeked = Peeked(iterable)
        if not self.began:
            raise NoResponse(NO_HEAD)
        return peeked

    def start_response(self, status: str, headers: Pairs, exc_info: ExcInfo | None = None) -> Write:
        """Serve the app as its `start_response`."""
        fields: Headers
        try:
            if self.began:
                if self.answer is not None:
                    return _ignore
                if self.failure is not None:
                    raise self.failure
                if not exc_info:
                    raise AssertionError(TWICE)
                if self.marks:
                    headers = with_ours(headers, self.head, self.theirs)
                    if isinstance(exc_info[1], Refused) and self.request.state.refusal is None:
                        fields = _new(Headers)  # marks are told of that, too: it costs nothing
                        fields.pairs = headers
                        self._tell(status, fields)  # it is too late for another answer
                        headers = fields.pairs
            else:
                self.began = True
                if self.marks:
                    fields = _new(Headers)
                    fields.pairs = [*headers]
                    try:
                        self.answer = self._tell(status, fields)
                    except Exception as failure:
                        self.failure = failure
                        raise
                    self.theirs = headers
                    headers = fields.pairs
                self.head = headers
                if self.answer is not None:
                    return _ignore
            # A second head is for the server to take or not: it raises exc_info if the first one has gone (PEP 3333,
            # "The start_response() Callable").
            return self.server_start(status, headers, exc_info) if exc_info else self.server_start(status, headers)
        finally:
            exc_info = None  # or the traceback's frames and this one hold each other

    def _tell(self, status: str, fields: Headers) -> Response | None:
        """Tell the marks of a head. Returns the response that takes its place, if one of them has one."""
        marks = self.marks
        if len(marks) == 1:
            told = marks[0].head(self.request, status_of(status), fields)
        else:
            told = tell(marks, self.request, status_of(status), fields)
        if told is not None and not isinstance(told, Response):
            answer: Response | None = drive(self.engine, told, self.request)
            return answer
        return told


def _ignore(data: bytes) -> None:
    """Serve an app as its `write` whose response is not sent."""
