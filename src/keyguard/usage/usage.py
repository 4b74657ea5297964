"""`Usage`: the ledger of a stack, with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from keyguard.checks import is_whole
from keyguard.clock import SECOND, Clock, wall_clock
from keyguard.counter_names import LimitFacts
from keyguard.decision import Decision
from keyguard.errors import ConfigurationError
from keyguard.guard import Guard
from keyguard.observer import Observed, Sink
from keyguard.ops import Store, traits_of
from keyguard.ops.usage import UsageRow
from keyguard.process.background import Job
from keyguard.stores import open_store
from keyguard.units import Duration, microseconds
from keyguard.usage.asking import Asking
from keyguard.usage.ledger import Ledger
from keyguard.usage.own import OwnUsage
from keyguard.usage.place import ledger_store

_TOTALS = UsageRow(1000, common=True)


class Usage(Asking):
    """The ledger of a stack: what callers ask for and spend, by the minute and by the hour.

        guard = Keyguard(APIKeys(), RateLimit("1000/day", by="key"), store="sqlite:///k.db", usage=Usage())
        print(guard.usage.of("acme", since="6 hours").by_cause)

    It takes note of each request in memory, and writes in the background. A process that is killed loses what came
    after it has last written; one that ends loses nothing.

    - `store`: where it lies, a URL or a store. By default beside the stack's own: in the same database, with
      connections of its own; for `sqlite:///k.db` in `k-usage.db`.
    - `every`: how often it is written.
    - `minutes`, `hours`: how long the minutes of each hour and the hours of each day are kept.
    - `max_subjects`: of how many subjects a process counts each by itself in a day. Requests of further ones are
      counted for the whole service alone.
    - `path`: the path, such as `"/usage"`, at which a caller with a key is told of its own usage, as JSON; `?since=7d`
      says from when on. It is answered right behind the guard that finds the caller, also if its limits are used up.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    def __init__(
        self,
        store: str | Store | None = None,
        *,
        every: Duration = 2.0,
        minutes: Duration = "48h",
        hours: Duration = "400d",
        max_subjects: int = 10_000,
        path: str | None = None,
    ) -> None:
        interval = microseconds("every", every, min=0.1, max=timedelta(minutes=1))
        if not is_whole(max_subjects) or not 1 <= max_subjects <= 1_000_000:
            raise ConfigurationError(f"max_subjects is a whole number from 1 to 1000000, not {max_subjects!r:.80}")
        self.every = interval / SECOND
        self.path = _checked_path(path)
        self._given = store
        self._store = None if store is None else open_store(store)
        self._home: Store | None = None
        self._clock: Clock = wall_clock
        self._job: Job | None = None
        self._ledger_here = Ledger(
            max_subjects=max_subjects,
            minutes=microseconds("minutes", minutes, min=timedelta(hours=1), max=timedelta(days=31)),
            hours=microseconds("hours", hours, min=timedelta(days=2), max=timedelta(days=3660)),
            every=self.every,
        )

    def __repr__(self) -> str:
        return f"<Usage {self._store!r}>" if self._store is not None else "Usage()"

    def own(self) -> Guard | None:
        """Return what tells callers of their own usage; `None` for nothing."""
        if self.path is None:
            return None
        return OwnUsage(self.path, self.of, self._facts, self.every)

    def _facts(self) -> Sequence[LimitFacts]:
        return [fact for stack in self._ledger_here.stacks for fact in stack.facts()]

    # -- for its stack ------------------------------------------------------------------------------------

    def attach(self, stack: Observed, /) -> Sink:
        """Take note of a stack; return what is told of each request. Several stacks may have one ledger."""
        ledger = self._ledger_here
        if self._store is None:
            self._store = ledger_store(stack.store, manual=stack.manual)
        elif isinstance(self._given, str) and stack.manual is not None and self._job is None:
            self._store = open_store(self._given, stack.manual)
        if self._job is None:
            self._clock = stack.clock
            self._job = Job("usage", ledger.flush, self.every, clock=stack.clock)
            self._sink = ledger.sink(self._wake(self._job))
        ledger.store = self._store
        ledger.stacks.append(stack)
        return self._sink

    @staticmethod
    def _wake(job: Job) -> Callable[[], None]:
        def wake() -> None:
            if not job.begun:
                job.wake()

        return wake

    def begin(self) -> None:
        """Begin, in this process."""
        if self._job is not None:
            self._job.wake()

    def close(self) -> None:
        """Write what is left, and close the ledger's store."""
        if self._job is not None:
            self._job.end()
        closing = traits_of(self._store).close
        if closing is not None:
            closing()

    def flush(self) -> None:
        """Write what is left, now: for tests and scripts, which do not wait for it."""
        self._ledger_here.flush()

    # -- for other observers ------------------------------------------------------------------------------

    def listen(self, function: Callable[[Sequence[Decision]], None]) -> None:
        """Have a function given the records of each flush, in the background, before they are written."""
        self._ledger_here.listeners.append(function)

    def contribute(self, name: str, function: Callable[[], Mapping[str, int]]) -> str:
        """Have a function asked, at each flush, what is to be added to the numbers of this name.

        Return the name under which they are read, which has a number if others have added to it in this process. There
        are at most 1,000 numbers. One more is added to that whose last field, after the last U+001F, is `other`.
        """
        known, free = self._ledger_here.contributions, name
        for number in range(2, len(known) + 2):
            if free not in known:
                break
            free = f"{name}-{number}"
        known[free] = function, _TOTALS
        return free

    @property
    def of_one_process(self) -> bool:
        """Whether each process has a ledger of its own."""
        return traits_of(self._store).of_one_process

    @property
    def dropped(self) -> int:
        """Requests that this process has not counted, since its start: there was no room."""
        return self._ledger_here.dropped

    @property
    def overflow(self) -> int:
        """Requests that this process has counted for the whole service alone, since its start."""
        return self._ledger_here.overflow

    @property
    def failure(self) -> str:
        """Why the ledger's store did not take what was last written; empty if it did."""
        return self._ledger_here.failure

    def _ledger(self) -> tuple[Store, Clock]:
        if self._store is None:
            raise ConfigurationError("this ledger has no store yet: give it to a stack, Keyguard(usage=Usage())")
        return self._store, self._clock


def _checked_path(path: str | None) -> str | None:
    if path is None:
        return None
    if isinstance(path, str) and path.startswith("/") and not set(path) & set("{}*?#%") and path == path.rstrip("/"):
        return path
    raise ConfigurationError(f"path is one path, such as '/usage', not {path!r:.80}")
