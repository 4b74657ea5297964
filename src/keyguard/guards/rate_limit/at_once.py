"""Limits that are decided with no coroutine: fast path of `Limiting.__call__`, same answers.

`tests/guards/test_decide.py` plays the same requests through both. If the store has pools, they take from its counters;
whatever a pool leaves undecided is asked as an operation, as on every other store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from keyguard.clock import SECOND
from keyguard.flow import Flow
from keyguard.guard import LONG, Answer, AsyncGuard, Decide, Long
from keyguard.guards.rate_limit.headers import UP
from keyguard.guards.rate_limit.outcomes import AskLimits, Charge, refuse_limited
from keyguard.guards.rate_limit.overriding import fresh
from keyguard.guards.rate_limit.rules import KEPT, LONGEST_BUCKET, UNKNOWN_ADDRESS, Counted, Rule, RuleDemands, Terms
from keyguard.ops import Demand, Take, Taken, traits_of
from keyguard.request import CarriedRequest
from keyguard.response import Headers, ReadyFields
from keyguard.uncounted import UNCOUNTED, refuse_uncounted

_new = object.__new__


class PromptLimit(Protocol):
    """A rate limit, as far as it is decided here."""

    fixed: bool
    prompt: bool

    @property
    def by(self) -> Any: ...

    @property
    def cost(self) -> Any: ...

    @property
    def only_terms(self) -> Terms | None: ...

    @property
    def all_rules(self) -> Sequence[Rule]: ...

    @property
    def all_terms(self) -> Sequence[Terms]: ...

    def counted(self, request: CarriedRequest) -> Counted | None: ...

    def chosen_at_once(self, request: CarriedRequest) -> Counted | Literal[Long.LONG] | None: ...


def deciding(limits: Sequence[PromptLimit], store: Any, guard: AsyncGuard) -> Decide | None:
    """Return a function that takes from neighbouring limits, if it is known at once what a request takes.

    `guard` is the one that they are, or are joined to.
    """
    if not all(limit.prompt for limit in limits):
        return None
    pooled = _pooled(limits, store)
    decide = _decide_one(limits[0], store, pooled) if len(limits) == 1 else _decide_all(limits, store, pooled)
    return fresh(guard, decide) if store is None else decide


def _counting(limit: PromptLimit) -> Callable[[CarriedRequest], Counted | Literal[Long.LONG] | None]:
    return limit.counted if limit.fixed else limit.chosen_at_once


class Pooled:
    """Terms and their pool."""

    __slots__ = ("end", "fields", "pool", "single", "spans", "store", "template", "terms")

    def __init__(self, pool: Any, terms: Terms, store: Any) -> None:
        self.pool = pool
        self.terms = terms
        self.store = store
        """The store that the pool is of."""
        self.single = len(terms.rules) == 1
        self.end = 1 + 2 * len(terms.rules)
        self.spans = range(1, self.end - 1, 2)
        """In the numbers of `RateLimit`, which are a pool's answer from its second place to this end, the times."""
        self.fields = terms.fields or ReadyFields("", "", "")
        self.template = None if terms.legacy else terms.template if terms.fields else b""
        """`RateLimit` without its numbers, if that is all there is to tell besides the policy; empty for nothing."""


def _pooled(limits: Sequence[PromptLimit], store: Any) -> dict[Terms, Pooled]:
    make = traits_of(store).pool
    made: dict[Terms, Pooled] = {}
    if make is None:
        return made
    for limit in limits:
        for terms in limit.all_terms:
            if not terms.rules or terms.settled:  # a cost that is known later is settled by an operation
                continue
            pool = make(terms.rules, limit.all_rules, holds=terms.holds)
            if pool is not None:
                made[terms] = Pooled(pool, terms, store)
    return made


def _decide_one(limit: PromptLimit, store: Any, pooled: dict[Terms, Pooled]) -> Decide:
    counted_by, pooled_by, usual_cost = _counting(limit), pooled.get, limit.cost
    only = limit.only_terms if limit.fixed else None
    only_pooled = None if only is None else pooled_by(only)
    fixed, by_address, by_key = limit.fixed, limit.by == "ip", limit.by == "key"

    def decide(request: CarriedRequest) -> Answer | Literal[Long.LONG]:
        if request.method == "OPTIONS" and request.state.preflight:
            return None  # nothing is known of its caller
        bucket = ""
        if only is not None and not request.settings.overrides.limits:  # fast path of `RateLimit.counted`, same answers
            terms, counters, cost = only, only_pooled, usual_cost
            if by_address:
                client = request.client
                bucket = UNKNOWN_ADDRESS if client is None else client.bucket
            else:
                identity = request.state.identity
                if identity is not None:
                    text = identity.key_id if by_key else identity.subject
                    if len(text) <= LONGEST_BUCKET and text.isascii() and text.isalnum():  # as ids of issued keys are
                        bucket = text
        if not bucket:
            try:
                counted = counted_by(request)
            except UNCOUNTED as error:
                return refuse_uncounted(request, error)
            if counted is None or counted is LONG:
                return counted
            terms, bucket, cost = counted
            counters = pooled_by(terms)
        if counters is None:
            return _asked(request, store, (terms.take if fixed else terms.new_take)(bucket, cost))
        answer = counters.pool.take(bucket, cost)
        if answer.__class__ is list:
            charge = _new(PoolCharge)  # with an `__init__` it takes half as long again
            charge.counters = counters
            charge.bucket = bucket
            charge.cost = cost
            charge.answer = answer
            request.state.decided += (charge,)
            return charge
        take = terms.take(bucket, cost)
        if answer is None:
            return _asked(request, store, take)
        return refuse_limited(request, counters.pool.taken(take.demands, answer))

    return decide


def _decide_all(limits: Sequence[PromptLimit], store: Any, pooled: dict[Terms, Pooled]) -> Decide:
    joined = Joined()
    counting = [_counting(limit) for limit in limits]

    def decide(request: CarriedRequest) -> Answer | Literal[Long.LONG]:
        if request.method == "OPTIONS" and request.state.preflight:
            return None  # nothing is known of its caller
        counted: list[Counted] = []
        try:
            for counted_by in counting:
                found = counted_by(request)
                if found is LONG:
                    return LONG
                if found is not None:
                    counted.append(found)
        except UNCOUNTED as error:
            return refuse_uncounted(request, error)
        if not counted:
            return None
        asked = [(of, bucket, cost) for terms, bucket, cost in counted if (of := pooled.get(terms)) is not None]
        if len(asked) == len(counted):
            answers = store.take_together([(of.pool, bucket, cost) for of, bucket, cost in asked])
            if answers is not None:
                charges = [PoolCharge(*one, answer) for one, answer in zip(asked, answers, strict=True)]
                request.state.decided += tuple(charges)
                return charges[0] if len(charges) == 1 else JoinedCharge(charges, joined)
        takes = [(of.take if of in pooled else of.new_take)(bucket, cost) for of, bucket, cost in counted]
        return _asked(request, store, joined.take(takes))

    return decide


def _asked(request: CarriedRequest, store: Any, take: Take) -> Answer:
    """Take at once, or have the driver ask a store for which one must wait."""
    asked = AskLimits(take)
    return asked if store is None else asked.answered(store.execute((take,))[0], request)


class PoolCharge(Charge):
    """The charge of one pool."""

    __slots__ = ("answer", "bucket", "cost", "counters")

    def __init__(self, counters: Pooled, bucket: str, cost: int, answer: list[int]) -> None:
        self.counters = counters
        self.bucket = bucket
        self.cost = cost
        self.answer = answer

    @property
    def taken(self) -> Taken:  # type: ignore[override]
        counters = self.counters
        demands = counters.terms.take(self.bucket, self.cost).demands
        taken: Taken = counters.pool.taken(demands, self.answer)
        return taken

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Flow[None] | None:
        counters, answer = self.counters, self.answer
        template = counters.template
        if template is None or status >= 400 or request.state.caches:
            return super().head(request, status, headers)
        if not template:
            return None
        # The fast path of `headers.describe`, same fields.
        if counters.single:
            value = template % (answer[1], (answer[2] - answer[0] + UP) // SECOND)
        else:
            before = answer[0] - UP
            numbers = answer[1 : counters.end]
            for place in counters.spans:
                numbers[place] = (numbers[place] - before) // SECOND
            value = template % tuple(numbers)
        headers.join_ready(counters.fields, value)
        return None


class JoinedCharge(Charge):
    """The charge of several pools at the same moment."""

    __slots__ = ("_charges", "_joined")

    def __init__(self, charges: Sequence[PoolCharge], joined: Joined) -> None:
        self._charges = charges
        self._joined = joined

    @property
    def taken(self) -> Taken:  # type: ignore[override]
        parts = [charge.taken for charge in self._charges]
        takings = [taking for part in parts for taking in part.takings]
        return Taken(self._joined.demands([part.demands for part in parts]), takings, parts[0].at, False)


class Joined:
    """Operations of several limits as one, kept for the next requests of the same callers."""

    __slots__ = ("_ready", "_terms")

    def __init__(self) -> None:
        self._terms: dict[tuple[Terms, ...], Terms] = {}
        self._ready: dict[tuple[Take, ...], Take] = {}

    def take(self, takes: Sequence[Take]) -> Take:
        """Return the operation that takes from all of them or from none."""
        if len(takes) == 1:
            return takes[0]
        together = tuple(takes)
        joined = self._ready.get(together)
        if joined is None:
            if len(self._ready) >= KEPT:
                self._ready.clear()
            joined = self._ready[together] = Take(self.demands([take.demands for take in takes]))
        return joined

    def demands(self, parts: Sequence[Any]) -> RuleDemands:
        """Return several lists of demands as one."""
        each = tuple([part.terms for part in parts])
        terms = self._terms.get(each)
        if terms is None:
            if len(self._terms) >= KEPT:
                self._terms.clear()
            terms = self._terms[each] = Terms([rule for one in each for rule in one.rules])
        demands: list[Demand] = [demand for part in parts for demand in part]
        return RuleDemands(terms, demands)
