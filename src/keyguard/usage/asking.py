"""Questions about usage, for plain code and for event loops: of `guard.usage`, and of a store alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from keyguard.clock import Clock, wall_clock
from keyguard.manual_clock import GivenClock, clock_from
from keyguard.ops import Store
from keyguard.run import arun_flow, run_flow
from keyguard.stores import open_store
from keyguard.units import Duration, seconds
from keyguard.usage import questions, reading
from keyguard.usage.reading import Since
from keyguard.usage.report import ProcessInfo, SubjectUse, UsageReport

_DAY = timedelta(days=1)


class Asking:
    """The questions. Each is one trip to the ledger's store, and raises `StoreError` if that does not answer.

    - `since`: a moment, or how long ago: seconds, a `timedelta` or a text such as `"6 hours"`. Within the last 48 hours
      requests are counted by the minute, before that by the hour.
    - `subject`: the subject of keys; empty for all callers without a key, `None` for the whole service.
    """

    def _ledger(self) -> tuple[Store, Clock]:
        """Return the store of the ledger, and the clock by which it is read."""
        raise NotImplementedError

    def of(self, subject: str | None = None, since: Since = _DAY, *, bucket: Duration | None = None) -> UsageReport:
        """Return what somebody has asked for, and what came of it.

        `bucket`: how long the spans of `buckets` are; by default one that suits the whole.
        """
        store, clock = self._ledger()
        return run_flow(store, reading.report(subject, since, clock, _size(bucket)))

    async def aof(
        self, subject: str | None = None, since: Since = _DAY, *, bucket: Duration | None = None
    ) -> UsageReport:
        """Do as `of` does, under an event loop."""
        store, clock = self._ledger()
        return await arun_flow(store, reading.report(subject, since, clock, _size(bucket)))

    def by_cause(self, since: Since = _DAY) -> Mapping[str, int]:
        """Return how many requests were refused, by cause, most first."""
        return self.of(None, since).by_cause

    async def aby_cause(self, since: Since = _DAY) -> Mapping[str, int]:
        """Do as `by_cause` does, under an event loop."""
        return (await self.aof(None, since)).by_cause

    def top(self, number: int = 20, since: Since = _DAY) -> tuple[SubjectUse, ...]:
        """Return who has asked most, counted by the hour. Of many hundred subjects a number may be too small."""
        store, clock = self._ledger()
        return run_flow(store, questions.ranking(number, since, clock))

    async def atop(self, number: int = 20, since: Since = _DAY) -> tuple[SubjectUse, ...]:
        """Do as `top` does, under an event loop."""
        store, clock = self._ledger()
        return await arun_flow(store, questions.ranking(number, since, clock))

    def last_used(self, *subjects: str) -> Mapping[str, datetime]:
        """Return when the keys of some subjects were last used, to the minute, by the ids of the keys."""
        store, _ = self._ledger()
        return run_flow(store, questions.last_used(subjects))

    async def alast_used(self, *subjects: str) -> Mapping[str, datetime]:
        """Do as `last_used` does, under an event loop."""
        store, _ = self._ledger()
        return await arun_flow(store, questions.last_used(subjects))

    def processes(self) -> Sequence[ProcessInfo]:
        """Return the processes that serve requests, and those that have vanished in the last two days."""
        store, _ = self._ledger()
        return run_flow(store, questions.processes())

    async def aprocesses(self) -> Sequence[ProcessInfo]:
        """Do as `processes` does, under an event loop."""
        store, _ = self._ledger()
        return await arun_flow(store, questions.processes())

    def read_total(self, name: str) -> Mapping[str, int] | None:
        """Return totals that go on for good, by their name; `None` if there are none yet."""
        store, _ = self._ledger()
        return run_flow(store, questions.total(name))

    async def aread_total(self, name: str) -> Mapping[str, int] | None:
        """Do as `read_total` does, under an event loop."""
        store, _ = self._ledger()
        return await arun_flow(store, questions.total(name))


class UsageReader(Asking):
    """A ledger that is only read, by its store alone.

        reader = UsageReader("sqlite:///k-usage.db")

    `store` is that of the ledger, or its URL. `ledger_store(store)` finds the one beside a store.
    """

    def __init__(self, store: str | Store, clock: GivenClock | None = None) -> None:
        self._store = open_store(store)
        self._clock = clock_from(clock, wall_clock)

    def _ledger(self) -> tuple[Store, Clock]:
        return self._store, self._clock


def _size(bucket: Duration | None) -> int | None:
    return None if bucket is None else seconds("bucket", bucket, min=60, max=timedelta(days=31))
