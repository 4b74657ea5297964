"""The connections of an event loop: any number of calls on their way at once, with no task and no time-out each.

redis-py opens a connection and introduces itself (addresses, TLS, passwords, sentinels); then the transport is taken
over by a protocol of our own, since the streams of redis-py cost more than a decision does.

Rules, besides those of `links.py`:
- A call that finds the connection at rest is written at once. What is asked for while replies are awaited leaves as
  one write in the next turn of the loop.
- Replies come in the order of the calls. When the oldest call has waited too long, the connection is cut and whatever
  is on it fails: a server that does not answer one does not answer those behind it.
- One timer a connection, set again only when it goes off: a call that is answered in time has never touched it.
- A connection may take longer to open than a call may wait for it: names, TLS and passwords take turns of the loop,
  which may have much else to do. Those who waited are told in time, and the next ones find it open.
- What lives while a call is on its way is little: it is what the garbage collector walks over when many wait.
- A call that nobody waits for any more keeps its place, so that its reply is not taken for another's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyguard.errors import StoreError
from keyguard.stores.redis.links import Lost, NotSent, Reply, TimedOut

_PARTIAL = object()

OPENING = 0.5
"""Seconds that a connection may take to open; where the server comes back meanwhile, it is asked that much later."""


class _Asked:
    """Some calls that one task waits for."""

    __slots__ = ("count", "deadline", "future", "packed", "replies")

    def __init__(self, packed: bytes, count: int, future: asyncio.Future[list[Reply]]) -> None:
        self.packed = packed
        self.count = count
        self.future = future
        self.deadline = inf
        """By the event loop's clock; set when it leaves, or begins to wait for a connection."""
        self.replies: Any = [] if count > 1 else None

    def fail(self, error: StoreError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Pipe(asyncio.Protocol):
    """A connection that has introduced itself."""

    def __init__(self, link: LoopLink, connection: AbstractConnection) -> None:
        self._link = link
        self._connection = connection
        assert connection._writer is not None
        self._transport = cast(asyncio.Transport, connection._writer.transport)
        self._reader = hiredis.Reader(
            protocolError=RedisConnectionError,
            replyError=connection._parser.parse_error,
            notEnoughData=_PARTIAL,
        )
        self._asked: deque[_Asked] = deque()
        self._unsent: list[_Asked] = []
        self._timer: asyncio.TimerHandle | None = None
        self._retired = False
        self._transport.set_protocol(self)

    def put(self, asked: _Asked) -> None:
        """Send the calls; their replies come to the future."""
        if self._asked:
            if not self._unsent:
                self._link.loop.call_soon(self._send_rest)
            self._unsent.append(asked)
            self._asked.append(asked)
        else:
            self._asked.append(asked)
            self._send([asked])

    def _send_rest(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent:  # else it was cut meanwhile
            self._send(unsent)

    def _send(self, batch: list[_Asked]) -> None:
        # The time that a busy event loop let them lie here is not the server's.
        deadline = self._link.loop.time() + self._link.timeout
        for asked in batch:
            if asked.deadline > deadline:
                asked.deadline = deadline
        if self._timer is None:
            self._timer = self._link.loop.call_at(self._asked[0].deadline, self._look_at_clock)
        self._transport.write(b"".join([asked.packed for asked in batch]))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        next_reply = self._reader.gets
        waiting = self._asked
        try:
            while (reply := next_reply(False)) is not _PARTIAL:
                if reply.__class__ is not bytes and isinstance(reply, RedisConnectionError):
                    raise reply  # the server is loading, or says goodbye
                asked = waiting[0]
                if asked.count == 1:
                    replies = [reply]
                else:
                    replies = asked.replies
                    replies.append(reply)
                    if len(replies) < asked.count:
                        continue
                waiting.popleft()
                if not asked.future.done():
                    asked.future.set_result(replies)
        except (RedisConnectionError, IndexError) as error:
            self.cut(Lost(f"Redis: {error}"))
            return
        if self._retired and not waiting:
            self.cut(Lost("Redis: the connection is retired"))

    def connection_lost(self, error: Exception | None) -> None:
        self.cut(Lost(f"Redis: {error or 'the server closed the connection'}"))

    def _look_at_clock(self) -> None:
        self._timer = None
        if not self._asked:
            return
        now = self._link.loop.time()
        deadline = min(self._asked[0].deadline, now + self._link.timeout)  # it may not have left yet
        if now < deadline:
            self._timer = self._link.loop.call_at(deadline, self._look_at_clock)
        else:
            self.cut(TimedOut("Redis did not answer in time"))

    def retire(self) -> None:
        """Close the connection once nothing is under way on it."""
        self._retired = True
        if not self._asked:
            self.cut(Lost("Redis: the connection is retired"))

    def cut(self, error: StoreError) -> None:
        """Close the connection, without waiting for the other side; what is under way on it fails."""
        self._link.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unsent = []
        cut(self._connection)
        while self._asked:
            self._asked.popleft().fail(error)


class LoopLink:
    """A connection to one server for the tasks of one event loop."""

    def __init__(
        self, connect: Callable[[], AbstractConnection], end: Callable[[], Awaitable[None]], timeout: float
    ) -> None:
        self._connect = connect
        self._end = end
        self.timeout = timeout
        self.loop = asyncio.get_running_loop()
        self._pipe: _Pipe | None = None
        self._pipes: set[_Pipe] = set()
        self._opening: asyncio.Task[None] | None = None
        self._waiting: deque[_Asked] = deque()
        """What is asked for while there is no connection, the oldest first."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def ask(self, packed: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """The replies to so many calls, error replies among them. Nothing is sent twice."""
        loop = self.loop
        asked = _Asked(packed, count, loop.create_future())
        if self._pipe is not None:
            self._pipe.put(asked)
        elif self._closed:
            asked.fail(NotSent("Redis: the connections are closed"))
        else:
            asked.deadline = loop.time() + self.timeout
            self._waiting.append(asked)
            if self._timer is None:
                self._timer = loop.call_at(asked.deadline, self._look_at_clock)
            if self._opening is None:
                self._opening = loop.create_task(self._open())
        return asked.future

    def _look_at_clock(self) -> None:
        self._timer = None
        waiting, now = self._waiting, self.loop.time()
        while waiting and waiting[0].deadline <= now:
            waiting.popleft().fail(NotSent("Redis: no connection in time"))
        if waiting:
            self._timer = self.loop.call_at(waiting[0].deadline, self._look_at_clock)

    async def _open(self) -> None:
        connection = None
        try:
            async with asyncio.timeout(max(OPENING, self.timeout)):
                connection = self._connect()
                await connection.connect()
            pipe = self._pipe = _Pipe(self, connection)
        except BaseException as error:
            if connection is not None:
                cut(connection)
            late = isinstance(error, (TimeoutError, RedisTimeoutError))
            why = "no connection in time" if late else str(error) or "the connections are being closed"
            for asked in self._waiting:
                asked.fail(NotSent(f"Redis: {why}"))
            if not isinstance(error, Exception):
                raise
        else:
            self._pipes.add(pipe)
            for asked in self._waiting:
                if not asked.future.done():
                    pipe.put(asked)
        finally:
            self._waiting.clear()
            self._opening = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def forget(self, pipe: _Pipe) -> None:
        """Ask for nothing more on a connection."""
        self._pipes.discard(pipe)
        if self._pipe is pipe:
            self._pipe = None

    def drop_idle(self) -> None:
        """Open another connection for what is asked for next; the one that there is answers what it has."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.retire()

    async def aclose(self) -> None:
        """Close the connections. What is under way is cut off."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for pipe in list(self._pipes):
            pipe.cut(TimedOut("Redis: the connections are being closed"))
        await self._end()
        await asyncio.sleep(0)  # a transport closes in the next turn of the loop


def cut(connection: Any) -> None:
    """Close a connection without waiting for the other side."""
    writer = connection._writer
    connection._close()
    if writer is not None:
        writer.transport.abort()  # or TLS would wait for the other side's goodbye, which may come after the loop's end
