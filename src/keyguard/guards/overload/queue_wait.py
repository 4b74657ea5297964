"""How long a request has waited for this process, by a field in which the proxy tells when it came."""

from __future__ import annotations

import re

from keyguard.clock import SECOND

_MOMENT = re.compile(r"(?:t=)?([0-9]{10,16})(?:\.([0-9]{1,9}))?")
_LONGEST = 3600 * SECOND
"""A request that seems to have waited for longer comes from a machine whose clock is wrong, or from a caller."""


def waited(value: str | None, now: int) -> int:
    """Return the microseconds that have passed since a moment in a field; 0 if it cannot be read.

    Moments are seconds since the Unix epoch (nginx: `t=${msec}`), or whole milliseconds (Heroku) or microseconds
    (Apache: `t=%t`). Which, is seen by their length.
    """
    match = _MOMENT.fullmatch(value) if value and len(value) <= 32 else None
    if match is None:
        return 0
    whole, fraction = match.groups()
    if len(whole) <= 11:
        moment = int(whole) * SECOND + int((fraction or "")[:6].ljust(6, "0"))
    elif len(whole) <= 14:
        moment = int(whole) * 1000
    else:
        moment = int(whole)
    wait = now - moment
    return wait if 0 < wait < _LONGEST else 0
