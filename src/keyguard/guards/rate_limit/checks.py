"""Limits at work: they take, and refuse, or forward and tell. Those of one guard, or of several that join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyguard.chain import within
from keyguard.errors import StoreError
from keyguard.guard import Decide, Guard, may_decide
from keyguard.guards.rate_limit.at_once import Joined, deciding
from keyguard.guards.rate_limit.outcomes import AskLimits, Charge, lines_of, wait_for
from keyguard.guards.rate_limit.overriding import refresh
from keyguard.guards.rate_limit.turns import only_held
from keyguard.ops import Take, Taken
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response
from keyguard.steps import PASSED, let_pass
from keyguard.uncounted import UNCOUNTED, refuse_uncounted


class Limiting(Guard):
    """The whole of rate limiting: take, and refuse, or forward and tell."""

    @staticmethod
    def joined(limits: Sequence[Limiting]) -> Limiting:
        """Make one guard of limits that stand next to each other."""
        return RateLimitGroup(limits)

    fixed: bool
    """Whether no function has a say in what a request takes."""

    def take_at_once(self, request: CarriedRequest) -> Take | None:
        """Say what a request takes, if no function has a say in it; `None` for nothing.

        Raises `AmbiguousPath` if that cannot be said.
        """
        raise NotImplementedError

    async def chosen_take(self, request: CarriedRequest) -> Take | None:
        """Say the same, if functions decide."""
        raise NotImplementedError

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        if request.method == "OPTIONS" and request.state.preflight:
            return await forward(request)  # nothing is known of its caller
        try:
            ask = await self._ask(request)
        except UNCOUNTED as error:
            return refuse_uncounted(request, error)
        if ask is None:
            return await forward(request)
        try:
            answer = await _answer(ask, request)
        except StoreError as error:
            return await ask.failed(error, request, forward)
        return answer if isinstance(answer, Response) else await within((answer,), request, forward)

    async def _ask(self, request: CarriedRequest) -> AskLimits | None:
        if request.settings.overrides.is_due():
            await refresh(request)
        asked = self.take_at_once(request) if self.fixed else await self.chosen_take(request)
        return None if asked is None else AskLimits(asked)

    async def decide_inside(self, request: CarriedRequest, ask: AskLimits | None = None) -> Response | Charge | None:
        """Decide about a request that has reached the app already: a refusal, a charge, or `None` if nothing counts.

        `ask` is known if it is known already what it takes.
        """
        if request.method == "OPTIONS" and request.state.preflight:
            return None
        try:
            ask = ask or await self._ask(request)
        except UNCOUNTED as error:
            return refuse_uncounted(request, error)
        if ask is None:
            return None
        try:
            return await _answer(ask, request)
        except StoreError as error:
            answer = await ask.failed(error, request, let_pass)
            return None if answer is PASSED else answer


async def _answer(ask: AskLimits, request: CarriedRequest) -> Response | Charge:
    """Ask the store, and again in turn if all that is left is held by requests that may not fail."""
    lines = lines_of(ask.op)
    for line, key in lines:
        line.ask(key)
    try:
        taken: Taken = await ask.op
        if taken.refused and only_held(taken):
            taken = await wait_for(ask.op, taken)
        return ask.answered(taken, request)
    finally:
        for line, key in lines:
            line.asked(key)


class RateLimitGroup(Limiting):
    """Rate limits that stand next to each other: one operation takes from all of them, or from none."""

    counting = "charges"

    def __init__(self, limits: Sequence[Any]) -> None:
        self.limits = tuple(limits)
        self.fixed = all(limit.fixed for limit in limits)
        self._joined = Joined()

    def decider(self, store: Any) -> Decide | None:
        return deciding(self.limits, store, self) if all(map(may_decide, self.limits)) else None

    def take_at_once(self, request: CarriedRequest) -> Take | None:
        asked = [limit.take_at_once(request) for limit in self.limits]
        takes = [take for take in asked if take is not None]
        return self._joined.take(takes) if takes else None

    async def chosen_take(self, request: CarriedRequest) -> Take | None:
        takes = []
        for limit in self.limits:
            asked = limit.take_at_once(request) if limit.fixed else await limit.chosen_take(request)
            if asked is not None:
                takes.append(asked)
        return self._joined.take(takes) if takes else None
