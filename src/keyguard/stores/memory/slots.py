"""The way that a request takes and frees a slot: fast path of `Take.apply` and `Settle.apply`, same answers.

`tests/stores/test_pools.py` holds it to them. What it would refuse it leaves to the operation.
"""

from __future__ import annotations

from keyguard.rates import Slots
from keyguard.stores.memory.core import Core
from keyguard.stores.memory.holding import Holding


class SlotPool:
    """The slots of one guard."""

    __slots__ = ("_core", "_holding", "_lease", "_quota")

    def __init__(self, core: Core, holding: Holding, limit: Slots, lease: int) -> None:
        self._core = core
        self._holding = holding
        self._quota = limit.quota
        self._lease = lease

    def take(self, bucket: str) -> tuple[int, int] | None:
        """Take a slot for a caller. Return the hold's number and how many are left; `None` if none was.

        The caller has checked the process.
        """
        core, holding = self._core, self._holding
        with core.lock:
            now = core.clock()
            standing = holding.standing(bucket, now)
            left = self._quota - 1
            if standing is not None:
                left -= standing.units
                if left < 0 or standing.full:
                    return None
            answer = holding.add(bucket, standing, 1, self._lease, now), left
            if core.next_sweep <= now:
                core.sweep(now)
        if core.news is not None:
            core.tell()
        return answer

    def free(self, bucket: str, number: int) -> None:
        """Free a slot, if it is still held. The caller has checked the process."""
        core, holding = self._core, self._holding
        with core.lock:
            now = core.clock()
            written = holding.released(bucket, number, now)
            if written is not None:
                holding.write(written, now)
