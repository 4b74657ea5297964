"""The answer to callers who ask for their own usage, put where it belongs in a stack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyguard.errors import ConfigurationError
from keyguard.guard import declared
from keyguard.policies import Policy
from keyguard.usage import Usage


def with_own_usage(guards: Iterable[Any], usage: object) -> tuple[Any, ...]:
    """Return the guards of a stack with that of its ledger, if it has one, right behind what finds the caller.

    Raises `ConfigurationError` if nothing finds it.
    """
    found = tuple(guards)
    own = usage.own() if isinstance(usage, Usage) else None
    if own is None:
        return found
    for place, guard in enumerate(found, 1):
        if not isinstance(guard, Policy) and "identity" in declared(guard).provides:
            return (*found[:place], own, *found[place:])
    raise ConfigurationError(
        f"{own!r} tells callers of their own usage, and no guard of this stack finds out who they are: put APIKeys() "
        "before its policies and limits"
    )
