"""The sender: leases what is due, tries it, and says what became of it. It has a thread of its own, which may wait.

Rules:
- A lease lasts for `LEASE`; a process that dies in the middle is followed by another one then. So a notice may come
  twice, under one id, and it comes.
- What failed is tried again after `PAUSES`, a little later at random, so that not all come at once.
- A receiver that has just failed rests for a moment, whatever else is due for it: it may take five seconds each time,
  and others are waiting.
- No text of an error that others have made reaches the log, since it may hold a URL with its secret.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from os import getpid

from keyguard.alerts.board import Board, Executes
from keyguard.alerts.messages import message_of_delivery
from keyguard.alerts.posting import Failed
from keyguard.alerts.receivers import Gone, Receiver
from keyguard.clock import SECOND, Clock, monotonic, pause
from keyguard.errors import StoreError
from keyguard.logs import frames, logger, plain
from keyguard.ops import SettleDelivery
from keyguard.ops.alert_state import Due
from keyguard.process.background import Job
from keyguard.process.tokens import new_token
from keyguard.rates.limit import NEVER

log = logger("keyguard.alerts")

LEASE = 30 * SECOND
PAUSES = tuple([seconds * SECOND for seconds in (5, 300, 1800, 7200, 18000, 36000)])
"""After the first failure, the second, and so on; after the last of them it is given up."""

EVERY = 1.0
"""Seconds after which it looks whether something is due."""
LISTENS = 15 * SECOND  # microseconds after which the store is asked, whatever is known
_LAST = 4.0  # seconds for what is sent when the process ends
_MOST_KEPT = 100


class Sender:
    """Delivers the notices of one stack, as far as this process leases them."""

    def __init__(
        self,
        board: Board,
        receivers: Sequence[Receiver],
        is_quiet: Callable[[int], bool],
        clock: Clock,
        deciding: Callable[[], bool] = lambda: False,
    ) -> None:
        """`deciding` tells whether something may still be decided before the process ends."""
        self._deciding = deciding
        self._board = board
        self._receivers = {one.name: one for one in receivers}
        self._is_quiet = is_quiet
        self._clock = clock
        self._token = new_token().hex()
        self._next = 0
        """When the store is to be asked next, by this process's clock."""
        self._resting: dict[str, int] = {}
        """Receivers that have failed, and until when they rest."""
        self._unsettled: list[tuple[Executes, SettleDelivery]] = []
        """The operations that the store could not be told."""
        self.job = Job("alert deliveries", self.run, EVERY, clock=clock, alone=True)

    @property
    def who(self) -> str:
        """This process, as it signs its leases."""
        return f"{getpid()}-{self._token}"

    def after_fork(self) -> None:
        """Forget what the parent is about."""
        self._next, self._unsettled, self._resting = 0, [], {}

    def soon(self) -> None:
        """Look at once: something was decided."""
        self._next = 0
        self.job.soon()

    def run(self, last: bool) -> None:
        """Deliver what is due."""
        end = monotonic() + _LAST
        while last and self._deciding() and monotonic() < end - 1:
            pause(0.02)  # at the exit all jobs are ended at once
        self._settle_left()
        while last or self._clock() >= self._next:
            now = self._clock()
            self._next = now + LISTENS
            self._resting = {name: until for name, until in self._resting.items() if until > now}
            awake = [name for name in self._receivers if name not in self._resting]
            leases = self._board.lease(self.who, LEASE, awake, quiet=self._is_quiet(now))
            self._next = min([self._next, *self._resting.values()])
            for _, leased in leases:
                if leased.next is not None:
                    self._next = min(self._next, now + max(0, leased.next - leased.at))
            if not any(leased.due for _, leased in leases):
                return
            self._next = 0  # there may be more
            for store, leased in leases:
                for due in leased.due:
                    if last and monotonic() > end:
                        return  # the lease ends, and another process has it
                    if due.to in self._resting:
                        self._settle(store, SettleDelivery(due.number, PAUSES[0], who=self.who, tried=False))
                    else:
                        self._settle(store, self._tried(due, now))

    def _tried(self, due: Due, now: int) -> SettleDelivery:
        receiver = self._receivers[due.to]
        try:
            receiver.deliver(message_of_delivery(due, now))
        except Gone as error:
            log.warning("%s is turned off: %s", due.to, plain(error))
            return SettleDelivery(due.number, NEVER, who=self.who, gone=True)
        except Exception as error:
            self._resting[due.to] = now + PAUSES[0]
            told = plain(error) if isinstance(error, Failed) else frames(error)
            if due.tries >= len(PAUSES):
                log.error("an alert was not delivered to %s, and is given up: %s id=%s", due.to, told, due.id)
                return SettleDelivery(due.number, NEVER, who=self.who)
            again = int(PAUSES[due.tries] * random.uniform(1, 1.2))
            log.warning(
                "an alert was not delivered to %s, and is tried again in %d seconds: %s id=%s",
                *(due.to, again // SECOND, told, due.id),
            )
            return SettleDelivery(due.number, again, who=self.who)
        return SettleDelivery(due.number, who=self.who)

    def _settle(self, store: Executes, op: SettleDelivery) -> None:
        try:
            store.execute([op])
        except StoreError:
            self._unsettled = [*self._unsettled[-_MOST_KEPT:], (store, op)]

    def _settle_left(self) -> None:
        left, self._unsettled = self._unsettled, []
        for store, op in left:
            self._settle(store, op)
