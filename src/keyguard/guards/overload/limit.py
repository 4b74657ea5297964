"""The limit of requests in flight, which adapts to the latency of the app: its arithmetic, without clocks and requests.

Answers are looked at in windows. A window knows their median latency, and whether any request was refused for the
limit. `usual` is the median of an app in which nothing waits, as it was learnt.

    up to 1.5 times the usual, requests refused     one more place (half as many again, before the first cut)
    more than that, requests refused                a cut to 0.8 of the limit, and a look at what it does:
        latency falls with it                       requests were waiting: cut again
        latency stays, also after one more          nothing waits: back to the limit before, and this latency is usual
    nothing refused                                 the limit stays, and `usual` follows slowly

With an objective, requests may wait as long as nine of ten answers keep to it, and cuts end as soon as they do.

So an app that has become slower by itself, or has a slow route, is not taken for one that is overloaded: less of it in
flight would not make it quicker. A limit that has gone well for long is cut as well, once in 60 windows, or a wait that
was there when `usual` was learnt would stay.

Why these and not others: a gradient between a short and a long average takes a lasting overload for the usual state,
and a minimum over all time never forgets how quick the app once was. A high percentile jumps if as many answers are
slow by nature as it says; a mean of logarithms is biased in a window that ends before its slowest answers have come.
All numbers were found by simulation (`benchmarks/overload.py`).
"""

from __future__ import annotations

from math import inf
from threading import RLock
from typing import NamedTuple

START = 20
"""The limit at first."""
CUT = 0.8
SLOW_START = 1.5
FEWEST = 20
"""Answers in a window. More, if the limit is higher: twice as many answers as places, up to the next number."""
MOST = 1000
SHORTEST = 0.05
"""Seconds of a window."""
LONGEST = 2.0
"""Seconds after which a window has enough with the fewest answers."""
TOLERANCE = 1.5
NOISE = 0.01
"""Seconds by which latencies may differ without meaning anything: an app that answers in 1 ms may take 5 at times."""
SETTLING = 0.1
"""The part of the way that `usual` goes to a latency seen while nothing was refused, or to a lower one."""
LOWEST = 0.5
"""The lowest share there is."""
RESERVED = 0.4
"""The part of what a share leaves free that stays free at the ceiling, since the limit cannot grow there."""
KEPT = 0.05
"""So much more of it stays free for each request that is refused while others of a lower share come, at most all."""
FORGOTTEN = 0.95
"""The part of that which remains after a window."""
PROBE = 60
"""Windows in which requests are refused, without a cut."""


class Before(NamedTuple):
    """The state before a cut."""

    limit: float
    top: float
    """The number that was cut: the limit, or what was in flight if that was less."""
    typical: float
    share: float
    """Requests of a higher share keep to the limit of before: others make room."""
    sure: bool = False
    """Whether this is the second cut since, after one that made nothing quicker."""


class AdaptiveLimit:
    """The number of requests that may be in flight. Methods may be called by many threads at once.

    Each request has a share, up to 1: the part of the limit up to which it is admitted. Moments and spans are seconds.
    """

    def __init__(self, floor: int, ceiling: int, objective: float | None = None) -> None:
        """Start at 20, or at the nearest number within `floor` and `ceiling`."""
        self.floor = floor
        self.ceiling = ceiling
        self.objective = objective
        self._highest = ceiling / LOWEST
        self.limit = float(min(max(START, floor), self._highest))
        self.latency: float | None = None
        self.usual: float | None = None
        self._growing = True
        """Whether it has never been cut."""
        self._before: Before | None = None
        self._reserved = RESERVED
        self._windows = 0
        """Those in which requests were refused, since the last cut."""
        self.renew()

    def renew(self) -> None:
        """Forget what is in flight: in the child of a fork nothing is."""
        # Garbage may be collected anywhere, also while this is held, and a request among it is counted out at that.
        self._lock = RLock()
        self.in_flight = 0
        self._next_window(-inf)

    def _next_window(self, now: float) -> None:
        self._since = now
        self._latencies: list[float] = []
        self._peak = self.in_flight
        self._refused = 0.0
        """The lowest share that was refused; 0 if none was."""
        self._asked: dict[float, int] = {}
        """Requests by share, of those that came when there was not enough room for all shares."""
        self._enough = max(FEWEST, min(int(2 * self.limit), MOST))

    def room(self, share: float) -> float:
        """Return up to how many requests may be in flight after one of this share. One may always be."""
        before = self._before
        limit = self.limit if before is None or share <= before.share else before.limit
        # Near the ceiling the limit cannot grow for lower shares: there they are kept off a smaller part of it.
        return max(1.0, min(limit * share, self.ceiling - int((1 - share) * self._reserved * self.ceiling)))

    def begin(self, share: float) -> bool:
        """Count a request, if there is room for it."""
        with self._lock:
            return self._enter(share)

    def press(self, share: float) -> bool:
        """Do the same for one that came when there was not enough room for all shares. The window keeps note of it."""
        with self._lock:
            self._asked[share] = self._asked.get(share, 0) + 1
            if self._enter(share):
                return True
            if share > min(self._asked):
                self._reserved = min(1.0, self._reserved + KEPT)
            self._refused = min(self._refused, share) if self._refused else share
            return False

    def _enter(self, share: float) -> bool:
        if self.in_flight + 1 > self.room(share):
            return False
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak = self.in_flight
        return True

    def end(self, began: float, now: float, *, answered: bool) -> None:
        """Count a request out. `answered` says that its latency tells something of the app."""
        with self._lock:
            self.in_flight -= 1
            # One that began before the window, perhaps at another limit, says nothing of this one.
            if answered and began >= self._since:
                self._note(began, now)

    def _note(self, began: float, now: float) -> None:
        latencies = self._latencies
        if not latencies and self._since == -inf:
            self._since = began
        latencies.append(max(0.0, now - began))
        count, age = len(latencies), now - self._since
        long_enough = count >= FEWEST and age >= SHORTEST and (count >= self._enough or age >= LONGEST)
        if long_enough or count >= 10 * MOST:  # the second if the clock stands still
            latencies.sort()
            self.latency = latencies[count * 9 // 10]
            self._adapt(latencies[count // 2])
            self._reserved = max(RESERVED, self._reserved * FORGOTTEN)
            self._next_window(now)

    # -- at the end of a window -----------------------------------------------------------------------------

    def _adapt(self, typical: float) -> None:
        if self.usual is None:
            self.usual = typical
        if self._before is not None:
            self._judge(self._before, typical)
            return
        if typical < self.usual or not self._refused:
            self.usual += SETTLING * (typical - self.usual)
        pressed = self._refused > 0 or self.objective is not None
        if pressed and not self._in_time and typical > self._bound:
            self._growing = False
            self._cut(typical)
        elif self._refused:
            self._windows += 1
            if self._windows >= PROBE:
                self._cut(typical)
            else:  # the share that was refused gets one place more
                more = self.limit * SLOW_START if self._growing else self.limit + 1 / self._refused
                self.limit = min(self._highest, more)

    @property
    def _bound(self) -> float:
        """The typical latency beyond which requests are taken to wait."""
        usual = inf if self.usual is None else self.usual
        return max(usual * TOLERANCE, usual + NOISE)

    @property
    def _in_time(self) -> bool:
        """Whether the objective was met in the last window."""
        return self.objective is not None and self.latency is not None and self.latency <= self.objective

    def _judge(self, before: Before, typical: float) -> None:
        """Go on after a cut: did latency fall by more than half of what it falls by if all of it is waiting?"""
        self._windows = 0
        if typical < before.typical * (1 + self.limit / before.top) / 2:
            if self._in_time:
                self._before = None
            else:
                self._cut(typical)
        elif before.sure or self.limit <= self.floor or typical <= self._bound:
            self._before = None
            self.limit = before.limit
            self.usual = typical
        else:  # it would make much usual: chance may hide what one cut does, and did in apps of few places
            self._before = before._replace(sure=True)
            self.limit = max(float(self.floor), self.limit * CUT)

    def _cut(self, typical: float) -> None:
        refused = self._refused
        top = self.room(refused) / refused if refused else min(self.limit, float(max(self._peak, self.floor)))
        if top <= self.floor:
            self._before = None
            self.usual = typical
            return
        self._before = Before(self.limit, top, typical, self._share_that_yields())
        self.limit = max(float(self.floor), top * CUT)

    def _share_that_yields(self) -> float:
        """Return the lowest share with which at least half of the requests come: they make room for the others."""
        half, count = sum(self._asked.values()) / 2, 0
        for share in sorted(self._asked):
            count += self._asked[share]
            if count >= half:
                return share
        return 1.0
