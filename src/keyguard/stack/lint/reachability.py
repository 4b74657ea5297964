"""Limits and policies of a stack that no request can come to, since others stand before them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keyguard.conditions import OnPaths
from keyguard.drivers.inspection.routes import Route, segments_of
from keyguard.guards.rate_limit import RateLimit
from keyguard.policies import PolicySet
from keyguard.rates import Limit
from keyguard.rates.window import WindowLog, WindowSlices
from keyguard.stack.lint.findings import Finding
from keyguard.stack.placed import Placed
from keyguard.stack.route_patterns import covered
from keyguard.stack.route_rules import RouteRule


def unreachable(places: Sequence[Placed]) -> Iterator[Finding]:
    """Find limits that no caller can come to, since another one that is about all the same requests refuses before."""
    everywhere = [place.guard for place in places if place.condition is None and not place.shadow]
    for guard in [place.guard for place in places if _counts(place.guard)]:
        others = [
            guard,
            *[one for one in everywhere if one is not guard and _counts(one) and _about_all_of(one, guard)],
        ]
        for limit in _windows(guard):
            for other in others:
                strict = next((one for one in _windows(other) if one is not limit and _stricter(one, limit)), None)
                if strict is not None:
                    beside = "" if other is guard else f" of {other!r}"
                    said = f"{limit.text} can never be reached: {strict.text}{beside} refuses before"
                    yield Finding("warning", "unreachable-limit", repr(guard), said)
                    break


def unreachable_at_routes(places: Iterable[Placed], rules: Iterable[RouteRule[Any]]) -> Iterator[Finding]:
    """Find the same among the limits at routes: those of the stack refuse before."""
    outside = [place.guard for place in places if place.condition is None and not place.shadow and _counts(place.guard)]
    inside = {rule.limit: rule for rule in rules if _counts(rule.limit)}
    for limit, rule in inside.items():
        assert limit is not None
        for one in _windows(limit):
            strict = next((by for by in outside if _about_all_of(by, limit) and _refuses_before(by, one)), None)
            if strict is not None:
                said = f"{one.text} at {rule.place} can never be reached: {strict!r} refuses before"
                yield Finding("warning", "unreachable-limit", repr(limit), said)


def unreachable_policies(guards: Iterable[Any]) -> Iterator[Finding]:
    """Find policies of `first_match` that stand behind one that takes all their paths."""
    for gate in guards:
        if not isinstance(gate, PolicySet) or not gate.first:
            continue
        for place, policy in enumerate(gate.policies):
            needed = policy.condition.needed
            before = [one for one in gate.policies[:place] if isinstance(one.condition, OnPaths) and not one.shadow]
            for one in before:
                paths = one.condition
                assert isinstance(paths, OnPaths)
                if needed and all(covered(paths, Route(text, segments_of(text), frozenset(), None)) for text in needed):
                    said = f"is never reached: policy {one.name!r} stands before it, and takes all its paths"
                    yield Finding("warning", "unreachable-policy", repr(policy), said)
                    break


def _counts(guard: Any) -> bool:
    return isinstance(guard, RateLimit) and guard.settling is None


def _refuses_before(guard: RateLimit, limit: Limit) -> bool:
    return any(_stricter(one, limit) for one in _windows(guard))


def _windows(guard: RateLimit) -> list[Limit]:
    plans = guard.plans is not None or guard.choose is not None
    return [] if plans else [rule.limit for rule in guard.rules if isinstance(rule.limit, (WindowLog, WindowSlices))]


def _about_all_of(other: RateLimit, guard: RateLimit) -> bool:
    """Tell whether a limit counts at least what another one counts, for the same callers."""
    if other is guard:
        return True
    same_cost = isinstance(guard.cost, int) and other.cost == guard.cost > 0
    return (
        same_cost and isinstance(guard.by, str) and other.by == guard.by and other.fixed and other.selection.everything
    )


def _stricter(one: Limit, limit: Limit) -> bool:
    """Tell whether as many units as `limit` has can never come in its period, since `one` stands beside it."""
    windows = -(-limit.period // one.period)
    most = one.quota * windows
    return most < limit.quota or (most == limit.quota and one.period > limit.period)
