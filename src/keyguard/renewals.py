"""Renewals: what is held while a request goes on, such as a slot, is held for longer than one lease.

One thread of a process renews all of it, for event loops and threads alike: an event loop that is blocked for longer
than a lease loses nothing. It renews what one store holds with one lease together, every third of the lease. It is
begun when the first hold of a process is kept, and ends with the process: what a process held that was killed ends with
its leases.
"""

from __future__ import annotations

import threading
from math import inf
from typing import Any

from keyguard.clock import SECOND, monotonic
from keyguard.errors import StoreError
from keyguard.logs import logger, plain
from keyguard.ops import Renew, Store, Taken
from keyguard.process.fork import check_process, forks_in_c, renew_after_fork, run_aside

log = logger("keyguard")

_TOGETHER = 100
"""Holds that are renewed in one call of the store."""


class Kept:
    """Something held that is renewed until it is let go."""

    __slots__ = ("_group", "_renewals", "taken", "until")

    def __init__(self, renewals: Renewals, group: _Group, taken: Taken, until: float) -> None:
        self._renewals = renewals
        self._group = group
        self.taken = taken
        self.until = until
        """When it is not renewed any more."""

    def let_go(self) -> None:
        """Renew it no longer. It may be settled before or after."""
        self._renewals.drop(self._group, self)


class _Group:
    """The holds of one store with leases of one length."""

    __slots__ = ("due", "kept", "store", "third")

    def __init__(self, store: Store, lease: int) -> None:
        self.store = store
        self.third = lease / SECOND / 3
        self.due = inf
        """When they are renewed next, as `monotonic` tells it."""
        self.kept: set[Kept] = set()


class Renewals:
    """The holds of one process."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[tuple[int, int], _Group] = {}
        self._wake: threading.Event | None = None
        """Wakes the thread; `None` if there is none."""
        self._sleeps_until = inf
        self._failed = False
        """Whether renewing has failed, and that was told."""

    def keep(self, store: Store, taken: Taken, max_age: float) -> Kept:
        """Renew what a `Take` holds in a store, from now on, for `max_age` seconds at most."""
        lease = min([demand.lease for demand in taken.demands if demand.lease])
        now = monotonic()
        with self._lock:
            group = self._groups.get((id(store), lease))
            if group is None:
                group = self._groups[id(store), lease] = _Group(store, lease)
            if not group.kept:
                group.due = now + group.third
            kept = Kept(self, group, taken, now + max_age)
            group.kept.add(kept)
            wake = self._wake
            if wake is None:
                self._wake = begun = threading.Event()
            elif group.due < self._sleeps_until:
                wake.set()
        if wake is None:
            # Without the lock: under gevent this lets others run, and one that waits for a lock that was made before
            # gevent came would have all of them wait.
            self._begin(begun)
        return kept

    def drop(self, group: _Group, kept: Kept) -> None:
        with self._lock:
            group.kept.discard(kept)

    def __len__(self) -> int:
        """Count what is renewed."""
        return sum([len(group.kept) for group in [*self._groups.values()]])

    def renew(self, now: float) -> float:
        """Renew what is due. Return when something is due again."""
        with self._lock:
            due = [(group, [*group.kept]) for group in self._groups.values() if group.due <= now]
            for group, _ in due:
                group.due = now + group.third
        for group, holds in due:
            for kept in holds:
                if kept.until <= now:
                    log.warning("a request has gone on for so long that what it holds is not renewed any more")
                    self.drop(group, kept)
            holds = [kept for kept in holds if kept.until > now]
            for start in range(0, len(holds), _TOGETHER):
                self._renew(group, holds[start : start + _TOGETHER])
        with self._lock:
            # A store that nothing is held in is let go.
            self._groups = {key: group for key, group in self._groups.items() if group.kept}
            return min([group.due for group in self._groups.values()], default=inf)

    def _renew(self, group: _Group, holds: list[Kept]) -> None:
        ops: list[Any] = [Renew(kept.taken) for kept in holds]
        try:
            found = group.store.execute(ops)
        except Exception as error:
            if len(holds) > 1 and (not isinstance(error, StoreError) or error.partial):
                for kept in holds:  # it is about one of them, and the others are renewed without it
                    self._renew(group, [kept])
                return
            if not self._failed:
                self._failed = True
                log.warning("leases cannot be renewed at the moment: %s", plain(error))
            return
        self._failed = False
        for kept, standing in zip(holds, found, strict=True):
            if not standing:  # it was settled meanwhile, or has lapsed
                self.drop(group, kept)

    def _begin(self, wake: threading.Event) -> None:
        if forks_in_c():
            return  # it serves no requests: it only becomes the processes that do
        try:
            run_aside("keyguard-renewals", self._run, wake)
        except RuntimeError as error:  # there is no room for a thread: the next hold tries again
            self._wake = None
            log.warning("leases are not renewed: %s", plain(error))

    def _run(self, wake: threading.Event) -> None:
        while True:
            until = self.renew(monotonic())
            with self._lock:
                if self._wake is not wake:
                    return
                until = self._sleeps_until = min([group.due for group in self._groups.values()], default=inf)
                wake.clear()
            wake.wait(None if until == inf else max(0.0, until - monotonic()))


_of_process = Renewals()


def keep(store: Store, taken: Taken, max_age: float) -> Kept:
    """Renew what a `Take` holds in a store, for `max_age` seconds at most, until it is let go."""
    check_process()
    return _of_process.keep(store, taken, max_age)
