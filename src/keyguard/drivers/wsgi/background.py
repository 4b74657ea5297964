"""Requests of nobody's under WSGI, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from io import BytesIO

from keyguard.drivers.interpreter import Engine
from keyguard.drivers.wsgi.body import close
from keyguard.drivers.wsgi.driving import ExcInfo, Write, WSGIApp
from keyguard.drivers.wsgi.exchange import Exchange
from keyguard.drivers.wsgi.request import WSGIRequest
from keyguard.flow import Flow
from keyguard.logs import logger
from keyguard.process.fork import renew_after_fork, run_aside
from keyguard.request import SHARED_WSGI, CarriedRequest
from keyguard.response import Response
from keyguard.steps import Detach

log = logger("keyguard")

_MOST = 8  # at a time


class _Room:
    """Places for requests of nobody's, in one process."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self.places = threading.BoundedSemaphore(_MOST)


_room = _Room()


def detach(app: WSGIApp, engine: Engine, step: Detach) -> bool:
    """Start a request of nobody's, in a thread of its own."""
    places = _room.places
    if not places.acquire(blocking=False):
        return False
    environ = step.request.of_the_same_caller()
    environ["wsgi.input"] = BytesIO()
    for name in ("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING", "wsgi.input_terminated"):
        environ.pop(name, None)
    request = WSGIRequest(step.request.method, environ, engine, environ[SHARED_WSGI])
    exchange = Exchange(app, engine, request, _ignore_head)
    run_aside("keyguard-detached", copy_context().run, _run, exchange, step.guard, places)
    return True


def _ignore_head(status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Write:
    return lambda data: None


def _run(
    exchange: Exchange, guard: Callable[[CarriedRequest], Flow[Response]], places: threading.BoundedSemaphore
) -> None:
    """Run one guard, and those further in."""
    try:
        body = exchange.run(guard(exchange.request))
        try:
            for _ in body:
                pass
        finally:
            close(body)
    except Exception:
        log.warning("a request in the background failed", exc_info=True)
    finally:
        places.release()
