"""Records of requests under WSGI: a driver is called once more, with a `start_response` that notes the status.

When a driver returns, the head is known, also of an app that tells it with its first item. So a head that takes the
place of another one until then is the one that the record tells of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyguard.drivers.recording import SILENT, Recorder, ending_of
from keyguard.drivers.templates import Templates
from keyguard.drivers.wsgi.driving import ExcInfo, Pairs, StartResponse, Write, status_of
from keyguard.drivers.wsgi.request import Environ, WSGIRequest
from keyguard.request import SHARED_WSGI, CarriedRequest


def recorded(driver: Any, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Call a driver, and tell of the request when its head is known, or when it has ended without one."""
    if driver.routes is None:
        driver.routes = Templates(driver.engine.inside.app, driver.engine.patterns)
    recorder = _Recorder(driver, environ, start_response)
    try:
        body: Iterable[bytes] = driver(environ, recorder.start_response)
    except BaseException as error:
        ending = ending_of(error)
        recorder.tell(ending.status, ending=ending)
        raise
    recorder.returned()
    return body


class _Recorder(Recorder):
    __slots__ = ("_status",)

    scope: Environ

    def __init__(self, driver: Any, environ: Environ, start_response: StartResponse) -> None:
        super().__init__(driver, environ, start_response)
        self._status = 0

    def start_response(self, status: str, headers: Pairs, exc_info: ExcInfo | None = None) -> Write:
        """Serve the driver as its `start_response`."""
        try:
            write: Write = self._on(status, headers, exc_info) if exc_info else self._on(status, headers)
            self._status = status_of(status)  # the server has taken it
            self.note_route()  # now, since Flask forgets it with its request
            return write
        finally:
            exc_info = None

    def returned(self) -> None:
        """Tell of the head that the server has taken last."""
        if self._status:
            self.tell(self._status)
        else:
            self.tell(SILENT.status, ending=SILENT)

    def request_of(self) -> CarriedRequest:
        return WSGIRequest(self.scope["REQUEST_METHOD"], self.scope, self._engine, self.scope.get(SHARED_WSGI))
