"""States of slices: how many units were taken in each slice of a period.

A state is the head, then a four-byte count for each older slice, oldest first, up to the one before the newest. Slices
before the first one that counts anything are left out, so a rare caller's state is short.
"""

from __future__ import annotations

from struct import Struct, pack, unpack
from typing import TypeAlias

SLICES = 32
"""Slices of a period."""

HEAD = Struct("<cQQI")  # a tag, number of the newest slice, sum of all counts, count of the newest slice
TAG = b"S"
HEAD_SIZE = HEAD.size
_OLDER = 4 * SLICES  # bytes of counts of older slices that a window can touch
_ZEROS = bytes(_OLDER)
_COUNTS = [Struct(f"<{count}I") for count in range(SLICES + SLICES + 1)]


def slice_width(period: int) -> int:
    """Return the microseconds of a slice."""
    return -(-period // SLICES)


def counts_of(data: bytes) -> tuple[int, ...]:
    return _COUNTS[len(data) >> 2].unpack(data)


def packed_counts(counts: list[int]) -> bytes:
    return pack(f"<{len(counts)}I", *counts)


def stripped(older: bytes) -> bytes:
    """Without leading slices that count nothing."""
    size = -(-len(older.lstrip(b"\0")) // 4) * 4
    return older[len(older) - size :]


def younger_than(older: bytes, units: int) -> int:
    """Count the slices that are younger than the one with which the oldest `units` have all expired."""
    younger = len(older) >> 2
    for count in counts_of(older):
        units -= count
        if units <= 0:
            return younger
        younger -= 1
    return 0  # the newest


# -- as logs, and back ------------------------------------------------------------------------------------------------


def log_of_slices(state: bytes, now: int, period: int) -> bytes:
    """Make a log of slices: each unit at the latest moment that does not move its expiry."""
    width = slice_width(period)
    _, newest, _, count = HEAD.unpack_from(state)
    times: list[int] = []
    slice = newest
    for count in (count, *reversed(counts_of(state[HEAD_SIZE:]))):  # noqa: B020 - the head's count comes first
        times += [min(now, (slice + SLICES + 1) * width - period)] * count
        slice -= 1
    return pack(f"<{len(times)}Q", *reversed(times))


def slices_of_log(state: bytes, now: int, period: int) -> bytes:
    """Make slices of a log: what has not expired does so with the slice it falls into, not earlier than by itself."""
    width = slice_width(period)
    slices = [time // width for time in unpack(f"<{len(state) // 8}Q", state) if time > now - period]
    newest = max(slices, default=0)
    counts = [slices.count(slice) for slice in range(newest - SLICES, newest + 1)]
    return HEAD.pack(TAG, newest, sum(counts), counts[-1]) + stripped(packed_counts(counts[:-1]))


# -- taken apart, for a store that counts them in place --------------------------------------------------------------

Slices: TypeAlias = tuple[int, int, bytes]
"""`(newest, spent, older)`: the number of the newest slice, the sum of all counts, and older slices as bytes."""


def unpacked(state: bytes) -> Slices | None:
    """Take a state apart; `None` if it is not one of slices."""
    if len(state) & 3 != HEAD_SIZE & 3 or not HEAD_SIZE <= len(state) <= HEAD_SIZE + _OLDER or state[:1] != TAG:
        return None
    _, newest, spent, count = HEAD.unpack_from(state)
    older = state[HEAD_SIZE:]
    return (newest, spent, older) if spent == count + sum(counts_of(older)) else None


def packed(newest: int, spent: int, older: bytes) -> bytes:
    """Return the state that was taken apart."""
    return HEAD.pack(TAG, newest, spent, spent - sum(counts_of(older))) + older


def moved_on(spent: int, older: bytes, slices: int) -> tuple[int, bytes]:
    """Return `spent` and `older` as they are so many slices later."""
    if slices > SLICES:
        return 0, b""
    total, _, older = advanced(spent, spent - sum(counts_of(older)) if older else spent, older, slices)
    return total, older


def advanced(total: int, count: int, older: bytes, slices: int) -> tuple[int, int, bytes]:
    """Move on by `slices`, and drop what no window that ends there can touch: `(total, 0, older)`."""
    if not slices:
        return total, count, older
    if slices > SLICES:
        return 0, 0, b""
    older += count.to_bytes(4, "little")
    if slices > 1:
        older += _ZEROS[: 4 * (slices - 1)]
    beyond = len(older) - _OLDER
    if beyond > 0:
        total -= sum(counts_of(older[:beyond]))
        older = older[beyond:]
    # Most begin with a slice that counts something: no more than its lowest byte need be looked at.
    return total, 0, older if older[0] else stripped(older)
