"""Policies of a stack: where they stand, and what they would have refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from keyguard.conditions import Condition
from keyguard.errors import ConfigurationError
from keyguard.guards.rate_limit import RateLimit
from keyguard.lazy import instances_of

if TYPE_CHECKING:
    from keyguard.policies import Policy, PolicySet, Shadow
    from keyguard.policies.shadow import Record


def stacked(guards: Iterable[Any]) -> tuple[Any, ...]:
    """Return the guards of a stack with its policies as gates.

    Raises `ConfigurationError` if two policies have the same name.
    """
    found = tuple([_gate_of(guard) if is_policy(guard) else guard for guard in guards])
    names: set[str] = set()
    for gate in sets_among(found):
        for policy in gate.policies:
            if policy.name in names:
                raise ConfigurationError(f"two policies are called {policy.name!r}: give each a name of its own")
            names.add(policy.name)
    return found


def _gate_of(policy: Policy) -> PolicySet:
    from keyguard.policies import all_of

    return all_of(policy)


def is_policy(guard: object) -> bool:
    """Tell whether what stands in a stack is a policy, and not a guard."""
    return bool(instances_of([guard], "keyguard.policies.policy", "Policy"))


def sets_among(guards: Iterable[Any]) -> list[PolicySet]:
    """Return the sets of policies among the guards of a stack."""
    return instances_of(guards, "keyguard.policies.policy", "PolicySet")


def shadows_among(guards: Iterable[Any]) -> list[Shadow]:
    """Return the guards that decide in shadow mode."""
    return instances_of(guards, "keyguard.policies.shadow", "Shadow")


def unwrapped(guard: Any) -> Any:
    """Return the guard that decides: one in shadow mode stands in another."""
    return next((shadow.guard for shadow in shadows_among([guard])), guard)


def records_of(guards: Iterable[Any]) -> list[Record]:
    """Return the records of what guards in shadow mode would have refused, each once."""
    return [*{id(shadow.record): shadow.record for shadow in shadows_among(guards)}.values()]


def limits_in_shadow(guards: Iterable[Any]) -> dict[int, Record]:
    """Return the records of the limits in shadow mode, by the numbers of the limits."""
    found = shadows_among(guards)
    return {shadow.guard.number: shadow.record for shadow in found if isinstance(shadow.guard, RateLimit)}


def patterns_of(guards: Iterable[Any]) -> tuple[str, ...]:
    """Return the patterns of the paths that guards and policies are about, in their order, each once."""
    found: dict[str, None] = {}
    for guard in guards:
        conditions = [getattr(guard, "paths", None), getattr(getattr(guard, "selection", None), "paths", None)]
        conditions += [policy.condition for gate in sets_among([guard]) for policy in gate.policies]
        for condition in conditions:
            if isinstance(condition, Condition):
                found.update(dict.fromkeys(condition.needed or ()))
    return tuple(found)
