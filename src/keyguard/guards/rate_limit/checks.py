"""Limits at work: they take, and refuse, or forward and tell. Those of one guard, or of several that join."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from keyguard.errors import AmbiguousPath, StoreBusy, StoreError
from keyguard.guards.rate_limit import rules as settings
from keyguard.guards.rate_limit.headers import describe
from keyguard.guards.rate_limit.outcomes import give_back, refuse_limited, without_store
from keyguard.http.fields import LIMIT_FIELDS
from keyguard.ops import Demand, Take, Taken
from keyguard.problem import refuse_ambiguous, refuse_busy
from keyguard.refusal import Cause
from keyguard.request import Forward, Request
from keyguard.response import Response

KEPT = 4096
"""Operations that are ready for the next request of the same caller."""


class Limiting:
    """The whole of rate limiting: take, and refuse, or forward and tell."""

    def asked(self, request: Request) -> Take | Awaitable[Take | None] | None:
        """Say what a request takes; `None` for nothing. Raises `AmbiguousPath` if that cannot be said."""
        raise NotImplementedError

    fixed: bool
    """Whether no function has a say in what it takes."""

    def take_at_once(self, request: Request) -> Take | None:
        """Say the same, if no function has a say in it."""
        raise NotImplementedError

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if request.findings.preflight and request.method == "OPTIONS":
            return await forward(request)  # nothing is known of its caller
        try:
            asked: Any = self.asked(request)
            if asked is not None and asked.__class__ is not Take:
                asked = await asked
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
        try:
            response = await forward(request)
        except GeneratorExit:
            raise  # nobody is left who could ask the store
        except BaseException as error:
            if not request.reached_app:  # a guard further in failed, or the client left: the app did nothing for it
                await give_back(taken, Cause.REQUEST if isinstance(error, AmbiguousPath) else None)
            raise
        refusal = request.findings.refusal
        # An answer that is put in the place of a refusal further in, by a guard between or by the app, is a service.
        if refusal is not None and response.status >= 400:
            await give_back(taken, refusal.cause)
        elif response.status != 429:  # of which the app tells itself: a limit that has passed is not the reason
            findings = request.findings
            if findings.caches and findings.own_limits is None:
                findings.own_limits = tuple([pair for pair in response.headers if pair[0].lower() in LIMIT_FIELDS])
            describe(response.headers, taken)
        return response


class Together(Limiting):
    """Rate limits that stand next to each other: one operation takes from all of them, or from none."""

    def __init__(self, limits: Sequence[Limiting]) -> None:
        self.limits = tuple(limits)
        self.fixed = all(limit.fixed for limit in limits)
        self._ready: dict[tuple[Take, ...], Take] = {}

    def asked(self, request: Request) -> Take | Awaitable[Take | None] | None:
        if not self.fixed:
            return self._chosen_take(request)
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

    async def _chosen_take(self, request: Request) -> Take | None:
        takes = []
        for limit in self.limits:
            asked: Any = limit.asked(request)
            if asked is not None and asked.__class__ is not Take:
                asked = await asked
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
