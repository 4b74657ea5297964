"""Issuing, reading, changing, rotating and revoking keys.

Every change is one `Commit` that succeeds only if nobody changed the record meanwhile; else it is read and tried
again. Each action is written once, as a flow; the methods with an `a` before their name are the same for event loops.

What ends a key from now on ends it by the store's clock, which says whether keys are valid: an operator's machine
whose clock is ahead would else revoke a key later than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from keyguard.clock import SECOND, Clock, wall_clock
from keyguard.errors import KeyNotFound, StoreError
from keyguard.keys.format import Peppers, PlainKey, check_words, new_key, parse_key
from keyguard.keys.record import (
    KeyRecord,
    checked_metadata,
    checked_networks,
    checked_scopes,
    checked_text,
    decode,
    digest_of,
    encode,
    record_key,
)
from keyguard.ops import Commit, Look, Store
from keyguard.scripts import arun_flow, run_flow

_TRIES = 20
_UNCHANGED: Any = object()


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: the only time that its text is known."""

    key: PlainKey
    record: KeyRecord


class KeyRegistry:
    """The keys in a store.

    Where a method takes an id it also takes the whole key, so that a leaked one can be revoked as it was found.
    Raises `KeyNotFound` for an id that is none, `ValueError` for a value that cannot be, `StoreError` where the store
    fails.
    """

    def __init__(
        self,
        store: Store,
        *,
        pepper: str | bytes | Mapping[int, str | bytes] | Peppers | None = None,
        prefix: str = "kg",
        env: str = "live",
        clock: Clock = wall_clock,
    ) -> None:
        check_words(prefix, env)
        self.store = store
        self.prefix = prefix
        self.env = env
        self._peppers = Peppers(pepper)
        self._clock = clock

    # -- the actions --------------------------------------------------------------------------------------

    def issue(
        self,
        owner: str,
        *,
        subject: str | None = None,
        plan: str | None = None,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        not_before: datetime | timedelta | None = None,
        expires: datetime | timedelta | None = None,
    ) -> IssuedKey:
        """Make a new key.

        `subject` is whom its limits belong to, by default the owner. `not_before` and `expires` are aware datetimes,
        or spans from now. `scopes`, `networks` and `metadata` are what `KeyRecord` says.
        """
        record, key = self._draft(
            owner, subject, plan, scopes, networks, metadata, not_before=not_before, expires=expires
        )
        return run_flow(self.store, self._issue(record, key))

    async def aissue(self, owner: str, **options: Any) -> IssuedKey:
        """`issue` under an event loop; takes the same."""
        record, key = self._draft(owner, **{"subject": None, "plan": None, **options})
        return await arun_flow(self.store, self._issue(record, key))

    def get(self, id: str) -> KeyRecord:
        """The record of a key."""
        return run_flow(self.store, self._get(id))

    async def aget(self, id: str) -> KeyRecord:
        """`get` under an event loop."""
        return await arun_flow(self.store, self._get(id))

    def list(self, *, subject: str | None = None, status: str | None = None) -> list[KeyRecord]:
        """All keys, oldest first; of one subject, or of one status (see `KeyRecord.status`), where given."""
        now = self._clock()
        records = [_named(key, value) for key, value in self.store.scan(record_key(""))]
        found = [
            record
            for record in records
            if (subject is None or record.subject == subject) and (status is None or record.status(now) == status)
        ]
        return sorted(found, key=lambda record: (record.created, record.id))

    async def alist(self, *, subject: str | None = None, status: str | None = None) -> Sequence[KeyRecord]:
        """`list` under an event loop."""
        import asyncio  # most users of this module have no event loop, and it is slow to load

        return await asyncio.to_thread(self.list, subject=subject, status=status)

    def revoke(self, id: str, reason: str | None = None) -> KeyRecord:
        """Make a key invalid, for good, in every process within a second. Again, it changes nothing."""
        return run_flow(self.store, self._revoke(id, reason))

    async def arevoke(self, id: str, reason: str | None = None) -> KeyRecord:
        """`revoke` under an event loop."""
        return await arun_flow(self.store, self._revoke(id, reason))

    def rotate(self, id: str, *, overlap: timedelta | float = timedelta(hours=24)) -> IssuedKey:
        """Issue a successor with the same subject, plan, scopes, networks, metadata and expiry.

        The old key goes on working for `overlap`, a span or seconds; 0 ends it at once. Limits are the subject's, so
        nothing is reset. Raises `ValueError` for a key that is not valid any more or was rotated already.
        """
        return run_flow(self.store, self._rotate(id, _span(overlap)))

    async def arotate(self, id: str, *, overlap: timedelta | float = timedelta(hours=24)) -> IssuedKey:
        """`rotate` under an event loop."""
        return await arun_flow(self.store, self._rotate(id, _span(overlap)))

    def update(
        self,
        id: str,
        *,
        plan: str | None = _UNCHANGED,
        scopes: Iterable[str] = _UNCHANGED,
        networks: Iterable[str] = _UNCHANGED,
        metadata: Mapping[str, Any] | None = _UNCHANGED,
        expires: datetime | timedelta | None = _UNCHANGED,
    ) -> KeyRecord:
        """Change what is given of a key, and nothing else."""
        changes = self._changes(plan, scopes, networks, metadata, expires)
        return run_flow(self.store, self._change(id, lambda record, now: replace(record, **changes)))

    async def aupdate(self, id: str, **options: Any) -> KeyRecord:
        """`update` under an event loop; takes the same."""
        given = dict.fromkeys(("plan", "scopes", "networks", "metadata", "expires"), _UNCHANGED) | options
        changes = self._changes(**given)
        return await arun_flow(self.store, self._change(id, lambda record, now: replace(record, **changes)))

    # -- the flows ----------------------------------------------------------------------------------------

    async def _issue(self, record: KeyRecord, key: PlainKey) -> IssuedKey:
        name = record_key(key.id)
        if not await Commit({name: None}, {name: encode(record, *self._peppers.digest(key))}):
            raise StoreError("a key of this id exists already")  # 71 random bits: it does not happen
        return IssuedKey(key, record)

    async def _get(self, id: str) -> KeyRecord:
        stored, _ = await self._stored(_id(id))
        return decode(stored)

    async def _revoke(self, id: str, reason: str | None) -> KeyRecord:
        why = None if reason is None else checked_text("a reason", reason)

        def revoked(record: KeyRecord, now: int) -> KeyRecord:
            if record.revoked is not None and record.revoked <= now:
                return record
            return replace(record, revoked=now, revoked_for=why)

        return await self._change(id, revoked)

    async def _rotate(self, id: str, overlap: int) -> IssuedKey:
        for _ in range(_TRIES):
            stored, now = await self._stored(_id(id))
            old = decode(stored)
            if old.replaced_by is not None:
                raise ValueError(f"key {old.id} was rotated already, to {old.replaced_by}: rotate that one")
            if old.status(now) not in ("active", "pending"):
                raise ValueError(f"key {old.id} is {old.status(now)}: issue a new one instead")
            key = new_key(old.prefix, old.env)
            successor = replace(old, id=key.id, created=now, replaces=old.id)
            retired = replace(old, replaced_by=key.id, retires=now + overlap)
            name, new_name = record_key(old.id), record_key(key.id)
            done = await Commit(
                {name: stored, new_name: None},
                {
                    name: encode(retired, *digest_of(stored)),
                    new_name: encode(successor, *self._peppers.digest(key)),
                },
            )
            if done:
                return IssuedKey(key, successor)
        raise StoreError("the key is being changed by others all the time")

    async def _change(self, id: str, change: Callable[[KeyRecord, int], KeyRecord]) -> KeyRecord:
        name = record_key(_id(id))
        for _ in range(_TRIES):
            stored, now = await self._stored(_id(id))
            record = change(decode(stored), now)
            data = encode(record, *digest_of(stored))
            if data == stored or await Commit({name: stored}, {name: data}):
                return record
        raise StoreError("the key is being changed by others all the time")

    async def _stored(self, id: str) -> tuple[bytes, int]:
        """What is stored of a key, and the store's time."""
        looked: Any = await Look(record_key(id))
        now, (stored,) = looked
        if stored is None:
            raise KeyNotFound(f"there is no key with the id {id}")
        return stored, now

    # -- checking -----------------------------------------------------------------------------------------

    def _draft(
        self,
        owner: str,
        subject: str | None,
        plan: str | None,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        *,
        not_before: datetime | timedelta | None = None,
        expires: datetime | timedelta | None = None,
    ) -> tuple[KeyRecord, PlainKey]:
        now = self._clock()
        key = new_key(self.prefix, self.env)
        begins, ends = _moment("not_before", not_before, now), _moment("expires", expires, now)
        if ends is not None and ends <= max(now, begins or 0):
            raise ValueError("expires lies before the key would begin to work")
        record = KeyRecord(
            id=key.id,
            prefix=key.prefix,
            env=key.env,
            owner=checked_text("owner", owner),
            subject=checked_text("subject", owner if subject is None else subject),
            created=now,
            plan=None if plan is None else checked_text("plan", plan),
            scopes=checked_scopes(scopes),
            networks=checked_networks(networks),
            metadata=checked_metadata(metadata),
            not_before=begins,
            expires=ends,
        )
        return record, key

    def _changes(self, plan: Any, scopes: Any, networks: Any, metadata: Any, expires: Any) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if plan is not _UNCHANGED:
            changes["plan"] = None if plan is None else checked_text("plan", plan)
        if scopes is not _UNCHANGED:
            changes["scopes"] = checked_scopes(scopes)
        if networks is not _UNCHANGED:
            changes["networks"] = checked_networks(networks)
        if metadata is not _UNCHANGED:
            changes["metadata"] = checked_metadata(metadata)
        if expires is not _UNCHANGED:
            changes["expires"] = _moment("expires", expires, self._clock())
        return changes


def _id(text: str) -> str:
    key = parse_key(text)
    if key is not None:
        return key.id
    if not text.isascii() or not text.isalnum() or len(text) > 64:
        # Not shown: it may be a key with a typo.
        raise KeyNotFound("this is neither a key nor the id of one; an id is the third part of a key, 12 characters")
    return text


_LATEST = 253_402_300_800 * SECOND
"""The end of the year 9999: what comes later can be written down nowhere."""


def _moment(name: str, when: datetime | timedelta | None, now: int) -> int | None:
    if when is None:
        return None
    if isinstance(when, timedelta):
        if when < timedelta(0):
            raise ValueError(f"{name} is a span from now, not one before it")
        moment = now + round(when.total_seconds() * SECOND)
        if moment >= _LATEST:
            raise ValueError(f"{name} lies behind the year 9999")
        return moment
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise ValueError(f"{name} is a timedelta from now, or a datetime with a time zone, not {when!r}")
    return int(when.timestamp()) * SECOND + when.microsecond


def _span(overlap: timedelta | float) -> int:
    seconds = overlap.total_seconds() if isinstance(overlap, timedelta) else overlap
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 10**9:
        raise ValueError(f"overlap is a timedelta or seconds, 0 or more, not {overlap!r}")
    return round(seconds * SECOND)


def _named(key: str, value: bytes) -> KeyRecord:
    """The record of a key; where it is damaged, the error says which it is."""
    try:
        return decode(value)
    except StoreError as error:
        raise StoreError(f"{error}: {key.removeprefix(record_key(''))}") from None
