"""Operations on plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

from keyguard.flow import Step
from keyguard.ops.op import Change, Op


class Read(Op[tuple[bytes | None, ...]]):
    """The values of some keys, as of one moment."""

    __slots__ = ()

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[tuple[bytes | None, ...], Sequence[Change]]:
        return tuple(old), ()


class ReadWithTime(Read):
    """The values of some keys and the store's time: `(now, values)`."""

    __slots__ = ()

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Any, Sequence[Change]]:
        return (now, tuple(old)), ()


class BestEffort(Step[list[Any]]):
    """Run operations that no decision hangs on, in one trip: the response cache's.

    They have a circuit breaker of their own, so that what fails here is not taken for a failure of keys and limits.
    Evaluates to the list of their results.
    """

    __slots__ = ("ops",)

    def __init__(self, *ops: Op[Any]) -> None:
        self.ops = ops


class CompareAndSet(Op[bool]):
    """Write all values if all keys still hold what is expected; else none. Evaluates to whether it did."""

    __slots__ = ("expected", "values")

    def __init__(self, expected: Mapping[str, bytes | None], values: Mapping[str, bytes | None]) -> None:
        if not values.keys() <= expected.keys():
            raise ValueError("CompareAndSet writes only keys that it has an expectation of")
        self.keys = tuple(expected)
        self.expected = tuple(expected.values())
        self.values = tuple(values.items())

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bool, Sequence[Change]]:
        if tuple(old) != self.expected:
            return False, ()
        return True, [(key, value, None, None) for key, value in self.values]


class Put(Op[bool]):
    """Write one value as it is, with its microseconds to live, `None` for ever; a value of `None` deletes.

    With `expected` it does so only if that value stands there, `None` for no value. Evaluates to whether it wrote: not
    if the same value stood there.
    """

    __slots__ = ("expected", "ttl", "value")

    def __init__(
        self, key: str, value: bytes | None, ttl: int | None = None, *, expected: bytes | EllipsisType | None = ...
    ) -> None:
        self.keys = (key,)
        self.value = value
        self.ttl = ttl
        self.expected = expected
        """The value that must stand there; `...` for any."""

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bool, Sequence[Change]]:
        if old[0] == self.value or (self.expected is not ... and old[0] != self.expected):
            return False, ()
        return True, [(self.keys[0], self.value, self.ttl, None)]
