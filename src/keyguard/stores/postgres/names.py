"""How keys stand in PostgreSQL: their names, their locks, and their tables."""

from __future__ import annotations

from hashlib import blake2b

from keyguard.clock import SECOND
from keyguard.ops import is_counter

NEVER = 2**63 - 1
"""The expiry of what has none."""

TABLES = ("entries", "counters")

_DURABLE = 3600 * SECOND


def name_of(key: str) -> bytes:
    """A key as it stands in the tables."""
    return key.encode("utf-8", "surrogatepass")


def lock_of(name: bytes) -> int:
    """The advisory lock of a key."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big", signed=True)


def table_of(key: str) -> str:
    """Where a key stands. Short counters buy nothing by surviving a crash."""
    if not is_counter(key):
        return "entries"
    pool = key.partition("|")[0]
    period = pool[len(pool.rstrip("0123456789")) :]
    return "entries" if period and int(period) >= _DURABLE else "counters"


def words_of(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
