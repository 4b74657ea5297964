"""HTTP dates (RFC 9110, section 5.6.7): the three forms, and nothing that merely looks like one.

`email.utils` reads leniently; a cache must not: a lifetime computed from a date that was misread is a wrong answer for
as long as it lasts. Names and the zone may stand in any case, since all caches accept that.
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_DAYS = "mon|tue|wed|thu|fri|sat|sun"
_LONG_DAYS = "monday|tuesday|wednesday|thursday|friday|saturday|sunday"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"

_FORMS = [
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        rf"(?:{_DAYS}), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",  # IMF-fixdate
        rf"(?:{_LONG_DAYS}), (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",  # RFC 850
        rf"(?:{_DAYS}) {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})",  # asctime
    )
]


def parse_date(text: str | None, now: int) -> int | None:
    """Return seconds since the Unix epoch, or `None` if `text` is not an HTTP date. `now` is in seconds too.

    "Recipients of a timestamp value in rfc850-date format, which uses a two-digit year, MUST interpret a timestamp
    that appears to be more than 50 years in the future as representing the most recent year in the past that had the
    same last two digits" (RFC 9110, section 5.6.7).
    """
    if text is None or len(text) > 64:
        return None
    for form in _FORMS:
        match = form.fullmatch(text)
        if match is not None:
            break
    else:
        return None
    year, month = int(match["year"]), _MONTHS[match["month"].lower()]
    rest = (month, int(match["day"]), int(match["hour"]), int(match["minute"]), int(match["second"]))
    if len(match["year"]) == 4:
        return _seconds(year, *rest)
    this_year = datetime.fromtimestamp(now, UTC).year
    year += this_year - this_year % 100 + 100
    # The latest year that is at most 50 years ahead: not by its date alone, for 2100 has no 29 February.
    while year > this_year + 50 or (
        year == this_year + 50 and calendar.timegm((year, *rest)) > _seconds_ahead(now, 50)
    ):
        year -= 100
    return _seconds(year, *rest)


def _seconds_ahead(now: int, years: int) -> int:
    here = datetime.fromtimestamp(now, UTC)
    return calendar.timegm((here.year + years, here.month, here.day, here.hour, here.minute, here.second))


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    if second == 60:  # a leap second counts as the last second of its minute
        second = 59
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return calendar.timegm(moment.timetuple())


def format_date(moment: int) -> str:
    """Return an IMF-fixdate. `moment` is in seconds."""
    at = datetime.fromtimestamp(moment, UTC)
    day, month = _DAYS.split("|")[at.weekday()].title(), [*_MONTHS][at.month - 1].title()
    return f"{day}, {at.day:02} {month} {at.year:04} {at.hour:02}:{at.minute:02}:{at.second:02} GMT"
