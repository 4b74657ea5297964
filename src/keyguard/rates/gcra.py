"""Even pacing: the generic cell rate algorithm, as "virtual scheduling" (ITU-T I.371, annex A).

A unit is due every `period / N`; `burst` says how many may come at once after a pause. In any window of one
period at most N + burst units are admitted: use it to smooth, and the default algorithm to cap.

State: the theoretical arrival time, eight bytes.
"""

from __future__ import annotations

from keyguard.errors import ConfigurationError
from keyguard.rates.limit import NEVER, Limit, Taking
from keyguard.rates.notation import LONGEST, parse_rates


def smooth(rate: str, burst: int = 1) -> Smooth:
    """An evenly paced limit: `smooth("10/second", burst=5)`.

    `burst` is the number of units that may come at once, at least 1. Raises `ConfigurationError` for a bad rate.
    """
    rates = parse_rates(rate)
    if len(rates) != 1:
        raise ConfigurationError(f"smooth() takes one rate, such as '10/second', not {rate!r}")
    if isinstance(burst, bool) or not isinstance(burst, int) or burst < 1:
        raise ConfigurationError(f"burst is a whole number of requests, at least 1, not {burst!r}")
    quota, period, text = rates[0]
    if burst * -(-period // quota) > LONGEST:
        raise ConfigurationError(f"a burst of {burst} at {text} takes longer to come back than any limit may last")
    return Smooth(quota, period, text, burst)


class Smooth(Limit):
    """`quota` units a period, evenly; `burst` at once after a pause."""

    __slots__ = ("burst", "interval", "tolerance")

    def __init__(self, quota: int, period: int, text: str, burst: int) -> None:
        self.interval = -(-period // quota)
        super().__init__(quota, period, f"{text} smooth", f"gcra{period}")
        self.burst = burst
        self.tolerance = burst * self.interval

    @property
    def most(self) -> int:
        return self.burst

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        interval, tolerance = self.interval, self.tolerance
        due = now if state is None else max(now, int.from_bytes(state, "little"))
        moved = due > now + tolerance  # time was set back, or the burst was made smaller
        if moved:
            due = now + tolerance
        after = due + cost * interval
        wait = after - tolerance - now
        if wait > 0:
            kept = due.to_bytes(8, "little") if moved else None
            reset = (due - now - 1) % interval + 1 if due > now else 0
            return kept, due - now, (tolerance - (due - now)) // interval, reset, NEVER if cost > self.burst else wait
        remaining = (tolerance - (after - now)) // interval
        reset = (after - now - 1) % interval + 1 if after > now else 0
        if cost == 0:
            return due.to_bytes(8, "little") if moved else None, due - now, remaining, reset, 0
        return after.to_bytes(8, "little"), after - now, remaining, reset, 0

    def share(self, among: int) -> Smooth:
        part = Smooth(1, self.interval * among, self.text, max(1, self.burst // among))
        part.period = self.period
        return part

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        # The charge has not drained yet, so there was no pause since, and all later ones stand on top of it.
        due = int.from_bytes(state, "little") - cost * self.interval
        return max(due, 0).to_bytes(8, "little")

    def merge(self, one: bytes, other: bytes) -> bytes:
        return max(one, other, key=lambda state: int.from_bytes(state, "little"))
