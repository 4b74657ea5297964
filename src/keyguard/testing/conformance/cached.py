"""Random operations on cached responses."""

from __future__ import annotations

import random
from typing import Any

from keyguard.clock import SECOND
from keyguard.guards.cache.shared_ops import PURGES, Enlist, Ensure, Lease, Purge, Release, Renew, Stamp
from keyguard.ops import Op
from keyguard.testing.conformance.alerting import AlertSteps

CACHED = ("rc:mark|1", "rc:mark|2", "rc:index|1", "rc:lease|1", *PURGES)


class CacheSteps(AlertSteps):
    """Draws what a cache asks a shared store."""

    random: random.Random
    latest: int

    def stamp(self) -> Op[Any]:
        return Stamp(self.random.choice(CACHED[:2]))

    def ensure(self) -> Op[Any]:
        return Ensure(self.random.choice(CACHED[:2]), self.latest - self.random.randrange(SECOND))

    def enlist(self) -> Op[Any]:
        id, ttl = self.random.choice("abcde"), self.random.randrange(1, 20 * SECOND)
        return Enlist("rc:index|1", id, ["accept"], ttl, self.random.randint(1, 4))

    def purge(self) -> Op[Any]:
        return Purge(self.random.sample(["*", "tx", "ty", "uz"], self.random.randint(1, 2)))

    def renew_purges(self) -> Op[Any]:
        return Renew()

    def lease(self) -> Op[Any]:
        return Lease("rc:lease|1", self.token(), self.random.randrange(1, 3 * SECOND))

    def release(self) -> Op[Any]:
        hit_for_miss, last = self.random.random() < 0.3, self.random.random() < 0.5
        return Release("rc:lease|1", self.token(), hit_for_miss=hit_for_miss, last=last)

    def token(self) -> bytes:
        return self.random.choice([b"one", b"one", b"two"])
