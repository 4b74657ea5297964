"""Requests of nobody's under WSGI, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from io import BytesIO
from typing import Any

from keyguard.drivers.engine import Engine, inherit, without_findings
from keyguard.drivers.wsgi_body import close
from keyguard.drivers.wsgi_exchange import Exchange, ExcInfo, Write, WSGIApp
from keyguard.drivers.wsgi_request import WSGIRequest
from keyguard.flow import Detach, Flow
from keyguard.logs import logger
from keyguard.request import Request
from keyguard.response import Response

log = logger("keyguard")

_detached = threading.BoundedSemaphore(8)
"""How many may run at a time."""


def detach(app: WSGIApp, engine: Engine, step: Detach) -> bool:
    """Start a request of nobody's, in a thread of its own."""
    if not _detached.acquire(blocking=False):
        return False
    environ = without_findings(step.request.carrier)
    environ["wsgi.input"] = BytesIO()
    for name in ("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING", "wsgi.input_terminated"):
        environ.pop(name, None)
    request = WSGIRequest(environ, engine)
    inherit(request, step.request)
    exchange = _Detached(app, engine, request, step.guard)
    # A daemon: a process that is told to stop does not wait for what nobody waits for.
    run = copy_context().run
    threading.Thread(target=run, args=(_run, exchange), name="keyguard-detached", daemon=True).start()
    return True


class _Detached(Exchange):
    """A request of nobody's: one guard, and what is inside of it."""

    __slots__ = ("guard",)

    def __init__(
        self, app: WSGIApp, engine: Engine, request: Request, guard: Callable[[Request], Flow[Response]]
    ) -> None:
        super().__init__(app, engine, request, _ignore_head)
        self.guard = guard

    def _start(self) -> Any:
        return self.guard(self.request)


def _ignore_head(status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Write:
    return lambda data: None


def _run(exchange: _Detached) -> None:
    try:
        body = exchange.run()
        try:
            for _ in body:
                pass
        finally:
            close(body)
    except Exception:
        log.warning("a request in the background failed", exc_info=True)
    finally:
        _detached.release()
