"""Whether one server answers, as all connections of this process to it see it.

A server that is slow because much is asked of it at once is not out of order, nor is one whose connection this process
has had no time to open: what comes too late for that reason is a `StoreBusy`, and nothing is decided without the store.
"""

from __future__ import annotations

from math import inf

from keyguard.clock import monotonic
from keyguard.errors import StoreBusy, StoreError

_MANY = 32
"""Calls on their way at once from which on the server may be busy with these."""

_SILENCE = 0.3
"""Seconds without any answer after which it is out of order, whatever it has to do."""

GRACE = 1.0
"""Seconds for which a connection may be on its way before that says something about the server."""


class NotSent(StoreError):
    """It had no connection to send on."""


class NoTurn(NotSent, StoreBusy):
    """It had no connection to send on in time, which says nothing about the server."""


class Lost(StoreError):
    """The connection broke: the server may have acted, or not."""


class TimedOut(StoreError):
    """No answer within the deadline: the server may have acted, may still act, or not."""


class Slow(TimedOut, StoreBusy):
    """No answer within the deadline, of a server that answers others."""


class Pulse:
    """When a server last answered, and whether what was tried last has failed."""

    __slots__ = ("answered", "failed", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        """Seconds that one operation may take."""
        self.answered = -inf
        """When it last answered anything, as `keyguard.clock.monotonic`."""
        self.failed = False
        """Whether what was tried last has failed."""

    def beat(self) -> None:
        """Note an answer."""
        self.answered = monotonic()
        self.failed = False

    def greeted(self) -> None:
        """Note the answers to what a new connection introduced itself with: before any call, they are the latest."""
        self.answered = monotonic()

    def busy(self, sent: float, on_the_way: int) -> bool:
        """Tell whether what was sent then has no answer because the server has much to do."""
        return self.answered > sent or (on_the_way >= _MANY and monotonic() < self.answered + _SILENCE)

    def timed_out(self, sent: float, on_the_way: int) -> TimedOut:
        """Return what to raise if no answer came in time to what was sent then, among so many calls."""
        if self.busy(sent, on_the_way):
            return Slow("Redis did not answer in time: it has much to do")
        self.failed = True
        return TimedOut("Redis did not answer in time")

    def not_opened(self, waited: float) -> NotSent:
        """Return what to raise if no connection came in time; the oldest that is on its way has had so many seconds.

        Those do not count in which this process had other things to do.
        """
        if waited < GRACE and not self.failed:
            return NoTurn("Redis: no connection in time")
        return NotSent("Redis: no connection in time")
