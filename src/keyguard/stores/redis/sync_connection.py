"""Connections of threads: bytes out, replies in, within a deadline. Those of event loops are in `async_connection.py`.

Rules:
- Nothing is sent again here. The caller decides, by what a failure says about the server having acted: `NotSent`
  and `Lost` come quickly, `TimedOut` when the deadline is over.
- A connection on which anything went wrong is closed: the next reply on it might be another call's.
- Idle connections die silently together (a NAT, a failover): the first that gets no answer condemns those that have
  not answered since.
- A thread that finds no connection free waits in a queue. When a connection comes free, or has been opened, the first
  in the queue takes it and sends what the others ask for along: however many threads there are, a few trips serve them
  all.
- If the server refuses a further connection, the open ones go on to serve.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any, TypeAlias

from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyguard.clock import monotonic
from keyguard.errors import StoreError
from keyguard.stores.redis import opening
from keyguard.stores.redis.eviction import Eviction
from keyguard.stores.redis.opening import Connect, Connection, Opening, disconnect
from keyguard.stores.redis.pulse import Lost, NotSent, NoTurn, Pulse, Slow, TimedOut

Reply: TypeAlias = Any
Packed: TypeAlias = Sequence[bytes]


_BATCH = 100
"""Jobs that travel together at most."""

_LONGER = 0.1  # of the time that one operation may take

_WITNESSES = 5
"""Threads that must have been woken in time, one after the other, before a connection that does not open is a sign."""

_WOKEN = 1.0
"""Seconds that a thread which has the answers for others may take until it is woken to read them."""


class _Job:
    """Some calls that a thread waits for."""

    __slots__ = ("alone", "batch", "connection", "error", "got", "packed", "replies", "taken", "woken")

    def __init__(self, packed: Packed, replies: int, alone: bool) -> None:
        self.packed = packed
        self.replies = replies
        self.alone = alone
        """Whether it travels alone: it may be large."""
        self.woken: threading.Event | None = None
        self.taken = False
        """Whether it has left the queue: it may have been sent."""
        self.connection: Connection | None = None
        """The connection on which this thread is to send `batch`, if that falls to it."""
        self.batch: list[_Job] = [self]
        self.got: list[Reply] | None = None
        self.error: Exception | None = None

    def end(self) -> None:
        """Wake who waits."""
        if self.woken is not None:
            self.woken.set()


class ThreadLink:
    """Connections to one server for any number of threads, each used by one at a time; at most `max_connections`."""

    def __init__(self, connect: Connect, max_connections: int, pulse: Pulse, eviction: Eviction) -> None:
        self._connect = connect
        self._max_connections = max_connections
        self._pulse = pulse
        self._eviction = eviction
        self._patience = pulse.timeout * 0.6  # seconds that a server has at least, so that there is time for a second
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        # Garbage is finalised in any order: a socket that comes before its connection says that it was left open.
        weakref.finalize(self, disconnect, self._idle).atexit = False
        self._used = 0
        self._sent = 0
        """Jobs that are under way on those that are used."""
        self._waiting: deque[_Job] = deque()
        self._openings: set[Opening] = set()
        self._unstarted: list[Opening] = []
        self._refused = -inf
        """When the server last refused a connection."""
        self._era = 0
        self._on_time = 0
        """How many threads that waited in vain were woken in time, since the last that was not."""

    def ask(
        self, packed: Packed, replies: int, deadline: float, *, skip: bool = False, alone: bool = False
    ) -> list[Reply]:
        """Send, and read so many replies; error replies are returned. `deadline` as `keyguard.clock.monotonic`.

        `skip`: before each reply comes another one, which says nothing. `alone`: it may be large.
        """
        job = _Job(packed, replies * (1 + skip), alone)
        with self._lock:
            if self._idle:
                job.connection = self._idle.pop()
                self._used += 1
                self._sent += 1
            else:
                job.woken = threading.Event()
                self._waiting.append(job)
                self._open_more()
        if job.woken is not None:
            self._wait(job, deadline)
        if job.connection is not None:
            self._carry(job.connection, job.batch, deadline)
        if job.error is not None:
            raise job.error
        got = job.got
        assert got is not None
        return got[1::2] if skip else got

    def _wait(self, job: _Job, deadline: float) -> None:
        """Wait for a connection, or for the thread that sends this along."""
        assert job.woken is not None
        try:
            self._start()
            # A little longer than those who have a connection: what they meet says more than that none came.
            turn = deadline - monotonic() + self._pulse.timeout * _LONGER
            if job.woken.wait(max(turn, 0.001)) or not self._leave(job):
                if job.woken.wait(max(deadline - monotonic(), self._patience) + _WOKEN):
                    return
                raise Slow("Redis: what has the answer is not woken")
        except BaseException as error:
            if not isinstance(error, Slow) and not self._leave(job) and job.connection is not None:
                self._fail(job.batch, error)  # a greenlet is killed, say
                self._put_back(job.connection, len(job.batch))
            raise
        if self._used and not self._pulse.failed:
            raise NoTurn("Redis: all connections are busy")
        raise self._pulse.not_opened(self._waited(monotonic() - deadline))

    def _waited(self, late: float) -> float:
        """Return the seconds that the oldest connection has been on its way, as those who wait for it find.

        If they are woken late, this process has much to do, and so had no time to open it: then it is none.
        """
        with self._lock:
            self._on_time = self._on_time + 1 if late < self._pulse.timeout / 3 else 0
            if self._on_time < _WITNESSES:
                return 0.0
            return monotonic() - min([one.began for one in self._openings], default=inf)

    def _leave(self, job: _Job) -> bool:
        """Wait no longer. Whether it was still in the queue."""
        with self._lock:
            if job.taken:
                return False
            self._waiting.remove(job)
            return True

    # -- a trip -----------------------------------------------------------------------------------------------

    def _carry(self, connection: Connection, batch: list[_Job], deadline: float) -> None:
        """Make a trip, and hand each its replies or its failure."""
        try:
            self._exchange(connection, batch, deadline)
        except BaseException as error:
            self._fail(batch, error)
            self._discard(connection, len(batch))
            if not isinstance(error, Exception):
                raise
        else:
            self._put_back(connection, len(batch))
            for job in batch:
                job.end()

    def _fail(self, batch: list[_Job], error: BaseException) -> None:
        for job in batch:
            if job.got is not None:
                pass  # its replies came before
            elif isinstance(error, StoreError):
                job.error = type(error)(str(error))
                job.error.__cause__ = error.__cause__
            else:
                job.error = Lost(f"Redis: {error or type(error).__name__}")
                job.error.__cause__ = error
            job.end()

    def _exchange(self, connection: Connection, batch: list[_Job], deadline: float) -> None:
        socket, sent = connection.socket, monotonic()
        beside = self._sent + len(self._waiting)  # those may be given up before this is
        try:
            packed = batch[0].packed if len(batch) == 1 else [part for job in batch for part in job.packed]
            socket.send_packed_command(packed, check_health=False)
            # The time that the server has begins here: among threads that compute, this one may just have been woken.
            deadline = max(deadline, monotonic() + self._patience)
            for job in batch:
                got: list[Reply] = []
                while len(got) < job.replies:
                    try:
                        got.append(socket.read_response(True, timeout=max(deadline - monotonic(), 0.001)))
                    except ResponseError as error:
                        got.append(error)
                job.got = got
        except RedisTimeoutError as error:
            failure = self._pulse.timed_out(sent, max(beside, self._sent + len(self._waiting)))
            if failure.__class__ is TimedOut:
                self._condemn(sent)
            raise failure from error
        except (RedisError, OSError) as error:
            raise Lost(f"Redis: {error}") from error
        connection.answered = monotonic()
        self._pulse.beat()

    # -- who has which connection -------------------------------------------------------------------------------

    def _put_back(self, connection: Connection, jobs: int) -> None:
        with self._lock:
            self._used -= 1
            self._sent -= jobs
            if connection.era == self._era:
                self._give(connection)
                return
        connection.socket.disconnect()

    def _discard(self, connection: Connection, jobs: int) -> None:
        try:
            connection.socket.disconnect()
        finally:
            with self._lock:
                self._used -= 1
                self._sent -= jobs
                self._open_more()
            self._start()

    def _give(self, connection: Connection) -> None:
        """Give it to the first who waits, with what others wait for. Called under the lock."""
        if not self._waiting:
            self._idle.append(connection)
            return
        first = self._waiting.popleft()
        first.taken = True
        if not first.alone:
            self._take_along(first.batch)
        first.connection = connection
        self._used += 1
        self._sent += len(first.batch)
        first.end()

    def _take_along(self, batch: list[_Job]) -> None:
        staying: deque[_Job] = deque()
        while self._waiting and len(batch) < _BATCH:
            job = self._waiting.popleft()
            if job.alone:
                staying.append(job)
            else:
                job.taken = True
                batch.append(job)
        staying.extend(self._waiting)
        self._waiting = staying

    # -- opening ----------------------------------------------------------------------------------------------

    def _open_more(self) -> None:
        """Begin to open connections for those who wait. Called under the lock."""
        there, now = self._used + len(self._idle), monotonic()
        while self._waiting:
            on_their_way = len(self._openings)
            if there and there + on_their_way >= self._max_connections:
                return
            if there and now < self._refused + opening.RESTS:
                return
            if on_their_way >= min(len(self._waiting), opening.AT_ONCE):
                youngest = max(one.began for one in self._openings)
                if now < youngest + opening.AGAIN or on_their_way >= opening.MOST:
                    return
            begun = Opening(self._connect, self._patience, self._eviction, self._opened)
            self._openings.add(begun)
            self._unstarted.append(begun)

    def _start(self) -> None:
        """Start what `_open_more` has begun. Not under the lock: a greenlet waits here, and others take their turn."""
        while self._unstarted:
            try:
                begun = self._unstarted.pop()
            except IndexError:  # another thread was quicker
                return
            try:
                begun.start()
            except RuntimeError as error:  # there is no room for a thread, or the interpreter ends
                begun.error = error
                self._opened(begun)

    def _opened(self, begun: Opening) -> None:
        with self._lock:
            if begun.error is not None:
                self._failed_to_open(begun)
                return
            self._pulse.greeted()
            wanted = begun in self._openings and self._used + len(self._idle) < self._max_connections
            self._openings.discard(begun)
            if wanted:
                self._give(Connection(begun.opened, self._era))
                self._open_more()
        if not wanted:
            begun.opened.disconnect()
        self._start()

    def _failed_to_open(self, begun: Opening) -> None:
        """Tell those who wait, unless other connections are there for them. Called under the lock."""
        if begun not in self._openings:
            return
        self._openings.discard(begun)
        self._refused = monotonic()
        if self._used or self._idle:
            return
        self._pulse.failed = True
        if not self._openings:
            while self._waiting:
                job = self._waiting.popleft()
                job.taken = True
                job.error = NotSent(f"Redis: {begun.error}")
                job.error.__cause__ = begun.error
                job.end()

    # -- closing ----------------------------------------------------------------------------------------------

    def _condemn(self, since: float) -> None:
        """Close the idle connections that have not answered since."""
        with self._lock:
            condemned = [one for one in self._idle if one.answered < since]
            self._idle[:] = [one for one in self._idle if one.answered >= since]
        disconnect(condemned)

    def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        self._condemn(inf)

    def close(self) -> None:
        """Close all connections, those in use when they come back, and those on their way when they are there."""
        with self._lock:
            self._era += 1
            self._openings.clear()
        self._condemn(inf)
