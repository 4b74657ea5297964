"""Requests under ASGI whose app goes on after the client has left, so that a guard hears its answer to the end.

Each runs in a task of its own, which nobody further out stops. While the client is there all passes through. Once it
has left, that is kept from the app: `receive` tells nothing, and `send` drops what comes. After so many seconds or
bytes that ends: then the app is told, and stopped if it still goes on.

The client has left if `receive` says so before the last of the answer has gone, if `send` fails, or if whoever called
has been stopped, as by middleware further out.
"""

from __future__ import annotations

from typing import Any

from keyguard.chain import Begun
from keyguard.drivers.asgi.background import note_detached
from keyguard.drivers.asgi.exchange import Exchange
from keyguard.drivers.asgi.messages import Message
from keyguard.drivers.tasks import Task, ended, ended_in_spite, hold
from keyguard.flow import Signal, Wait
from keyguard.process.fork import renew_after_fork
from keyguard.request import Lasting

MOST = 256
"""Apps of one process that go on at a time. Further ones are stopped as without all this."""
_GRACE = 1.0  # seconds
_LONG = 86400.0  # seconds


async def outlast(exchange: Exchange, begun: Begun) -> None:
    """Run an exchange to its end, in a task of its own."""
    request = _Request(exchange)
    task = request.task = hold(request.run(begun))
    try:
        await ended(task)
    except BaseException:
        if not request.leave():
            task.cancel()
            await ended_in_spite(task)
        raise
    error, request.error = request.error, None
    if error is not None and not request.stopped:
        try:
            raise error
        finally:
            del error  # its frames hold the request


class _Going:
    """The number of apps that go on without their clients."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self.number = 0


_going = _Going()


class _Request:
    """One request, between its server and the exchange."""

    task: Task

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._receive_on, self._send_on = exchange.receive, exchange.send_on
        exchange.receive, exchange.send_on = self.receive, self.send
        self.error: BaseException | None = None
        self.stopped = False
        """Whether the app has been told that the client has left."""
        self._left = False
        self._silent = False
        """Whether `receive` has been told that the client has left, and the app has not."""
        self._dropped = 0
        self._most = 0
        self._whole = False
        """Whether the last of the answer has gone."""
        self._told, self._over = Signal(), Signal()

    async def run(self, begun: Begun) -> None:
        """Run the exchange, and note the error that it ends with: the one who waits raises it."""
        try:
            await self._exchange.run(begun)
        except BaseException as error:
            self.error = error
        finally:
            self._over.move()
            if self._left:
                _going.number -= 1

    def leave(self) -> bool:
        """Note that the client has left. Return whether the app goes on."""
        lasting: Lasting | None = getattr(self._exchange.request, "lasting", None)
        if self._left:
            return True
        if lasting is None or self._whole or not self._exchange.request.reached_app or _going.number >= MOST:
            return False
        _going.number += 1
        self._left, self._most = True, lasting.most
        note_detached(self.task)
        hold(self._watch(lasting.seconds))
        return True

    async def _watch(self, seconds: float) -> None:
        if await Wait(self._over, 0, seconds).in_loop():
            return
        self._stop()
        if not await Wait(self._over, 0, _GRACE).in_loop():
            self.task.cancel()

    def _stop(self) -> None:
        self.stopped = True
        self._told.move()

    async def receive(self) -> Message:
        """Serve the app as its `receive`."""
        if not self._silent:
            message = await self._receive_on()  # the body may still be there, though nobody is
            if message["type"] != "http.disconnect" or not self.leave():
                return message
            self._silent = True
        while not await Wait(self._told, 0, _LONG).in_loop():
            pass
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Serve the exchange as the server's `send`."""
        if self.stopped:
            raise OSError("the client has left")
        if self._left:
            self._drop(message)
        else:
            try:
                await self._send_on(message)
            except Exception:
                if not self.leave():
                    raise
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._whole = True

    def _drop(self, message: Any) -> None:
        self._dropped += len(message.get("body", b""))
        if self._dropped > self._most:
            self._stop()
