"""Policies of a stack: where they stand, and what they would have refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyguard.conditions import Condition
from keyguard.errors import ConfigurationError
from keyguard.guards.rate_limit import RateLimit
from keyguard.policies import Policy, PolicySet, Shadow, all_of
from keyguard.policies.shadow import Record


def stacked(guards: Iterable[Any]) -> tuple[Any, ...]:
    """Return the guards of a stack with its policies as gates.

    Raises `ConfigurationError` if two policies have the same name.
    """
    found = tuple([all_of(guard) if isinstance(guard, Policy) else guard for guard in guards])
    names: set[str] = set()
    for gate in found:
        if isinstance(gate, PolicySet):
            for policy in gate.policies:
                if policy.name in names:
                    raise ConfigurationError(f"two policies are called {policy.name!r}: give each a name of its own")
                names.add(policy.name)
    return found


def unwrapped(guard: Any) -> Any:
    """Return the guard that decides: one in shadow mode stands in another."""
    return guard.guard if isinstance(guard, Shadow) else guard


def records_of(guards: Iterable[Any]) -> list[Record]:
    """Return the records of what guards in shadow mode would have refused, each once."""
    return [*{id(guard.record): guard.record for guard in guards if isinstance(guard, Shadow)}.values()]


def limits_in_shadow(guards: Iterable[Any]) -> dict[int, Record]:
    """Return the records of the limits in shadow mode, by the numbers of the limits."""
    shadows = [guard for guard in guards if isinstance(guard, Shadow)]
    return {shadow.guard.number: shadow.record for shadow in shadows if isinstance(shadow.guard, RateLimit)}


def patterns_of(guards: Iterable[Any]) -> tuple[str, ...]:
    """Return the patterns of the paths that guards and policies are about, in their order, each once."""
    found: dict[str, None] = {}
    for guard in guards:
        conditions = [getattr(guard, "paths", None), getattr(getattr(guard, "selection", None), "paths", None)]
        if isinstance(guard, PolicySet):
            conditions += [policy.condition for policy in guard.policies]
        for condition in conditions:
            if isinstance(condition, Condition):
                found.update(dict.fromkeys(condition.needed or ()))
    return tuple(found)
