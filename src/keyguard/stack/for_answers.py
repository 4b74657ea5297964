"""The methods of `Keyguard` that answer why: a caller is refused, a request was, a response is not cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.clock import Clock
from keyguard.errors import ConfigurationError
from keyguard.guard import AnyGuard
from keyguard.lazy import instances_of
from keyguard.observer import Observer
from keyguard.ops import Store
from keyguard.process.event_loops import in_thread
from keyguard.run import run_flow
from keyguard.stack.written import StackNote, names_of_bans

if TYPE_CHECKING:
    from datetime import datetime

    from keyguard.guards.cache import Explanation, ResponseCache
    from keyguard.stack.callers import Kind
    from keyguard.units import Duration
    from keyguard.usage import Usage
    from keyguard.why import Diagnosis
    from keyguard.why.requests import RequestReport


class ForAnswers:
    """The part of `Keyguard` that answers why."""

    guards: tuple[AnyGuard, ...]
    store: Store
    _home: Store
    _clock: Clock
    _note: StackNote
    _observers: tuple[Observer, ...]

    if TYPE_CHECKING:  # another part of `Keyguard` has it

        @property
        def cache(self) -> ResponseCache: ...

    def why(
        self,
        who: str,
        *,
        by: Kind | None = None,
        plan: str | None = None,
        since: Duration | datetime = "24 hours",
        check: bool = False,
    ) -> Diagnosis:
        """Return why a caller is refused, or that it is not: by which limit, since when, who has spent it, until when.

        - `who`, `by`, `plan`: the caller, as for `limits`: the id of a key or the key itself, a subject, an address.
        - `since`: from when on requests are counted: a moment, or how long ago.
        - `check`: whether to look closer if the counter and the ledger do not say the same: it takes two intervals of
          the ledger, 4 seconds. Nothing is repaired.

        Without `Keyguard(usage=Usage())` it is not known who has asked for what. Raises `ValueError` for who is nobody,
        and `StoreError` if the store fails.
        """
        from keyguard.stack.diagnosing import INTERVAL, Diagnoses

        usage = self._usage_if_any()
        answers = Diagnoses(
            self.store,
            self._note.facts,
            self._clock,
            ledger=usage,
            bans=names_of_bans(self.guards),
            interval=INTERVAL if usage is None else usage.every,
        )
        return answers.of(who, by=by, plan=plan, since=since, check=check)

    async def awhy(
        self,
        who: str,
        *,
        by: Kind | None = None,
        plan: str | None = None,
        since: Duration | datetime = "24 hours",
        check: bool = False,
    ) -> Diagnosis:
        """Do as `why` does, under an event loop."""
        return await in_thread(self.why, who, by=by, plan=plan, since=since, check=check)

    def explain(self, what: str) -> Explanation | RequestReport:
        """Return why one request ended as it did, by its id, or why a response is not cached, by its URL or path.

        What begins with a slash, or has `://`, is a URL: then it tells why the last response for it was stored or was
        not, as `cache.explain` does. Of requests this process remembers the last 2,000; refusals of all processes are
        found for an hour. Both needs `Keyguard(usage=Usage())`. Raises `StoreError` if the ledger's store fails.
        """
        from keyguard.why.recall import written
        from keyguard.why.requests import RequestReport

        if not isinstance(what, str) or what.startswith("/") or "://" in what:
            return self.cache.explain(what)
        for recall in instances_of(self._observers, "keyguard.why.recall", "Recall"):
            found: RequestReport | None = recall.find(what)
            if found is not None:
                return found
        usage = self._usage_if_any()
        if usage is None:
            raise ConfigurationError(
                "no requests are remembered: write Keyguard(usage=Usage()); a URL begins with a slash, or has '://'"
            )
        store, clock = usage._ledger()
        return run_flow(store, written(what, clock())) or RequestReport(what, False)

    async def aexplain(self, what: str) -> Explanation | RequestReport:
        """Do as `explain` does, under an event loop."""
        return await in_thread(self.explain, what)

    def refusals(self, subject: str | None = None) -> tuple[RequestReport, ...]:
        """Return the latest refusals of a subject, of callers without a key (`""`), or of all: the last one first.

        They are those of the last day, as far as the ledger has written them. Raises `ConfigurationError` without one.
        """
        from keyguard.why.recall import latest

        usage = self._usage_if_any()
        if usage is None:
            raise ConfigurationError("no refusals are remembered: write Keyguard(usage=Usage())")
        return run_flow(usage._ledger()[0], latest(subject))

    async def arefusals(self, subject: str | None = None) -> tuple[RequestReport, ...]:
        """Do as `refusals` does, under an event loop."""
        return await in_thread(self.refusals, subject)

    def _usage_if_any(self) -> Usage | None:
        if self.store is not self._home:  # in a test, of which no ledger hears
            return None
        return next(iter(instances_of(self._observers, "keyguard.usage.usage", "Usage")), None)
