"""Requests that are noted for their handlers (`keyguard.request.current`), also while parts of the body are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from functools import partial
from typing import cast

from keyguard.drivers.wsgi.body import close
from keyguard.drivers.wsgi.driving import StartResponse, WSGIApp
from keyguard.drivers.wsgi.request import Environ
from keyguard.request import CarriedRequest
from keyguard.request.current import enter, leave

_MADE = frozenset({list, tuple, type(None)})
"""Classes of bodies for which no code runs any more."""


def noting(app: WSGIApp, request: CarriedRequest) -> WSGIApp:
    """Return the app, to be run while the request is noted for its handlers."""
    return partial(noted, app, request)


def noted(app: WSGIApp, request: CarriedRequest, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Run the app, and return its body."""
    token = enter(request)
    try:
        body = app(environ, start_response)
    finally:
        leave(token)
    if body.__class__ in _MADE or body.__class__ is environ.get("wsgi.file_wrapper"):
        return body
    return SizedNotedBody(body, request) if hasattr(body, "__len__") else NotedBody(body, request)


class NotedBody:
    """An app's iterable, whose parts are made, and which is closed, while its request is noted."""

    __slots__ = ("iterable", "iterator", "request")

    def __init__(self, iterable: Iterable[bytes], request: CarriedRequest) -> None:
        self.iterable = iterable
        self.iterator: Iterator[bytes] | None = None
        self.request = request

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = enter(self.request)
        try:
            if self.iterator is None:
                self.iterator = iter(self.iterable)
            return next(self.iterator)
        finally:
            leave(token)

    def close(self) -> None:
        token = enter(self.request)
        try:
            close(self.iterable)
        finally:
            leave(token)


class SizedNotedBody(NotedBody):
    """One whose number of items is known: servers derive `Content-Length` from a length of 1."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(cast(Sized, self.iterable))
