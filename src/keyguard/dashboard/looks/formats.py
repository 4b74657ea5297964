"""How numbers and times are written on the pages: in UTC, and in no language of the machine's settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil

THIN = "\u2009"
"""The space between groups of three digits."""
_FIXED = "\u00a0"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SIZES = ("B", "kB", "MB", "GB", "TB")


def number(count: int) -> str:
    """Return a number with a thin space before each three digits: `16 000`."""
    return str(count) if -1000 < count < 1000 else f"{count:,}".replace(",", THIN)


def counted(count: int, unit: str) -> str:
    """Return a number with its unit: `1 request`, `2 requests`."""
    plural = "es" if unit.endswith("s") else "s"
    return f"{number(count)} {unit}{'' if count == 1 else plural}"


def share(part: float) -> str:
    """Return a part of a whole in per cent: `46 %`. Some is never shown as 0, and not all never as 100."""
    rounded = round(100 * part)
    if rounded == 0 and part > 0:
        return f"< 1{_FIXED}%"
    return f"{99 if rounded == 100 and part < 1 else rounded}{_FIXED}%"


def size(octets: int) -> str:
    """Return a number of bytes: `512 B`, `1.2 MB`."""
    left, unit = float(octets), 0
    while left >= 1000 and unit < len(_SIZES) - 1:
        left, unit = left / 1000, unit + 1
    return f"{left:.1f}".removesuffix(".0") + _FIXED + _SIZES[unit]


def second(of: float) -> datetime:
    """Return a moment of seconds since the epoch."""
    return datetime.fromtimestamp(of, UTC)


def hour(at: datetime) -> str:
    """Return hour and minute: `15:24`."""
    at = at.astimezone(UTC)
    return f"{at.hour:02}:{at.minute:02}"


def clock(at: datetime) -> str:
    """Return hour, minute and second: `15:24:10`."""
    return f"{hour(at)}:{at.astimezone(UTC).second:02}"


def day(at: datetime, *, weekday: bool = True) -> str:
    """Return a day: `Sat 28 Nov`, or `28 Nov`."""
    at = at.astimezone(UTC)
    return (f"{_DAYS[at.weekday()]} " if weekday else "") + f"{at.day} {_MONTHS[at.month - 1]}"


def date(at: datetime) -> str:
    """Return a day with its year: `28 Nov 2026`."""
    return f"{day(at, weekday=False)} {at.astimezone(UTC).year}"


def moment(at: datetime, now: datetime) -> str:
    """Return a moment: the hour alone if it is today or within the next 24 hours, else with its day."""
    if at.astimezone(UTC).date() == now.astimezone(UTC).date() or timedelta(0) <= at - now <= timedelta(days=1):
        return hour(at)
    return f"{date(at) if abs(now - at) > timedelta(days=300) else day(at, weekday=False)}, {hour(at)}"


def instant(at: datetime, now: datetime) -> str:
    """Return a moment to the second: the clock if it is today, else the day too."""
    if at.astimezone(UTC).date() == now.astimezone(UTC).date():
        return clock(at)
    return f"{day(at, weekday=False)}, {clock(at)}"


def ago(at: datetime, now: datetime) -> str:
    """Return how long ago it was, in few steps, so that a page that shows nothing new does not change each second."""
    seconds = (now - at).total_seconds()
    if seconds < 3:
        return "now"
    if seconds < 60:
        return f"{int(seconds) if seconds < 10 else int(seconds) // 10 * 10}{_FIXED}s ago"
    if seconds < 3600:
        return f"{int(seconds) // 60}{_FIXED}min ago"
    return moment(at, now)


_PARTS = ((86400, "d", "day"), (3600, "h", "hour"), (60, "min", "minute"), (1, "s", "second"))


def span(of: timedelta, *, short: bool = False, long: bool = False) -> str:
    """Return how long it is in its two largest units: `8 h 36 min`. `short`: in one of them; `long`: in words."""
    left = max(0, ceil(of.total_seconds()))
    left = -(-left // 60) * 60 if left > 3600 else left  # up, for nothing is back before it is
    found = []
    for size, unit, word in _PARTS:
        count, left = divmod(left, size)
        if count:
            found.append(counted(count, word) if long else f"{number(count)}{_FIXED}{unit}")
        elif found:
            break
    return " ".join(found[: 1 if short or long else 2]) or f"0{_FIXED}s"


def took(seconds: float) -> str:
    """Return how long an answer has taken: `0.4 ms`, `12 ms`, `1.2 s`."""
    if seconds < 0.00005:
        return f"< 0.1{_FIXED}ms"
    if seconds >= 1:
        return f"{seconds:.1f}{_FIXED}s"
    return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f}{_FIXED}ms"
