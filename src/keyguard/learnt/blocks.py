"""Blocks: for how long a group or a key is left alone, and when one request may find out whether it works again."""

from __future__ import annotations

from keyguard.clock import SECOND

CAUSES = (
    "ok",
    "exhausted",
    "quota",
    "ramp",
    "billing",
    "invalid",
    "unsupported",
    "too_large",
    "overload",
    "unreachable",
    "system",
    "request",
)
"""The causes by their number in a state."""

OK, EXHAUSTED, QUOTA, RAMP, BILLING, INVALID, UNSUPPORTED = range(7)
HOUR = 3600 * SECOND
DAY = 24 * HOUR
FAR = 400 * DAY
"""The length of a block of which nobody knows the end."""
BELIEVED = 31 * DAY
"""The longest wait that is believed."""
LEASE = 60 * SECOND
"""The time that a probe is waited for, before another one may go."""
_FIRST = {BILLING: 60 * SECOND, QUOTA: 60 * SECOND, UNSUPPORTED: 600 * SECOND}
_MOST_TRIES = 12


class Block:
    """Why and until when something is left alone. Moments are microseconds of the store's time."""

    __slots__ = ("cause", "probe", "since", "tries", "until")

    def __init__(self, cause: int = OK, tries: int = 0, since: int = 0, until: int = 0, probe: int = 0) -> None:
        self.cause = cause
        self.tries = tries
        """The number of times that it was tried in vain since it last worked."""
        self.since = since
        self.until = until
        self.probe = probe
        """From when on one request may find out; `until` if none may."""

    def wait(self, now: int) -> int:
        """Return for how long it is left alone; 0 if it is not, -1 if a probe is due."""
        if self.until <= now:
            return 0
        return -1 if self.probe <= now else min(self.probe, self.until) - now

    def ends_after(self, now: int) -> int | None:
        """Return after how long it is over; `None` if nobody knows."""
        return None if self.until - self.since >= FAR else self.until - now

    def close(self, cause: int, wait: int | None, at: int, probe: bool, now: int) -> None:
        """Leave it alone, as a request tells that was granted `at` a moment. A running block is never shortened."""
        shut = self.until > now and not probe
        if not (shut and at <= self.since):  # else it was on its way when this was not known yet
            self.tries = min(self.tries + 1, _MOST_TRIES)
        until, due = _ends(cause, wait, self.tries, now)
        if shut and until < self.until:
            return
        self.cause, self.since, self.until, self.probe = cause, now, until, due

    def open(self, at: int, probe: bool) -> bool:
        """Note that a request succeeded that was granted `at` a moment. Return whether that ends something."""
        if self.cause == OK or not (probe or at > self.since):
            return False
        self.clear()
        return True

    def clear(self) -> None:
        self.cause, self.tries, self.since, self.until, self.probe = OK, 0, 0, 0, 0

    def set_back(self, by: int) -> None:
        self.since, self.until, self.probe = max(0, self.since - by), max(0, self.until - by), max(0, self.probe - by)


def _ends(cause: int, wait: int | None, tries: int, now: int) -> tuple[int, int]:
    """Return when it is over, and when a probe is due."""
    doubled = 2 ** (tries - 1) if tries else 1
    if cause == INVALID:  # the first time it may be the provider's mistake
        return now + FAR, now + (HOUR if tries <= 1 else FAR)
    if wait is not None:
        if cause == QUOTA:  # some tell the wait of a minute for the quota of a day
            wait = max(wait, min(wait * doubled, HOUR))
        until = now + min(wait, BELIEVED)
        return until, min(until, now + HOUR)
    if cause in (BILLING, QUOTA):
        return now + FAR, now + min(_FIRST[cause] * doubled, HOUR)
    until = now + min(_FIRST.get(cause, 5 * SECOND) * doubled, 10 * 60 * SECOND)
    return until, until
