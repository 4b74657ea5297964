"""The ledger of one process: it takes records in, and sends what they come to every so many seconds.

Rules:
- A record costs a request an append. Each 512th folds them; nobody waits for a lock.
- What is sent is numbered, and kept as it is until the store has answered: so it may be sent again, and counts once.
- What comes meanwhile is added up, within a bound. What does not fit is counted, and told.
- A store that does not answer is asked less and less often, up to each 15 s. It holds up no request: it is another
  object than the stack's, with a time-out of its own.
- A child of a fork begins with nothing: what its parent has not sent is the parent's.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from math import inf

from keyguard.clock import SECOND, Clock, monotonic, pause
from keyguard.decision import Decision
from keyguard.errors import KeyguardError
from keyguard.logs import logger, plain
from keyguard.observer import Observed
from keyguard.ops import Put, Store, traits_of
from keyguard.ops.usage import UNSURE, AddUsage, NoteProcess, UsagePart, UsageRow, slots_in
from keyguard.process.background import PATIENCE, time_left
from keyguard.process.fork import renew_after_fork
from keyguard.request import Settled
from keyguard.usage.facts import Facts
from keyguard.usage.names import BEGUN, MINUTE
from keyguard.usage.pending import Pending
from keyguard.usage.this_process import facts_of

log = logger("keyguard.usage")

FOLD = 512
"""Records that are folded at once."""
QUEUE = 16_384
"""Records that wait at most: more come only while the thread that folds them gets no turn."""
BATCH = 16
"""Subjects that are sent in one trip. After each other threads get a turn, which wait for the interpreter."""
_NEAR = 4  # subjects, for a store in this process: nothing else gives others a turn
_SLOWEST = 15.0  # seconds between two attempts on a store that does not answer
_AT_END = 2.0  # seconds in which the last flush is tried anew: its store may be on its way back
_OF_OTHERS = PATIENCE - _AT_END  # seconds that ledgers leave, all in all, to whatever else ends with the process
_NOTED = 10.0  # seconds after which a process that has nothing to send says that it is there

Contribution = Callable[[], Mapping[str, int]]
Listener = Callable[[Sequence[Decision]], None]


class _Sent:
    """Additions that are on their way, in one trip."""

    __slots__ = ("ops", "since")

    def __init__(self, ops: Sequence[AddUsage]) -> None:
        self.ops = ops
        self.since = inf
        """When they were first sent, as `keyguard.clock.monotonic`."""


class Ledger:
    """The ledger of one process."""

    def __init__(self, *, max_subjects: int, minutes: int, hours: int, every: float) -> None:
        self._new_pending: Callable[[], Pending] = partial(Pending, max_subjects, minutes=minutes, hours=hours)
        self._every = every
        self.store: Store | None = None
        self.stacks: list[Observed] = []
        self.listeners: list[Listener] = []
        """Functions that are given the records of each flush, in the background."""
        self.contributions: dict[str, tuple[Contribution, UsageRow]] = {}
        """The functions whose numbers are added to totals at each flush, by the name of the total."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._queue: deque[Decision] = deque()
        self._settled: deque[Settled] = deque(maxlen=QUEUE)
        self._heard: list[Decision] = []
        self._folding = threading.Lock()
        self._sending_lock = threading.Lock()
        self._facts = Facts()
        self._pending = self._new_pending()
        self._sent: deque[_Sent] = deque()
        self._token = os.urandom(6).hex()
        self._seq = 0
        self._ahead: int | None = None
        self._again = 0.0
        self._wait = 0.0
        self._noted = 0.0
        self._process_noted = False
        self._heard_of_store = False
        self._lost: dict[int, int] = {}
        self._told: set[str] = set()
        self.failure = ""
        """Why the store did not take the last flush; empty if it did."""

    @property
    def dropped(self) -> int:
        """Requests that this process has not counted, since its start."""
        return self._pending.dropped

    @property
    def overflow(self) -> int:
        """Requests that are counted for the whole service alone, since the start."""
        return self._pending.overflow

    # -- taking records in --------------------------------------------------------------------------------

    def sink(self, wake: Callable[[], None]) -> Callable[[Decision], None]:
        """Return the function that is told of each request. `wake` is called now and then: it must cost little."""

        def hear(record: Decision) -> None:
            queue = self._queue
            queue.append(record)
            if len(queue) >= FOLD:
                self.fold()
            wake()

        def settle(settled: Settled) -> None:
            self._settled.append(settled)
            wake()

        hear.settled = settle  # type: ignore[attr-defined]
        return hear

    def fold(self) -> None:
        """Fold the records that wait, unless somebody does so already."""
        if not self._folding.acquire(blocking=False):
            if len(self._queue) > QUEUE:  # the thread that folds got no turn for so long
                self._lose()
            return
        try:
            self._fold()
        finally:
            self._folding.release()

    def _fold(self) -> None:
        queue = self._queue
        records = []
        try:
            for _ in range(len(queue)):
                records.append(queue.popleft())
        except IndexError:  # taken by `_lose`
            pass
        self._facts.settle([self._settled.popleft() for _ in range(len(self._settled))], self._ahead or 0)
        if not records:
            return
        dropped = self._facts.fold(records, self._ahead or 0)
        if dropped:
            self._note_lost(records[-1].at // MINUTE, dropped)
        if self.listeners and len(self._heard) < QUEUE:
            self._heard += records

    def _lose(self) -> None:
        try:
            record = self._queue.popleft()
        except IndexError:
            return
        self._note_lost(record.at // MINUTE, 1)

    def _note_lost(self, minute: int, count: int) -> None:
        self._lost[minute] = self._lost.get(minute, 0) + count

    # -- sending ------------------------------------------------------------------------------------------

    def flush(self, last: bool = False) -> None:
        """Send what there is to send, in the background. `last`: it will not be called again soon.

        Raises nothing: a store that does not answer is told of once, and asked again later. At the last time it is
        asked for two seconds if there is something to write, and usage that it does not take is told.
        """
        store = self.store
        if store is None:
            return
        until = monotonic() + min(_AT_END, time_left() - _OF_OTHERS) if last and not self._by_hand() else 0.0
        while not (done := self._flush(store, last)) and (self._unwritten or self._process_noted):
            if monotonic() >= until:
                break
            pause(0.1)
        if last and not done and self._unwritten:
            log.warning("usage was not written down at the end: %s", self.failure)

    @property
    def _unwritten(self) -> bool:
        """Whether there is usage that its store has not taken."""
        return bool(self._sent) or not self._pending.empty

    def _flush(self, store: Store, last: bool) -> bool:
        """Send what there is to send, and tell whether the store has answered all that it was asked."""
        with self._sending_lock:
            now = monotonic()
            ready = last or now >= self._again
            self._heard_of_store = False
            try:
                try:
                    if ready:
                        self._meet(store, now)
                finally:
                    self._gather()
                if ready:
                    self._send(store, now)
                    self._note(store, now, last)
            except KeyguardError as error:
                self._failed(plain(error), now)
                return False
            if self._heard_of_store:  # and not if there was nothing to ask it
                self._answered()
            return True

    def _meet(self, store: Store, now: float) -> None:
        """Learn, at first, how far the store's clock is from that of the records."""
        if self._ahead is None:
            at = self._note_process(store)
            store.execute([Put(BEGUN, b"%d" % at, expected=None)])
            self._noted = now
            self._ahead = self._difference(at)

    def _difference(self, at: int) -> int:
        """Return how far the store's clock is ahead; clocks that differ by less than two seconds count as one."""
        clock = self._clock()
        ahead = 0 if clock is None else at - clock()
        return ahead if abs(ahead) >= 2 * SECOND else 0

    def _clock(self) -> Clock | None:
        return self.stacks[0].clock if self.stacks else None

    def _gather(self) -> None:
        """Make what is to be sent of what was taken in."""
        with self._folding:
            self._fold()
            facts, self._facts = self._facts, Facts()
            heard, self._heard = self._heard, []
            lost, self._lost = self._lost, {}
        self._pending.take_in(facts)
        for minute, count in lost.items():
            self._pending.drop(minute, count)
        for listener in self.listeners if heard else ():
            try:
                listener(heard)
            except Exception:
                log.exception("what listens to the ledger failed, and the flush goes on")

    def _contribute(self) -> None:
        clock = self._clock()
        if clock is None:
            return
        for name, (function, row) in self.contributions.items():
            try:
                counts = function()
            except Exception:
                log.exception("the totals of %r could not be told, and the flush goes on", name)
                continue
            self._pending.add_total(name, counts, row, clock())

    def _send(self, store: Store, now: float) -> None:
        self._resend(store, now)
        self._contribute()
        if self._pending.empty:
            return
        self._seq += 1
        ops = [AddUsage(self._token, self._seq, parts) for parts in self._pending.taken()]
        size = _NEAR if traits_of(store).near else BATCH
        for place in range(0, len(ops), size):
            self._sent.append(_Sent(ops[place : place + size]))
        self._resend(store, now)

    def _resend(self, store: Store, now: float) -> None:
        while self._sent:
            sent = self._sent[0]
            if now - sent.since > UNSURE:  # it might be counted twice by now
                self._sent.popleft()
                self._pending.drop(self._minute(), sum(_requests_in(op.parts) for op in sent.ops))
                continue
            sent.since = min(sent.since, now)
            for op, added in zip(sent.ops, store.execute(sent.ops), strict=True):
                self._heard_of_store = True
                if added.later:
                    self._tell("a later keyguard has written %s, and this one leaves them alone", added.later)
                    self._pending.pass_over(self._minute(), _requests_in(op.parts, added.later))
                if added.damaged:
                    self._tell("%s could not be read, and are begun anew", added.damaged)
            self._sent.popleft()
            pause(0)

    def _minute(self) -> int:
        clock = self._clock()
        return 0 if clock is None else (clock() + (self._ahead or 0)) // MINUTE

    def _tell(self, what: str, keys: Sequence[str]) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning(f"usage: {what}", f"values such as {keys[0]!r:.80}")

    def _failed(self, why: str, now: float) -> None:
        if not self.failure:
            log.warning("usage is not written down, and is added up until its store answers: %s", why)
        self.failure = why
        self._wait = min(_SLOWEST, max(self._every, 2 * self._wait))
        self._again = now + self._wait

    def _answered(self) -> None:
        if self.failure:
            log.warning("usage is written down again")
        self.failure, self._wait, self._again = "", 0.0, 0.0

    # -- the process --------------------------------------------------------------------------------------

    def _note(self, store: Store, now: float, last: bool) -> None:
        if last:
            if self._process_noted:
                store.execute([NoteProcess(self._token, None)])
                self._process_noted = False
                self._ahead = None
            return
        if self._by_hand() or now - self._noted >= min(_NOTED, 5 * self._every):
            self._noted = now
            self._ahead = self._difference(self._note_process(store))

    def _by_hand(self) -> bool:
        """Tell whether time is set by hand: then none passes by itself."""
        return bool(self.stacks) and self.stacks[0].manual is not None

    def _note_process(self, store: Store) -> int:
        at: int = store.execute(
            [NoteProcess(self._token, facts_of(self.stacks, self._every, self.dropped, self.overflow))]
        )[0]
        self._process_noted = self._heard_of_store = True
        return at


def _requests_in(parts: Iterable[UsagePart], keys: Collection[str] | None = None) -> int:
    """Return how many requests some parts tell of, or those with these keys. The whole service has them all anyway."""
    told = [part for part in parts if part.key[part.key.rindex("|") + 1] == "h" and part.key[:3] != "u:!"]
    counts = [part.slotted.get("n", {}) for part in told if keys is None or part.key in keys]
    return sum(sum(slots_in(text).values()) for names in counts for text in names.values())
