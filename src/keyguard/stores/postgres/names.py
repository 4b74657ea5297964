"""How keys stand in PostgreSQL: their names, their locks, and their tables."""

from __future__ import annotations

from hashlib import blake2b

from keyguard.ops import Droppable, is_counter
from keyguard.rates import Limit

NEVER = 2**63 - 1
"""The expiry of what has none."""

TABLES = ("entries", "counters")
"""The second one is not logged: what stands there need not survive a crash of the database."""


def name_of(key: str) -> bytes:
    """Return a key as it stands in the tables."""
    return key.encode("utf-8", "surrogatepass")


def lock_of(name: bytes) -> int:
    """Return the advisory lock of a key."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big", signed=True)


def tables_of(key: str) -> tuple[str, ...]:
    """Return where a key may stand. A counter may stand in either table: its limit tells, and may have been edited."""
    return TABLES if is_counter(key) else TABLES[:1]


def table_for(key: str, limit: Limit | Droppable | None) -> str:
    """Return where a key is written. A counter of which no limit is known is worth keeping."""
    return "counters" if isinstance(limit, Limit) and not limit.durable and is_counter(key) else "entries"


def words_of(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
