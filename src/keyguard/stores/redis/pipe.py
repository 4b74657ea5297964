"""One connection of an event loop. `async_connection` opens it, and says by which rules it is used."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from keyguard.clock import monotonic
from keyguard.errors import StoreError
from keyguard.stores.redis.pulse import Lost, Pulse, Slow, TimedOut
from keyguard.stores.redis.sync_connection import Reply

_PARTIAL = object()
_ONE_MORE_TURN = 0.002  # seconds


class Link(Protocol):
    """The link to a server that a connection is of."""

    loop: asyncio.AbstractEventLoop
    pulse: Pulse

    def forget(self, pipe: Pipe) -> None: ...
    def condemn(self, pipe: Pipe) -> None: ...


class Waiting:
    """Some calls that one task waits for."""

    __slots__ = ("count", "deadline", "extended", "future", "packed", "replies")

    def __init__(self, packed: bytes, count: int, future: asyncio.Future[list[Reply]]) -> None:
        self.packed = packed
        self.count = count
        self.future = future
        self.deadline = inf
        """By the event loop's clock; set when it leaves, or begins to wait for a connection."""
        self.extended = False
        """Whether it was given more time to wait for a connection."""
        self.replies: Any = [] if count > 1 else None

    def fail(self, error: StoreError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Pipe(asyncio.Protocol):
    """A connection that has introduced itself."""

    def __init__(self, link: Link, connection: AbstractConnection) -> None:
        self._link = link
        self._connection = connection
        assert connection._writer is not None
        self._transport = cast(asyncio.Transport, connection._writer.transport)
        self._reader = hiredis.Reader(
            protocolError=RedisConnectionError,
            replyError=connection._parser.parse_error,
            notEnoughData=_PARTIAL,
        )
        self._asked: deque[Waiting] = deque()
        self._unsent: list[Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._retired = False
        self._warned = False
        """Whether the oldest call had no answer when its time was over."""
        self._transport.set_protocol(self)

    def put(self, asked: Waiting) -> None:
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

    def _send(self, batch: list[Waiting]) -> None:
        # The time that a busy event loop let them lie here is not the server's.
        deadline = self._link.loop.time() + self._link.pulse.timeout
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
        self._link.pulse.beat()
        self._warned = False
        if self._retired and not waiting:
            self.cut(Lost("Redis: the connection is retired"))

    def connection_lost(self, error: Exception | None) -> None:
        self.cut(Lost(f"Redis: {error or 'the server closed the connection'}"))

    def _look_at_clock(self) -> None:
        self._timer = None
        asked = next((one for one in self._asked if not one.future.done()), None)
        if asked is None:
            return
        loop, pulse = self._link.loop, self._link.pulse
        now = loop.time()
        deadline = min(asked.deadline, now + pulse.timeout)  # it may not have left yet
        if now < deadline:
            self._timer = loop.call_at(deadline, self._look_at_clock)
        elif not self._warned:
            # A loop that comes late has perhaps not read yet what is there: some look at their timers first.
            self._warned = True
            self._timer = loop.call_later(_ONE_MORE_TURN, self._look_at_clock)
        else:
            failure = pulse.timed_out(monotonic() - (now - asked.deadline) - pulse.timeout, len(self._asked))
            if failure.__class__ is TimedOut:
                self._link.condemn(self)
                self.cut(failure)
                return
            for one in self._asked:
                if one.deadline <= now:
                    one.fail(Slow(str(failure)))  # its place is kept: the reply may come yet
            self._timer = loop.call_later(_ONE_MORE_TURN, self._look_at_clock)

    @property
    def rests(self) -> bool:
        """Whether nothing is under way on it."""
        return not self._asked

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


def cut(connection: Any) -> None:
    """Close a connection without waiting for the other side."""
    writer = connection._writer
    connection._close()
    if writer is not None:
        writer.transport.abort()  # or TLS would wait for the other side's goodbye, which may come after the loop's end
