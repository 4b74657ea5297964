"""A store under watch: what fails is left alone for a moment, asked again, and told about.

Rules:
- A failure opens the circuit: until the store has answered again, calls fail at once instead of waiting.
- Every `PROBE` seconds one call goes through as a probe, whatever has become of the one before. It is in the way of no
  other: one that was given up, or failed for a reason of its own, makes room at once.
- One answer is enough. If it is that of a kind of operation that failed, all is as before. If it is of another kind,
  all the others go on; those of the kind that failed are probes, for a full server and a replica still read. When
  nothing has failed for `SETTLED`, all is as before as well: it may be long until somebody asks for that kind again.
- The moment that counts is when an operation began. An answer that was on its way when the store failed proves nothing;
  no more does a failure of what began before an answer came.
- All stacks of a process that use one store object share its circuit, and what they count without it.
- A decision without a trip (a lease) goes on, and says nothing about whether it answers.
- A failure of some keys only (one node of a cluster) does not open the circuit for the others. It is told about all
  the same, and over when nothing of the kind has been seen for `QUIET`.
- An exception that is not a `StoreError` becomes one here alone, so that guards do without the store as they
  were told to. Its traceback is logged, without its text, which may show what was being stored.
- Each change is logged once, and told to whoever listens; requests are counted, not logged.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from keyguard.clock import SECOND, Clock, monotonic
from keyguard.errors import KeyguardError, StoreBusy, StoreError
from keyguard.logs import frames, logger, plain
from keyguard.manual_clock import ManualClock
from keyguard.ops import Op, Store, Take, traits_of
from keyguard.process.fork import ProcessLock, renew_after_fork
from keyguard.stores.health import StoreHealth as StoreHealth
from keyguard.stores.local_shares import Shares

log = logger("keyguard.stores")

PROBE = 0.25
"""Seconds between two probes of a store that failed."""

SETTLED = 0.5
"""Seconds without a failure, after an answer to another kind of operation, after which the store is in order."""

QUIET = 5.0
"""Seconds without a failure after which a part of the store counts as answering again."""


class Listener(Protocol):
    """Something that is told of a change."""

    def tell(self) -> None: ...


class Circuit:
    """Whether a store answers, as this process has seen it.

    `alike`: any operation that is answered shows that the others would be. `near`: the store is in this process, and
    nobody waits for it: each operation may look whether it is back.
    """

    def __init__(self, clock: Clock, *, alike: bool = False, near: bool = False) -> None:
        self._clock = clock
        self._alike = alike
        self._near = near
        self.since: int | None = None
        """Since when it has been open, in microseconds since the Unix epoch; `None` if it is closed."""
        self.part_since: int | None = None
        self.failure = ""
        self.failures = self.outages = 0
        self.begin: Callable[[], int] = count(1).__next__
        """The number of an operation that begins now. One that began later has a higher one."""
        self._opened_at = 0
        """Operations with a number up to this one say nothing by being answered."""
        self._closed_at = 0
        """Operations with a number up to this one say nothing by failing."""
        self._broken: set[type] = set()
        """The kinds of operation that failed and have not been answered since."""
        self._settles: float | None = None
        """When all is as before, if nothing fails until then; `None` if nothing was answered since the failure."""
        self._next_probe = 0.0
        self._probe = 0
        self._part_failed = 0.0
        """When a part of the store failed last."""
        self._told: dict[tuple[str, str, int], float] = {}
        """When the traceback of an unexpected exception was logged last, by its class and the line that raised it."""
        self.shares = Shares(clock if isinstance(clock, ManualClock) else None)
        self.listeners: WeakSet[Listener] = WeakSet()
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._next_probe = 0.0

    @property
    def _pause(self) -> float:
        """Seconds between two probes."""
        return 0.0 if self._near else PROBE

    @property
    def settled(self) -> bool:
        """Whether the store is in order, though nobody has noted it yet."""
        settles = self._settles
        return settles is not None and monotonic() >= settles

    @property
    def part_quiet(self) -> bool:
        """Whether no part of the store has failed for a while."""
        return monotonic() >= self._part_failed + QUIET

    def enter(self, ops: Sequence[Op[Any]]) -> int:
        """Begin an operation though the circuit is open; or raise, if it is not the time to try."""
        with self._lock:
            if self.since is None:
                return self.begin()
            settled = self.settled
            since = self._close() if settled else None
            now = monotonic()
            if not settled and (self._settles is None or not self._broken.isdisjoint(map(type, ops))):
                if now < self._next_probe:
                    error = StoreError(f"the store is out of order: {self.failure}")
                    error.logged = True
                    raise error
                self._next_probe = now + self._pause
                self._probe = self.begin()
                return self._probe
        if since is not None:
            self._tell_closed(since)
        return self.begin()

    def gave_up(self, number: int) -> None:
        """Note that an operation ended, and says nothing about the store: whoever asked has gone, say."""
        if number == self._probe:
            self._next_probe = 0.0

    def answered(self, ops: Sequence[Op[Any]], number: int) -> None:
        """Note an answer, while something is out of order."""
        with self._lock:
            if self.since is None:
                if self.part_since is None or not self.part_quiet:
                    return
                part, since, self.part_since = True, self.part_since, None
            else:
                if number <= self._opened_at:
                    return
                kinds = {type(op) for op in ops}
                # One that takes both reads and writes.
                known = self._alike or Take in kinds or not self._broken.isdisjoint(kinds)
                if not known and not self.settled:
                    if self._settles is None:
                        self._settles = monotonic() + SETTLED
                        self._next_probe = 0.0
                    return
                part, since = False, self._close()
        if part:  # it may have been another part that answered
            passed = (self._clock() - since) / SECOND
            log.warning("a part of the store has not failed for %d s, after %.1f s", QUIET, passed)
            self._tell()
        else:
            self._tell_closed(since)

    def failed(self, ops: Sequence[Op[Any]], error: Exception, number: int) -> Exception:
        """Note a failure. Returns what to raise."""
        if isinstance(error, StoreBusy) or (isinstance(error, KeyguardError) and not isinstance(error, StoreError)):
            self.gave_up(number)
            return error
        failure = error if isinstance(error, StoreError) else self._unexpected(error)
        with self._lock:
            self.failures += 1
            self.failure = plain(failure)
            if failure.partial:
                self.gave_up(number)
                first = self.since is None and self.part_since is None
                self._part_failed = monotonic()
                if first:
                    self.part_since = self._clock()
            else:
                first = self._open({type(op) for op in ops}, number)
            self.outages += first
        failure.logged = True
        if first:
            what = "a part of the store" if failure.partial else "the store"
            log.error("%s is out of order: %s", what, plain(failure))
            self._tell()
        return failure

    def _unexpected(self, error: Exception) -> StoreError:
        """Return what stands for an exception that no store should raise. Its text may hold what was being stored."""
        kind = type(error).__name__
        failure = StoreError(f"the store raised {kind}")
        # A library that fails to connect fails for everybody; one that stumbles over a value, for that one.
        failure.partial = not isinstance(error, OSError)
        *_, (last, line) = traceback.walk_tb(error.__traceback__)
        place = kind, last.f_code.co_filename, line
        with self._lock:
            known = self._told.get(place)
            tell = known is None or monotonic() >= known + QUIET
            if tell:
                self._told.pop(place, None)
                if len(self._told) >= 100:
                    del self._told[next(iter(self._told))]
                self._told[place] = monotonic()
        if tell:
            log.error("the store raised %s\n  %s", kind, frames(error))
        return failure

    def _open(self, kinds: set[type], number: int) -> bool:
        """Note under the lock that the store has failed. Returns whether it was in order before."""
        now = monotonic()
        if number <= self._closed_at:
            return False
        if self.since is None:
            self.since, self.part_since = self._clock(), None
            self._opened_at = self.begin()
            self._broken, self._settles = kinds, None
            self._next_probe = now + self._pause
            return True
        if number <= self._opened_at:
            return False
        if self._settles is None:
            self._opened_at = number
        elif kinds <= self._broken:
            self._settles = now + SETTLED
        else:  # what went on until now fails as well
            self._opened_at = self.begin()
            self._settles = None
            self._next_probe = now + self._pause
        self._broken |= kinds
        if number == self._probe:
            self._next_probe = now + self._pause
        return False

    def _close(self) -> int:
        """Note under the lock that all is as before. Returns since when it was not."""
        since = self.since
        assert since is not None
        self.since = self._settles = None
        self._broken = set()
        self._closed_at = self.begin()
        return since

    def _tell_closed(self, since: int) -> None:
        log.warning("the store answers again, after %.1f s", (self._clock() - since) / SECOND)
        self._tell()

    def _tell(self) -> None:
        for listener in [*self.listeners]:
            listener.tell()


_circuits: WeakKeyDictionary[Any, dict[str, Circuit]] = WeakKeyDictionary()
_making = ProcessLock()


def circuit_of(store: Store, of: str, clock: Clock, alike: bool) -> Circuit:
    """Return the circuit of a store object, for one kind of use."""
    with _making:
        try:
            known = _circuits.setdefault(store, {})
        except TypeError:  # an object of the user's own that cannot be referred to weakly, or has no hash
            known = {}
        if of not in known:
            known[of] = Circuit(clock, alike=alike, near=traits_of(store).near)
        return known[of]
