"""The connections of an event loop: any number of calls on their way at once, with no task and no time-out each.

redis-py opens a connection and introduces itself (addresses, TLS, passwords, sentinels); then the transport is taken
over by a protocol of our own, since the streams of redis-py cost more than a decision does.

Rules, besides those of `sync_connection.py`:
- A call that finds the connection at rest is written at once. What is asked for while replies are awaited leaves as
  one write in the next turn of the loop.
- Replies come in the order of the calls. When the oldest call has waited too long, the connection is cut and whatever
  is on it fails: a server that does not answer one does not answer those behind it. While it is busy with what was
  asked at once, only those fail whose time is over.
- One timer a connection, set again only when it goes off: a call that is answered in time has never touched it.
- A connection may take longer to open than a call may wait for it: names, TLS and passwords take turns of the loop,
  which may have much else to do. Those who waited are told in time, and the next ones find it open. One that takes long
  is not waited for alone: others are begun beside it, and the first that is there is used.
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
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyguard.clock import monotonic
from keyguard.errors import StoreError
from keyguard.stores.redis import opening
from keyguard.stores.redis.eviction import Eviction
from keyguard.stores.redis.pulse import Lost, NotSent, Pulse, Slow, TimedOut
from keyguard.stores.redis.sync_connection import Reply

_PARTIAL = object()

_ONE_MORE_TURN = 0.002  # seconds
_TICK = 0.05
_TOO_LATE = "no connection in time"


class _Asked:
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
        self._warned = False
        """Whether the oldest call had no answer when its time was over."""
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


class LoopLink:
    """A connection to one server for the tasks of one event loop."""

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        end: Callable[[], Awaitable[None]],
        pulse: Pulse,
        eviction: Eviction,
    ) -> None:
        self._connect = connect
        self._end = end
        self.pulse = pulse
        self._eviction = eviction
        self.loop = asyncio.get_running_loop()
        self._pipe: _Pipe | None = None
        self._pipes: set[_Pipe] = set()
        self._openings: dict[asyncio.Task[None], float] = {}
        """What is being opened, and the seconds that it has had, but for those in which the loop did other things."""
        self._ticking: asyncio.TimerHandle | None = None
        self._waiting: deque[_Asked] = deque()
        """What is asked for while there is no connection, the oldest first."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.beside: LoopLink | None = None
        """Another one to the same server."""

    def ask(self, packed: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """The replies to so many calls, error replies among them. Nothing is sent twice."""
        loop = self.loop
        asked = _Asked(packed, count, loop.create_future())
        if self._pipe is not None:
            self._pipe.put(asked)
        elif self._closed:
            asked.fail(NotSent("Redis: the connections are closed"))
        else:
            asked.deadline = loop.time() + self.pulse.timeout
            self._waiting.append(asked)
            if self._timer is None:
                self._timer = loop.call_at(asked.deadline, self._look_at_clock)
            self._open_more()
        return asked.future

    def _look_at_clock(self) -> None:
        self._timer = None
        waiting, now, timeout = self._waiting, self.loop.time(), self.pulse.timeout
        if waiting and now > waiting[0].deadline + timeout / 2:
            # The loop had other things to do, and no time for the connection: they have their time from now on, once.
            for asked in waiting:
                if not asked.extended:
                    asked.deadline, asked.extended = now + timeout, True
        waited = max(self._openings.values(), default=0.0)
        self._waiting = deque([asked for asked in waiting if asked.deadline > now])
        for asked in waiting:
            if asked.deadline <= now:
                asked.fail(self.pulse.not_opened(waited))
        if self._waiting:
            self._timer = self.loop.call_at(min([asked.deadline for asked in self._waiting]), self._look_at_clock)

    def _open_more(self) -> None:
        if self._openings and (min(self._openings.values()) < opening.AGAIN or len(self._openings) >= opening.MOST):
            return
        self._openings[self.loop.create_task(self._open())] = 0.0
        if self._ticking is None:
            self._ticking = self.loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        """Let time pass for what is being opened; one that has had its time is given up."""
        self._ticking = None
        for task in self._openings:
            self._openings[task] += _TICK
            if self._openings[task] >= opening.OPENING:
                task.cancel(_TOO_LATE)
        if self._openings:
            self._ticking = self.loop.call_later(_TICK, self._tick)

    async def _open(self) -> None:
        connection = None
        try:
            connection = self._connect()
            await connection.connect()
            await _greet(connection, self._eviction)
            pipe = _Pipe(self, connection)
        except BaseException as error:
            if connection is not None:
                cut(connection)
            self._openings.pop(_this_task(), None)
            self._failed_to_open(error)
            if not isinstance(error, Exception) and error.args != (_TOO_LATE,):
                raise
            return
        self._openings.pop(_this_task(), None)
        self._pipes.add(pipe)
        if self._closed or self._pipe is not None:
            pipe.retire()
            return
        self._pipe = pipe
        for late in self._openings:
            late.cancel()
        for asked in self._waiting:
            if not asked.future.done():
                pipe.put(asked)
        self._nobody_waits()

    def _failed_to_open(self, error: BaseException) -> None:
        if self._pipe is not None or self._openings:
            return
        self.pulse.failed = self.pulse.failed or not self._closed
        late = isinstance(error, (TimeoutError, RedisTimeoutError)) or error.args == (_TOO_LATE,)
        why = "no connection in time" if late else str(error) or "the connections are being closed"
        for asked in self._waiting:
            asked.fail(NotSent(f"Redis: {why}"))
        self._nobody_waits()

    def _nobody_waits(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self, pipe: _Pipe) -> None:
        """Ask for nothing more on a connection."""
        self._pipes.discard(pipe)
        if self._pipe is pipe:
            self._pipe = None

    def condemn(self, pipe: _Pipe) -> None:
        """Drop the connection beside one that died silently, if nothing is under way on it."""
        if self.beside is not None:
            self.beside.drop_resting()

    def drop_resting(self) -> None:
        """Close the connection if nothing is under way on it: else it shows by itself whether it lives."""
        if self._pipe is not None and self._pipe.rests:
            self.drop_idle()

    def drop_idle(self) -> None:
        """Open another connection for what is asked for next; the one that there is answers what it has."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.retire()

    async def aclose(self) -> None:
        """Close the connections. What is under way is cut off."""
        self._closed = True
        openings = list(self._openings)
        for one in openings:
            one.cancel()
        await asyncio.gather(*openings, return_exceptions=True)
        for pipe in list(self._pipes):
            pipe.cut(TimedOut("Redis: the connections are being closed"))
        await self._end()
        await asyncio.sleep(0)  # a transport closes in the next turn of the loop


async def _greet(connection: Any, eviction: Eviction) -> None:
    talk = opening.greeting(eviction)
    command = next(talk, None)
    while command is not None:
        await connection.send_command(*command, check_health=False)
        try:
            reply = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            reply = error
        command = opening.answer(talk, reply)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task


def cut(connection: Any) -> None:
    """Close a connection without waiting for the other side."""
    writer = connection._writer
    connection._close()
    if writer is not None:
        writer.transport.abort()  # or TLS would wait for the other side's goodbye, which may come after the loop's end
