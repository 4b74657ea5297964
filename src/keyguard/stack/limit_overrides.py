"""`guard.overrides`: other limits for one subject, set by hand and kept in the store (`keyguard.overrides`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from keyguard.audit import checked_actor, new_record, writing
from keyguard.checks import is_name
from keyguard.clock import Clock
from keyguard.counter_names import LimitFacts
from keyguard.errors import ConfigurationError, StoreError
from keyguard.guards.rate_limit.rules import Naming, rules_of
from keyguard.ops import Put, Read, Store, traits_of
from keyguard.overrides import KEY, Overrides, Row, decode, encode
from keyguard.run import arun_flow, run_flow
from keyguard.units import Duration, as_datetime, microseconds, moment

_MOST = 1000
"""Overrides of one store: each process reads all of them, twice a second."""
_LONGEST = 256  # characters of a subject
_TRIES = 10


@dataclass(frozen=True, slots=True)
class LimitOverride:
    """The limit of one subject, in the place of the limits of a guard."""

    subject: str
    limit: str
    """The name of the `RateLimit`."""
    rate: str | None
    """The rates that count, such as `1000/minute`; `None` for no limit."""
    expires: datetime | None
    """When it ends; `None` for never."""
    since: datetime
    """When it was set."""
    actor: str
    """The one who has set it."""


class LimitOverrides:
    """The overrides in a store: other limits for some subjects, from now on, in all processes within a second.

    The methods with an `a` before their name are the same for event loops. Raises `ValueError` for a subject, a limit
    or a rate that cannot be, and `StoreError` if the store fails or somebody else keeps changing them.
    """

    def __init__(self, store: Store, names: Callable[[], Collection[str]], clock: Clock, here: Overrides) -> None:
        if not traits_of(store).holds_values:
            raise ConfigurationError(f"{store!r} holds limits alone, so it keeps no overrides")
        self._store = store
        self._names = names
        """Tells the names of the limits that can be overridden."""
        self._clock = clock
        self._here = here

    def set(
        self,
        subject: str,
        limits: Mapping[str, str | None],
        *,
        expires: datetime | Duration | None = None,
        actor: str = "app",
    ) -> tuple[LimitOverride, ...]:
        """Put other rates in the place of some limits of a subject, and return all overrides that it has then.

            guard.overrides.set("acme", {"api": "1000/minute", "exports": None}, expires="2 days")

        - `limits`: for the name of each `RateLimit`, whatever it counts by, rates as text; `None` for no limit. Others
          of the subject stay as they are. Units that are spent stay spent if the period is one of the limit's.
        - `expires`: when they end, a moment or a duration from now; `None` for never. `actor`: who does it, for the
          audit log.
        """
        return run_flow(self._store, self._set(subject, limits, expires, actor))

    async def aset(
        self,
        subject: str,
        limits: Mapping[str, str | None],
        *,
        expires: datetime | Duration | None = None,
        actor: str = "app",
    ) -> tuple[LimitOverride, ...]:
        """Do as `set` does, under an event loop."""
        return await arun_flow(self._store, self._set(subject, limits, expires, actor))

    def list(self, subject: str | None = None) -> tuple[LimitOverride, ...]:
        """Return the overrides that have not ended, of all subjects or of one."""
        return run_flow(self._store, self._list(subject))

    async def alist(self, subject: str | None = None) -> tuple[LimitOverride, ...]:
        """Do as `list` does, under an event loop."""
        return await arun_flow(self._store, self._list(subject))

    def remove(self, subject: str, limit: str | None = None, *, actor: str = "app") -> tuple[LimitOverride, ...]:
        """Remove the overrides of a subject, or that of one limit, and return what was removed."""
        return run_flow(self._store, self._remove(subject, limit, actor))

    async def aremove(self, subject: str, limit: str | None = None, *, actor: str = "app") -> tuple[LimitOverride, ...]:
        """Do as `remove` does, under an event loop."""
        return await arun_flow(self._store, self._remove(subject, limit, actor))

    # -- flows ----------------------------------------------------------------------------------------------

    async def _set(
        self,
        subject: str,
        limits: Mapping[str, str | None],
        expires: datetime | Duration | None,
        actor: str,
    ) -> tuple[LimitOverride, ...]:
        _check_subject(subject)
        checked_actor(actor)
        names = self._names()
        if not isinstance(limits, Mapping) or not limits:
            raise ValueError(f"limits are a mapping such as {{'api': '1000/minute'}}, not {limits!r:.80}")
        for name, rate in limits.items():
            if name not in names:
                known = ", ".join(sorted(map(repr, names))) or "none that can be overridden"
                raise ValueError(f"no RateLimit is called {name!r:.80}: there is {known}")
            _check_rate(name, rate)
        now = self._clock()
        end = _end(expires, now)
        new = [Row(subject, name, rate, end, now, actor) for name, rate in limits.items()]

        def changed(rows: Sequence[Row]) -> Sequence[Row]:
            return [row for row in rows if row.subject != subject or row.limit not in limits] + new

        _, after = await self._change(subject, changed, "overrides.set", actor, now)
        return _shown(row for row in after if row.subject == subject)

    async def _remove(self, subject: str, limit: str | None, actor: str) -> tuple[LimitOverride, ...]:
        _check_subject(subject)
        checked_actor(actor)

        def goes(row: Row) -> bool:
            return row.subject == subject and limit in (None, row.limit)

        def changed(rows: Sequence[Row]) -> Sequence[Row]:
            if not any(map(goes, rows)):
                what = "no override" if limit is None else f"no override of {limit!r:.80}"
                raise ValueError(f"{subject!r:.80} has {what}")
            return [row for row in rows if not goes(row)]

        before, _ = await self._change(subject, changed, "overrides.remove", actor, self._clock())
        return _shown(filter(goes, before))

    async def _list(self, subject: str | None) -> tuple[LimitOverride, ...]:
        (data,) = await Read(KEY)
        now = self._clock()
        rows = [row for row in _decoded(data) if row.expires is None or row.expires > now]
        return _shown(row for row in rows if subject is None or row.subject == subject)

    async def _change(
        self, subject: str, change: Callable[[Sequence[Row]], Sequence[Row]], action: str, actor: str, now: int
    ) -> tuple[Sequence[Row], Sequence[Row]]:
        """Change what stands in the store, if nobody else has done so meanwhile, and note it in the audit log."""
        for _ in range(_TRIES):
            (data,) = await Read(KEY)
            before = [row for row in _decoded(data) if row.expires is None or row.expires > now]
            after = change(before)
            if len(after) > _MOST:
                raise ValueError(f"a store keeps {_MOST} overrides at most; a plan is for many subjects")
            text = encode(after)
            if text == data or await Put(KEY, text, expected=data):
                self._here.load(text)
                await writing(
                    new_record(
                        now,
                        actor=actor,
                        action=action,
                        caller=subject,
                        before=_rates(before, subject),
                        after=_rates(after, subject),
                    )
                )
                return before, after
        raise StoreError("somebody else keeps changing overrides at the same time: nothing was changed")


def _decoded(data: bytes | None) -> Sequence[Row]:
    try:
        return decode(data)
    except ValueError as error:
        raise StoreError(str(error)) from error


def _rates(rows: Iterable[Row], subject: str) -> dict[str, str | None]:
    return {row.limit: row.rate for row in rows if row.subject == subject}


def _shown(rows: Iterable[Row]) -> tuple[LimitOverride, ...]:
    return tuple(
        [
            LimitOverride(
                row.subject,
                row.limit,
                row.rate,
                None if row.expires is None else as_datetime(row.expires),
                as_datetime(row.since),
                row.actor,
            )
            for row in sorted(rows, key=lambda row: (row.subject, row.limit))
        ]
    )


def _check_subject(subject: object) -> None:
    if not is_name(subject, _LONGEST):
        raise ValueError(f"a subject is a printable text of 1 to {_LONGEST} characters, not {subject!r:.80}")


def _check_rate(name: str, rate: object) -> None:
    if rate is None:
        return
    if not isinstance(rate, str):
        raise ValueError(
            f"the rate of {name!r} is a text such as '1000/minute', or None for no limit, not {rate!r:.80}"
        )
    try:
        rules_of(Naming(0, name, name, (), "local", False), (rate,))
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def _end(expires: datetime | Duration | None, now: int) -> int | None:
    if expires is None:
        return None
    try:
        end = moment("expires", expires) if isinstance(expires, datetime) else now + microseconds("expires", expires)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    if end <= now:
        raise ValueError(f"expires is in the past: {as_datetime(end).isoformat()}")
    return end


# -- for those who look at limits ---------------------------------------------------------------------------------


async def overrides_for(subject: str, now: int) -> dict[str, Row]:
    """Read the overrides of a subject that have not ended, by the names of limits; what is damaged counts nowhere."""
    (data,) = await Read(KEY)
    try:
        rows = decode(data)
    except ValueError:
        return {}
    return {row.limit: row for row in rows if row.subject == subject and (row.expires is None or row.expires > now)}


def overridden_facts(facts: LimitFacts, row: Row) -> Sequence[LimitFacts]:
    """Return what stands in the place of one of a guard's limits for a subject with an override: none, one or more."""
    if row.rate is None:
        return []
    counter = facts.prefix.rpartition(":")[0].removeprefix("rl:")
    try:
        rules = rules_of(Naming(0, facts.guard, counter, (), facts.if_store_fails, False), (row.rate,))
    except ConfigurationError:
        return [facts]  # it was set by another version, say: requests go by the guard's own limit, too
    return [
        replace(facts, name=rule.name, prefix=rule.prefix, limit=rule.limit, plans=None, default=False)
        for rule in rules
    ]
