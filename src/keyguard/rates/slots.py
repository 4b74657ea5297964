"""A number of units that may be in use at the same time, and come back when they are not: nothing is ever spent.

State: none. Slots in use are held (`keyguard.ops.holds`), and a limit of this kind only says how much that may be.
"""

from __future__ import annotations

from keyguard.clock import SECOND
from keyguard.rates.limit import JSON, NEVER, Limit, Taking


class Slots(Limit):
    """`quota` units at the same time."""

    __slots__ = ()

    kind = script = "slots"

    def __init__(self, quota: int) -> None:
        super().__init__(quota, SECOND, f"{quota} at a time", "slots")

    def terms(self) -> dict[str, JSON]:
        return {"quota": self.quota}

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        return self.quota, 0, 0, 0

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        quota = self.quota
        return None, 0, quota if cost > quota else quota - cost, 0, NEVER if cost > quota else 0

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        return b"", 0

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        return None

    def merge(self, one: bytes, other: bytes) -> bytes:
        return b""

    def share(self, among: int) -> Slots:
        return Slots(max(1, self.quota // among))
