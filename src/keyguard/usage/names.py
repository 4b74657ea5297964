"""Where things stand in the store of a ledger. `S` is a subject as `spelled` writes it, or one of three marks.

    u:S|m{hour}    an hour: requests, refusals and units by the minute; routes, keys and addresses
    u:S|h{day}     a day: the same by the hour
    u:S|l          when each of its keys was last used
    u:*|s{hour}    who has asked most in an hour
    u:*|d{day}     who has asked most in a day
    u:!|h{day}     what is missing in the hours of a day, and why
    u:!|b          when the ledger was begun
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
BEGUN: Final = "u:!|b"

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


def shown(subject: str) -> str:
    """Return a subject as the ranking tells of it: one that is too long is cut off."""
    who = spelled(subject)
    return f"{subject[:80]}… ({who})" if who[0] == "#" else subject


def minutes_key(who: str, hour: int) -> str:
    """Return the key of an hour, by the minute."""
    return f"u:{who}|m{hour}"


def hours_key(who: str, day: int) -> str:
    """Return the key of a day, by the hour."""
    return f"u:{who}|h{day}"


def hour_ranking_key(hour: int) -> str:
    """Return the key of who has asked most in an hour."""
    return f"u:{EVERYBODY}|s{hour}"


def day_ranking_key(day: int) -> str:
    """Return the key of who has asked most in a day."""
    return f"u:{EVERYBODY}|d{day}"


def latest_key(who: str) -> str:
    """Return the key of when each key of a subject was last used."""
    return f"u:{who}|l"


def total_key(name: str) -> str:
    """Return the key of totals that go on for good."""
    return f"u:{EVERYBODY}|t{name}"
