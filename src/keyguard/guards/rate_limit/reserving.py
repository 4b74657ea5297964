"""Reserving units for a handler: the decision, with no I/O, as guards write it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from keyguard.clock import SECOND
from keyguard.errors import StoreBusy, StoreError
from keyguard.guards.rate_limit.counters import Counter
from keyguard.guards.rate_limit.outcomes import refuse_limited, too_costly
from keyguard.guards.rate_limit.rules import Rule, RuleDemands, Terms
from keyguard.ops import Degraded, Demand, Take, TakeHere, Taken
from keyguard.problem import refuse_busy
from keyguard.request import CarriedRequest
from keyguard.response import Response
from keyguard.without_store import DONE, refuse_unchecked

LEASE = 10 * SECOND
"""Microseconds for which units are held if the process dies; as long as it lives, they are renewed."""
MAX_AGE = 3600 * SECOND
"""Microseconds after which they are renewed no more."""


async def reserve_units(
    request: CarriedRequest, counters: Sequence[Counter], units: int, lease: int
) -> Taken | Response | None:
    """Hold units of limits. Return what is held, a refusal, or `None` if nothing is since the store is out of order.

    Of limits whose requests do not look at what is held, the units are taken: too many are given back in the end.

    A refusal here is not that of the request yet: its handler may have something else to serve.
    """
    demands = RuleDemands(
        _terms_of(tuple([rule for rule, _ in counters])),
        [Demand(none.name, none.key, none.limit, units, lease if rule.holds else 0) for rule, none in counters],
    )
    state = request.state
    before = state.refusal, state.decided
    try:
        held = await hold_units(request, demands)
        return refuse_limited(request, held) if isinstance(held, Taken) and held.refused else held
    finally:
        state.refusal, state.decided = before


async def hold_units(request: CarriedRequest, demands: RuleDemands) -> Taken | Response | None:
    """Ask the store for what is demanded, or do without it.

    Return its answer, which may be that too little is left; a refusal since the store is out of order, or `None` if the
    limits let the request pass then.
    """
    try:
        taken: Taken = await Take(demands)
        return taken
    except StoreBusy:
        return refuse_busy(request)
    except StoreError:
        return await _without_store(request, demands)


async def _without_store(request: CarriedRequest, demands: RuleDemands) -> Response | None:
    above = [demand for demand in demands if demand.cost > demand.limit.max_cost]
    if above:
        return too_costly(above).give(request)
    here = []
    for rule, demand in zip(demands.rules, demands, strict=True):
        await Degraded(f"{rule.guard} {DONE[rule.if_store_fails]}")
        if rule.if_store_fails == "refuse":
            return refuse_unchecked(request)
        if rule.if_store_fails == "local":
            here.append(Demand(demand.name, demand.key, demand.limit, demand.cost))
    if here and (await TakeHere(here)).refused:
        await Degraded("limits refused locally")
        return refuse_unchecked(request)
    return None


@lru_cache(maxsize=1024)
def _terms_of(rules: tuple[Rule, ...]) -> Terms:
    return Terms(rules)
