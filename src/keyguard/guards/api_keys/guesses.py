"""Guessing keys: what is counted against a source, sources that have guessed too often, and who waits for whom."""

from __future__ import annotations

import threading
from collections import deque

from keyguard.clock import SECOND
from keyguard.counter_names import LimitFacts, guess_name
from keyguard.errors import ConfigurationError
from keyguard.flow import Signal
from keyguard.ops import Demand, Taken
from keyguard.rates import NEVER, Limit, parse_rates, window

UNNAMED = "keys"
"""The name of a guard that was not given one."""
_MOST = 4096  # sources
_A_MOMENT = 10 * SECOND


class Guesses:
    """The limits on wrong keys of a guard called `name`. There are none if `rates` is `None`."""

    __slots__ = ("_looking", "_rules", "facts")

    def __init__(self, name: str, rates: str | None, lookup: object) -> None:
        # A key that one look-up does not know is not a wrong key to another one: they count apart.
        counter = guess_name(name, lookup) if lookup is not None and name == UNNAMED else name
        if rates is not None and not isinstance(rates, str):
            raise ConfigurationError(f"guesses is a rate such as '20/minute', or None for no limit, not {rates!r}")
        limits = [] if rates is None else [window(quota, span, text) for quota, span, text in parse_rates(rates)]
        self._rules = [(f"{name}-guesses:{limit.text}", f"guess:{counter}:{limit.code}|", limit) for limit in limits]
        self.facts = [LimitFacts(name, rule, prefix, limit, "ip") for rule, prefix, limit in self._rules]
        """The facts that operators need to look at them, and to change what is spent."""
        self._looking = f"guess:{counter}:looking|"

    def of(self, bucket: str) -> list[Demand]:
        """Return what a wrong key takes from its source's limits."""
        return [Demand(name, prefix + bucket, limit) for name, prefix, limit in self._rules]

    def looking(self, guess: list[Demand]) -> Demand:
        """Return what a look-up takes for as long as it is on its way, counted over all processes."""
        return Demand("looking", self._looking + guess[0].key.partition("|")[2], _LOOKING)


_LOOKING: Limit = window(32, _A_MOMENT, "looking")
"""Look-ups of a process that vanishes in the middle of them end with this window."""


class Refusals:
    """Sources that were refused for their guesses just now: a wrong key of theirs needs no store to be refused again.

    For a moment only: the limits are the store's to count.
    """

    __slots__ = ("_known", "_lock")

    def __init__(self) -> None:
        self._known: dict[str, tuple[Taken, int, int]] = {}
        self.after_fork()

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def keep(self, source: str, taken: Taken, now: int) -> None:
        """Remember a refusal."""
        until = now + (_A_MOMENT if taken.wait == NEVER else min(taken.wait, _A_MOMENT))
        with self._lock:
            self._known.pop(source, None)
            if len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[source] = taken, now, until

    def get(self, source: str, now: int) -> Taken | None:
        """Return the refusal that a source has met, as it is now, or `None` if the store must be asked."""
        taken, since, until = self._known.get(source, (None, 0, 0))
        if taken is None or not since <= now < until:
            return None
        passed = now - since
        takings = [(*taking[:4], taking[4] - passed if taking[4] > passed else taking[4]) for taking in taken.takings]
        return Taken(taken.demands, takings, taken.at + passed, True)


class Lines:
    """Lines of requests that wait for look-ups of the same source, first come, first served.

    Each request has a signal. It moves when the request becomes the first, and then whenever a look-up has ended.
    """

    __slots__ = ("_lines", "_lock")

    def __init__(self) -> None:
        self._lines: dict[str, deque[Signal]] = {}
        self.after_fork()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._lines.clear()

    def waits(self, source: str) -> bool:
        """Tell whether somebody waits."""
        return source in self._lines

    def join(self, source: str) -> Signal:
        """Stand at the end of the line."""
        signal = Signal()
        with self._lock:
            line = self._lines.setdefault(source, deque())
            line.append(signal)
            first = line[0] is signal
        if first:
            signal.move()
        return signal

    def leave(self, source: str, signal: Signal) -> None:
        """Leave it, from wherever one stands."""
        with self._lock:
            line = self._lines.get(source, deque())
            first = line[0] if line else None
            if signal in line:
                line.remove(signal)
            if not line:
                self._lines.pop(source, None)
            following = line[0] if line and line[0] is not first else None
        if following is not None:
            following.move()

    def tell(self, source: str) -> None:
        """Tell the first one that a look-up has ended."""
        with self._lock:
            line = self._lines.get(source)
            first = line[0] if line else None
        if first is not None:
            first.move()
