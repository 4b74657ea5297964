"""Stores, processes, and the rules they go by."""

from __future__ import annotations

from datetime import UTC, datetime

from keyguard.counter_names import LimitFacts
from keyguard.dashboard.answers import Outcome, Shown
from keyguard.dashboard.pages.usage import utc
from keyguard.dashboard.reading import Reading, name_of
from keyguard.dashboard.views import Process, Rule, StoreRow, Stores
from keyguard.usage import ProcessInfo

_MOST = 200


def stores(reading: Reading) -> Outcome:
    """Show the stores, the processes and the rules."""
    reading.look_around()
    service = reading.service
    health = service.health
    light = reading.shell("stores").store
    rows = [
        StoreRow(
            name=name_of(service.store),
            kind="decisions",
            up=health.ok,
            seconds=None if light is None else light.seconds,
            since=None if health.since is None else utc(health.since),
            error=health.failure,
            failures=health.failures,
            outages=health.outages,
            degraded=health.degraded,
        )
    ]
    usage = service.usage
    processes = reading.ledger(lambda ledger: ledger.processes())
    if usage is not None:
        failure = usage.failure
        up = processes is not None and not failure
        rows.append(StoreRow(name_of(service.store), "usage", up, error=failure))
    rules = [_rule(each.stack, facts) for each in service.rules for facts in each.facts]
    known = None if processes is None else tuple([_process(one) for one in processes[:_MOST]])
    return Shown(Stores(reading.shell("stores"), tuple(rows), known, tuple(rules[:_MOST])))


def _process(one: ProcessInfo) -> Process:
    wrong = [
        f"{stack}: out of order{_since(health.get('since'))}"
        for stack, health in one.health.items()
        if health.get("ok") is not True
    ]
    return Process(
        host=one.host,
        pid=one.pid,
        version=one.version,
        seen=utc(one.seen),
        up=not one.vanished,
        health="; ".join(wrong),
        dropped=one.dropped,
    )


def _since(told: object) -> str:
    if not isinstance(told, (int, float)) or isinstance(told, bool):
        return ""
    return f" since {datetime.fromtimestamp(told, UTC):%H:%M}"


def _rule(stack: str, facts: LimitFacts) -> Rule:
    return Rule(
        stack=stack,
        name=facts.name,
        rate="" if facts.limit is None else facts.limit.text,
        by=facts.by,
        methods=facts.methods,
        paths=facts.paths,
        plans=facts.plans,
        if_store_fails=facts.if_store_fails,
    )
