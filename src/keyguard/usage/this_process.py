"""The facts that a process tells of itself in the ledger: who it is, and how its stores and caches do."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from keyguard.observer import Observed


def host_name() -> str:
    """Return the name of this machine, as processes and metrics tell it."""
    return platform.node()[:128] or "localhost"


@lru_cache(maxsize=1)
def own_version() -> str:
    """Return the version of keyguard."""
    try:
        return version("keyguard")
    except PackageNotFoundError:
        return "?"


def facts_of(stacks: Sequence[Observed], every: float, dropped: int, overflow: int) -> dict[str, Any]:
    """Return what this process tells of itself."""
    cache: dict[str, int] = {}
    for stack in stacks:
        for name, count in stack.cache().items():
            cache[name] = cache.get(name, 0) + count
    return {
        "host": host_name(),
        "pid": os.getpid(),
        "version": own_version(),
        "every": every,
        "health": {stack.name: _health_of(stack) for stack in stacks},
        "dropped": dropped,
        "overflow": overflow,
        "cache": cache,
    }


def _health_of(stack: Observed) -> dict[str, Any]:
    health = stack.health()
    return {
        "ok": health.ok,
        "since": None if health.since is None else int(health.since.timestamp()),
        "failure": health.failure,
        "failures": health.failures,
        "outages": health.outages,
        "degraded": health.degraded,
    }
