"""The way that a request takes and frees a slot: fast path of `Take.apply` and `Settle.apply`, same answers.

`tests/stores/test_pools.py` holds it to them. What it would refuse it leaves to the operation.
"""

from __future__ import annotations

from struct import Struct

from keyguard.ops.holds import HOLDS, Holds
from keyguard.rates import Slots
from keyguard.stores.memory.core import Core
from keyguard.stores.memory.loose import Loose

_ONE = Struct("<QQQQQ")
"""The state of a single hold: the longest lease, the last number; the hold's number, its units, and its end."""


class SlotPool:
    """The slots of one guard."""

    __slots__ = ("_core", "_lease", "_loose", "_prefix", "_quota")

    def __init__(self, core: Core, loose: Loose, prefix: str, limit: Slots, lease: int) -> None:
        self._core = core
        self._loose = loose
        self._prefix = prefix
        self._quota = limit.quota
        self._lease = lease

    def take(self, bucket: str) -> tuple[int, int] | None:
        """Take a slot for a caller. Return the hold's number and how many are left; `None` if none was.

        The caller has checked the process.
        """
        core, loose, key = self._core, self._loose, self._prefix + bucket
        with core.lock:
            now = core.clock()
            state = loose.read(key, now)
            if state is None:
                end = now + self._lease
                loose.write(key, (_ONE.pack(self._lease, now, now, 1, end), end, HOLDS), now)
                answer = now, self._quota - 1
            else:
                holds = Holds(state, now)
                left = self._quota - holds.units - 1
                if left < 0 or holds.full:
                    return None
                answer = now + holds.add(1, self._lease, now), left
                self._write(key, holds, now)
            if core.next_sweep <= now:
                core.sweep(now)
        if core.news is not None:
            core.tell()
        return answer

    def free(self, bucket: str, number: int) -> None:
        """Free a slot, if it is still held. The caller has checked the process."""
        core, loose, key = self._core, self._loose, self._prefix + bucket
        with core.lock:
            now = core.clock()
            state = loose.read(key, now)
            if state is None:
                return
            if len(state) == _ONE.size:
                longest, last, given, _, end = _ONE.unpack(state)
                if given == number and last < now < end <= now + longest:
                    core.drop(loose, key)
                    return
            holds = Holds(state, now)
            holds.release(number)
            if holds.changed:
                self._write(key, holds, now)

    def _write(self, key: str, holds: Holds, now: int) -> None:
        _, state, ttl, limit = holds.change(key, now)
        if state is None or ttl is None:
            self._core.drop(self._loose, key)
        else:
            self._loose.write(key, (state, now + ttl, limit), now)
