"""The head of an API key's record: the part that every store reads, and compares."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

RECORD = Struct("<BHqq32s")
"""The head of a stored key in layout 1: layout, pepper version, not-before and not-after in microseconds, digest."""

SEALED = Struct("<BBHHqq32s32s")
"""The head of one in layout 2: layout, kind, flags, pepper version, not-before, not-after, digest, seal.

A key is valid from not-before until just before not-after; revoking it moves not-after. A flag of any kind makes it
invalid. Either layout goes on with JSON. The seal covers all the rest, and is read by keyguard alone: no store
knows a pepper.
"""


class Head(NamedTuple):
    """The part of a record that a store reads."""

    layout: int
    kind: int
    """The way in which the digest was made; 0 in layout 1."""
    flags: int
    pepper: int
    not_before: int
    not_after: int
    digest: bytes

    @property
    def place(self) -> int:
        """The name of the digest, among those presented, that this record is compared with."""
        return self.kind << 16 | self.pepper


def head_of(record: bytes) -> Head | None:
    """Read how a record begins. Returns `None` if it is too short, or of a layout that is not known."""
    if record[:1] == b"\1" and len(record) >= RECORD.size:
        layout, pepper, not_before, not_after, digest = RECORD.unpack_from(record)
        return Head(layout, 0, 0, pepper, not_before, not_after, digest)
    if record[:1] == b"\2" and len(record) >= SEALED.size:
        return Head(*SEALED.unpack_from(record)[:-1])
    return None
