"""The holds on one limit, by caller: what `Holds` says of them, with a shorter way for one who holds one thing at most.

All of it runs under the lock of the store.
"""

from __future__ import annotations

from struct import Struct
from typing import TypeAlias

from keyguard.ops.holds import HOLDS, Holds, held_key
from keyguard.stores.memory.core import Core
from keyguard.stores.memory.loose import Loose

_ONE = Struct("<QQQQQ")
"""The state of a single hold: the longest lease, the last number; the hold's number, its units, and its end."""
_HEAD_SIZE = 16  # of what stands before the holds

Written: TypeAlias = "tuple[str, bytes | None, int]"
"""A key with its new state, `None` for none, and when that expires."""


class Holding:
    """The holds under keys with one beginning."""

    __slots__ = ("_core", "_loose", "_prefix")

    def __init__(self, core: Core, loose: Loose, prefix: str) -> None:
        self._core = core
        self._loose = loose
        self._prefix = held_key(prefix)

    def standing(self, bucket: str, now: int) -> Holds | None:
        """Return what a caller holds; `None` for nothing, as nearly always. Raises for what cannot be read."""
        state = self._loose.read(self._prefix + bucket, now)
        return None if state is None else Holds(state, now)

    def add(self, bucket: str, standing: Holds | None, units: int, lease: int, now: int) -> int:
        """Hold units for a caller, at least one, beside what stands. Return the hold's number."""
        key = self._prefix + bucket
        if standing is None:
            end = now + lease
            self.write((key, _ONE.pack(lease, now, now, units, end), end), now)
            return now
        number = now + standing.add(units, lease, now)
        self.write(self._changed(key, standing, now), now)
        return number

    def released(self, bucket: str, number: int, now: int) -> Written | None:
        """Return what is to be written if a hold ends; `None` for nothing. Raises for what cannot be read."""
        key = self._prefix + bucket
        state = self._loose.read(key, now)
        if state is None:
            return None
        if len(state) == _ONE.size:
            longest, last, given, _, end = _ONE.unpack(state)
            if given == number and now < end <= now + longest:
                # The last number is remembered as `Holds` does it, for clocks that stand still for a moment.
                return (key, None, 0) if last < now else (key, state[:_HEAD_SIZE], last + 1)
        holds = Holds(state, now)
        holds.release(number)
        return self._changed(key, holds, now) if holds.changed else None

    def _changed(self, key: str, holds: Holds, now: int) -> Written:
        _, state, ttl, _ = holds.change(key, now)
        return key, state, now + (ttl or 0)

    def write(self, written: Written, now: int) -> None:
        """Write what has changed."""
        key, state, expiry = written
        if state is None:
            self._core.drop(self._loose, key)
        else:
            self._loose.write(key, (state, expiry, HOLDS), now)
