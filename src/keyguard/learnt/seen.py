"""The news that one answer has of one dimension."""

from __future__ import annotations

from typing import NamedTuple

from keyguard.learnt.dimension import Dimension


class Seen(NamedTuple):
    """The news that header fields have of one dimension, as of the moment at which their request was admitted."""

    dimension: Dimension
    limit: int | None = None
    """The units of a whole period; `None` if it is not told."""
    remaining: int | None = None
    reset: int | None = None
    """Microseconds from the answer to the end of the window, or until the bucket is full; `None` if it is not told."""
