"""Connections: bytes out, replies in, within a deadline. Here those of threads; those of event loops are in `pipes.py`.

Rules:
- Nothing is sent again here. Whoever sent decides, by what a failure says about the server having acted: `NotSent`
  and `Lost` come quickly, `TimedOut` when the deadline is over.
- A connection on which anything went wrong is closed: the next reply on it might be another call's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyguard.clock import monotonic
from keyguard.errors import StoreBusy, StoreError

Reply: TypeAlias = Any
Packed: TypeAlias = Sequence[bytes]


_LATE = 4
"""Connections that may be on their way to being opened without anybody who waits for them."""


class NotSent(StoreError):
    """There was no connection to send on."""


class Lost(StoreError):
    """The connection broke: the server may have acted, or not."""


class TimedOut(StoreError):
    """No answer within the deadline: the server may have acted, may still act, or not."""


class _Opening(threading.Thread):
    """Opens a connection. Where nobody waits for it any more, it is kept for the next."""

    def __init__(self, connect: Callable[[], AbstractConnection], idle: list[AbstractConnection]) -> None:
        super().__init__(name="keyguard-redis-opening", daemon=True)
        self._connect = connect
        self._idle = idle
        self._lock = threading.Lock()
        self._over = False
        self._awaited = True
        self.connection: AbstractConnection | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            connection = self._connect()
            connection.connect()
            self.connection = connection
        except Exception as error:
            self.error = error
        with self._lock:
            self._over = True
            if not self._awaited and self.connection is not None:
                self._idle.append(self.connection)

    def claim(self) -> bool:
        """Whether it has come to its end; else nobody waits for it any more."""
        with self._lock:
            self._awaited = self._over
            return self._over


class ThreadLink:
    """Connections to one server for any number of threads, each used by one at a time; at most `most`."""

    def __init__(self, connect: Callable[[], AbstractConnection], most: int, patience: float) -> None:
        self._connect = connect
        self._patience = patience  # seconds that one read on these connections waits
        self._idle: list[AbstractConnection] = []
        self._late: set[_Opening] = set()
        """What is being opened, and nobody waits for any more."""
        self._room = threading.BoundedSemaphore(most)

    def ask(self, packed: Packed, replies: int, deadline: float, *, skip: bool = False) -> list[Reply]:
        """Send, and read so many replies; error replies are returned. `deadline` as `keyguard.clock.monotonic`.

        `skip`: before each reply comes another one, which says nothing.
        """
        if not self._room.acquire(False) and not self._room.acquire(timeout=max(0.0, deadline - monotonic())):
            raise StoreBusy("Redis: all connections are busy")
        connection = None
        try:
            connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._open(deadline)
            got = self._exchange(connection, packed, replies * (1 + skip), deadline)
            self._idle.append(connection)
            return got[1::2] if skip else got
        except BaseException:
            if connection is not None:
                connection.disconnect()
            raise
        finally:
            self._room.release()

    def _open(self, deadline: float) -> AbstractConnection:
        # In a thread of its own: to look up a name may take many seconds, and knows no time-out.
        self._late = {opening for opening in self._late if opening.is_alive()}
        if len(self._late) >= _LATE:
            raise NotSent("Redis: no connection in time")
        opening = _Opening(self._connect, self._idle)
        opening.start()
        opening.join(max(deadline - monotonic(), 0.001))
        if not opening.claim():
            self._late.add(opening)
            raise NotSent("Redis: no connection in time")
        if opening.error is not None:
            raise NotSent(f"Redis: {opening.error}") from opening.error
        assert opening.connection is not None
        return opening.connection

    def _exchange(
        self, connection: AbstractConnection, packed: Packed, replies: int, deadline: float
    ) -> list[Reply]:  # fmt: skip
        got: list[Reply] = []
        try:
            connection.send_packed_command(packed, check_health=False)
            # What the server has, counts from here: among threads that compute, this one may just have been woken.
            deadline = max(deadline, monotonic() + self._patience)
            while len(got) < replies:
                # The connection's own time-out is shorter than what a decision has; this matters on a second trip.
                left = max(deadline - monotonic(), 0.001)
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
