"""`guard.limits`: looking at what callers have spent, and changing it by hand. `limit_actions` says how."""

from __future__ import annotations

from collections.abc import Iterable

from keyguard.clock import Clock
from keyguard.counter_names import LimitFacts
from keyguard.ops import Store
from keyguard.process.event_loops import in_thread
from keyguard.run import arun_flow, run_flow
from keyguard.stack.callers import Caller, Kind
from keyguard.stack.limit_actions import Actions, LimitChange, LimitUse


class Limits:
    """The limits that count in a store: what callers have spent, for looking and for changing.

    A caller is named by an address (counted as its requests are, IPv6 by /64), the id of a key, or the key itself, a
    subject, or what a function of the request returns. `by` says which of these it is, `"ip"`, `"key"`, `"subject"` or
    `"function"`; by default that is found out: an address, else the id of a key in the store, else a subject. The id of
    a key stands for its subject, too, and an address for callers without a key. If limits count by key, a
    subject stands for its keys as well: each of them is looked at or reset, and a grant is for one that is named.

    `limit` is the name of one limit, or of a guard; `plan` that of the caller's plan, if limits depend on it and no key
    in the store tells it.

    The methods with an `a` before their name are the same for event loops. Raises `ValueError` for a caller, a limit or
    a number that is not possible, and `StoreError` if the store fails: a change may have been made then, so look before
    it is repeated.
    """

    def __init__(self, store: Store, facts: Iterable[LimitFacts], *, clock: Clock) -> None:
        self.facts = tuple(facts)
        """The limits, and whom they count."""
        self._store = store
        self._actions = Actions(store, self.facts, clock)

    # -- the actions --------------------------------------------------------------------------------------

    def peek(
        self, caller: object, *, limit: str | None = None, by: Kind | None = None, plan: str | None = None
    ) -> tuple[LimitUse, ...]:
        """Return what the caller has spent of each limit that counts it."""
        found = self._actions.counted(self._find(caller, by, plan, limit), limit)
        return tuple(use for each in found for use in run_flow(self._store, self._actions.look(each, limit)))

    async def apeek(
        self, caller: object, *, limit: str | None = None, by: Kind | None = None, plan: str | None = None
    ) -> tuple[LimitUse, ...]:
        """Do as `peek` does, under an event loop."""
        found = self._actions.counted(await self._afind(caller, by, plan, limit), limit)
        return tuple([use for each in found for use in await arun_flow(self._store, self._actions.look(each, limit))])

    def reset(
        self,
        caller: object,
        *,
        limit: str | None = None,
        by: Kind | None = None,
        plan: str | None = None,
        actor: str = "app",
    ) -> tuple[LimitChange, ...]:
        """Set all limits that count the caller, or the one that is named, back as if nothing had been spent.

        `actor` is who does it, for the audit log.
        """
        found = self._actions.counted(self._find(caller, by, plan, limit), limit)
        flows = [self._actions.change(each, limit, "reset", 0, actor) for each in found]
        return tuple([change for flow in flows for change in run_flow(self._store, flow)])

    async def areset(
        self,
        caller: object,
        *,
        limit: str | None = None,
        by: Kind | None = None,
        plan: str | None = None,
        actor: str = "app",
    ) -> tuple[LimitChange, ...]:
        """Do as `reset` does, under an event loop."""
        found = self._actions.counted(await self._afind(caller, by, plan, limit), limit)
        flows = [self._actions.change(each, limit, "reset", 0, actor) for each in found]
        return tuple([change for flow in flows for change in await arun_flow(self._store, flow)])

    def grant(
        self,
        caller: object,
        units: int,
        *,
        limit: str | None = None,
        by: Kind | None = None,
        plan: str | None = None,
        actor: str = "app",
    ) -> LimitChange:
        """Give the caller so many units more now. `limit` is needed if several could be meant.

        Those that were taken last come back first. Calendar quotas and credits may go beyond the limit; of others at
        most what is spent comes back: `LimitChange.given` says how much that was.
        """
        found = self._actions.one(self._find(caller, by, plan, limit), limit)
        return run_flow(self._store, self._actions.change(found, limit, "grant", units, actor))[0]

    async def agrant(
        self,
        caller: object,
        units: int,
        *,
        limit: str | None = None,
        by: Kind | None = None,
        plan: str | None = None,
        actor: str = "app",
    ) -> LimitChange:
        """Do as `grant` does, under an event loop."""
        found = self._actions.one(await self._afind(caller, by, plan, limit), limit)
        return (await arun_flow(self._store, self._actions.change(found, limit, "grant", units, actor)))[0]

    def set(
        self,
        caller: object,
        spent: int,
        *,
        limit: str | None = None,
        by: Kind | None = None,
        plan: str | None = None,
        actor: str = "app",
    ) -> LimitChange:
        """Set what the caller has spent, from 0 to the limit. `limit` is needed if several could be meant."""
        found = self._actions.one(self._find(caller, by, plan, limit), limit)
        return run_flow(self._store, self._actions.change(found, limit, "set", spent, actor))[0]

    async def aset(
        self,
        caller: object,
        spent: int,
        *,
        limit: str | None = None,
        by: Kind | None = None,
        plan: str | None = None,
        actor: str = "app",
    ) -> LimitChange:
        """Do as `set` does, under an event loop."""
        found = self._actions.one(await self._afind(caller, by, plan, limit), limit)
        return (await arun_flow(self._store, self._actions.change(found, limit, "set", spent, actor)))[0]

    # -- what each and its twin have in common ------------------------------------------------------------

    def _find(self, who: object, by: Kind | None, plan: str | None, limit: str | None) -> list[Caller]:
        caller = run_flow(self._store, self._actions.find(who, by, plan))
        return self._actions.with_keys(caller) if self._actions.asks_for_keys(caller, limit) else [caller]

    async def _afind(self, who: object, by: Kind | None, plan: str | None, limit: str | None) -> list[Caller]:
        caller = await arun_flow(self._store, self._actions.find(who, by, plan))
        if not self._actions.asks_for_keys(caller, limit):
            return [caller]
        return await in_thread(self._actions.with_keys, caller)
