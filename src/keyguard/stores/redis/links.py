"""Connections: bytes out, replies in, within a deadline. Once for threads and once for event loops.

Rules:
- Nothing is sent again here. Whoever sent decides, by what a failure says about the server having acted: `NotSent`
  and `Lost` come quickly, `TimedOut` when the deadline is over.
- A connection on which anything went wrong is closed: the next reply on it might be another call's.
- Under an event loop, what is asked for in one turn of the loop leaves as one write. While that is under way, what
  comes next is collected for the next write.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyguard.clock import monotonic
from keyguard.errors import StoreError

Reply: TypeAlias = Any
Packed: TypeAlias = Sequence[bytes]

_FLIGHTS = 2  # writes of one event loop that are under way at once


class NotSent(StoreError):
    """There was no connection to send on."""


class Lost(StoreError):
    """The connection broke: the server may have acted, or not."""


class TimedOut(StoreError):
    """No answer within the deadline: the server may have acted, may still act, or not."""


class ThreadLink:
    """Connections to one server for any number of threads, each used by one at a time; at most `most`."""

    def __init__(self, connect: Callable[[], AbstractConnection], most: int, patience: float) -> None:
        self._connect = connect
        self._patience = patience  # seconds that one read on these connections waits
        self._idle: list[AbstractConnection] = []
        self._room = threading.BoundedSemaphore(most)

    def ask(self, packed: Packed, replies: int, deadline: float, *, skip: bool = False) -> list[Reply]:
        """Send, and read so many replies; error replies are returned. `deadline` as `keyguard.clock.monotonic`.

        `skip`: before each reply comes another one, which says nothing.
        """
        if not self._room.acquire(False) and not self._room.acquire(timeout=max(0.0, deadline - monotonic())):
            raise NotSent("Redis: all connections are busy")
        connection = None
        try:
            connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._open()
            got = self._exchange(connection, packed, replies * (1 + skip), deadline)
            self._idle.append(connection)
            return got[1::2] if skip else got
        except BaseException:
            if connection is not None:
                connection.disconnect()
            raise
        finally:
            self._room.release()

    def _open(self) -> AbstractConnection:
        try:
            connection = self._connect()
            connection.connect()
        except (RedisError, OSError) as error:
            raise NotSent(f"Redis: {error}") from error
        return connection

    def _exchange(
        self, connection: AbstractConnection, packed: Packed, replies: int, deadline: float
    ) -> list[Reply]:  # fmt: skip
        got: list[Reply] = []
        try:
            connection.send_packed_command(packed, check_health=False)
            while len(got) < replies:
                # The connection's own time-out is shorter than what a decision has; this matters on a second trip.
                left = deadline - monotonic()
                if left <= 0:
                    raise RedisTimeoutError("no time left")
                try:
                    if left < self._patience:
                        got.append(connection.read_response(True, timeout=left))
                    else:
                        got.append(connection.read_response(True))
                except ResponseError as error:
                    got.append(error)
        except RedisTimeoutError as error:
            raise TimedOut("Redis did not answer in time") from error
        except (RedisError, OSError) as error:
            raise Lost(f"Redis: {error}") from error
        return got

    def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().disconnect()


class LoopLink:
    """Connections to one server for the tasks of one event loop."""

    def __init__(
        self, connect: Callable[[], AsyncConnection], end: Callable[[], Awaitable[None]], timeout: float
    ) -> None:
        self._connect = connect
        self._end = end
        self._timeout = timeout
        self.loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Packed, int, asyncio.Future[list[Reply]]]] = []
        self._idle: list[AsyncConnection] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._scheduled = False

    async def ask(self, packed: Packed, replies: int, *, skip: bool = False) -> list[Reply]:
        """Send with whatever else is asked for in this turn of the loop. Error replies are returned.

        `skip`: before each reply comes another one, which says nothing.
        """
        future: asyncio.Future[list[Reply]] = self.loop.create_future()
        self._waiting.append((packed, replies * (1 + skip), future))
        if not self._scheduled and len(self._flights) < _FLIGHTS:
            self._depart()
        got = await future
        return got[1::2] if skip else got

    def _depart(self) -> None:
        # The task begins in the next turn of the loop, and takes along whatever is there by then.
        self._scheduled = True
        flight = self.loop.create_task(self._fly())
        self._flights.add(flight)
        flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if self._waiting and not self._scheduled and not self._closed:
            self._depart()

    async def _fly(self) -> None:
        self._scheduled = False
        batch, self._waiting = self._waiting, []
        connection = self._idle.pop() if self._idle else None
        sent = False
        try:
            async with asyncio.timeout(self._timeout):
                if connection is None:
                    connection = self._connect()
                    await connection.connect()
                going = [item for item in batch if not item[2].cancelled()]
                sent = True
                await connection.send_packed_command([part for item in going for part in item[0]], check_health=False)
                for _, replies, future in going:
                    got: list[Reply] = []
                    while len(got) < replies:
                        try:
                            got.append(await connection.read_response(True, timeout=inf))
                        except ResponseError as error:
                            got.append(error)
                    if not future.done():
                        future.set_result(got)
            self._idle.append(connection)
        except BaseException as error:
            self._fail(batch, error, sent)
            if connection is not None:
                await _cut(connection)
            if not isinstance(error, Exception):
                raise

    def _fail(
        self, batch: list[tuple[Packed, int, asyncio.Future[list[Reply]]]], error: BaseException, sent: bool
    ) -> None:
        late = isinstance(error, (TimeoutError, RedisTimeoutError))
        for _, _, future in batch:
            if not future.done():
                if not sent:
                    future.set_exception(NotSent(f"Redis: {'no connection in time' if late else error}"))
                elif late or isinstance(error, asyncio.CancelledError):
                    future.set_exception(TimedOut("Redis did not answer in time"))
                else:
                    future.set_exception(Lost(f"Redis: {error}"))
        if late:
            # What has waited behind it has waited long enough.
            waiting, self._waiting = self._waiting, []
            for _, _, future in waiting:
                if not future.done():
                    future.set_exception(NotSent("Redis does not answer"))

    def drop_idle(self) -> None:
        """Close the connections that nobody uses, without waiting for the other side."""
        idle, self._idle = self._idle, []
        for connection in idle:
            closing = self.loop.create_task(_cut(connection))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close the connections. What is under way is cut off."""
        self._closed = True
        while self._flights or self._closing:
            for flight in self._flights:
                flight.cancel()
            await asyncio.gather(*self._flights, *self._closing, return_exceptions=True)
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(NotSent("Redis: the connections are being closed"))
        while self._idle:
            await _cut(self._idle.pop())
        await self._end()
        await asyncio.sleep(0)  # a transport closes in the next turn of the loop


async def _cut(connection: AsyncConnection) -> None:
    """Close a connection on which nothing is under way, without waiting for the other side."""
    writer = connection._writer
    await connection.disconnect(nowait=True)
    if writer is not None:
        writer.transport.abort()  # or TLS would wait for the other side's goodbye, which may come after the loop's end
