"""The store that all others are compared with: a store in a dict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyguard import ops
from keyguard.clock import Clock
from keyguard.ops import Op


class Reference:
    """A store in a dict: what every other one is compared with."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.table: dict[str, tuple[bytes, int | None]] = {}

    def execute(self, batch: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations, one after the other."""
        return [ops.run(op, self.table, self.clock()) for op in batch]

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return every living key that starts with `prefix`, in order."""
        return [(key, value) for key, value, _ in self.dump(prefix)]

    def dump(self, prefix: str) -> list[tuple[str, bytes, int | None]]:
        """Return the same with the microseconds that each has to live."""
        now = self.clock()
        living = [
            (key, value, None if end is None else end - now)
            for key, (value, end) in self.table.items()
            if key.startswith(prefix) and (end is None or end > now)
        ]
        return sorted(living, key=lambda entry: entry[0])

    def value(self, key: str) -> bytes | None:
        """Return the value of a key now."""
        value, end = self.table.get(key, (None, None))
        return value if end is None or end > self.clock() else None
