"""Where things stand in the store of a ledger. `S` is a subject as `spelled` writes it, or one of the three marks.

    u:S|m{hour}    the minutes of an hour: requests, refusals, units
    u:S|h{day}     the hours of a day: the same, and routes, keys, addresses
    u:S|l          when each of its keys was last used
    u:*|s{day}     who has asked most in the hours of a day
    u:!|h{day}     what is missing in the hours of a day, and why
    u:*|t{name}    totals that go on for good, of a host

`*` is the whole service, `-` are all callers without a key. Hours and days are numbered from the Unix epoch, in UTC.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final
from urllib.parse import quote

from keyguard.clock import SECOND

MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

EVERYBODY: Final = "*"
ANONYMOUS: Final = "-"
GAPS: Final = "!"

_LONGEST = 128  # characters of a subject as it is spelled; a longer one is known by its digest
_SAFE = "@:+,;=()[]<>~^&$!'*# /"  # what `quote` may leave as it is, besides letters, digits and `_.-~`


@lru_cache(maxsize=4096)
def spelled(subject: str) -> str:
    """Return a subject as it stands in keys: no two are spelled alike, and none as a mark; empty for no key at all."""
    if not subject:
        return ANONYMOUS
    text = quote(subject, safe=_SAFE, errors="surrogatepass")
    if len(text) <= _LONGEST:
        return f"={text}"
    return f"#{blake2b(subject.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def pool(who: str) -> str:
    """Return the pool of the values of somebody, as `spelled` writes it."""
    return f"u:{who}"


def minutes_key(who: str, hour: int) -> str:
    """Return the key of the minutes of an hour."""
    return f"u:{who}|m{hour}"


def hours_key(who: str, day: int) -> str:
    """Return the key of the hours of a day."""
    return f"u:{who}|h{day}"


def ranking_key(day: int) -> str:
    """Return the key of who has asked most in the hours of a day."""
    return f"u:{EVERYBODY}|s{day}"


def latest_key(who: str) -> str:
    """Return the key of when each key of a subject was last used."""
    return f"u:{who}|l"


def total_key(name: str) -> str:
    """Return the key of totals that go on for good."""
    return f"u:{EVERYBODY}|t{name}"
