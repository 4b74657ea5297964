"""Limits that nobody told, and that are learnt from a provider's answers: the state of one limit group.

Pure: no clock, no I/O. `ops/upstream.py` has the operations on such states, `upstream/` the pool that uses them.

`group.py` says what the bytes of a state are, and `marks.py` those of what all model classes of a pool share.
"""

from __future__ import annotations

from keyguard.learnt.asked import Candidate, Grant, NoGrant, Report
from keyguard.learnt.choice import choose
from keyguard.learnt.dimension import UNITS, Dimension, dimension_of, spent_of
from keyguard.learnt.group import Group
from keyguard.learnt.lessons import costs_of, learn
from keyguard.learnt.marks import Marks, group_key, id_of, marks_key
from keyguard.learnt.seen import Seen
from keyguard.learnt.unpacked import Unpacked
from keyguard.learnt.view import BlockView, DimensionView, GroupView, read_group

__all__ = [
    "UNITS",
    "BlockView",
    "Candidate",
    "Dimension",
    "DimensionView",
    "Grant",
    "Group",
    "GroupView",
    "Marks",
    "NoGrant",
    "Report",
    "Seen",
    "Unpacked",
    "choose",
    "costs_of",
    "dimension_of",
    "group_key",
    "id_of",
    "learn",
    "marks_key",
    "read_group",
    "spent_of",
]
