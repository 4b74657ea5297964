"""The `send` of an app whose request all guards have let pass, if some of them want to be told of its head."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from keyguard.drivers.asgi.driving import WAITS, awaited
from keyguard.drivers.asgi.messages import Message, Send, as_sent, nothing
from keyguard.drivers.asgi.request import ByteHeaders
from keyguard.drivers.interpreter import Engine, Pending
from keyguard.flow import Flow
from keyguard.marks import Marks, tell
from keyguard.process.event_loops import mark_coroutine_function
from keyguard.request import CarriedRequest
from keyguard.response import Response

_NO_FIELDS: list[tuple[bytes, bytes]] = []
"""The fields of a head that has not come. Nothing is added to it: a change makes a list of its own."""


class Telling(ByteHeaders):
    """Tells marks of the head, and passes all on, unless a mark has an answer in its place.

    If a mark fails at that, all that the app sends then fails too.

    It holds the fields of that head itself, once the app has sent them: one object for a response instead of two.
    """

    __slots__ = ("engine", "failure", "marks", "request", "send_on")

    def __init__(self, engine: Engine, request: CarriedRequest, marks: Marks, send: Send) -> None:
        self.engine = engine
        self.request = request
        self.marks: Marks | None = marks
        """Those that wait for the head; `None` when it has come."""
        self.send_on = send
        self.failure: BaseException | None = None
        self.changed = False
        self.raw = _NO_FIELDS

    def send(self, message: Message) -> Awaitable[None]:
        """Serve the app as its `send`. A plain function: awaiting through one more coroutine has a price."""
        marks = self.marks
        if marks is not None and message["type"] == "http.response.start":
            self.marks = None
            raw = message.get("headers") or ()
            self.raw = raw if raw.__class__ is list else list(raw)
            try:
                if len(marks) == 1:
                    told = marks[0].head(self.request, message["status"], self)
                else:
                    told = tell(marks, self.request, message["status"], self)
            except BaseException as failure:
                self.failure = failure
                raise
            if told is not None:
                return self._answer(told) if isinstance(told, Response) else self._tell_on(message, told)
            if self.changed:
                message = dict(message)
                message["headers"] = self.raw
        elif self.failure is not None:
            raise self.failure
        return self.send_on(message)

    async def _tell_on(self, message: Message, flow: Flow[Any]) -> None:
        """Do what a mark wants to have done before the head leaves."""
        engine, request = self.engine, self.request
        try:
            stop = engine.advance(flow, request=request)
            while stop.__class__ in WAITS:
                value, error = await awaited(stop)
                if isinstance(stop, Pending) and stop.began:
                    engine.waited(request, stop.began)
                stop = engine.advance(flow, value, error, request)
        except BaseException as failure:
            self.failure = failure
            raise
        if isinstance(stop, Response):
            await self._answer(stop)
        else:
            await self.send_on({**message, "headers": self.raw} if self.changed else message)

    async def _answer(self, response: Response) -> None:
        """Answer in the place of the app, of which nothing is sent any more."""
        send, self.send_on = self.send_on, _ignore
        fields, body = as_sent(self.engine, self.request, response)
        await send({"type": "http.response.start", "status": response.status, "headers": fields})
        await send({"type": "http.response.body", "body": body})
        self.request.state.whole = True


def _ignore(message: Message) -> Awaitable[None]:
    return nothing()


# Callers of `send` may ask whether it is a coroutine function, as asgiref does if a WSGI app stands inside.
mark_coroutine_function(Telling.send)
