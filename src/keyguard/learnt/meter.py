"""One dimension of a group: what of its limit is spent, and how fast it may be spent.

Two things bound it, and a request waits for both:

- What the provider counts. A *bucket* fills evenly: its state is the moment at which it is full again, and a request of
  some units puts that off by the time in which they come back. A *window* begins anew with each period: its state
  is its end, and what was used in it. The provider's fields correct it, and say in time which of both it is.
- The pace, which is our own, and corrected by refusals alone: it is as fast as the limit at most, has a burst of its
  own, and is off until a refusal shows that there is more than what is counted here: others who share the limit, a
  window of seconds that is told nowhere, or a limit that is told nowhere at all (`LEARNT`).

All are whole numbers below 2**53, so that scripts of stores find the same.
"""

from __future__ import annotations

from keyguard.clock import SECOND

TOLD, LEARNT, WINDOW, CONFIGURED, PUT_OFF = 1, 2, 4, 8, 16
"""Flags; the last one if units are kept free since a refusal, or were once."""
MOST_UNITS = 1 << 35
"""The highest limit: a higher one counts as this."""
EVEN = 1000
"""The pace of a limit as it is; paces are thousandths of it."""
_UNPACED = (0, 0)
_NEVER = 1 << 62
_FINE = 1 << 25  # the square of four times that is still exact; of higher limits, units are counted in packs
_PACK = 1024
_SLOWEST = 50
_FASTEST = 8 * EVEN  # of what was learnt
_CATCHING_UP = 3 * EVEN // 2  # of what was told: in bursts that are capped, what was left unused is not lost
_ON_TOP = 5 * EVEN // 4  # to begin with: what is left unused after a refusal is caught up soon
_RISE = SECOND // 5  # for each thousandth: half a percent a second
_LATELY = 120 * SECOND  # twice the time in which a pace recovers: others who share a limit are no chance


class Meter:
    """One dimension of a group, as far as it is known."""

    __slots__ = (
        "booked_then",
        "cap",
        "end_then",
        "flags",
        "limit",
        "pace",
        "paced",
        "period",
        "set_at",
        "told",
        "unit",
        "used",
        "when",
    )

    def __init__(
        self,
        unit: int,
        flags: int,
        pace: int,
        period: int,
        limit: int,
        told: int = 0,
        when: int = 0,
        used: int = 0,
        end_then: int = 0,
        booked_then: int = 0,
        cap: int = 0,
        set_at: int = 0,
        paced: int = 0,
    ) -> None:
        self.unit = unit
        """The place of its unit in `UNITS`."""
        self.flags = flags
        self.pace = pace
        """The pace as of `set_at`, in thousandths of the limit; it rises from then on."""
        self.period = period
        self.limit = limit
        """The limit that holds: the lower one of those that were configured and told, or the one that was learnt."""
        self.told = told
        """The limit that the provider told last; 0 if it never did."""
        self.when = when
        """Of a bucket, the moment at which it is full; of a window, its end."""
        self.used = used
        """Units that were used in the window."""
        self.end_then = end_then
        self.booked_then = booked_then
        """The end that an answer told, and what was booked up to then: by these two a window is told from a bucket."""
        self.cap = cap
        """The largest burst, in units; 0 if none was found to be too large."""
        self.set_at = set_at
        self.paced = paced
        """The moment up to which the pace is used up."""

    def span(self, units: int) -> int:
        """Return the time in which so many units come back, rounded up."""
        limit = self.limit
        if units > 4 * limit:
            units = 4 * limit
        if limit > _FINE:
            units, limit = -(-units // _PACK), limit // _PACK
        return units * (self.period // limit) + -(-(units * (self.period % limit)) // limit)

    def is_window(self) -> bool:
        return self.flags & WINDOW != 0

    def pace_at(self, now: int) -> int:
        most = _FASTEST if self.flags & LEARNT else _CATCHING_UP if self.cap else EVEN
        pace = self.pace + (now - self.set_at) // _RISE if now > self.set_at else self.pace
        return most if pace > most else pace or 1

    def pacing(self, now: int) -> tuple[int, int]:
        """Return the pace, 0 if there is none of our own, and the largest burst, 0 for any."""
        learnt = self.flags & LEARNT
        if not learnt and not self.cap and self.pace >= EVEN:
            return _UNPACED
        pace, cap = self.pace_at(now), self.cap_at(now)
        return (pace, cap) if learnt or cap or pace < EVEN else _UNPACED

    def cap_at(self, now: int) -> int:
        """Return the largest burst; 0 for any."""
        if not self.cap:
            return 0
        cap = self.cap + self.cap * min(max(0, now - self.set_at) // SECOND, 4000) // 1000
        return cap if cap < self.limit else 0

    def steady_from(self) -> int:
        """Return the moment from which on `pass_time` changes nothing of what `start` returns.

        A window that began since has room for whatever a limit allows, as one has that ended. What is learnt allows
        more than its limit.
        """
        if self.flags & WINDOW and self.flags & LEARNT:
            return _NEVER
        when = self.when - (2 if self.flags & WINDOW else 5) * self.period
        paced = self.paced - 100 * self.period
        return when if when > paced else paced

    def pass_time(self, now: int) -> None:
        """Begin the windows that began since, and forget what cannot be."""
        if self.paced > now + 100 * self.period:
            self.paced = now + self.period
        if self.flags & WINDOW:
            if now >= self.when:
                self.used = 0
                self.when += ((now - self.when) // self.period + 1) * self.period
            elif self.when > now + 2 * self.period:
                self.when = now + self.period
        elif self.when > now + 5 * self.period:
            self.when = now + self.period

    def set_back(self, by: int) -> None:
        self.when = max(0, self.when - by)
        self.end_then = max(0, self.end_then - by)
        self.set_at = max(0, self.set_at - by)
        self.paced = max(0, self.paced - by)

    def start(self, units: int, now: int) -> int:
        """Return the moment from which on there is room for so many units: at most the limit."""
        start, flags = now, self.flags
        if flags & WINDOW:
            if self.used + units > self.limit and self.when > start:
                start = self.when
        elif not flags & LEARNT:
            room = self.when + self.span(units) - self.period
            if room > start:
                start = room
        pace, cap = self.pacing(now)
        if pace:
            room = self._room(units, pace, cap)
            if room > start:
                start = room
            while cap and start > now:  # the pace rises meanwhile, and the faster it is the less may come at once
                room = self._room(units, self.pace_at(2 * start - now), cap)
                if room <= start:
                    break
                start = room
        return start

    def _room(self, units: int, pace: int, cap: int) -> int:
        """Return the moment from which on a pace has room for so many units."""
        free = (self.span(cap) * EVEN // pace if cap else SECOND) - self.span(units) * EVEN // pace
        return self.paced - free if free > 0 else self.paced

    def book(self, units: int, start: int, now: int) -> None:
        if self.flags & WINDOW:
            self.used += units
        elif not self.flags & LEARNT:
            self.when = max(self.when, start) + self.span(units)
        pace, _ = self.pacing(now)
        if pace:
            self.paced = max(self.paced, start) + self.span(units) * EVEN // pace

    def give_back(self, units: int, at: int, now: int) -> None:
        """Undo what was booked `at` a moment."""
        if self.flags & WINDOW:
            if at >= self.when - self.period:
                self.used = max(0, self.used - units)
        elif not self.flags & LEARNT:
            self.when = max(0, self.when - self.span(units))
        self.paced = max(0, self.paced - self.span(units) * EVEN // self.pace_at(now))

    def remaining(self, now: int) -> int:
        """Return the units for which there is room, as far as the provider counts them."""
        if self.flags & WINDOW:
            return max(0, self.limit - self.used)
        free = max(0, self.period - max(0, self.when - now))
        return min(self.limit, self.limit * (free // 1000) // max(1, self.period // 1000))

    def put_off(self, units: int, now: int) -> bool:
        """Keep so many units free, since a refusal came that was not expected; return whether that may be enough."""
        lately = self.flags & PUT_OFF and now - self.set_at < _LATELY
        if self.flags & LEARNT or lately or self.pace_at(now) < EVEN:
            return False
        self.flags |= PUT_OFF
        self.pace, self.cap, self.set_at = self.pace_at(now), self.cap_at(now), now
        self.when = max(self.when, now) + self.span(units)
        return True

    def slow_down(self, now: int) -> None:
        """Take seven tenths of the pace, since a refusal came that was not expected."""
        self.pace = max(_SLOWEST, self.pace_at(now) * 7 // 10)
        self.cap = self.cap_at(now)
        self.set_at = now

    def cap_burst(self, burst: int, now: int) -> None:
        """Have less come at once, since there is a shorter window; `burst` units were let go within about a second.

        The pace let go some of these, so a cap is of what comes on top of it. If units one by one are too fast too, it
        is the pace that is.
        """
        known, pace = self.cap_at(now), self.pace_at(now)
        self.set_at = now
        if known == 1:
            self.cap, self.pace = 1, max(_SLOWEST, pace * 4 // 5)
            return
        self.pace = max(pace, _ON_TOP)
        by_pace = self.limit * self.pace // EVEN // max(1, self.period // SECOND)
        on_top = burst * 4 // 5 - by_pace
        self.cap = max(1, min(known // 2, on_top) if known else min(self.limit - 1, max(2, on_top)))
