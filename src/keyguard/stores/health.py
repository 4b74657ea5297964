"""The health of a store, as an operator is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How a stack's store does, as this process sees it."""

    ok: bool
    since: datetime | None
    """Since when it has been out of order; `None` if it is not."""
    failure: str
    """The last failure, in words for the operator."""
    failures: int
    """Operations that failed since the start; those that were not tried because it was known do not count."""
    outages: int
    """How often it went out of order since the start."""
    degraded: dict[str, int] = field(default_factory=dict)
    """How often guards did without it since the start, by guard and action: `{"key refused": 3, "keys cached": 20}`."""
    partial: bool = False
    """Whether it is out of order for some keys only, such as those of one node of a cluster."""
