"""The operation that keeps the latest lines of something under one key."""

from __future__ import annotations

from collections.abc import Sequence

from keyguard.ops.op import DROPPABLE, Change, Op

LONGEST_LINE = 4096
"""Bytes of a line; what is longer is left out."""


class Remember(Op[int]):
    """Add lines to those that stand under a key, and keep the last `most` of them. Evaluates to how many there are.

    A line that stands there already is not added again: so it may be sent again.
    """

    __slots__ = ("lines", "most", "ttl")

    def __init__(self, key: str, lines: Sequence[bytes], most: int, ttl: int) -> None:
        self.keys = (key,)
        self.lines = tuple([line for line in lines if line and b"\n" not in line and len(line) <= LONGEST_LINE])
        self.most = most
        self.ttl = ttl
        """Microseconds for which all of them are kept after the last one."""

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        known = lines_of(old[0])
        new = [line for line in dict.fromkeys(self.lines) if line not in known]
        kept = [*known, *new][-self.most :]
        return len(kept), [(self.keys[0], b"\n".join(kept), self.ttl, DROPPABLE)] if new else []


def lines_of(value: bytes | None) -> list[bytes]:
    """Return the lines of a value, the oldest first."""
    return value.split(b"\n") if value else []
