"""Telling observers what a request has cost in the end, if its record could not know: it was made at the head."""

from __future__ import annotations

from collections.abc import Iterable

from keyguard.logs import logger
from keyguard.ops import Demand
from keyguard.request import CarriedRequest, Settled, Shadowed

log = logger("keyguard")


def tell_of_costs(request: CarriedRequest, costs: Iterable[tuple[Demand, int]]) -> None:
    """Tell by how many units a request has cost more of some limits, or less, than its record says.

    The record has what was taken of limits that hold nothing. What is in shadow mode is nobody's usage.
    """
    listeners = [listen for sink in request.settings.sinks if (listen := getattr(sink, "settled", None)) is not None]
    if not listeners:
        return
    state = request.state
    shadows = {
        demand.key for decided in state.decided if isinstance(decided, Shadowed) for demand in decided.taken.demands
    }
    units = tuple([(demand.key, more) for demand, more in costs if more and demand.key not in shadows])
    if not units:
        return
    identity = state.caller
    told = Settled(request.clock(), identity.subject, identity.key_id, request.method, state.route or "", units)
    for listen in listeners:
        try:
            listen(told)
        except Exception:
            log.exception("what listens to costs failed, and the request went on")
