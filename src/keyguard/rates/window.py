"""The default algorithm: never more than N units in any window of one period, whatever the arrival pattern.

A window is half-open: what was taken at t has lapsed at t + period. Two representations keep the promise in at
most 300 bytes a caller:

- `WindowLog`, for N up to 32: the moment of every unit, exact to the microsecond.
- `WindowSlices`, for larger N: the period is cut into 32 slices and units are counted by slice. A window that ends
  now can touch the current slice and the 32 before it, so a request passes if those 33 counts sum to at most N.
  The price: a unit comes back up to 1/32 of a period late, so at saturation at least 32/33 (97 %) of N is used.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import Struct, pack, unpack

from keyguard.rates.limit import NEVER, Limit, Taking

LOG_MAX = 32
SLICES = 32

_HEAD = Struct("<QQ")  # number of the newest slice, sum of all counts
_HEAD_SIZE = _HEAD.size
_REACH = 4 * (SLICES + 1)  # bytes of counts that a window can touch
_ZEROS = bytes(_REACH)
_QUOTA_MAX = 2**32 - 1  # a count is four bytes


def window(quota: int, period: int, text: str) -> Limit:
    """The limit that keeps `quota` in any window of `period` microseconds."""
    if quota > _QUOTA_MAX:
        raise ValueError(f"a limit can be at most {_QUOTA_MAX}, not {quota}")
    return WindowLog(quota, period, text) if quota <= LOG_MAX else WindowSlices(quota, period, text)


class WindowLog(Limit):
    """State: the moments of the units taken, oldest first, eight bytes each."""

    __slots__ = ()

    def __init__(self, quota: int, period: int, text: str) -> None:
        super().__init__(quota, period, text, f"log{period}")

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        quota, period = self.quota, self.period
        moved = False
        if not state:
            times: tuple[int, ...] = ()
            state = b""
        else:
            times = unpack(f"<{len(state) // 8}Q", state)
            if times[-1] > now:  # time was set back
                times = _shifted(times, now)
                state = pack(f"<{len(times)}Q", *times)
                moved = True
        lapsed = bisect_right(times, now - period)
        used = len(times) - lapsed
        if used + cost > quota:
            wait = NEVER if cost > quota else times[lapsed + used + cost - quota - 1] + period - now
            reset = times[lapsed] + period - now if used else 0
            return state if moved else None, period, max(0, quota - used), reset, wait
        oldest = times[lapsed] if used else now
        if cost == 0:
            return state if moved else None, period, quota - used, oldest + period - now if used else 0, 0
        state = state[8 * lapsed :] + now.to_bytes(8, "little") * cost
        return state, period, quota - used - cost, oldest + period - now, 0

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        times = list(unpack(f"<{len(state) // 8}Q", state))
        found = min(cost, times.count(taken_at))
        if not found:
            return None
        for _ in range(found):
            times.remove(taken_at)
        return pack(f"<{len(times)}Q", *times)

    def merge(self, one: bytes, other: bytes) -> bytes:
        # The i-th newest of the result is the newer of both i-th newest: no window holds fewer than in either.
        longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
        times = list(unpack(f"<{len(longer) // 8}Q", longer))
        offset = len(times) - len(shorter) // 8
        for i, time in enumerate(unpack(f"<{len(shorter) // 8}Q", shorter), offset):
            times[i] = max(times[i], time)
        return pack(f"<{len(times)}Q", *times)


def _shifted(times: tuple[int, ...], now: int) -> tuple[int, ...]:
    back = times[-1] - now
    return tuple(max(0, time - back) for time in times)


class WindowSlices(Limit):
    """State: the number of the newest slice, the sum, then a four-byte count a slice, ending with the newest.

    Slices before the first one that counts anything are left out, so a rare caller's state is short.
    """

    __slots__ = ("width",)

    def __init__(self, quota: int, period: int, text: str) -> None:
        super().__init__(quota, period, text, f"win{period}")
        self.width = -(-period // SLICES)

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        quota, width = self.quota, self.width
        here = now // width
        moved = False
        if state is None:
            total = 0
            counts = b""
        else:
            newest, total = _HEAD.unpack_from(state)
            counts = state[_HEAD_SIZE:]
            if newest != here:
                moved = newest > here  # time was set back: the newest slice is this one
                if not moved:
                    total, counts = _advance(total, counts, here - newest)
        until_lapse = (here + SLICES + 1) * width - now
        length = len(counts) >> 2
        spent = total + cost
        if spent > quota:
            kept = _HEAD.pack(here, total) + counts if moved else None
            reset = until_lapse - (length - 1) * width if length else 0
            wait = NEVER if cost > quota else until_lapse - _younger(counts, spent - quota) * width
            return kept, until_lapse, max(0, quota - total), reset, wait
        if cost == 0:
            kept = _HEAD.pack(here, total) + counts if moved else None
            return kept, until_lapse, quota - total, until_lapse - (length - 1) * width if length else 0, 0
        if length:
            newest_count = int.from_bytes(counts[-4:], "little") + cost
            state = _HEAD.pack(here, spent) + counts[:-4] + newest_count.to_bytes(4, "little")
            return state, until_lapse, quota - spent, until_lapse - (length - 1) * width, 0
        state = _HEAD.pack(here, spent) + cost.to_bytes(4, "little")
        return state, until_lapse, quota - spent, until_lapse, 0

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        newest, total = _HEAD.unpack_from(state)
        counts = list(unpack(f"<{(len(state) - _HEAD_SIZE) // 4}I", state[_HEAD_SIZE:]))
        place = len(counts) - 1 - (newest - taken_at // self.width)
        if not 0 <= place < len(counts) or not counts[place]:
            return None
        found = min(cost, counts[place])
        counts[place] -= found
        return _HEAD.pack(newest, total - found) + _stripped(pack(f"<{len(counts)}I", *counts))

    def merge(self, one: bytes, other: bytes) -> bytes:
        newest, newest_other = _HEAD.unpack_from(one)[0], _HEAD.unpack_from(other)[0]
        if newest < newest_other:
            one, other, newest, newest_other = other, one, newest_other, newest
        mine = one[_HEAD_SIZE:]
        theirs = _advance(0, other[_HEAD_SIZE:], newest - newest_other)[1]
        size = max(len(mine), len(theirs))
        counts = [
            max(a, b)
            for a, b in zip(
                unpack(f"<{size >> 2}I", mine.rjust(size, b"\0")),
                unpack(f"<{size >> 2}I", theirs.rjust(size, b"\0")),
                strict=True,
            )
        ]
        return _HEAD.pack(newest, sum(counts)) + pack(f"<{len(counts)}I", *counts)


def _advance(total: int, counts: bytes, slices: int) -> tuple[int, bytes]:
    """Move on by `slices` empty ones, and drop what no window that ends there can touch."""
    if slices > SLICES:
        return 0, b""
    counts += _ZEROS[: 4 * slices]
    beyond = len(counts) - _REACH
    if beyond > 0:
        total -= sum(unpack(f"<{beyond >> 2}I", counts[:beyond]))
        counts = _stripped(counts[beyond:])
    return total, counts


def _stripped(counts: bytes) -> bytes:
    """Without leading slices that count nothing."""
    size = -(-len(counts.lstrip(b"\0")) // 4) * 4
    return counts[len(counts) - size :]


def _younger(counts: bytes, units: int) -> int:
    """How many slices are younger than the one with which the oldest `units` have all lapsed."""
    length = len(counts) >> 2
    for place, count in enumerate(unpack(f"<{length}I", counts), 1):
        units -= count
        if units <= 0:
            return length - place
    raise AssertionError("more units asked for than were counted")
