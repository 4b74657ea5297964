"""Numbers, moments, spans and limits, as sentences tell them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from keyguard.clock import SECOND
from keyguard.units import in_microseconds
from keyguard.why.diagnosis import LimitReport

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_ADJECTIVES = {"hour": "hourly", "day": "daily", "week": "weekly", "month": "monthly", "year": "yearly"}
_UNITS = ((7 * 86400, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_SIZES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def number(value: int) -> str:
    """Return a number with a blank between thousands: `16 000`."""
    return f"{value:,}".replace(",", " ")


def counted(value: int, what: str) -> str:
    """Return a number of things: `1 request`, `2 requests`."""
    return f"{number(value)} {what}" if value == 1 else f"{number(value)} {what}s"


def percent(share: float) -> str:
    """Return a share: never 0 for something, and 100 for all alone."""
    whole = round(share * 100)
    return f"{min(99, max(1, whole)) if 0 < share < 1 else whole} %"


def span(duration: timedelta) -> str:
    """Return how long something is, in its two largest units, rounded up: `8 h 36 min`."""
    left = -(-(duration // timedelta(microseconds=1)) // SECOND)
    if left >= 3600:
        left = -(-left // 60) * 60  # a second more or less is not told then
    parts: list[str] = []
    for size, unit in _SIZES:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join([part for part in parts[:2] if not part.startswith("0 ")]) or "0 s"


def clock(when: datetime, now: datetime, *, up: bool = False) -> str:
    """Return a moment as seen from now: `at 12:26`, `on 28 Nov at 12:26`; with seconds if it is near.

    With `up` it is rounded up: what ends then has not ended a moment earlier.
    """
    unit = SECOND if abs(when - now) < timedelta(hours=1) else 60 * SECOND
    moment = in_microseconds(when)
    moment = -(-moment // unit) * unit if up else moment // unit * unit
    told = when + timedelta(microseconds=moment - in_microseconds(when))
    time = f"{told:%H:%M:%S}" if unit == SECOND and told.second else f"{told:%H:%M}"
    if told.date() == now.date() or (timedelta(0) < told - now <= timedelta(hours=24)):
        return f"at {time}"
    year = "" if told.year == now.year else f" {told.year}"
    return f"on {told.day} {_MONTHS[told.month - 1]}{year} at {time}"


def ahead(when: datetime, now: datetime) -> str:
    """Return a moment to come, and how long that is: `at 00:00, in 8 h 36 min`."""
    return f"{clock(when, now, up=True)}, in {span(when - now)}"


def ago(since: datetime, now: datetime) -> str:
    """Return from when on something is counted: `the last 24 h`."""
    minutes = round((now - since).total_seconds() / 60)
    if minutes % 60 == 0 and 0 < minutes <= 48 * 60:
        return f"the last {minutes // 60} h"
    return f"the last {span(timedelta(minutes=max(1, minutes)))}"


def joined(parts: list[str]) -> str:
    """Return a list in words: `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def limit_words(limit: LimitReport) -> str:
    """Return a limit as people say it: `daily quota of 16 000`, `limit of 20 a second`, `limit of 4 at a time`."""
    size = number(limit.limit)
    if limit.kind == "quota":
        return f"{_ADJECTIVES[limit.unit]} quota of {size}"
    if limit.kind == "credits":
        return f"balance of {size} credits"
    if limit.kind == "slots":
        return f"limit of {size} at a time"
    if limit.period is None:
        return f"limit {limit.rate}"
    return f"limit of {size} {period_words(limit.period)}"


def period_words(period: timedelta) -> str:
    """Return a period as people say it: `a second`, `an hour`, `in 10 minutes`."""
    seconds = round(period.total_seconds())
    size, unit = next((pair for pair in _UNITS if seconds >= pair[0] and seconds % pair[0] == 0), (1, "second"))
    many = seconds // size
    if many == 1:
        return f"{'an' if unit == 'hour' else 'a'} {unit}"
    return f"in {many} {unit}s"


class CauseWords(NamedTuple):
    """The words for a cause of refusals: its name, its meaning, and what to do."""

    title: str
    meaning: str
    action: str
    blames_nobody: bool = False


CAUSES: dict[str, CauseWords] = {
    "usage": CauseWords("Limit reached", "The caller used up a limit.", "It works again by itself, or after a grant."),
    "fault": CauseWords(
        "Out of order", "The store, keyguard or the app failed.", "The key is not exhausted: look at the store.", True
    ),
    "overload": CauseWords(
        "Too busy", "The app or its store had more to do than it could.", "No key is to blame: it may ask again.", True
    ),
    "credentials": CauseWords(
        "Valid key needed", "No key was sent, or one that is not valid.", "Look at the key's state, or issue a new one."
    ),
    "permission": CauseWords(
        "Not permitted", "The key is valid, and does not reach that far.", "Give it the scope, or change its plan."
    ),
    "address": CauseWords(
        "Address refused", "The address is refused, or banned for a while.", "Lift the ban, or change the filter."
    ),
    "request": CauseWords(
        "Bad request", "The request contradicts itself, or can be read in two ways.", "The client has to send another."
    ),
    "upstream": CauseWords(
        "Upstream unavailable", "The app's own keys for a service that it calls are used up, or that is out of order.",
        "Neither the key nor its limits are to blame: look at the app's own keys.", True,
    ),
}  # fmt: skip
"""By cause. `tests/why` holds their titles to those of refusals."""
