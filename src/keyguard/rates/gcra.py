"""Even pacing: the generic cell rate algorithm, as "virtual scheduling" (ITU-T I.371, annex A).

A unit is due every `period / N`; `burst` says how many may come at once after a pause. In any window of one
period at most N + burst units are admitted: use it to smooth, and the default algorithm to cap.

State: the theoretical arrival time, eight bytes of microseconds, and two of 16384th parts of one if there are any.

Clocks tell whole microseconds. For a pace of 100 of them and more, rounding it up to whole ones costs less than 1 % of
the rate. A faster pace is counted in 16384th parts (ticks here), and who comes within a microsecond after a unit was
due has come in time: the clock could not tell. A rate that is too fast to be counted so within 1 % does not start.
"""

from __future__ import annotations

from typing import Any

from keyguard.checks import is_whole
from keyguard.errors import ConfigurationError
from keyguard.rates.limit import JSON, NEVER, Limit, Taking
from keyguard.rates.notation import LONGEST, parse_rates

TICKS = 16384
"""In a microsecond. Stores take the longest period in ticks for a number of eight bytes."""
_COARSE = 100  # microseconds, or ticks: what is rounded up to whole ones loses less than 1 %
_EXACT = 2**52  # numbers up to twice this are exact in all stores; beyond that, multiples of TICKS are


def smooth(rate: str, burst: int = 1) -> Smooth:
    """Return an evenly paced limit: `smooth("10/second", burst=5)`.

    `burst` is the number of units that may come at once, at least 1. Raises `ConfigurationError` for a bad rate, and
    for one that cannot be paced within 1 %.
    """
    rates = parse_rates(rate)
    if len(rates) != 1:
        raise ConfigurationError(f"smooth() takes one rate, such as '10/second', not {rate!r}")
    if not is_whole(burst) or burst < 1:
        raise ConfigurationError(f"burst is a whole number of requests, at least 1, not {burst!r}")
    quota, period, text = rates[0]
    if burst * -(-period // quota) > LONGEST:
        raise ConfigurationError(f"a burst of {burst} at {text} takes longer to come back than any limit may last")
    pace = _pace(quota, period)
    if pace < _COARSE and period * TICKS % quota:
        raise ConfigurationError(
            f"{text} is faster than can be paced evenly, {TICKS // _COARSE} million a second at most; write {text!r}"
        )
    if pace % TICKS and burst * pace >= _EXACT:
        raise ConfigurationError(f"a burst of {burst} at {text} is more than can be counted: {_EXACT // pace} at most")
    return Smooth(quota, period, text, burst, pace)


def _pace(quota: int, period: int) -> int:
    """Count the ticks from one unit to the next: whole microseconds, if these are many."""
    return -(-period // quota) * TICKS if period >= _COARSE * quota else -(-period * TICKS // quota)


class Smooth(Limit):
    """`quota` units a period, evenly; `burst` at once after a pause. Units are due `pace` ticks after each other."""

    __slots__ = ("_room", "_step", "burst", "pace", "room")

    kind = "smooth"
    script = "smooth"

    def __init__(self, quota: int, period: int, text: str, burst: int, pace: int) -> None:
        super().__init__(quota, period, f"{text} smooth", f"gcra{period}")
        self.burst = burst
        self.pace = pace
        self.room = burst * pace
        """Ticks that what is taken may be ahead of the time."""
        whole = pace % TICKS == 0
        self._step, self._room = (pace // TICKS, self.room // TICKS) if whole else (0, 0)
        """The same in microseconds, if the pace is a whole number of them."""

    @classmethod
    def of_terms(cls, *, quota: int, period: int, text: str, burst: int, pace: int) -> Smooth:
        return cls(quota, period, text, burst, pace)

    def terms(self) -> dict[str, JSON]:
        text = self.text.removesuffix(" smooth")
        return {"quota": self.quota, "period": self.period, "text": text, "burst": self.burst, "pace": self.pace}

    @property
    def interval(self) -> int:
        """The pace in whole microseconds, rounded up."""
        return -(-self.pace // TICKS)

    @property
    def max_cost(self) -> int:
        return self.burst

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        return self.pace, self.room, self.burst, 0

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        pace, room = self.pace, self.room
        fine = pace % TICKS != 0
        ahead = 0 if state is None else self._ahead(state, now, fine)
        moved = ahead > room  # time was set back, or the burst was made smaller
        if moved:
            ahead = room
        after = ahead + cost * pace
        wait = 0
        if cost > self.burst:
            after, wait = ahead, NEVER
        elif cost and after > room:
            after, wait = ahead, -(-(after - room) // TICKS)
        kept = _state(now, after) if moved or after != ahead else None
        left = min(self.burst, (room - after) // pace)
        reset = -(-(after % pace or pace) // TICKS) if after > 0 else 0
        return kept, max(0, -(-after // TICKS) + fine), left, reset, wait

    def take_quickly(self, places: list[Any], place: int, now: int, cost: int) -> list[int] | Taking | None:
        step, room = self._step, self._room
        due = places[place + 1]  # the note is the state as a number, if that is one of whole microseconds
        ahead = due - now if due > now else 0
        if not due or not step or ahead > room:  # time was set back, or the burst was made smaller
            answer = Limit.take_quickly(self, places, place, now, cost)
            if step and answer.__class__ is list:
                places[place + 1] = places[place]
            return answer
        after = ahead + cost * step
        spare = room - after
        if spare < 0:
            wait = NEVER if cost > self.burst else -spare
            return None, ahead, (room - ahead) // step, (ahead % step or step) if ahead else 0, wait
        remaining: int = spare // step
        due = now + after
        places[place] = places[place + 1] = due
        places[place + 2] = due.to_bytes(8, "little")
        return [now, remaining, now + step - spare % step, due, 0]

    def _ahead(self, state: bytes, now: int, fine: bool) -> int:
        """Count the ticks until the next unit is due; less than 0 if it was due within the last microsecond."""
        due = _due(state) - now * TICKS
        if fine:
            return due if due > -TICKS else 0
        return max(0, -(-due // TICKS)) * TICKS  # a limit of this name was paced more finely: rounded up

    def share(self, among: int) -> Smooth:
        # The rate that its name tells is the whole one's: no header says it.
        part = Smooth(self.quota, self.period, "", max(1, self.burst // among), self.pace * among)
        part.text = self.text
        return part

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        # No debt beyond a full burst: what is further ahead is what a clock that was set back looks like.
        fine = self.pace % TICKS != 0
        ahead = 0 if state is None else self._ahead(state, now, fine)
        after = min(self.room, ahead + cost * self.pace)
        return _state(now, after), -(-after // TICKS) + fine

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        # The charge has not drained yet, so nothing paused since, and all later ones stand on top of it.
        return _state(0, max(0, _due(state) - cost * self.pace))

    def spent(self, state: bytes | None, now: int) -> int:
        return -(-self._behind(state, now) // self.pace)

    def granted(self, state: bytes | None, now: int, units: int) -> tuple[bytes | None, int]:
        after = self._behind(state, now) - units * self.pace
        return (None, 0) if after <= 0 else (_state(now, after), -(-after // TICKS) + (self.pace % TICKS != 0))

    def _behind(self, state: bytes | None, now: int) -> int:
        """Count the ticks until all that was taken has come back."""
        return 0 if state is None else max(0, min(self.room, self._ahead(state, now, self.pace % TICKS != 0)))

    def merge(self, one: bytes, other: bytes) -> bytes:
        return max(one, other, key=_due)


def _due(state: bytes) -> int:
    """Read when the next unit is due, in ticks."""
    return int.from_bytes(state[:8], "little") * TICKS + int.from_bytes(state[8:], "little")


def _state(now: int, ahead: int) -> bytes:
    due, ticks = divmod(now * TICKS + ahead, TICKS)
    return due.to_bytes(8, "little") + (ticks.to_bytes(2, "little") if ticks else b"")
