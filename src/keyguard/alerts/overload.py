"""Overload: requests that were refused since this process, or its store, has no turn for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from keyguard.alerts.health import process_name
from keyguard.alerts.messages import OVERLOAD
from keyguard.clock import SECOND
from keyguard.decision import Decision
from keyguard.ops import FireAlert
from keyguard.rates.limit import JSON
from keyguard.refusal import Cause

LEAST = 10
"""Refusals of a minute, from which it is told."""

_MINUTE = 60 * SECOND
_LASTS = 3 * _MINUTE  # without such a minute, after which it is over
_MOST = 1000


class OverloadWatch:
    """Counts what one process refuses for it."""

    def __init__(self, stack: str) -> None:
        self._stack = stack
        self.id = f"{OVERLOAD}|{stack}"
        self.after_fork()

    def after_fork(self) -> None:
        """Forget what the parent has refused."""
        self._moments: deque[int] = deque(maxlen=_MOST)
        self._said = 0

    def look(self, decisions: Iterable[Decision], now: int, to: Sequence[str]) -> list[FireAlert]:
        """Return what is to be decided."""
        moments = self._moments
        moments += [one.at for one in decisions if one.cause is Cause.OVERLOAD and one.outcome == "refused"]
        while moments and moments[0] <= now - _MINUTE:
            moments.popleft()
        if len(moments) < LEAST or now - self._said < _MINUTE:
            return []
        self._said = now
        about: dict[str, JSON] = {
            "type": OVERLOAD,
            "severity": "critical",
            "subject": "",
            "limit": "",
            "loud": True,
            "facts": {"stack": self._stack, "refused": len(moments), "process": process_name()},
        }
        return [FireAlert(self.id, 0, "", about=about, to=to, lasts=_LASTS)]
