"""Records of requests under ASGI: a driver is called once more, with a `send` that waits for the head."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from keyguard.drivers.asgi.messages import Message, Receive, Send
from keyguard.drivers.asgi.request import ASGIRequest, Scope
from keyguard.drivers.recording import SILENT, Recorder, ending_of
from keyguard.drivers.templates import Templates
from keyguard.process.event_loops import mark_coroutine_function
from keyguard.request import SHARED_ASGI, CarriedRequest

_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})


async def recorded(driver: Any, scope: Scope, receive: Receive, send: Send) -> None:
    """Call a driver, and tell of the request when its head leaves, or when it has ended without one."""
    if driver.routes is None:
        driver.routes = Templates(driver.engine.inside.app, driver.engine.patterns)
    recorder = _Recorder(driver, scope, send)
    try:
        await driver(scope, receive, recorder.send)
    except BaseException as error:
        ending = ending_of(error)
        recorder.tell(ending.status, ending=ending)
        raise
    if not recorder.told:
        recorder.tell(SILENT.status, ending=SILENT)


class _Recorder(Recorder):
    __slots__ = ()

    def send(self, message: Message) -> Awaitable[None]:
        """Serve the driver as its `send`. A plain function: awaiting through one more coroutine has a price."""
        if not self.told:
            kind = message["type"]
            if kind in _STARTS:
                self.tell(message["status"])
            elif kind == "websocket.accept":
                self.tell(101)
            elif kind == "websocket.close":
                self.tell(403, closed=True)
        return self._on(message)  # type: ignore[no-any-return]

    def request_of(self) -> CarriedRequest:
        return ASGIRequest(self.scope.get("method", "GET"), self.scope, self._engine, self.scope.get(SHARED_ASGI))


# Callers of `send` may ask whether it is a coroutine function, as asgiref does if a WSGI app stands inside.
mark_coroutine_function(_Recorder.send)
