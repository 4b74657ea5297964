"""The end of an answer's body: the units that were spent, and an error behind content."""

from __future__ import annotations

from collections.abc import Mapping

from keyguard.upstream.causes import UpstreamCause, Verdict
from keyguard.upstream.parts import Held, PoolParts


class Settle:
    """The function that a transport calls at the end of a body. Only the first call counts."""

    def __init__(self, pool: PoolParts, held: Held) -> None:
        self._of = (pool, held)
        self._done = False

    def __call__(self, spent: Mapping[str, int] | None, verdict: Verdict | None) -> None:
        """Keep what is told until the next trip to the store."""
        if self._done:
            return
        self._done = True
        pool, held = self._of
        if spent:
            pool.settle(held, spent)
        if verdict is not None and verdict.cause != UpstreamCause.OK:
            pool.learn(held, verdict)
            pool.hurry()
