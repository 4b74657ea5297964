"""The body of a request under ASGI, read before the app reads it: the app gets the same messages, one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import Any

from keyguard.drivers.asgi.messages import Message, Receive
from keyguard.drivers.interpreter import Pending
from keyguard.http.fields import length_of
from keyguard.process.event_loops import mark_coroutine_function
from keyguard.request import CarriedRequest
from keyguard.steps import Unread

_MOST = 1024  # messages: a client may send its body in pieces of nothing


class BodyAhead:
    """Stands in front of a server's `receive`. Nothing is read, and nothing kept, before somebody asks for a body."""

    def __init__(self, request: CarriedRequest, receive: Receive) -> None:
        self._request = request
        self._receive = receive
        self._messages: deque[Message] = deque()
        """Those that were read, and that the app has not got yet."""
        self._failure: Exception | None = None
        """The exception of `receive`, which the app is to hear in its turn."""
        self._whole = self._ended = False

    def receive(self) -> Awaitable[Message]:
        """Serve the app as its `receive`. A plain function: awaiting through one more coroutine has a price."""
        if self._messages or self._failure is not None:
            return self._again()
        return self._receive()

    async def _again(self) -> Message:
        if self._messages:
            return self._messages.popleft()
        failure, self._failure = self._failure, None
        assert failure is not None
        raise failure

    def read_ahead(self, most: int) -> Any:
        """Return the body, if it has no more than `most` bytes, and why it could not be read; or `Pending`."""
        if self._request.websocket:
            return b"", Unread.INCOMPLETE
        length = length_of(self._request.header("content-length"))
        if length is not None and (length < 0 or length > most):  # a client that waits to be asked for it is not asked
            return b"", Unread.TOO_LONG if length > most else Unread.INCOMPLETE
        return Pending(self._read(most))

    def replace(self, body: bytes) -> None:
        """Have the app get another body in the place of the one that was read."""
        self._messages = deque([{"type": "http.request", "body": body, "more_body": False}])

    async def _read(self, most: int) -> list[tuple[bytes, Unread | None]]:
        size = sum([len(message.get("body", b"")) for message in self._messages])
        while not self._ended and size <= most and len(self._messages) < _MOST:
            try:
                message = await self._receive()
            except Exception as failure:
                self._failure, self._ended = failure, True
                break
            self._messages.append(message)
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body", False):
                self._ended, self._whole = True, message["type"] == "http.request"
        if size > most:
            return [(b"", Unread.TOO_LONG)]
        if not self._whole:
            return [(b"", Unread.INCOMPLETE)]
        return [(b"".join([message.get("body", b"") for message in self._messages]), None)]


# Callers of `receive` may ask whether it is a coroutine function.
mark_coroutine_function(BodyAhead.receive)
