"""Opening connections for threads: each in a thread of its own, beside the requests that wait for it.

Rules:
- Opening has seconds, for names, TLS and passwords take their time; a request waits no longer than it may, and
  leaves a connection that came too late to those who come later.
- One that takes long is not waited for alone: others are begun beside it, for the server may be back meanwhile.
- A connection has made one trip before it counts as open: a server that has no room for it says so only then.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from redis.exceptions import ResponseError

from keyguard.clock import monotonic
from keyguard.process.fork import run_aside
from keyguard.stores.redis.eviction import Eviction

OPENING = 5.0
"""Seconds that each step of opening a connection may take."""

AGAIN = 0.5
"""Seconds after which another one is begun beside one that is still on its way."""

MOST = 10
"""Connections that may be on their way at once."""

AT_ONCE = 4
"""Those that are begun for callers that wait at the same time."""

RESTS = 0.5
"""Seconds for which no further connection is tried if there are some, and the server has refused the last one."""

Connect = Callable[[], Any]
"""Makes a connection of redis-py that is not open yet."""


class Connection:
    """An open connection."""

    __slots__ = ("answered", "era", "socket")

    def __init__(self, socket: Any, era: int) -> None:
        self.socket = socket
        self.era = era
        """Which of the link's times it was opened in: each `close` ends one."""
        self.answered = monotonic()
        """When the server last answered on it."""


def disconnect(connections: Iterable[Connection]) -> None:
    """Close connections."""
    for connection in connections:
        connection.socket.disconnect()


class Opening:
    """Opens one connection, and hands it over."""

    def __init__(self, connect: Connect, patience: float, eviction: Eviction, done: Callable[[Opening], None]) -> None:
        self._connect = connect
        self._patience = patience
        self._eviction = eviction
        self._done = done
        self.began = monotonic()
        self.opened: Any = None
        self.error: Exception | None = None

    def start(self) -> None:
        """Open it, and hand it over. Raises `RuntimeError` if there is no room for a thread."""
        run_aside("keyguard-redis-opening", self._run)

    def _run(self) -> None:
        made = None
        try:
            made = self._connect()
            made.connect()
            _greet(made, self._eviction)
            _be_quick(made, self._patience)
            self.opened = made
        except Exception as error:
            self.error = error
            if made is not None:
                made.disconnect()
        self._done(self)


def greeting(eviction: Eviction) -> Generator[tuple[str, ...], Any, None]:
    """Yield the commands to send on a new connection; each is sent its reply, or the error that came.

    Raises what redis-py does if the server has no place for us.
    """
    reply = yield ("PING",)
    # A user who may not do that has a place all the same.
    if isinstance(reply, Exception) and not str(reply).startswith(("NOPERM", "User ", "this user")):
        raise reply
    yield from eviction.questions()


def _greet(connection: Any, eviction: Eviction) -> None:
    talk = greeting(eviction)
    command = next(talk, None)
    while command is not None:
        connection.send_command(*command, check_health=False)
        try:
            reply = connection.read_response(True)
        except ResponseError as error:
            reply = error
        command = answer(talk, reply)


def answer(talk: Generator[tuple[str, ...], Any, None], reply: Any) -> tuple[str, ...] | None:
    """Go on with a reply. Returns the next command, if there is one."""
    try:
        return talk.send(reply)
    except StopIteration:
        return None


def _be_quick(connection: Any, patience: float) -> None:
    """Have nothing on the connection wait longer than that from now on."""
    connection.socket_timeout = patience
    connection._sock.settimeout(patience)
    connection._parser._socket_timeout = patience
