"""The limits of callers, as operators see them: which limits count them, and what is done about these, as flows.

Each change is one operation on the store, and the audit log's record of it is written in the same: on a Redis cluster,
where it lies elsewhere, right after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from keyguard.audit import KEPT, AuditRecord, checked_actor, encode, new_record
from keyguard.buckets import bucket_text
from keyguard.checks import is_whole
from keyguard.clock import Clock
from keyguard.counter_names import LimitFacts
from keyguard.errors import ConfigurationError, StoreBusy, StoreError
from keyguard.keys import KeyRecord, KeyRegistry
from keyguard.ops import Adjust, Adjusted, Adjustment, BestEffort, Count, Note, Store, keeps_count, traits_of
from keyguard.ops.adjusting import Verb
from keyguard.rates import Limit
from keyguard.stack.callers import Caller, Kind, find_caller, shown
from keyguard.stack.limit_overrides import overridden_facts, overrides_for
from keyguard.units import as_datetime

_MOST = 10**12
"""Units that can be granted at once."""
_ATTEMPTS = 8
"""Each takes no longer than a store's time-out, 1 second at most: a change is known by its token for 10."""


@dataclass(frozen=True, slots=True)
class LimitUse:
    """The use that a caller has made of one limit, at a moment."""

    name: str
    """The limit's public name, such as `key:5000/day`."""
    rate: str
    """How much it admits, in words: `5000/day`."""
    by: str
    """The way in which it tells callers apart: `ip`, `key`, `subject`, or the name of a function."""
    caller: str
    """The name under which it counts this caller: a bucket."""
    limit: int
    """The units that it admits at most."""
    spent: int
    """The units that are spent; less than 0 if more than the limit were granted."""
    held: int
    """The units that requests under way have reserved, or hold as their places."""
    remaining: int
    """The units that may be taken now."""
    more_at: datetime | None
    """When more units come back; `None` if none do by themselves."""
    works_at: datetime | None
    """When a request of one unit is admitted again; `None` if it is admitted now, or if only a grant helps."""
    at: datetime
    """The moment, by the store's clock."""


@dataclass(frozen=True, slots=True)
class LimitChange:
    """A change of what a caller has spent of one limit."""

    before: LimitUse
    after: LimitUse

    @property
    def given(self) -> int:
        """The units that the caller has more than before; less than 0 for fewer.

        A window or an even pace gives back no more than is spent, so a grant may give less than was asked for.
        """
        return self.before.spent - self.after.spent


class Seen(NamedTuple):
    """A limit that counts a caller, and what the caller has used of it."""

    use: LimitUse
    limit: Limit
    facts: LimitFacts


class Actions:
    """The actions of operators on the limits of some facts, in one store."""

    def __init__(self, store: Store, facts: Iterable[LimitFacts], clock: Clock) -> None:
        self._store = store
        self._facts = tuple(facts)
        self._clock = clock
        self._keys = traits_of(store).holds_values

    async def find(self, who: object, by: Kind | None, plan: str | None) -> Caller:
        """Find out who is meant."""
        if traits_of(self._store).limitations is not None:
            raise ConfigurationError(f"{self._store!r} lets nobody look at what is spent, or change it")
        caller = await find_caller(who, by, self._facts, keys=self._keys)
        if plan is None:
            return caller
        if not isinstance(plan, str):
            raise ValueError(f"a plan is a text, not {plan!r:.80}")
        return replace(caller, plan=plan, plan_is_known=True)

    def asks_for_keys(self, caller: Caller, limit: str | None) -> bool:
        """Tell whether the keys of a caller's subject must be looked through: to know its plan, or where it counts."""
        if caller.subject is None or not self._keys:
            return False
        return (not caller.plan_is_known and self._by_plan(caller)) or (
            caller.guessed and any(facts.by == "key" and _is_named(facts, limit) for facts in self._facts)
        )

    def with_keys(self, caller: Caller, records: Sequence[KeyRecord] | None = None) -> list[Caller]:
        """Return a caller with the plan of its keys in the store, if they agree on one.

        If limits count its keys, return each of them instead, and the caller for what else counts it. `records` are
        those of the keys if they are known: else all keys of the store are looked through.
        """
        if records is None:
            records = KeyRegistry(self._store).list(subject=caller.subject)
        now = as_datetime(self._clock())
        valid = [record for record in records if record.status(now) in ("active", "rotating")] or records
        keys = [Caller(key.id, {"key": bucket_text(key.id)}, key.plan, plan_is_known=True) for key in valid]
        plans = {record.plan for record in valid}
        if caller.plan_is_known:
            keys = [replace(key, plan=caller.plan) for key in keys]
        elif len(plans) == 1:
            caller = replace(caller, plan=plans.pop(), plan_is_known=True)
        if not (caller.guessed and keys and any(facts.by == "key" for facts in self._facts)):
            return [caller]
        rest = replace(caller, buckets={by: at for by, at in caller.buckets.items() if by != "key"})
        return [each for each in (rest, *keys) if any(each.bucket(facts.by) for facts in self._facts)]

    def counted(self, callers: Sequence[Caller], limit: str | None) -> list[Caller]:
        """Return those of some callers that a limit counts; the first, if it counts none."""
        found = [
            caller
            for caller in callers
            if any(_is_named(facts, limit) and caller.bucket(facts.by) for facts in self._facts)
        ]
        return found or [callers[0]]

    def one(self, callers: Sequence[Caller], limit: str | None) -> Caller:
        """Return the one that is meant. Raises `ValueError` if several could be."""
        found = self.counted(callers, limit)
        if len(found) > 1 and (limit is not None or "key" in found[0].buckets):
            keys = ", ".join(caller.name for caller in found if "key" in caller.buckets)
            raise ValueError(f"these limits count keys, and this subject has several: name one of {keys}")
        return found[0]

    async def look(self, caller: Caller, limit: str | None) -> tuple[LimitUse, ...]:
        """Return what the caller has spent of the limits that count it."""
        return tuple([seen.use for seen in await self.see(caller, limit)])

    async def see(self, caller: Caller, limit: str | None) -> list[Seen]:
        """Do as `look` does, and return the limits as well."""
        chosen = self._chosen(await self._facts_for(caller), caller, limit)
        if not chosen:
            return []
        return _seen(chosen, await _looking(chosen))

    async def see_keys(self, records: Sequence[KeyRecord]) -> dict[str, list[Seen]]:
        """Do as `see` does for several keys, in one trip but for overrides. Returns the limits of each, by its id."""
        chosen: dict[str, list[_Counter]] = {}
        for record in records:
            buckets = {"key": bucket_text(record.id), "subject": bucket_text(record.subject)}
            caller = Caller(record.id, buckets, record.plan, plan_is_known=True, subject=record.subject)
            facts = await self._facts_for(caller)
            if any(caller.bucket(each.by) for each in facts):
                chosen[record.id] = self._chosen(facts, caller, None)
        found = {id: each for id, each in chosen.items() if each}
        adjusted = await BestEffort(*[_looking(each) for each in found.values()]) if found else []
        pairs = zip(found.items(), adjusted, strict=True)
        return {id: _seen(each, taken) for (id, each), taken in pairs}

    async def change(
        self, caller: Caller, limit: str | None, verb: Verb, units: int, actor: str
    ) -> tuple[LimitChange, ...]:
        """Change what is spent of one limit, or `reset` all of them, and note it in the audit log."""
        checked_actor(actor)
        chosen = self._chosen(await self._facts_for(caller), caller, limit)
        if verb != "reset":
            self._check(chosen, verb, units)
        if not chosen:
            return ()
        notes = [self._note(place, verb, units, actor, caller, facts) for place, (_, _, facts) in enumerate(chosen)]
        adjusted = await self._once(Adjust([Adjustment(key, rate, verb, units) for key, rate, _ in chosen], notes))
        return tuple(
            LimitChange(_use(each, before, adjusted.at), _use(each, after, adjusted.at))
            for each, before, after in zip(chosen, adjusted.before, adjusted.after, strict=True)
        )

    @staticmethod
    async def _once(op: Adjust) -> Adjusted:
        """Make a change. If others are in its way, or the reply is lost, it is asked for again, and happens once."""
        lost = 0
        for attempt in range(_ATTEMPTS):
            try:
                return await op
            except StoreError as error:
                lost += not isinstance(error, StoreBusy)
                if lost > 1 or attempt == _ATTEMPTS - 1:
                    told = f"{error}. Whether anything was changed is not known: look before you repeat it"
                    raise StoreError(told) from error
        raise AssertionError("the last attempt ends in one of both ways")

    # -- which limits -------------------------------------------------------------------------------------

    async def _facts_for(self, caller: Caller) -> Sequence[LimitFacts]:
        """Return the limits as they are for a caller: with overrides in the place of those that its subject has."""
        if caller.subject is None or not self._keys or not any(facts.overridable for facts in self._facts):
            return self._facts
        rows = await overrides_for(caller.subject, self._clock())
        found: list[LimitFacts] = []
        for facts in self._facts:
            row = rows.get(facts.guard) if facts.overridable else None
            found += [facts] if row is None else overridden_facts(facts, row)
        return [*dict.fromkeys(found)]

    def _by_plan(self, caller: Caller) -> bool:
        return any(facts.plans is not None and caller.bucket(facts.by) is not None for facts in self._facts)

    def _chosen(self, every: Sequence[LimitFacts], caller: Caller, limit: str | None) -> list[_Counter]:
        """Return those of all limits that count a caller, or those of a name, with the keys of its counters."""
        named = [facts for facts in every if _is_named(facts, limit)]
        if not named and limit is not None and any(limit in (facts.name, facts.guard) for facts in self._facts):
            instead = ", ".join(facts.name for facts in every if caller.bucket(facts.by) is not None) or "no limit"
            raise ValueError(f"an override stands in the place of {shown(limit)} for this caller, who has {instead}")
        if not named:
            raise ValueError(f"no limit is called {shown(limit)}: {self._names(every)}")
        counting = [facts for facts in named if caller.bucket(facts.by) is not None]
        if not counting:
            kinds = ", ".join(sorted({facts.by for facts in named}))
            raise ValueError(
                f"this caller counts by {' or '.join(caller.buckets)}, and these limits by {kinds}: say by= (--by)"
            )
        if limit is not None and all(facts.limit is None and facts.plans is None for facts in counting):
            raise ValueError(f"a function chooses the limit {shown(limit)} on each request: it is not known here")
        found: dict[str, _Counter] = {}
        for facts in counting:
            if facts.limit is not None and self._applies(facts, caller):
                key = facts.prefix + (caller.bucket(facts.by) or "")
                found.setdefault(key, (key, facts.limit, facts))
        return [*found.values()]

    def _applies(self, facts: LimitFacts, caller: Caller) -> bool:
        if facts.plans is None:
            return True
        if not caller.plan_is_known:
            raise ValueError(
                f"{facts.guard} depends on the caller's plan, which no key in the store tells: say plan= (--plan)"
            )
        known = {plan for other in self._facts if _counter(other) == _counter(facts) for plan in other.plans or ()}
        return caller.plan in facts.plans if caller.plan in known else facts.default

    @staticmethod
    def _names(all: Iterable[LimitFacts]) -> str:
        names = dict.fromkeys(facts.name for facts in all)
        return f"there are {', '.join(names)}" if names else "there is none"

    def _check(self, chosen: Sequence[_Counter], verb: Verb, units: int) -> None:
        """Raise `ValueError` if it is not one limit that is meant, or not a possible number."""
        if len(chosen) != 1:
            raise ValueError(f"name one limit: {self._names([facts for _, _, facts in chosen])}")
        ((_, limit, facts),) = chosen
        if not keeps_count(limit):
            raise ValueError(f"nothing of {facts.name} can be granted or set: its kind keeps no count of what is spent")
        if verb == "grant":
            if not is_whole(units) or not 1 <= units <= _MOST:
                raise ValueError(f"units are a whole number from 1 to {_MOST}, not {units!r:.80}")
        elif not is_whole(units) or not 0 <= units <= limit.max_cost:
            raise ValueError(f"spent is a whole number from 0 to {limit.max_cost} of {facts.name}, not {units!r:.80}")

    # -- the audit log ------------------------------------------------------------------------------------

    def _note(self, place: int, verb: Verb, units: int, actor: str, caller: Caller, facts: LimitFacts) -> Note:
        draft = new_record(
            self._clock(), actor=actor, action=f"limits.{verb}", caller=caller.bucket(facts.by), limit=facts.name
        )
        asked = {} if verb == "reset" else {"asked": units}

        def written(adjusted: Adjusted) -> bytes:
            return encode(_record(draft, adjusted, place, asked))

        return Note(draft.key, KEPT, written)


_Counter = tuple[str, Limit, LimitFacts]
"""The key of a caller's counter, the limit and what is known of it."""


def _is_named(facts: LimitFacts, limit: str | None) -> bool:
    """Tell whether a name is that of a limit or of its guard; `None` means all of them."""
    return limit is None or limit in (facts.name, facts.guard)


def _counter(facts: LimitFacts) -> str:
    """Return what the keys of all counters of a guard begin with: the name of one may be that of another stack's."""
    return facts.prefix.rpartition(":")[0]


def _record(draft: AuditRecord, adjusted: Adjusted, place: int, asked: dict[str, int]) -> AuditRecord:
    before, after = adjusted.before[place], adjusted.after[place]
    return replace(
        draft,
        at=as_datetime(adjusted.at),
        before={"spent": before.spent, "remaining": before.remaining},
        after={"spent": after.spent, "remaining": after.remaining, **asked},
    )


def _looking(chosen: Sequence[_Counter]) -> Adjust:
    return Adjust([Adjustment(key, rate) for key, rate, _ in chosen])


def _seen(chosen: Sequence[_Counter], adjusted: Adjusted) -> list[Seen]:
    pairs = zip(chosen, adjusted.after, strict=True)
    return [Seen(_use(each, count, adjusted.at), *each[1:]) for each, count in pairs]


def _use(counter: _Counter, count: Count, at: int) -> LimitUse:
    key, limit, facts = counter
    return LimitUse(
        facts.name,
        limit.text,
        facts.by,
        key.removeprefix(facts.prefix),
        limit.max_cost,
        count.spent,
        count.held,
        count.remaining,
        as_datetime(at + count.reset) if count.reset > 0 else None,
        as_datetime(at + count.wait) if count.wait > 0 else None,
        as_datetime(at),
    )
