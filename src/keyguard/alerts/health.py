"""A store that is out of order: told when that lasts, and when it answers again.

Each process sees for itself how its store does. While the store answers alerts nevertheless (a part of it is out of
order, or it can only be read), they decide together; else each tells for itself, under an id that is the same for all
who noticed it within the same five minutes.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from os import getpid

from keyguard.alerts.board import Board
from keyguard.alerts.messages import DEGRADED, moment_text, shortened
from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.ops import FireAlert, ResolveAlert
from keyguard.rates.limit import JSON
from keyguard.stores.health import StoreHealth
from keyguard.units import in_microseconds

PATIENCE = 5 * SECOND
"""How long it has to last: a store that is started anew is no reason to wake anybody."""

_LASTS = 180 * SECOND  # for which the alert stays if this process says nothing more
_SAID = 60 * SECOND
_SAME = 300 * SECOND


class HealthWatch:
    """Tells of the store of one stack."""

    def __init__(self, board: Board, stack: str) -> None:
        self._board = board
        self._stack = stack
        self.id = f"{DEGRADED}|{stack}"
        self.after_fork()

    def after_fork(self) -> None:
        """Forget what the parent has told."""
        self._since: int | None = None
        """Since when it is out of order, if that was told."""
        self._said = 0
        self._fired_locally: FireAlert | None = None
        """The decision of this process alone, to be written down when the store answers again."""

    def look(self, health: StoreHealth, now: int) -> None:
        """Take note of how the store does."""
        if health.ok:
            self._over(now)
            return
        since = now if health.since is None else in_microseconds(health.since)
        if now - since < PATIENCE or (self._since is not None and now - self._said < _SAID):
            return
        self._said = now
        self._since = since if self._since is None else self._since
        fired = self._fired(health, since, self._board.to)
        self._board.decide([fired], locally=True)
        if self._board.known_locally(self.id):
            self._fired_locally = self._fired(health, since, ())

    def _fired(self, health: StoreHealth, since: int, to: Sequence[str]) -> FireAlert:
        about: dict[str, JSON] = {
            "type": DEGRADED,
            "severity": "critical",
            "subject": "",
            "limit": "",
            "loud": True,
            "same": since // _SAME,
            "facts": {
                "stack": self._stack,
                "since": moment_text(since),
                "failure": shortened(health.failure),
                "partial": int(health.partial),
                "process": process_name(),
            },
        }
        return FireAlert(self.id, 0, str(since // _SAME), about=about, to=to, seen=None if to else since, lasts=_LASTS)

    def _over(self, now: int) -> None:
        if self._since is None:
            return
        if self._board.known_locally(self.id):
            self._board.decide_locally([ResolveAlert(self.id)])
        try:
            if self._fired_locally is not None:  # the first of the processes that do so
                self._board.write_down([self._fired_locally, ResolveAlert(self.id)])
                self._fired_locally = None
            self._board.decide([ResolveAlert(self.id)])
        except StoreError:
            return  # it is said once more
        self._since = None


def process_name() -> str:
    """Return the name of this process for people."""
    return f"{socket.gethostname()}:{getpid()}"
