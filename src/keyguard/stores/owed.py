"""Settlements that a store could not be told of while it was out of order: they are made when it answers again.

Rules:
- A settlement that was not sent may be made at any time. One that was sent and not answered may have happened: it is
  sent again only as long as the store would know it by its token.
- So many are kept and no more. Beyond that a charge stays as it was, until it lapses with its window.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from keyguard.clock import SECOND, monotonic
from keyguard.ops import REMEMBERED, Op, Settle

MOST = 10_000
_TOGETHER = 100
_AGAIN = 0.8 * REMEMBERED / SECOND
"""Seconds after which one that was sent is not sent again."""


class Owed:
    """The settlements that one store is owed by this process."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Forget all: the parent makes them."""
        self._lock = threading.Lock()
        self.waiting: deque[tuple[Settle, float]] = deque()
        """Those that wait, each with the time at which it was sent first; 0 if it was not."""

    def keep(self, ops: Sequence[Op[Any]], *, sent: bool = False) -> None:
        """Keep the settlements among operations for later, if there are not too many."""
        settlements = [op for op in ops if isinstance(op, Settle)]
        if not settlements:
            return
        with self._lock:
            began = monotonic() if sent else 0.0
            self.waiting.extend([(settle, began) for settle in settlements[: MOST - len(self.waiting)]])

    def due(self, dropped: Callable[[], None]) -> list[tuple[Settle, float]]:
        """Return some to be sent now, with when each was sent first. `dropped` is called for each that is too old."""
        now = monotonic()
        found: list[tuple[Settle, float]] = []
        while not found and self.waiting:
            with self._lock:
                some = [self.waiting.popleft() for _ in range(min(len(self.waiting), _TOGETHER))]
            found = [(settle, sent or now) for settle, sent in some if not sent or now - sent < _AGAIN]
            for _ in range(len(some) - len(found)):
                dropped()
        return found

    def failed(self, sent: list[tuple[Settle, float]]) -> None:
        """Note that they were sent, and not answered."""
        with self._lock:
            self.waiting.extendleft(reversed(sent))
