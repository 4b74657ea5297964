"""A store that must be awaited, and that answers late, is busy or fails whenever a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import Op
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock

FINE, LATE, BUSY, FAILS, STUMBLES, STOPS = "fine", "late", "busy", "fails", "stumbles", "stops"


class Stopped(BaseException):
    """Raised in a greenlet, say, that is told to end."""


def _partial() -> StoreError:
    error = StoreError("out of order")
    error.partial = True  # or the circuit opens, and until when depends on the machine
    return error


class DistantStore:
    """A `MemoryStore` as if it were elsewhere. `plan` is asked before each operation what becomes of it.

    Time passes by `late` alone: an operation that is late takes all of its time.
    """

    timeout = 0.1

    def __init__(self, clock: ManualClock) -> None:
        self.near = MemoryStore(clock=clock)
        self.plan: Callable[[Op[Any]], str] = lambda op: FINE
        self.asked: list[str] = []
        """What was asked, in words."""
        self.now = 1000.0
        self.hangs_at: int | None = None
        """After so many operations it does not answer any more, in an event loop."""
        self.hanging = False

    def monotonic(self) -> float:
        """Return the time that requests see."""
        return self.now

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        return [self._one(op) for op in ops]

    async def aexecute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        if len(self.asked) == self.hangs_at:
            self.hanging = True
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return [self._one(op) for op in ops]

    def scan(self, prefix: str) -> Any:
        return self.near.scan(prefix)

    def _one(self, op: Op[Any]) -> Any:
        outcome = self.plan(op)
        self.asked.append(f"{type(op).__name__} {outcome} {' '.join(op.keys)}")
        if outcome == LATE:
            self.now += self.timeout
        if outcome == STOPS:
            raise Stopped
        if outcome == BUSY:
            raise StoreBusy("others are first")
        if outcome == STUMBLES:
            raise LookupError("a value")
        if outcome == FAILS:
            raise _partial()
        return self.near.execute((op,))[0]
