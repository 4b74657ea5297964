"""Limits that nobody told, and that are learnt from a provider's answers: the state of one limit group.

Pure: no clock, no I/O. `ops/upstream.py` has the operations on such states, `upstream/` the pool that uses them.
"""

from __future__ import annotations

from keyguard.learnt.dimension import Dimension, dimension_of, spent_of
from keyguard.learnt.seen import Seen

__all__ = ["Dimension", "Seen", "dimension_of", "spent_of"]
