"""The connections of an event loop: any number of calls on their way at once, with no task and no time-out each.

redis-py opens a connection and introduces itself (addresses, TLS, passwords, sentinels); then the transport is taken
over by a protocol of our own, since the streams of redis-py cost more than a decision does.

Rules, besides those of `sync_connection.py`:
- A call that finds the connection at rest is written at once. Calls that come while replies are awaited leave as
  one write in the next turn of the loop.
- Replies come in the order of the calls. When the oldest call has waited too long, the connection is cut and whatever
  is on it fails: a server that does not answer one does not answer those behind it. While it is busy with what was
  asked at once, only those fail whose time is over.
- One timer a connection, set again only when it goes off: a call that is answered in time has never touched it.
- A connection may take longer to open than a call may wait for it: names, TLS and passwords take turns of the loop,
  which may have much else to do. Those who waited are told in time, and the next ones find it open. One that takes long
  is not waited for alone: others are begun beside it, and the first that is there is used.
- Little lives while a call is on its way: it is what the garbage collector walks over when many wait.
- A call that nobody waits for any more keeps its place, so that its reply is not taken for another's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyguard.stores.redis import opening
from keyguard.stores.redis.eviction import Eviction
from keyguard.stores.redis.pipe import Pipe, Waiting, cut
from keyguard.stores.redis.pulse import NotSent, Pulse, TimedOut
from keyguard.stores.redis.sync_connection import Reply

_TICK = 0.05
_TOO_LATE = "no connection in time"


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
        self._pipe: Pipe | None = None
        self._pipes: set[Pipe] = set()
        self._openings: dict[asyncio.Task[None], float] = {}
        """Connections that are being opened, and the seconds that each has had, but for those in which the loop did
        other things."""
        self._ticking: asyncio.TimerHandle | None = None
        self._waiting: deque[Waiting] = deque()
        """Calls that came while no connection was open, the oldest first."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.beside: LoopLink | None = None
        """Another one to the same server."""

    def ask(self, packed: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """Return the replies to so many calls, error replies among them. Nothing is sent twice."""
        loop = self.loop
        asked = Waiting(packed, count, loop.create_future())
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
            self.pulse.greeted()
            pipe = Pipe(self, connection)
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

    def forget(self, pipe: Pipe) -> None:
        """Ask for nothing more on a connection."""
        self._pipes.discard(pipe)
        if self._pipe is pipe:
            self._pipe = None

    def condemn(self, pipe: Pipe) -> None:
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
        """Close the connections. Calls that are under way are cut off."""
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
