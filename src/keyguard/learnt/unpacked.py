"""Groups that are kept unpacked, by the values that they are packed as: an operation looks at many, and writes one.

Rules:
- A group stands here as its value says. If the value in a store is another one by now, nobody asks for this one.
- Who takes a group out has it alone, and puts it back if it stands as some value again: two stores may hold the same.
- There are so many at most. What is not here is read from its value.
"""

from __future__ import annotations

from collections.abc import Sequence

from keyguard.learnt.dimension import Dimension
from keyguard.learnt.group import Group

_MOST = 256  # of 2 KiB each with two limits, and of 5 with eight; a large pool has 40


class Unpacked:
    """Groups that nobody looks at right now."""

    def __init__(self) -> None:
        self._groups: dict[bytes, Group] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def take(self, data: bytes | None, limits: Sequence[tuple[Dimension, int]], now: int) -> Group:
        """Return the group of a value, with these limits configured, and fit to be asked for `start`."""
        found = self._groups.pop(data, None) if data else None
        if found is None or (found.limits is not limits and found.limits is not None and found.limits != limits):
            found = Group(data, now)
        if found.limits is None:
            found.configure(limits)
        if now < found.steady_from:
            found.come_to(now)
        return found

    def put_back(self, group: Group) -> None:
        """Keep a group that was taken, if it stands as its value says."""
        if group.data is None or group.touched:
            return
        if len(self._groups) >= _MOST:
            self._groups.clear()
        self._groups[group.data] = group
