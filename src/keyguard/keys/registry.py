"""Issuing, reading, changing, rotating and revoking keys.

Every change is one `CompareAndSet` that succeeds only if nobody changed the record meanwhile; else it is read and tried
again. Each action is written once, as a flow; the methods with an `a` before their name are the same for event loops.

What ends a key from now on ends it by the store's clock, which says whether keys are valid: an operator's machine
whose clock is ahead would else revoke a key later than it says.

A store that holds keys with a pepper gets none without: they would not be accepted. Whether it does is noted in it,
since nobody wants to look through all keys each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from keyguard.clock import Clock, wall_clock
from keyguard.errors import ConfigurationError, KeyNotFound, StoreError
from keyguard.keys.format import Pepper, Peppers, PlainKey, check_words, new_key
from keyguard.keys.record import (
    KeyRecord,
    decode,
    encode_again,
    encode_new,
    has_pepper,
    read_head,
    record_key,
    trusted,
)
from keyguard.keys.values import (
    checked_metadata,
    checked_networks,
    checked_scopes,
    checked_text,
    key_id,
)
from keyguard.logs import word
from keyguard.ops import CompareAndSet, Put, Read, ReadWithTime, Store, head_of
from keyguard.process.event_loops import in_thread
from keyguard.run import arun_flow, run_flow
from keyguard.units import Duration, as_datetime, microseconds, moment_from

PEPPERED = "keys|peppered"
"""The store's key of the note whether it holds keys with a pepper: `1`, or `0`. It is missing if nobody has looked."""

Moment: TypeAlias = "datetime | timedelta | str"
"""A `datetime` with a time zone, or a duration from now."""

_LONGEST_OVERLAP = "10000 days"
_TRIES = 20
_UNCHANGED: Any = object()
_NO_PEPPER = (
    "this store holds keys that were made with a pepper, and none is set: a key that is made without would not be "
    "accepted beside them. Set KEYGUARD_PEPPER to that of the app"
)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: the only time that its text is known."""

    key: PlainKey
    record: KeyRecord


class KeyRegistry:
    """The keys in a store.

    Where a method takes an id it also takes the whole key, so that a leaked one can be revoked as it was found.
    Raises `KeyNotFound` for an id that is none, `ValueError` for a value that cannot be, `StoreError` where the store
    fails; `ConfigurationError` if a key would be made without a pepper in a store that holds keys with one, and for a
    change of a key whose pepper is not set. Revoking needs no pepper.
    """

    def __init__(
        self,
        store: Store,
        *,
        pepper: Pepper = None,
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
        not_before: Moment | None = None,
        expires: Moment | None = None,
        env: str | None = None,
    ) -> IssuedKey:
        """Make a new key.

        `subject` is whom its limits belong to, by default the owner. `not_before` and `expires` are aware datetimes,
        or durations from now (a `timedelta`, or a text such as `"30 days"`). `scopes`, `networks` and `metadata` are
        what `KeyRecord` says. `env` is the second word of the key, by default the registry's.
        """
        record, key = self._draft(
            owner, subject, plan, scopes, networks, metadata, not_before=not_before, expires=expires, env=env
        )
        if not run_flow(self.store, self._noted()):
            self._look()
        return run_flow(self.store, self._issue(record, key))

    async def aissue(
        self,
        owner: str,
        *,
        subject: str | None = None,
        plan: str | None = None,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        not_before: Moment | None = None,
        expires: Moment | None = None,
        env: str | None = None,
    ) -> IssuedKey:
        """Do as `issue` does, under an event loop."""
        record, key = self._draft(
            owner, subject, plan, scopes, networks, metadata, not_before=not_before, expires=expires, env=env
        )
        if not await arun_flow(self.store, self._noted()):
            await in_thread(self._look)
        return await arun_flow(self.store, self._issue(record, key))

    def get(self, id: str) -> KeyRecord:
        """The record of a key."""
        return run_flow(self.store, self._get(id))

    async def aget(self, id: str) -> KeyRecord:
        """`get` under an event loop."""
        return await arun_flow(self.store, self._get(id))

    def list(self, *, subject: str | None = None, status: str | None = None) -> list[KeyRecord]:
        """All keys, oldest first; of one subject, or of one status (see `KeyRecord.status`), where given."""
        now = as_datetime(self._clock())
        records = [_named(key, value) for key, value in self.store.scan(record_key(""))]
        found = [
            record
            for record in records
            if (subject is None or record.subject == subject) and (status is None or record.status(now) == status)
        ]
        return sorted(found, key=lambda record: (record.created, record.id))

    async def alist(self, *, subject: str | None = None, status: str | None = None) -> Sequence[KeyRecord]:
        """`list` under an event loop."""
        return await in_thread(self.list, subject=subject, status=status)

    def revoke(self, id: str, reason: str | None = None) -> KeyRecord:
        """Make a key invalid, for good, in every process within a second. Again, it changes nothing."""
        return run_flow(self.store, self._revoke(id, reason))

    async def arevoke(self, id: str, reason: str | None = None) -> KeyRecord:
        """`revoke` under an event loop."""
        return await arun_flow(self.store, self._revoke(id, reason))

    def rotate(self, id: str, *, overlap: Duration = "24 hours") -> IssuedKey:
        """Issue a successor with the same subject, plan, scopes, networks, metadata and expiry.

        The old key goes on working for `overlap`, a duration; 0 ends it at once. Limits are the subject's, so
        nothing is reset. Raises `ValueError` for a key that is not valid any more or was rotated already.
        """
        return run_flow(self.store, self._rotate(id, microseconds("overlap", overlap, max=_LONGEST_OVERLAP)))

    async def arotate(self, id: str, *, overlap: Duration = "24 hours") -> IssuedKey:
        """`rotate` under an event loop."""
        return await arun_flow(self.store, self._rotate(id, microseconds("overlap", overlap, max=_LONGEST_OVERLAP)))

    def update(
        self,
        id: str,
        *,
        plan: str | None = _UNCHANGED,
        scopes: Iterable[str] = _UNCHANGED,
        networks: Iterable[str] = _UNCHANGED,
        metadata: Mapping[str, Any] | None = _UNCHANGED,
        expires: Moment | None = _UNCHANGED,
        owner: str = _UNCHANGED,
    ) -> KeyRecord:
        """Change what is given of a key, and nothing else."""
        changes = self._changes(plan, scopes, networks, metadata, expires, owner)
        return run_flow(self.store, self._change(id, lambda record, now: replace(record, **changes)))

    async def aupdate(
        self,
        id: str,
        *,
        plan: str | None = _UNCHANGED,
        scopes: Iterable[str] = _UNCHANGED,
        networks: Iterable[str] = _UNCHANGED,
        metadata: Mapping[str, Any] | None = _UNCHANGED,
        expires: Moment | None = _UNCHANGED,
        owner: str = _UNCHANGED,
    ) -> KeyRecord:
        """Do as `update` does, under an event loop."""
        changes = self._changes(plan, scopes, networks, metadata, expires, owner)
        return await arun_flow(self.store, self._change(id, lambda record, now: replace(record, **changes)))

    def migrate(self) -> tuple[int, int]:
        """Write the records of earlier layouts anew, sealed. Returns how many were, and how many could not be.

        Those are the records whose pepper is not set, and damaged ones. Raises `ConfigurationError`, and changes
        nothing, if a pepper is not the one that sealed records of its version were made with: keys would be lost.
        """
        done = left = 0
        found = list(self.store.scan(record_key("")))
        self._check_peppers([stored for _, stored in found])
        for name, stored in found:
            if (head := head_of(stored)) is not None and head.layout > 1:
                continue
            if head is None or head.pepper not in self._peppers:
                left += 1
                continue
            run_flow(self.store, self._change(name.removeprefix(record_key("")), lambda record, now: record))
            done += 1
        return done, left

    # -- the flows ----------------------------------------------------------------------------------------

    async def _issue(self, record: KeyRecord, key: PlainKey) -> IssuedKey:
        name = record_key(key.id)
        if not await CompareAndSet({name: None}, {name: encode_new(record, self._peppers, key)}):
            raise StoreError("a key of this id exists already")  # 71 random bits: it does not happen
        return IssuedKey(key, record)

    async def _get(self, id: str) -> KeyRecord:
        stored, _ = await self._stored(key_id(id))
        return decode(stored)

    async def _revoke(self, id: str, reason: str | None) -> KeyRecord:
        why = None if reason is None else checked_text("a reason", reason)

        def revoked(record: KeyRecord, now: int) -> KeyRecord:
            if record.revoked is not None and record.revoked <= as_datetime(now):
                return record
            return replace(record, revoked=as_datetime(now), revoked_for=why)

        return await self._change(id, revoked, untrusted=True)

    async def _rotate(self, id: str, overlap: int) -> IssuedKey:
        for _ in range(_TRIES):
            stored, now = await self._stored(key_id(id))
            old = self._trusted(stored)
            if read_head(stored).pepper and not self._peppers.current:
                raise ConfigurationError(_NO_PEPPER)
            if old.replaced_by is not None:
                raise ValueError(f"key {old.id} was rotated already, to {old.replaced_by}: rotate that one")
            status = old.status(as_datetime(now))
            if status not in ("active", "pending"):
                raise ValueError(f"key {old.id} is {status}: issue a new one instead")
            key = new_key(old.prefix, old.env)
            successor = replace(old, id=key.id, created=as_datetime(now), replaces=old.id)
            retired = replace(old, replaced_by=key.id, retires=as_datetime(now + overlap))
            name, new_name = record_key(old.id), record_key(key.id)
            await self._noted()
            done = await CompareAndSet(
                {name: stored, new_name: None},
                {
                    name: encode_again(retired, self._peppers, stored),
                    new_name: encode_new(successor, self._peppers, key),
                },
            )
            if done:
                return IssuedKey(key, successor)
        raise StoreError("the key is being changed by others all the time")

    async def _change(
        self, id: str, change: Callable[[KeyRecord, int], KeyRecord], *, untrusted: bool = False
    ) -> KeyRecord:
        """Change a record; with `untrusted` also one that is not valid, and will not be."""
        name = record_key(key_id(id))
        for _ in range(_TRIES):
            stored, now = await self._stored(key_id(id))
            record = change(decode(stored) if untrusted else self._trusted(stored), now)
            data = encode_again(record, self._peppers, stored)
            if data == stored or await CompareAndSet({name: stored}, {name: data}):
                return record
        raise StoreError("the key is being changed by others all the time")

    async def _noted(self) -> bool:
        """Note that the store holds keys with a pepper, if this registry makes such; else read the note.

        Returns whether there is a note. Raises if it tells of keys with a pepper, and this registry makes keys without.
        """
        if self._peppers.current:
            await Put(PEPPERED, b"1")
            return True
        (note,) = await Read(PEPPERED)
        if note == b"1":
            raise ConfigurationError(_NO_PEPPER)
        return note is not None

    async def _stored(self, id: str) -> tuple[bytes, int]:
        """What is stored of a key, and the store's time."""
        looked: Any = await ReadWithTime(record_key(id))
        now, (stored,) = looked
        if stored is None:
            raise KeyNotFound(f"there is no key with the id {id}")
        return stored, now

    # -- checking -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look through the keys of a store of which nothing is noted: made by an earlier keyguard, or copied."""
        peppered = any(has_pepper(stored) for _, stored in self.store.scan(record_key("")))
        self.store.execute([Put(PEPPERED, b"1" if peppered else b"0", expected=None)])
        if peppered:
            raise ConfigurationError(_NO_PEPPER)

    def _check_peppers(self, records: Sequence[bytes]) -> None:
        """Raise if there are sealed records of a version, and this registry's pepper of that version fits none."""
        sealed = [
            (head.pepper, stored) for stored in records if (head := head_of(stored)) is not None and head.layout > 1
        ]
        for version in {version for version, _ in sealed if version in self._peppers}:
            if not any(trusted(stored, self._peppers) for place, stored in sealed if place == version):
                raise ConfigurationError(
                    f"pepper {version} is not the one that the keys of this store were made with: set KEYGUARD_PEPPER "
                    "as the app has it. Nothing was changed"
                )

    def _trusted(self, stored: bytes) -> KeyRecord:
        """Read the record in stored bytes. Raises if a change of it would seal what somebody else has changed."""
        record = decode(stored)
        version = read_head(stored).pepper
        if version not in self._peppers:
            what = f"pepper {version}, which is not set" if version else "no pepper, and version 0 is not named"
            raise ConfigurationError(
                f"key {word(record.id)} was made with {what}: set KEYGUARD_PEPPER as the app has it"
            )
        if not trusted(stored, self._peppers):
            raise StoreError(
                f"the record of key {word(record.id)} was changed by somebody who does not know the pepper: revoke it"
            )
        return record

    def _draft(
        self,
        owner: str,
        subject: str | None,
        plan: str | None,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        *,
        not_before: Moment | None = None,
        expires: Moment | None = None,
        env: str | None = None,
    ) -> tuple[KeyRecord, PlainKey]:
        now = self._clock()
        key = new_key(self.prefix, self.env if env is None else env)
        begins, ends = _moment("not_before", not_before, now), _moment("expires", expires, now)
        if ends is not None and ends <= max(as_datetime(now), begins or as_datetime(now)):
            raise ValueError("expires lies before the key would begin to work")
        record = KeyRecord(
            id=key.id,
            prefix=key.prefix,
            env=key.env,
            owner=checked_text("owner", owner),
            subject=checked_text("subject", owner if subject is None else subject),
            created=as_datetime(now),
            plan=None if plan is None else checked_text("plan", plan),
            scopes=checked_scopes(scopes),
            networks=checked_networks(networks),
            metadata=checked_metadata(metadata),
            not_before=begins,
            expires=ends,
        )
        return record, key

    def _changes(
        self, plan: Any, scopes: Any, networks: Any, metadata: Any, expires: Any, owner: Any
    ) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if owner is not _UNCHANGED:
            changes["owner"] = checked_text("owner", owner)
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


def _moment(name: str, when: Moment | None, now: int) -> datetime | None:
    return None if when is None else as_datetime(moment_from(name, when, now))


def _named(key: str, value: bytes) -> KeyRecord:
    """The record of a key; where it is damaged, the error says which it is."""
    try:
        return decode(value)
    except StoreError as error:
        raise StoreError(f"{error}: {word(key.removeprefix(record_key('')))}") from None
