"""The default algorithm: never more than N units in any window of one period, whatever the arrival pattern.

A window is half-open: what was taken at t has expired at t + period. Two representations keep the promise in at
most 300 bytes a caller:

- `WindowLog`, for N up to 32: the moment of every unit, exact to the microsecond.
- `WindowSlices`, for larger N: the period is cut into 32 slices and units are counted by slice. A window that ends
  now can touch the current slice and the 32 before it, so a request passes if those 33 counts sum to at most N.
  The price: a unit comes back up to 1/32 of a period late, so at saturation at least 32/33 (97 %) of N is used.

Both count under the same name, and each reads the other's state, so a limit that is edited keeps its counters. They
are told apart by their length: a log is a multiple of eight bytes, slices are one more than a multiple of four.

A state of the other kind is asked as it is: a refusal names the moment at which it admits, and not that of a state that
could be made of it. It is converted when units are taken and it is written anyway: then all that it counts has room.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import Struct, pack, unpack
from typing import Any

from keyguard.rates.limit import JSON, NEVER, Limit, Taking
from keyguard.rates.slices import (
    HEAD,
    HEAD_SIZE,
    SLICES,
    TAG,
    advanced,
    counts_of,
    log_of_slices,
    packed_counts,
    slice_width,
    slices_of_log,
    stripped,
    younger_than,
)

LOG_MAX = 32

_TIMES = [Struct(f"<{count}Q") for count in range(LOG_MAX + 1)]
_moment = Struct("<Q").unpack_from
_QUOTA_MAX = 2**32 - 1  # a count is four bytes


def window(quota: int, period: int, text: str) -> Limit:
    """Return the limit that keeps `quota` in any window of `period` microseconds."""
    if quota > _QUOTA_MAX:
        raise ValueError(f"a limit can be at most {_QUOTA_MAX}, not {quota}")
    return WindowLog(quota, period, text) if quota <= LOG_MAX else WindowSlices(quota, period, text)


class _Window(Limit):
    """The parts that both representations have in common."""

    __slots__ = ()

    def terms(self) -> dict[str, JSON]:
        return {"quota": self.quota, "period": self.period, "text": self.text}

    def share(self, among: int) -> Limit:
        return window(max(1, self.quota // among), self.period, self.text)


class WindowLog(_Window):
    """State: the moments of the units taken, oldest first, eight bytes each."""

    __slots__ = ()

    kind = "window"
    script = "log"

    def __init__(self, quota: int, period: int, text: str) -> None:
        super().__init__(quota, period, text, f"win{period}")

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        return self.quota, self.period, 0, 0

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        quota, period = self.quota, self.period
        moved = False
        if not state:
            times: tuple[int, ...] = ()
            state = b""
        else:
            if len(state) & 7:
                return self._take_slices(state, now, cost)
            count = len(state) >> 3
            times = _TIMES[count].unpack(state) if count <= LOG_MAX else unpack(f"<{count}Q", state)
            if times and times[-1] > now:  # time was set back
                times = _shifted(times, now)
                state = pack(f"<{len(times)}Q", *times)
                moved = True
        expired = bisect_right(times, now - period)
        used = len(times) - expired
        if cost and used + cost > quota:
            wait = NEVER if cost > quota else times[expired + used + cost - quota - 1] + period - now
            reset = times[expired] + period - now if used else 0
            return state if moved else None, period, max(0, quota - used), reset, wait
        oldest = times[expired] if used else now
        if cost == 0:
            left = max(0, quota - used)
            return state if moved else None, period, left, oldest + period - now if used else 0, 0
        state = state[8 * expired :] + now.to_bytes(8, "little") * cost
        return state, period, quota - used - cost, oldest + period - now, 0

    def take_quickly(self, places: list[Any], place: int, now: int, cost: int) -> list[int] | Taking | None:
        period = self.period
        end = now + period
        back, state = places[place + 1], places[place + 2]  # the note is the moment when the oldest unit expires
        if not back or places[place] > end:  # unknown, or time was set back
            answer = Limit.take_quickly(self, places, place, now, cost)
            if answer.__class__ is list:
                places[place + 1] = answer[2]
            return answer
        size, expired = len(state), 0
        while back <= now:
            expired += 8
            back = _moment(state, expired)[0] + period if expired < size else end
        remaining: int = self.quota - (size - expired >> 3) - cost
        if remaining < 0:
            left = remaining + cost
            wait = NEVER
            if cost <= self.quota:
                wait = (back if remaining == -1 else _moment(state, expired - 8 * remaining - 8)[0] + period) - now
            return None, period, left if left > 0 else 0, back - now if expired < size else 0, wait
        if expired:
            state = state[expired:]
            places[place + 1] = back
        units = now.to_bytes(8, "little")
        places[place] = end
        places[place + 2] = state + (units if cost == 1 else units * cost)
        return [now, remaining, back, end, 8 * cost - expired]

    def _take_slices(self, state: bytes, now: int, cost: int) -> Taking:
        taking = self._slices.take(state, now, cost)
        kept, _, remaining, _, wait = taking
        if wait or not cost:
            return taking
        assert kept is not None
        log = log_of_slices(kept, now, self.period)
        return log, self.period, remaining, int.from_bytes(log[:8], "little") + self.period - now, 0

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        state = state or b""
        if len(state) & 7:
            # It stays slices: what they count may be far more than a log has room for.
            return self._slices.charge(state, now, cost)
        state = self.take(state, now, 0)[0] or state
        state += now.to_bytes(8, "little") * min(cost, self.quota)
        return state[-8 * self.quota :], self.period  # while the newest are in the window, older ones change nothing

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        if len(state) & 7:
            return self._slices.give_back(state, now, taken_at, cost)
        times = list(unpack(f"<{len(state) // 8}Q", state))
        found = min(cost, times.count(taken_at))
        if not found:
            return None
        for _ in range(found):
            times.remove(taken_at)
        return pack(f"<{len(times)}Q", *times)

    def spent(self, state: bytes | None, now: int) -> int:
        return len(self._living(state, now)) if state is None or not len(state) & 7 else self._slices.spent(state, now)

    def granted(self, state: bytes | None, now: int, units: int) -> tuple[bytes | None, int]:
        if state is not None and len(state) & 7:
            return self._slices.granted(state, now, units)
        times = self._living(state, now)
        times = times[: max(0, len(times) - units)]
        return (pack(f"<{len(times)}Q", *times), self.period) if times else (None, 0)

    def _living(self, state: bytes | None, now: int) -> tuple[int, ...]:
        """Return the moments that are in the window."""
        state = self.take(state, now, 0)[0] or state or b""
        return tuple(time for time in unpack(f"<{len(state) // 8}Q", state) if time > now - self.period)

    @property
    def _slices(self) -> WindowSlices:
        return WindowSlices(self.quota, self.period, self.text)

    def merge(self, one: bytes, other: bytes) -> bytes:
        if (len(one) | len(other)) & 7:
            return self._slices.merge(one, other)
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


class WindowSlices(_Window):
    """State: the units taken in each slice, as `keyguard.rates.slices` has them."""

    __slots__ = ("width",)

    kind = "window"
    script = "slices"

    def __init__(self, quota: int, period: int, text: str) -> None:
        super().__init__(quota, period, text, f"win{period}")
        self.width = slice_width(period)

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        return self.quota, self.width, self.period, 0

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        width = self.width
        here = now // width
        until_expiry = (here + SLICES + 1) * width - now  # of what is taken now
        moved = False
        if state is None:
            total = count = 0
            older = b""
        else:
            if not len(state) & 1:
                taking = self._ask_log(state, now, cost)
                if taking[4] or not cost:
                    return taking
                state = slices_of_log(taking[0] or state, now, self.period)
            _, newest, total, count = HEAD.unpack_from(state)
            older = state[HEAD_SIZE:]
            if newest != here:
                moved = newest > here  # time was set back: the newest slice is this one
                if not moved:
                    total, count, older = advanced(total, count, older, here - newest)
        spent = total + cost
        if spent <= self.quota and cost:
            reset = until_expiry - (len(older) >> 2) * width
            return HEAD.pack(TAG, here, spent, count + cost) + older, until_expiry, self.quota - spent, reset, 0
        kept = HEAD.pack(TAG, here, total, count) + older if moved else None
        reset = until_expiry - (len(older) >> 2) * width if total else 0
        remaining = max(0, self.quota - total)
        if spent <= self.quota or not cost:
            return kept, until_expiry, remaining, reset, 0
        if cost > self.quota:
            return kept, until_expiry, remaining, reset, NEVER
        return kept, until_expiry, remaining, reset, until_expiry - younger_than(older, spent - self.quota) * width

    def asked(self, places: list[Any], place: int, now: int, cost: int) -> Taking:
        """Ask slices taken apart, the newest of which is the present one: fast path of `take`, same answers.

        From `place` on, `places` are `spent, back, older`. Nothing is taken, also if there is room for what it costs.
        """
        spent, older, quota = places[place], places[place + 2], self.quota
        reset = until_expiry = places[place + 1] - now
        if older:
            until_expiry += (len(older) >> 2) * self.width
        wait = 0
        if cost > quota:
            wait = NEVER
        elif spent + cost > quota:
            wait = until_expiry - (younger_than(older, spent + cost - quota) * self.width if older else 0)
        return None, until_expiry, quota - spent if spent < quota else 0, reset if spent else 0, wait

    def _ask_log(self, state: bytes, now: int, cost: int) -> Taking:
        """Ask the state as the log it is, without taking the units if it has room for them."""
        log = WindowLog(self.quota, self.period, self.text)
        asked = log.take(state, now, 0)
        return log.take(state, now, cost) if cost > asked[2] else asked

    def _as_of(self, state: bytes | None, now: int) -> tuple[int, int, bytes]:
        """Return the sum of all counts, the count of the present slice, and the older ones."""
        if state is None:
            return 0, 0, b""
        if not len(state) & 1:
            state = slices_of_log(self._ask_log(state, now, 0)[0] or state, now, self.period)
        _, newest, total, count = HEAD.unpack_from(state)
        passed = now // self.width - newest
        older = state[HEAD_SIZE:]
        return advanced(total, count, older, passed) if passed > 0 else (total, count, older)

    def spent(self, state: bytes | None, now: int) -> int:
        return self._as_of(state, now)[0]

    def granted(self, state: bytes | None, now: int, units: int) -> tuple[bytes | None, int]:
        total, count, older = self._as_of(state, now)
        if total <= units:
            return None, 0
        counts = [*counts_of(older), count]
        place, total = len(counts), total - units
        while units:
            place -= 1
            found = min(units, counts[place])
            counts[place] -= found
            units -= found
        here = now // self.width
        state = HEAD.pack(TAG, here, total, counts[-1]) + stripped(packed_counts(counts[:-1]))
        return state, (here + SLICES + 1) * self.width - now

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        total, count, older = self._as_of(state, now)
        here = now // self.width
        more = min(cost, max(0, self.quota - count))  # a slice that counts the whole quota refuses all while it stays
        state = HEAD.pack(TAG, here, total + more, count + more) + older
        return state, (here + SLICES + 1) * self.width - now

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        if not len(state) & 1:
            return WindowLog(self.quota, self.period, self.text).give_back(state, now, taken_at, cost)
        _, newest, total, count = HEAD.unpack_from(state)
        counts = [*counts_of(state[HEAD_SIZE:]), count]
        place = len(counts) - 1 - (newest - taken_at // self.width)
        if not 0 <= place < len(counts) or not counts[place]:
            return None
        found = min(cost, counts[place])
        counts[place] -= found
        return HEAD.pack(TAG, newest, total - found, counts[-1]) + stripped(packed_counts(counts[:-1]))

    def merge(self, one: bytes, other: bytes) -> bytes:
        one, other = [state if len(state) & 1 else slices_of_log(state, 0, self.period) for state in (one, other)]
        _, newest, _, count = HEAD.unpack_from(one)
        _, newest_other, total_other, count_other = HEAD.unpack_from(other)
        if newest < newest_other:
            return self.merge(other, one)
        mine = one[HEAD_SIZE:]
        _, count_other, theirs = advanced(total_other, count_other, other[HEAD_SIZE:], newest - newest_other)
        size = max(len(mine), len(theirs))
        pairs = zip(counts_of(mine.rjust(size, b"\0")), counts_of(theirs.rjust(size, b"\0")), strict=True)
        counts = [max(a, b) for a, b in pairs]
        count = max(count, count_other)
        return HEAD.pack(TAG, newest, sum(counts) + count, count) + packed_counts(counts)


def is_window(limit: Limit) -> bool:
    """Tell whether a limit counts in these representations, and in no other."""
    return type(limit) in (WindowLog, WindowSlices)
