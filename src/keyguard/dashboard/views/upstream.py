"""The page about the app's own keys at providers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keyguard.dashboard.views.parts import Limit, Shell


@dataclass(frozen=True, slots=True)
class UpstreamKey:
    """One key in one class of models."""

    id: str
    group: str
    models: str
    """The class of models; empty for all of them, or all that have no class of their own."""
    state: str
    """`ok`, or why it is left alone: `invalid`, `blocked`, else the cause of its group, such as `exhausted`."""
    until: datetime | None = None
    """The moment at which it works again; `None` if it does, or nobody knows."""


@dataclass(frozen=True, slots=True)
class UpstreamPool:
    """One pool."""

    name: str
    keys: tuple[UpstreamKey, ...]
    limits: tuple[Limit, ...]
    """Those of its groups; `Limit.key` is the group, `paths` the class of models."""
    waiting: int
    """The requests of this process that wait for room."""
    shared: bool
    """Whether its store has answered; if not, this is what the process knows by itself."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The pools of the app: forms post the fields `pool` and `key` to `{root}upstream/enable`."""

    shell: Shell
    pools: tuple[UpstreamPool, ...]
