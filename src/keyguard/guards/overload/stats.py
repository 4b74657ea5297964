"""The figures that a guard against overload tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OverloadStats:
    """How busy this process is, and what it has refused since the start."""

    limit: int
    """Requests that may be in flight now."""
    in_flight: int
    """Requests that were admitted, and whose response has not begun."""
    latency: float | None
    """Seconds within which nine of ten responses began, lately; `None` before the first 20."""
    usual: float | None
    """The same while nothing waits, as it was learnt."""
    lag: float
    """Seconds by which the event loop is late; 0 under WSGI and trio, and while it is late once only."""
    shed: dict[str, int] = field(default_factory=dict)
    """Refused requests by class: `{"sheddable": 120, "critical": 3}`."""
