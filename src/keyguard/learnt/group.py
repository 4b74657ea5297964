"""The state of one limit group in one model class.

It is a value of bytes, little-endian; all numbers are whole, and below 2**53.

A head of 128 bytes: the version, 1 (1), the number of the block's cause (1), its tries (2), how many grants
were given in the second in which it was last written, and in the one before (2 each); then numbers of 8 bytes: the time
at which it was last written; the number of the last grant; how many were answered; a moment and the number of the grant
then, twice, the later one first: between 10 and 20 seconds ago; all that was ever booked, of each of the four units;
the block: since, until, probe; when it was slowed down last.

Then 88 bytes for each dimension: the place of its unit (1), flags (1), pace (2), four bytes of nothing; then numbers of
8 bytes: period, limit, told, when, used, end_then, booked_then, cap, set_at, paced (`meter.py` says what they are).

A damaged value counts as none. One of a later version is left as it is, and its group has no limits here.

A group that was read stands as it was written: `start` may be asked at any time from `steady_from` on. Whoever changes
it, or asks it for more, has it `come_to` the present time before.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from keyguard.clock import SECOND
from keyguard.learnt.blocks import CAUSES, DAY, FAR, Block
from keyguard.learnt.dimension import UNITS, Dimension
from keyguard.learnt.marks import MOST
from keyguard.learnt.meter import CONFIGURED, EVEN, LEARNT, MOST_UNITS, TOLD, Meter

_HEAD = Struct("<BBHHH15Q")
_METER = "BBH4x10Q"
_MOST_METERS = 8
_STATES = {
    _HEAD.size + Struct(f"<{_METER}").size * many: Struct(_HEAD.format + _METER * many)
    for many in range(_MOST_METERS + 1)
}
"""The format that a state is packed by, by its length."""
_PLACES = 13  # of a dimension
_VERSION = 1
_LONGEST = 32 * DAY
AT_ONCE = 4
"""Grants that are given while no answer came yet, each second."""
_MOST_COUNTED = 0xFFFF  # of a second
_SHARE = 10 * SECOND  # how often the number of grants is noted, to know how fast they were given

UNIT_PLACES = {unit: place for place, unit in enumerate(UNITS.values())}


class Group:
    """The state of one limit group, while an operation looks at it or changes it."""

    __slots__ = (
        "answered",
        "at",
        "before",
        "block",
        "booked",
        "changed",
        "data",
        "foreign",
        "lately",
        "limits",
        "meters",
        "notes",
        "number",
        "slowed",
        "steady_from",
        "touched",
    )

    def __init__(self, data: bytes | None, now: int) -> None:
        """`now` is when it begins, if `data` tells nothing of it."""
        self.meters: list[Meter] = []
        self.foreign = bool(data) and data is not None and data[0] > _VERSION
        """Whether it is of a later version."""
        self.changed = False
        self.data: bytes | None = None
        """The value as which it was read or written; `None` if that is not to be read."""
        self.touched = False
        """Whether it is another one than that by now, but for what was configured."""
        self.limits: Sequence[tuple[Dimension, int]] | None = None
        """The limits that were configured since it was read or written."""
        if data and not self.foreign and self._read(data):
            self.data = data
        else:
            self._clear(now)
        self.steady_from = self._steady_from()
        """The moment from which on time that passes changes nothing of what `start` returns."""

    def _clear(self, now: int) -> None:
        self.at = now
        self.number = self.answered = self.slowed = self.lately = self.before = 0
        self.notes = [0, 0, 0, 0]
        self.booked = [0, 0, 0, 0]
        self.block = Block()
        self.meters = []

    def _read(self, data: bytes) -> bool:
        struct = _STATES.get(len(data))
        if struct is None:
            return False
        values = struct.unpack(data)
        version, cause, tries, self.lately, self.before, self.at, self.number, self.answered = values[:8]
        if version != _VERSION or cause >= len(CAUSES) or not _can_be(values):
            return False
        self.notes, self.booked = [*values[8:12]], [*values[12:16]]
        since, until, probe, self.slowed = values[16:20]
        self.block = Block(cause, tries, since, until, probe)
        self.meters = []
        for place in range(20, len(values), _PLACES):
            meter = Meter(*values[place : place + _PLACES])
            if not meter.flags & (TOLD | LEARNT | CONFIGURED) or meter.unit >= len(UNIT_PLACES):
                return False
            if not 1 <= meter.period <= _LONGEST or not 1 <= meter.limit <= MOST_UNITS:
                return False
            self.meters.append(meter)
        return True

    def come_to(self, now: int) -> None:
        """Have the time pass that has passed since it was written; once for all, until it is written again."""
        if self.touched:
            return
        self.touched = True
        if now < self.at - SECOND:
            self._set_back(self.at - now)
        seconds = now // SECOND - self.at // SECOND
        if seconds > 0:
            self.lately, self.before = 0, self.lately if seconds == 1 else 0
        for meter in self.meters:
            meter.pass_time(now)

    def _set_back(self, by: int) -> None:
        """Go on as before although time was set back: all that is yet to come is as far away as it was."""
        self.changed = True
        self.at -= by
        self.slowed = max(0, self.slowed - by)
        self.notes = [max(0, self.notes[0] - by), self.notes[1], max(0, self.notes[2] - by), self.notes[3]]
        self.block.set_back(by)
        for meter in self.meters:
            meter.set_back(by)

    def pack(self, now: int) -> bytes:
        """Return its value. From now on it stands as it was written."""
        block = self.block
        values = [_VERSION, block.cause, block.tries, self.lately, self.before]
        self.at = max(self.at, now)
        values += [self.at, self.number, self.answered, *self.notes]
        values += [*self.booked, block.since, block.until, block.probe, self.slowed]
        for m in self.meters:
            values += (m.unit, m.flags, m.pace, m.period, m.limit, m.told, m.when, m.used)
            values += (m.end_then, m.booked_then, m.cap, m.set_at, m.paced)
        data = _STATES[_HEAD.size + 88 * len(self.meters)].pack(*values)
        self.data = data if _can_be(values) else None
        self.touched, self.changed, self.limits, self.steady_from = False, False, None, self._steady_from()
        return data

    def lasts(self, now: int) -> int:
        """Return for how long the state is kept."""
        return max(2 * DAY, self.block.until - now + DAY)

    def _steady_from(self) -> int:
        steady = self.at - SECOND
        for meter in self.meters:
            moment = meter.steady_from()
            if moment > steady:
                steady = moment
        return steady

    # -- dimensions ---------------------------------------------------------------------------------------------------

    def meter(self, dimension: Dimension) -> Meter | None:
        unit, period = UNIT_PLACES[dimension[0]], dimension[1]
        for meter in self.meters:
            if meter.unit == unit and meter.period == period:
                return meter
        return None

    def add(self, dimension: Dimension, flags: int, limit: int) -> Meter | None:
        """Begin to count a dimension; `None` if there are too many, or it cannot be."""
        if len(self.meters) >= _MOST_METERS or not 1 <= dimension.period <= _LONGEST:
            return None
        meter = Meter(UNIT_PLACES[dimension.unit], flags, EVEN, dimension.period, min(limit, MOST_UNITS))
        self.meters.append(meter)
        return meter

    def configure(self, limits: Sequence[tuple[Dimension, int]]) -> None:
        """Have the limits hold that are configured now: of these and those that were told, the lower ones."""
        self.limits = limits
        if not limits and not self.meters:
            return
        before = [meter for meter in self.meters if meter.flags & CONFIGURED]
        now = []
        for dimension, limit in limits:
            limit = min(limit, MOST_UNITS)
            meter = self.meter(dimension) or self.add(dimension, CONFIGURED, limit)
            if meter is not None:
                meter.flags = meter.flags & ~LEARNT | CONFIGURED
                meter.limit = min(limit, meter.told or limit)
                now.append(meter)
        for meter in before:
            if meter not in now:
                meter.flags -= CONFIGURED
                meter.limit = meter.told
                if not meter.told:
                    self.meters.remove(meter)

    # -- booking ------------------------------------------------------------------------------------------------------

    def start(self, costs: Sequence[int], now: int) -> tuple[int, bool, Meter | None]:
        """Return the moment from which on there is room, whether it may be booked before that, and what it hangs on.

        -1 instead of a moment if it is more than a limit ever allows.
        """
        start, ahead, last = now, True, None
        if not self.answered and self.number and not self.number % AT_ONCE:
            start, ahead = max(now, self.at + SECOND), False
        for meter in self.meters:
            units = costs[meter.unit]
            if not units:
                continue
            if units > meter.limit and not meter.flags & LEARNT:
                return -1, False, meter
            moment = meter.start(units, now)
            if moment > now:
                if moment > start:
                    start, last = moment, meter
                if meter.is_window():
                    ahead = False
        return start, ahead, last

    def book(self, costs: Sequence[int], start: int, now: int) -> None:
        """Book a request that starts at a moment."""
        self.changed = True
        if now - self.notes[0] >= _SHARE:
            self.notes = [now, self.number, *self.notes[:2]]
        self.number += 1
        self.lately = min(self.lately + 1, _MOST_COUNTED)
        for place, units in enumerate(costs):
            self.booked[place] += units
        for meter in self.meters:
            if costs[meter.unit]:
                meter.book(costs[meter.unit], start, now)

    def in_flight(self) -> int:
        """Return how many grants are not answered yet; those of long ago never will be."""
        return max(0, self.number - max(self.answered, self.notes[3]))

    def burst(self, unit: int) -> int:
        """Return how many units the provider may have got at once: lately, or those that are under way."""
        each = max(1, self.booked[unit] // max(1, self.number))
        return min(max(self.in_flight(), self.lately + self.before) * each, MOST_UNITS)

    def had(self, unit: int, now: int) -> int:
        """Return how many units a minute were booked lately."""
        at, number = (self.notes[2], self.notes[3]) if self.notes[2] else (self.notes[0], self.notes[1])
        each = max(1, self.booked[unit] // max(1, self.number))
        rate = (self.number - number) * 60 * SECOND // max(SECOND, now - at)
        return max(1, min(rate * each, MOST_UNITS))


def _can_be(values: Sequence[int]) -> bool:
    """Tell whether the numbers of a state can be: all of them, and the moments of its block."""
    return max(values) < MOST and values[16] <= values[5] and values[17] <= values[5] + FAR
