"""Records of requests that did not happen, drawn at random, and what a ledger must say of them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from keyguard import Cause, Decision, Usage
from keyguard.clock import SECOND, Clock, wall_clock
from keyguard.manual_clock import ManualClock
from keyguard.observer import Observed, Sink
from keyguard.ops import Demand, Taken
from keyguard.rates import window
from keyguard.stores.health import StoreHealth
from keyguard.usage.asking import Asking

LIMIT = window(100, 3600 * SECOND, "100/hour")
PREFIX = f"rl:key:{LIMIT.code}|"


def attached(usage: Usage, store: Any, clock: Clock = wall_clock, **more: Any) -> Sink:
    """Give a ledger to a stack that there is not, and return what is told of its requests."""
    manual = clock if isinstance(clock, ManualClock) else None
    health = lambda: StoreHealth(True, None, "", 0, 0)  # noqa: E731
    told = {"name": "site", "facts": tuple, "health": health, "cache": dict, **more}
    return usage.attach(Observed(store=store, clock=clock, manual=manual, **told))


def record(subject: str = "acme", at: int | None = None, **fields: Any) -> Decision:
    """A record of a request that was served."""
    plain = Decision(
        at=wall_clock() if at is None else at, request_id="r", trace_id="", subject=subject,
        key_id=f"id-{subject}" if subject else "", client="192.0.2.1", method="GET", route="/", outcome="served",
        cause=None, reason="", status=200, policies=(), taken=(), duration=0.001,
    )  # fmt: skip
    return plain._replace(**fields)


def taken(cost: int = 1, key_id: str = "id-acme", *, refused: bool = False) -> Taken:
    """An answer of a limit that counts by key."""
    demand = Demand("key:100/hour", f"{PREFIX}{key_id}", LIMIT, cost)
    return Taken([demand], [(None, 0, 9, 0, SECOND if refused else 0)], 0, refused)


def refusal(subject: str = "acme", at: int | None = None) -> Decision:
    """A record of a request that a limit has refused."""
    answer = (taken(refused=True),)
    return record(subject, at, outcome="refused", cause=Cause.USAGE, policies=("key:100/hour",), taken=answer)


class Records:
    """Records drawn at random, and their sums."""

    def __init__(self, seed: int, clock: Clock = wall_clock) -> None:
        self._source = random.Random(seed)
        self._clock = clock
        self.requests: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self.routes: Counter[str] = Counter()

    def next(self) -> Decision:
        """The next one."""
        subject = self._source.choice(["acme", "beta", "*", "a|b", "\x00\x1b[2J", "x" * 1000, ""])
        route = self._source.choice(["/", "/items/{id}", "/search"])
        if self._source.random() < 0.2:
            made = refusal(subject, self._clock())
            self.words["usage"] += 1
        else:
            cost = self._source.randrange(1, 4)
            made = record(subject, self._clock(), taken=(taken(cost, f"id-{subject}"),))
            self.words["served"] += 1
            self.units[subject] += cost
        self.requests[subject] += 1
        self.routes[route] += 1
        return made._replace(route=route)

    def check(self, usage: Asking) -> None:
        """Compare them with a ledger, in both tiers."""
        for since in ("2 hours", "47 hours", "30 days"):
            every = usage.of(None, since)
            assert every.requests == sum(self.requests.values())
            assert (every.served, every.refused) == (self.words["served"], self.words["usage"])
            assert {use.route: use.requests for use in every.by_route} == dict(self.routes)
            assert every.units.get(PREFIX, 0) == sum(self.units.values())
            assert sum(sum(bucket.requests.values()) for bucket in every.buckets) == every.requests
            assert sum(use.count for use in every.by_rule) == every.refused
            for subject, requests in self.requests.items():
                found = usage.of(subject, since)
                assert found.requests == requests
                assert found.units.get(PREFIX, 0) == self.units[subject]
                assert sum(use.requests for use in found.by_route) == requests
                assert sum(use.requests for use in found.by_client) == requests
                if subject:
                    assert [(use.key_id, use.requests) for use in found.by_key] == [(f"id-{subject}", requests)]
        ranked = {use.subject: use.requests for use in usage.top()}
        assert sorted(ranked.values()) == sorted(self.requests.values())
