"""Limits at work: they take, and refuse, or forward and tell. Those of one guard, or of several that join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyguard.errors import AmbiguousPath, StoreBusy, StoreError
from keyguard.guard import Decide, Guard, Mark, may_decide, within
from keyguard.guards.rate_limit import rules as settings
from keyguard.guards.rate_limit.outcomes import Charge, refuse_limited, without_store
from keyguard.ops import Demand, Take, Taken
from keyguard.problem import refuse_ambiguous, refuse_busy
from keyguard.request import Forward, Request
from keyguard.response import Response

KEPT = 4096
"""Operations that are ready for the next request of the same caller."""


class Limiting(Guard):
    """The whole of rate limiting: take, and refuse, or forward and tell."""

    @staticmethod
    def joined(limits: Sequence[Limiting]) -> Limiting:
        """Make one guard of limits that stand next to each other."""
        return RateLimitGroup(limits)

    fixed: bool
    """Whether no function has a say in what a request takes."""

    def take_at_once(self, request: Request) -> Take | None:
        """Say what a request takes, if no function has a say in it; `None` for nothing.

        Raises `AmbiguousPath` if that cannot be said.
        """
        raise NotImplementedError

    async def chosen_take(self, request: Request) -> Take | None:
        """Say the same, if functions decide."""
        raise NotImplementedError

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if request.method == "OPTIONS" and request.findings.preflight:
            return await forward(request)  # nothing is known of its caller
        try:
            asked = self.take_at_once(request) if self.fixed else await self.chosen_take(request)
        except AmbiguousPath:
            return refuse_ambiguous(request)
        if asked is None:
            return await forward(request)
        try:
            taken: Taken = await asked
        except StoreBusy:
            return refuse_busy(request)
        except StoreError:
            return await without_store(request, asked, forward)
        if taken.refused:
            return refuse_limited(request, taken)
        return await within((Charge(taken),), request, forward)


def deciding(limiting: Limiting, store: Any) -> Decide | None:
    """Return what takes from a store that answers at once, if it is known at once what a request takes."""
    if store is None or not limiting.fixed:
        return None
    execute, take_at_once = store.execute, limiting.take_at_once

    def decide(request: Request) -> Response | Mark | None:
        if request.method == "OPTIONS" and request.findings.preflight:
            return None  # nothing is known of its caller
        try:
            take = take_at_once(request)
        except AmbiguousPath:
            return refuse_ambiguous(request)
        if take is None:
            return None
        taken: Taken = execute((take,))[0]
        return refuse_limited(request, taken) if taken.refused else Charge(taken)

    return decide


class RateLimitGroup(Limiting):
    """Rate limits that stand next to each other: one operation takes from all of them, or from none."""

    def __init__(self, limits: Sequence[Limiting]) -> None:
        self.limits = tuple(limits)
        self.fixed = all(limit.fixed for limit in limits)
        self._ready: dict[tuple[Take, ...], Take] = {}

    def decider(self, store: Any) -> Decide | None:
        return deciding(self, store) if all(map(may_decide, self.limits)) else None

    def take_at_once(self, request: Request) -> Take | None:
        takes = []
        for limit in self.limits:
            asked = limit.take_at_once(request)
            if asked is not None:
                takes.append(asked)
        if len(takes) < 2:
            return takes[0] if takes else None
        together = tuple(takes)
        joined = self._ready.get(together)
        if joined is None:
            if len(self._ready) >= KEPT:
                self._ready.clear()
            joined = self._ready[together] = _joined(together)
        return joined

    async def chosen_take(self, request: Request) -> Take | None:
        takes = []
        for limit in self.limits:
            asked = limit.take_at_once(request) if limit.fixed else await limit.chosen_take(request)
            if asked is not None:
                takes.append(asked)
        return _joined(takes) if takes else None


def take_of(rules: Sequence[settings.Rule], bucket: str, cost: int) -> Take:
    demands = [Demand(rule.name, rule.prefix + bucket, rule.limit, cost) for rule in rules]
    return Take(settings.RuleDemands(rules, demands))


def _joined(takes: Sequence[Take]) -> Take:
    rules: list[settings.Rule] = []
    demands: list[Demand] = []
    for take in takes:
        assert isinstance(take.demands, settings.RuleDemands)
        rules += take.demands.rules
        demands += take.demands
    return Take(settings.RuleDemands(rules, demands))
