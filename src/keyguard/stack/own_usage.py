"""The answer to callers who ask for their own usage, put where it belongs in a stack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyguard.errors import ConfigurationError
from keyguard.guard import declared
from keyguard.lazy import instances_of
from keyguard.stack.policies import is_policy


def with_own_usage(guards: Iterable[Any], usage: object) -> tuple[Any, ...]:
    """Return the guards of a stack with that of its ledger, if it has one, right behind what finds the caller.

    Raises `ConfigurationError` if nothing finds it.
    """
    found = tuple(guards)
    own = next((ledger.own() for ledger in instances_of([usage], "keyguard.usage.usage", "Usage")), None)
    if own is None:
        return found
    for place, guard in enumerate(found, 1):
        if not is_policy(guard) and "identity" in declared(guard).provides:
            return (*found[:place], own, *found[place:])
    raise ConfigurationError(
        f"{own!r} tells callers of their own usage, and no guard of this stack finds out who they are: put APIKeys() "
        "before its policies and limits"
    )
