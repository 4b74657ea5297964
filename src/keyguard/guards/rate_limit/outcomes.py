"""Answers of limits: the refusal, the charge that is given back, and the decision without a store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from keyguard.clock import SECOND, monotonic
from keyguard.errors import AmbiguousPath, StoreBusy, StoreError
from keyguard.flow import Flow
from keyguard.guard import Ask, Mark
from keyguard.guards.rate_limit.costs import tell_of_costs
from keyguard.guards.rate_limit.headers import describe
from keyguard.guards.rate_limit.rules import Rule, RuleDemands
from keyguard.guards.rate_limit.settling import Outcome, ResponseFields, Settling
from keyguard.guards.rate_limit.turns import Lines, in_turn, only_held
from keyguard.ops import Degraded, Demand, Settle, Take, TakeHere, Taken
from keyguard.problem import Notice, refuse_busy
from keyguard.rates import NEVER
from keyguard.refusal import Cause
from keyguard.refused import refusal_of
from keyguard.request import CarriedRequest, Forward, Request
from keyguard.response import Headers, Response
from keyguard.units import in_words, rfc3339
from keyguard.without_store import DONE, refuse_unchecked

STAYS = frozenset({Cause.CREDENTIALS, Cause.ADDRESS, Cause.REQUEST})
"""Refusals further in that stay charged to limits by address: given back, they would limit no flood of them."""


class Charge(Mark):
    """The charge for a request: given back if it is not served, else described in the fields of the response."""

    __slots__ = ("taken",)

    taken: Taken

    def __init__(self, taken: Taken) -> None:
        self.taken = taken

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Flow[None] | None:
        state = request.state
        if status >= 400:
            refusal = refusal_of(request, status, headers)
            if refusal is not None:
                return give_back(self.taken, refusal.cause)
        if status != 429:  # the app tells of that itself: a limit that let the request pass is not the reason
            if state.caches:
                state.note_own_limits(headers)
            self.describe(headers)
        return None

    def failed(self, request: Request, error: BaseException) -> Flow[None] | None:
        return give_back(self.taken, Cause.REQUEST if isinstance(error, AmbiguousPath) else None)

    def describe(self, headers: Headers) -> None:
        """Tell what is left of each limit."""
        describe(headers, self.taken)


class Bill(Charge):
    """The charge for a request, some limits of which say what it costs when it is over."""

    __slots__ = ("_began", "_headers", "_request", "_status")

    def __init__(self, request: CarriedRequest, taken: Taken) -> None:
        super().__init__(taken)
        self._request = request
        self._began = monotonic()
        self._status = 0
        self._headers: Headers | None = None
        request.at_end(self.pay)
        for lines, key in self._held():
            lines.hold(key)

    def _held(self) -> list[tuple[Lines, str]]:
        """Return where others may wait for what this request holds."""
        return lines_of(self.taken)

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Flow[None] | None:
        self._status, self._headers = status, headers
        refusal = refusal_of(request, status, headers) if status >= 400 else None
        return super().head(request, status, headers) if refusal is None else self._refused(status, refusal.cause)

    def failed(self, request: Request, error: BaseException) -> Flow[None] | None:
        ambiguous = isinstance(error, AmbiguousPath)
        return self._refused(400 if ambiguous else 503, Cause.REQUEST if ambiguous else Cause.FAULT)

    def _refused(self, status: int, cause: Cause) -> Flow[None] | None:
        """Settle a request that a guard further in has refused: it is over."""
        self._request.not_at_end(self.pay)
        return self._settled(self._outcome(status, None, left=False), cause)

    def pay(self) -> Flow[None] | None:
        """Settle the request: called when it is over."""
        state = self._request.state
        failure = state.failure
        stopped = failure is not None and not isinstance(failure, Exception)
        left = stopped or type(failure).__name__ == _LEFT or (failure is None and not state.whole)
        status = self._status or (499 if left else 500)
        return self._settled(self._outcome(status, failure, left=left))

    def _outcome(self, status: int, failure: BaseException | None, *, left: bool) -> Outcome:
        return Outcome(status, failure, ResponseFields(self._headers), monotonic() - self._began, left)

    def _settled(self, outcome: Outcome, refused: Cause | None = None) -> Flow[None] | None:
        """Settle the request; `refused` is why a guard further in refused it."""
        demands = self.taken.demands
        assert isinstance(demands, RuleDemands)
        known: dict[Settling, int] = {}
        """The answer of each function, which is asked once for all limits of its guard."""
        costs = []
        for rule, demand in zip(demands.rules, demands, strict=True):
            settling = rule.settling
            if refused is not None and not (refused in STAYS and stays(rule, demand)):
                costs.append(0)
            elif settling is None:
                costs.append(demand.cost)
            else:
                if settling not in known:
                    known[settling] = settling.cost(rule.guard, outcome, demand.cost)
                costs.append(known[settling])
        if refused is None and self._request.settings.sinks:
            tell_of_costs(
                self._request,
                [(one, cost - (0 if one.lease else one.cost)) for one, cost in zip(demands, costs, strict=True)],
            )
        if all(cost == demand.cost and not demand.lease for cost, demand in zip(costs, demands, strict=True)):
            return None
        return self._book(Settle(self.taken, costs))

    async def _book(self, settle: Settle) -> None:
        try:
            await book(settle)
        finally:
            for lines, key in self._held():
                lines.release(key)


def _lines(rule: Rule, demand: Demand) -> Lines | None:
    """Return where requests wait for what the demand holds; `None` for nowhere."""
    return None if rule.settling is None or not (demand.lease and demand.cost) else rule.settling.lines


def lines_of(asked: Take | Taken) -> list[tuple[Lines, str]]:
    """Return where requests wait for what such a request may hold."""
    demands = asked.demands
    if not isinstance(demands, RuleDemands) or not demands.terms.settled:
        return []
    pairs = zip(demands.rules, demands, strict=True)
    return [(lines, demand.key) for rule, demand in pairs if (lines := _lines(rule, demand)) is not None]


async def wait_for(asked: Take, taken: Taken) -> Taken:
    """Wait until requests of this process release what they hold, if nothing else is missing. Return the answer."""
    demands = taken.demands
    assert isinstance(demands, RuleDemands)
    held = set(map(id, taken.in_use))
    missing = [
        (_lines(rule, one), one.key) for rule, one in zip(demands.rules, demands, strict=True) if id(one) in held
    ]
    lines, key = missing[0]
    if lines is None or any(other is None for other, _ in missing):
        return taken
    return await in_turn(asked, taken, lines, key)


_LEFT = "ClientDisconnect"
"""By the name of this exception Starlette tells its own code that the client has left."""


def charge_for(request: CarriedRequest, taken: Taken) -> Charge:
    """Return the charge for a request that limits have admitted, to be told how that ends."""
    request.state.decided += (taken,)
    demands = taken.demands
    if isinstance(demands, RuleDemands) and demands.terms.settled:
        return Bill(request, taken)
    return Charge(taken)


class AskLimits(Ask):
    """Takes from limits, and refuses or leaves a charge."""

    __slots__ = ()

    op: Take

    def answered(self, result: Taken, request: CarriedRequest) -> Response | Charge:
        return refuse_limited(request, result) if result.refused else charge_for(request, result)

    def spared(self, result: Taken, request: CarriedRequest) -> None:
        request.state.decided += (result,)

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        if isinstance(error, StoreBusy):
            return refuse_busy(request)
        return await without_store(request, self.op, forward)


async def give_back(taken: Taken, cause: Cause | None = None) -> None:
    """Give back what was taken for a request that was not served; `cause` is why a guard further in refused it."""
    if cause in STAYS:
        demands = taken.demands
        assert isinstance(demands, RuleDemands)
        rules = zip(demands.rules, demands, strict=True)
        places = [place for place, (rule, demand) in enumerate(rules) if not stays(rule, demand)]
        if not places:
            return
        if len(places) < len(demands):
            taken = taken.part(places)
    await book(Settle(taken))


def stays(rule: Rule, demand: Demand) -> bool:
    """Tell whether a demand counts by address, so that some refusals further in stay charged."""
    return rule.by_address or demand.key.startswith(rule.prefix + "@")


async def book(settle: Settle) -> None:
    """Settle, if the store can do it."""
    try:
        await settle
    except StoreError:
        await Degraded("a settlement put off")  # until the store answers again; the request has its answer


async def without_store(request: CarriedRequest, asked: Take, forward: Forward) -> Response:
    """Decide while the store is out of order: each limit as it was told to.

    A cost that is above a limit is refused whatever it was told: that needs no store.
    """
    demands = asked.demands
    assert isinstance(demands, RuleDemands)
    above = [demand for demand in demands if demand.cost > demand.limit.max_cost]
    if above:
        return too_costly(above).give(request)
    here: list[Demand] = []
    for rule, demand in zip(demands.rules, demands, strict=True):
        await Degraded(f"{rule.guard} {DONE[rule.if_store_fails]}")
        if rule.if_store_fails == "refuse":
            return refuse_unchecked(request)
        if rule.if_store_fails == "local":
            # Nothing is settled there, so nothing is held.
            here.append(Demand(demand.name, demand.key, demand.limit, demand.cost) if demand.lease else demand)
    if here and (await TakeHere(here)).refused:
        await Degraded("limits refused locally")
        return refuse_unchecked(request)
    return await forward(request)  # what is left of the limits is not known, so nothing is told of it


def refuse_limited(request: CarriedRequest, taken: Taken) -> Response:
    """Answer with a 429: limits are used up. It says which, and when they work again."""
    request.state.decided += (taken,)
    response = _notice_of(taken).give(request)
    describe(response.headers, taken)
    return response


def _notice_of(taken: Taken) -> Notice:
    names: tuple[str, ...] = ()
    longest = 0
    for demand, (_, _, _, _, wait) in zip(taken.demands, taken.takings):  # noqa: B905 - one taking for each demand
        if wait == NEVER:
            return _hopeless(taken)
        if wait:
            names += (demand.name,)
            if wait > longest:
                longest = wait
    if only_held(taken):
        return _limit_held(names, (longest + _UP) // SECOND, (taken.at + longest + _UP) // SECOND)
    return _limit_reached(names, (longest + _UP) // SECOND, (taken.at + longest + _UP) // SECOND)


_UP = SECOND - 1


@lru_cache(maxsize=1024)  # many callers are told the same
def _limit_reached(policies: tuple[str, ...], seconds: int, second: int) -> Notice:
    detail = f"{_used_up(policies)} It works again in {in_words(seconds)}, at {rfc3339(second)}."
    return Notice(Cause.USAGE, 429, detail, "limit-reached", (seconds, second), policies)


@lru_cache(maxsize=1024)
def _limit_held(policies: tuple[str, ...], seconds: int, second: int) -> Notice:
    names = " and ".join(f"'{name}'" for name in policies)
    detail = f"All that is left of {names} is held by requests of yours that are not over yet. Try again when they are."
    return Notice(Cause.USAGE, 429, detail, "limit-held", (seconds, second), policies)


@lru_cache(maxsize=256)
def _used_up(policies: tuple[str, ...]) -> str:
    names = " and ".join(f"'{name}'" for name in policies)
    return f"The limit {names} is used up." if len(policies) == 1 else f"The limits {names} are used up."


def _hopeless(taken: Taken) -> Notice:
    """Tell that waiting does not help: the cost is above a limit, or a balance is spent that nothing else fills."""
    never = [demand for demand, taking in zip(taken.demands, taken.takings, strict=True) if taking[4] == NEVER]
    above = [demand for demand in never if demand.cost > demand.limit.max_cost]
    return too_costly(above) if above else _balance_spent(tuple([demand.name for demand in never]))


@lru_cache(maxsize=256)
def _balance_spent(policies: tuple[str, ...]) -> Notice:
    names = " and ".join(f"'{name}'" for name in policies)
    which, are = ("The balance", "is") if len(policies) == 1 else ("The balances", "are")
    detail = f"{which} {names} {are} too low for this request. Waiting does not help: only a grant of new units does."
    return Notice(Cause.USAGE, 429, detail, "credits-spent", policies=policies)


def too_costly(refusing: Sequence[Demand]) -> Notice:
    """Return what is told of a cost that a limit never admits."""
    policies = tuple([demand.name for demand in refusing])
    names = " and ".join(f"'{name}'" for name in policies)
    cost = max(demand.cost for demand in refusing)
    detail = f"This request costs {cost} units, more than {names} ever allows. Waiting does not help."
    return Notice(Cause.USAGE, 429, detail, "cost-above-limit", policies=policies)
