"""Quiet hours: when alerts wait until the morning, but for those that cannot."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, tzinfo

from keyguard.errors import ConfigurationError
from keyguard.units import as_datetime

_TEXT = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9]) ?[-–] ?([01][0-9]|2[0-3]):([0-5][0-9])(?: (\S+))?")


def quiet_hours(text: str | None) -> Callable[[int], bool]:
    """Return what tells whether a moment, in microseconds, lies in hours such as `"22:00-07:00 Europe/Berlin"`.

    Without a zone they are in UTC. Raises `ConfigurationError` for a text that is none.
    """
    if text is None:
        return lambda now: False
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[1] + found[2] == found[3] + found[4]:
        raise ConfigurationError(
            f"quiet is two times of the day, and a time zone, such as '22:00-07:00 Europe/Berlin', not {text!r:.80}"
        )
    zone = _zone(found[5] or "UTC")
    begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])

    def is_quiet(now: int) -> bool:
        there = as_datetime(now).astimezone(zone)
        minute = there.hour * 60 + there.minute
        return begin <= minute < end if begin < end else minute >= begin or minute < end

    return is_quiet


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # for those who name one: it takes a while

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(
            f"quiet ends with the name of a time zone, such as Europe/Berlin, not {name!r:.80}"
        ) from None
