"""Requests that are noted for their handlers (`keyguard.request.current`), also while parts of the body are made."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from functools import partial
from typing import cast

from keyguard.drivers.bodies import sized_body
from keyguard.drivers.wsgi.body import close
from keyguard.drivers.wsgi.driving import StartResponse, WSGIApp, status_line
from keyguard.drivers.wsgi.request import Environ
from keyguard.refused import Refused
from keyguard.request import CarriedRequest
from keyguard.request.current import enter, leave_here

MADE = frozenset({list, tuple, type(None)})
"""Classes of bodies for which no code runs any more."""


def noting(app: WSGIApp, request: CarriedRequest) -> WSGIApp:
    """Return the app, to be run while the request is noted for its handlers."""
    return partial(noted, app, request)


def noted(app: WSGIApp, request: CarriedRequest, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Run the app, and return its body."""
    token = enter(request)
    request.over = False
    body: Iterable[bytes] | None = None
    try:
        body = app(environ, start_response)
    except Refused as refused:  # no framework has made an answer of it
        body = [answer_refused(refused, request, start_response)]
    finally:
        leave_here(token)
        request.over = body.__class__ in MADE
    return noted_body(body, request, start_response)


def noted_body(body: Iterable[bytes], request: CarriedRequest, start_response: StartResponse) -> Iterable[bytes]:
    """Return a body whose parts are made while the request is noted."""
    if body.__class__ in MADE or body.__class__ is request.scope.get("wsgi.file_wrapper"):
        return body
    if hasattr(body, "read") or hasattr(body, "filelike"):  # of a server whose `wsgi.file_wrapper` is not a class
        return body
    noting = SizedNotedBody if hasattr(body, "__len__") else NotedBody
    return noting(body, request, start_response)


def answer_refused(refused: Refused, request: CarriedRequest, start_response: StartResponse) -> bytes:
    """Answer as the app would have done, and return the body. Raises the error again if the head has gone."""
    answer = refused.answer
    body = sized_body(answer, request.method)
    start_response(status_line(answer.status), list(answer.headers), sys.exc_info())
    return body


class NotedBody:
    """An app's iterable, whose parts are made, and which is closed, while its request is noted."""

    __slots__ = ("iterable", "iterator", "request", "start_response")

    def __init__(self, iterable: Iterable[bytes], request: CarriedRequest, start_response: StartResponse) -> None:
        self.iterable = iterable
        self.start_response = start_response
        self.iterator: Iterator[bytes] | None = None
        self.request = request

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = enter(self.request)
        try:
            if self.iterator is None:
                self.iterator = iter(self.iterable)
                try:
                    return next(self.iterator)
                except Refused as refused:  # as its head may come with its first part
                    self.iterator = iter(())
                    return answer_refused(refused, self.request, self.start_response)
            return next(self.iterator)
        finally:
            leave_here(token)

    def close(self) -> None:
        token = enter(self.request)
        try:
            close(self.iterable)
        finally:
            leave_here(token)
            self.request.over = True


class SizedNotedBody(NotedBody):
    """One whose number of items is known: servers derive `Content-Length` from a length of 1."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(cast(Sized, self.iterable))
