"""Quotas: N units in each period of the calendar, and all of them anew when the next one begins.

State: the end of the period for which it counts, and the units spent in it, which are fewer than none after a grant.

A state counts until that end, whatever the periods are by now: if number, zone or anchor are edited, what was spent
goes on to count, from then on for the present period. So does a state of a period to come, after the clock was set
back.
"""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct
from types import NoneType
from typing import Any

from keyguard.checks import is_whole
from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError
from keyguard.rates.limit import JSON, NEVER, Limit, Taking
from keyguard.rates.periods import LONGEST, UNITS, Periods

STATE = Struct("<Qq")
MOST = 2**52
"""The most units that a state can tell, less than none too: all stores calculate exactly with twice as many."""
QUOTA_MAX = 10**15

_TEXT = re.compile(r"([0-9]{1,20}) ?(?:/|per) ?(?:([0-9]+) ?)?([a-z]+?)s?")
_HELP = "write for example quota('10000/month'), by hour, day, week, month or year"


def quota(rate: str, *, tz: str = "UTC", anchor: int | str | None = None) -> Quota:
    """Return a limit by periods of the calendar: `quota("10000/month", tz="Europe/Berlin", anchor=15)`.

    - `rate`: a number of units for an hour, a day, a week, a month or a year.
    - `tz`: the time zone, by its name in the IANA database, whose clocks tell when a period begins and ends.
    - `anchor`: when a period begins. For months a day from 1 to 31, by default 1; in a month that is shorter it is the
      last day. For weeks a weekday, such as `"sunday"`, by default Monday. For years a month and a day, such as
      `"04-06"`, by default January 1. Days begin at midnight and hours at minute 0: they have no anchor.

    Number, zone and anchor can be edited at any time: what was spent in the present period goes on to count.

    Raises `ConfigurationError` for a rate, a zone or an anchor that is wrong.
    """
    many, unit = _read(rate)
    if isinstance(tz, str) and isinstance(anchor, (int, str, NoneType)):
        return _made(many, unit, tz, anchor)
    return Quota(many, Periods(unit, tz, anchor))  # which says what is wrong


@lru_cache(maxsize=1024, typed=True)
def _made(many: int, unit: str, tz: str, anchor: int | str | None) -> Quota:
    # A function that chooses a limit may make one for each request: to find a period's bounds anew would be dear.
    return Quota(many, Periods(unit, tz, anchor))


def _read(rate: object) -> tuple[int, str]:
    if not isinstance(rate, str):
        raise ConfigurationError(f"the rate of a quota is a text, not {rate!r:.80}: {_HELP}")
    if re.search(r"[;,|]", rate):
        raise ConfigurationError(f"a quota has one rate, not {rate!r:.80}: RateLimit takes several quotas side by side")
    found = _TEXT.fullmatch(rate.strip().lower())
    if found is None:
        raise ConfigurationError(f"cannot read the quota {rate!r:.80}: {_HELP}")
    number, many, unit = found.groups()
    if unit in ("second", "minute"):
        raise ConfigurationError(f"a {unit} is no period of the calendar: give the text {rate!r:.80} as a plain rate")
    if unit not in UNITS:
        raise ConfigurationError(f"{rate!r:.80}: a {unit!r} is not a period; {_HELP}")
    if many is not None and int(many) != 1:
        days = f", or the plain rate '{number}/{int(many) * 7} days'" if unit == "week" else ""
        raise ConfigurationError(
            f"{rate!r:.80}: the calendar does not say when {many} {unit}s begin; take one {unit}{days}"
        )
    return checked_units("a quota", int(number)), unit


def checked_units(what: str, units: object) -> int:
    """Return a number of units. Raise `ConfigurationError` if it is none, or out of bounds."""
    if not is_whole(units) or not 1 <= units <= QUOTA_MAX:
        raise ConfigurationError(f"{what} is a whole number of units, from 1 to 10**15, not {units!r:.80}")
    return units


class Quota(Limit):
    """At most `quota` units in each period of the calendar."""

    __slots__ = ("_present", "periods")

    kind = "quota"
    script = "quota"
    steady = False
    keeps_grants = True
    rolling = False

    def __init__(self, quota: int, periods: Periods) -> None:
        super().__init__(quota, LONGEST[periods.unit] * SECOND, f"{quota}/{periods.unit}", f"cal-{periods.unit}")
        self.periods = periods
        self._present = (0, 0)

    @classmethod
    def of_terms(cls, *, rate: str, tz: str, anchor: int | str | None) -> Quota:
        return quota(rate, tz=tz, anchor=anchor)

    def terms(self) -> dict[str, JSON]:
        periods = self.periods
        return {"rate": f"{self.quota}/{periods.unit}", "tz": periods.tz, "anchor": periods.anchor}

    @property
    def durable(self) -> bool:
        return True

    def present(self, now: int) -> tuple[int, int]:
        """Return the begin and the end of the present period. They are kept: to find them takes a while."""
        present = self._present
        if not present[0] <= now < present[1]:
            present = self._present = self.periods.around(now)
        return present

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        return self.quota, *self.present(now), 0

    def half_spent(self, state: bytes, now: int) -> bool:
        spent = self.spent(state, now)
        return spent < 0 or spent * 2 >= self.quota  # a grant is not to be forgotten either

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        _, end = self.present(now)
        spent, moved = 0, False
        if state is not None:
            until, spent = STATE.unpack(state)
            if until <= now:
                spent = 0
            else:
                moved = until != end
        ttl, left = end - now, self.quota - spent
        if cost > left and cost:
            wait = NEVER if cost > self.quota else ttl
            return STATE.pack(end, spent) if moved else None, ttl, max(0, left), ttl if spent > 0 else 0, wait
        spent += cost
        left -= cost
        kept = STATE.pack(end, spent) if moved or cost else None
        return kept, ttl, max(0, left), ttl if spent > 0 else 0, 0

    def take_quickly(self, places: list[Any], place: int, now: int, cost: int) -> list[int] | Taking | None:
        start, end = self._present
        note = places[place + 1]  # twice the units spent, and one more: never 0
        if not note or places[place] != end or not start <= now < end:
            answer = Limit.take_quickly(self, places, place, now, cost)
            if answer.__class__ is list:
                places[place + 1] = 2 * STATE.unpack(places[place + 2])[1] + 1
            return answer
        spent = (note >> 1) + cost
        left: int = self.quota - spent
        if left < 0:
            ttl, spent = end - now, spent - cost
            wait = NEVER if cost > self.quota else ttl
            return None, ttl, max(0, left + cost), ttl if spent > 0 else 0, wait
        places[place + 1] = note + 2 * cost
        places[place + 2] = STATE.pack(end, spent)
        return [now, left, end if spent > 0 else now, end, 0]

    def spent(self, state: bytes | None, now: int) -> int:
        if state is None:
            return 0
        until, spent = STATE.unpack(state)
        return spent if until > now else 0

    def granted(self, state: bytes | None, now: int, units: int) -> tuple[bytes | None, int]:
        _, end = self.present(now)
        return STATE.pack(end, max(-MOST, self.spent(state, now) - units)), end - now

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        _, end = self.present(now)
        return STATE.pack(end, min(MOST, self.spent(state, now) + cost)), end - now

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        start, end = self.present(now)
        until, spent = STATE.unpack(state)
        if until != end or taken_at < start:  # it is not counted there any more
            return None
        return STATE.pack(end, spent - cost) if spent != cost else b""

    def merge(self, one: bytes, other: bytes) -> bytes:
        return STATE.pack(*map(max, STATE.unpack(one), STATE.unpack(other)))

    def share(self, among: int) -> Quota:
        part = Quota(max(1, self.quota // among), self.periods)
        part.text = self.text
        return part
