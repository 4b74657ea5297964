"""`guard.bans`: who is banned, and until when; ending bans, and taking over those that were made elsewhere.

The states of bans tell all by themselves, so a store's URL is enough: the command `keyguard bans` has no more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from keyguard.audit import KEPT, checked_actor, encode, new_record, writing
from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError, StoreError
from keyguard.guards.bans.guard import POOLS
from keyguard.http.addresses import buckets_of, parse_address
from keyguard.logs import logger
from keyguard.ops import Adjust, Adjustment, Note, Put, Read, ReadWithTime, Store, traits_of
from keyguard.process.event_loops import in_thread
from keyguard.rates.strikes import CODE, Ban, Strikes, ban_of, state_of
from keyguard.run import arun_flow, run_flow
from keyguard.stack.callers import find_caller
from keyguard.stack.written import names_of_bans
from keyguard.units import as_datetime, in_microseconds, rfc3339

log = logger("keyguard")

_ENDING = f":{CODE}"
_TRIES = 5
_ANY = Strikes(1, SECOND, "bans", SECOND, SECOND)
"""Stands for the limit of a guard whose settings are not known here: the states of all of them mean the same."""


@dataclass(frozen=True, slots=True)
class Banned:
    """A caller who is banned."""

    caller: str
    """The name under which it is counted: an address, a network of IPv6, the id of a key, a subject, or a digest."""
    guard: str
    """The name of the guard that banned it."""
    since: datetime
    until: datetime
    number: int
    """How many bans there were in a row, this one included."""
    key: str
    """The store's key of what is counted."""


class Bans:
    """The bans that a store knows, of all guards or of some `guards`, by name.

    The methods with an `a` before their name are the same for event loops. Raises `StoreError` if the store fails, and
    `ConfigurationError` for one that keeps no bans.
    """

    def __init__(self, store: Store, guards: Collection[str] | None = None) -> None:
        if traits_of(store).limitations is not None:
            raise ConfigurationError(f"{store!r} keeps no bans")
        self._store = store
        self._guards = guards

    def list(self) -> list[Banned]:
        """Return who is banned now, in the order of the keys."""
        now = as_datetime(run_flow(self._store, _now()))
        return [found for found in self._scan() if found.until > now]

    async def alist(self) -> Sequence[Banned]:
        """Do as `list` does, under an event loop."""
        return await in_thread(self.list)

    def lift(self, caller: str, *, actor: str = "app") -> Sequence[Banned]:
        """End the bans of a caller, named as `list` does, by an address, or by a key's id, and return them.

        Its strikes are forgotten, too. `actor` is who does it, for the audit log. Raises `ValueError`
        for what names no caller.
        """
        checked_actor(actor)
        lifted = self._of(caller)
        for found in lifted:
            run_flow(self._store, _lift(found, actor))
        return lifted

    async def alift(self, caller: str, *, actor: str = "app") -> Sequence[Banned]:
        """Do as `lift` does, under an event loop."""
        checked_actor(actor)
        lifted = await in_thread(self._of, caller)
        for found in lifted:
            await arun_flow(self._store, _lift(found, actor))
        return lifted

    def _of(self, caller: str) -> Sequence[Banned]:
        named = run_flow(self._store, find_caller(caller, None, (), keys=traits_of(self._store).holds_values))
        buckets = {*named.buckets.values()}
        address = parse_address(caller)
        if address is not None:  # whatever prefix its stack counts by
            buckets |= buckets_of(address)
        buckets |= {f"@{bucket}" for bucket in buckets}
        return [found for found in self.list() if found.key.partition("|")[2] in buckets]

    def _scan(self) -> Iterator[Banned]:
        for key, state in self._store.scan(POOLS):
            pool = key.partition("|")[0]
            guard = pool.removeprefix(POOLS).removesuffix(_ENDING)
            if not pool.endswith(_ENDING) or (self._guards is not None and guard not in self._guards):
                continue
            found = _banned(key, state)
            if found is not None:
                yield found


def _banned(key: str, state: bytes) -> Banned | None:
    pool, _, bucket = key.partition("|")
    try:
        ban = ban_of(state)
        since, until = as_datetime(ban.since), as_datetime(ban.until)
    except (ValueError, OverflowError):
        log.warning("the state of a ban is damaged: %r", key[:200])
        return None
    guard = pool.removeprefix(POOLS).removesuffix(_ENDING)
    return Banned(bucket.removeprefix("@"), guard, since, until, ban.number, key)


def bans_of(guards: Iterable[object], store: Store) -> Bans:
    """Return the bans of a stack. Raises `ConfigurationError` if none of its guards bans."""
    names = names_of_bans(guards)
    if not names:
        raise ConfigurationError("this stack has no Ban guard")
    return Bans(store, names)


async def in_force(names: Iterable[str], buckets: Iterable[str]) -> list[Banned]:
    """Return the bans of some callers by some guards: those whose end has not come."""
    keys = [f"{POOLS}{name}{_ENDING}|{bucket}" for name in names for bucket in buckets]
    if not keys:
        return []
    read: Any = await ReadWithTime(*keys)
    now, states = read
    found = [_banned(key, state) for key, state in zip(keys, states, strict=True) if state is not None]
    return [one for one in found if one is not None and in_microseconds(one.until) > now]


async def _now() -> int:
    read: Any = await ReadWithTime("ban|")  # any key: the time is asked for
    return int(read[0])


async def _lift(found: Banned, actor: str) -> None:
    before = {"until": _text(in_microseconds(found.until)), "number": found.number}
    draft = new_record(
        await _now(), actor=actor, action="bans.lift", caller=found.caller, limit=found.guard, before=before
    )
    note = Note(draft.key, KEPT, lambda adjusted: encode(replace(draft, at=as_datetime(adjusted.at))))
    await Adjust([Adjustment(found.key, _ANY, "reset")], [note])


def _text(moment: int) -> str:
    return rfc3339(-(-moment // SECOND))


# -- bans that were made elsewhere ------------------------------------------------------------------------------


class Ruling(NamedTuple):
    """A ban that was made elsewhere."""

    caller: str
    """An address or a network, as it was named."""
    buckets: Sequence[str]
    """The names under which its callers are counted."""
    until: int
    """In microseconds."""


def take_over(store: Store, guard: str, rulings: Iterable[Ruling], *, actor: str) -> int:
    """Ban callers of the guard called `guard`, and note it in the audit log, ruling by ruling.

    Return how many were not banned for as long. Run again, it goes on from where it was stopped. Raises `StoreError` if
    the store fails, or if apps change a state all the time.
    """
    new = 0
    for caller, buckets, until in rulings:
        left = [f"{POOLS}{guard}{_ENDING}|{bucket}" for bucket in buckets]
        now = run_flow(store, _now())
        for _ in range(_TRIES):
            states: list[tuple[bytes | None]] = store.execute([Read(key) for key in left])
            puts = [_imposing(key, *state, now, until) for key, state in zip(left, states, strict=True)]
            wanted = [put for put in puts if put is not None]
            written = store.execute(wanted) if wanted else []
            new += sum(written)
            left = [put.keys[0] for put, done in zip(wanted, written, strict=True) if not done]
            if not left:
                break
        else:
            raise StoreError(f"the ban of {caller} was not written: its state changes all the time. Run the same again")
        after = {"until": _text(until), "callers": len(buckets)}
        record = new_record(now, actor=actor, action="bans.import", caller=caller, limit=guard, after=after)
        store.execute([writing(record)])
    return new


def _imposing(key: str, state: bytes | None, now: int, until: int) -> Put | None:
    """Return the operation that bans a caller, if its state has not changed; `None` if it is banned for as long."""
    ban = Ban(0, 0, 0) if state is None else ban_of(state)
    if until <= max(now, ban.until):
        return None
    on = now < ban.until
    after = Ban(ban.since if on else now, until, ban.number if on else ban.number + 1)
    return Put(key, state_of(after), until - now, expected=state)
