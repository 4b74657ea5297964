"""The state that all model classes of a pool share: keys and groups that are blocked in all of them.

It is one value, under `marks_key`, little-endian. A head of 16 bytes: its version, 1, seven bytes of nothing, and the
time at which it was last written (8). Then 48 bytes for each key or group, the oldest first: the id (16), the number of
the cause (1), tries (1), six bytes of nothing, and three moments of 8 bytes each: since, until, probe. A damaged value
counts as none, and one of a later version is left alone.
"""

from __future__ import annotations

import hashlib
from struct import Struct

from keyguard.clock import SECOND
from keyguard.learnt.blocks import CAUSES, DAY, Block

_HEAD = Struct("<B7xq")
_MARK = Struct("<16sBB6x3q")
_VERSION = 1
MOST = 1 << 53
"""Numbers in a state are below this: scripts of stores have doubles."""


def id_of(text: str) -> str:
    """Return the id of a key, out of its secret, or of a group, out of its name: 16 characters that tell neither."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"keyguard-pool").hexdigest()


def group_key(pool: str, model_class: str, group: str) -> str:
    """Return the key under which the state of a group stands. Those of one pool share a slot of a cluster."""
    return f"up:{_bare(pool)}|{_bare(model_class)}/{group}"


def marks_key(state: str) -> str:
    """Return the key of what all model classes share, from the key of any group's state."""
    return f"{state.partition('|')[0]}|!"


def _bare(text: str) -> str:
    return text.replace("%", "%25").replace("|", "%7C").replace("/", "%2F")


class Marks:
    """The keys and groups of a pool that are blocked in all model classes."""

    __slots__ = ("_now", "blocks", "changed", "foreign")

    def __init__(self, data: bytes | None, now: int) -> None:
        self._now = now
        self.foreign = bool(data) and data is not None and data[0] > _VERSION
        self.changed = False
        self.blocks: dict[bytes, Block] = {}
        if data:
            self._read(data, now)

    def _read(self, data: bytes, now: int) -> None:
        if data[0] != _VERSION or (len(data) - _HEAD.size) % _MARK.size or len(data) < _HEAD.size:
            return
        blocks = {}
        for id, cause, tries, since, until, probe in _MARK.iter_unpack(data[_HEAD.size :]):
            if cause >= len(CAUSES) or not (0 <= since < MOST and 0 <= until < MOST and 0 <= probe < MOST):
                return
            blocks[id] = Block(cause, tries, since, until, probe)
        self.blocks = blocks
        at = _HEAD.unpack_from(data)[1]
        if now < at - SECOND:  # time was set back
            self.changed = True
            for block in blocks.values():
                block.set_back(at - now)

    def of(self, id: str) -> Block | None:
        """Return the block of a key or a group; `None` if there is none."""
        return self.blocks.get(as_bytes(id)) if self.blocks and id else None

    def made(self, id: str) -> Block:
        """Return the same, a new one if there is none."""
        self.changed = True
        return self.blocks.setdefault(as_bytes(id), Block())

    def pack(self) -> tuple[bytes | None, int]:
        """Return the value, `None` if nothing is left, and for how long it lives."""
        living = [(id, b) for id, b in self.blocks.items() if b.cause and b.until + DAY > self._now]
        if not living:
            return None, 0
        entries = [_MARK.pack(id, b.cause, b.tries, b.since, b.until, b.probe) for id, b in living]
        last = max([b.until for _, b in living]) - self._now
        return b"".join([_HEAD.pack(_VERSION, self._now), *entries]), max(2 * DAY, last + DAY)


def as_bytes(id: str) -> bytes:
    """Return the 16 bytes that stand for an id."""
    return id.encode("utf-8", "surrogatepass")[:16].ljust(16, b"\0")
