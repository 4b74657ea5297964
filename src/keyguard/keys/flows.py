"""Actions on keys in a store, each written once, as a flow that a thread or an event loop drives.

Every change is one `CompareAndSet` that succeeds only if nobody changed the record meanwhile; else it is read and tried
again.

Actions that end a key from now on do so by the store's clock, which says whether keys are valid: an operator's machine
whose clock is ahead would else revoke a key later than it says.

A store that holds keys with a pepper gets none without: they would not be accepted. Whether it does is noted in it,
since nobody wants to look through all keys each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keyguard.errors import ConfigurationError, KeyNotFound, StoreError
from keyguard.keys.format import Peppers, PlainKey, new_key
from keyguard.keys.record import KeyRecord, decode, encode_again, encode_new, read_head, record_key, trusted
from keyguard.keys.values import checked_text, key_id
from keyguard.logs import word
from keyguard.ops import CompareAndSet, Put, Read, ReadWithTime, head_of
from keyguard.units import as_datetime

PEPPERED = "keys|peppered"
"""The store's key of the note whether it holds keys with a pepper: `1`, or `0`. It is missing if no process has
looked."""

NO_PEPPER = (
    "this store holds keys that were made with a pepper, and none is set: a key that is made without would not be "
    "accepted beside them. Set KEYGUARD_PEPPER to that of the app"
)
_TRIES = 20


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: the only time that its text is known."""

    key: PlainKey
    record: KeyRecord


class Flows:
    """The actions on keys that are made, and sealed, with these peppers."""

    def __init__(self, peppers: Peppers) -> None:
        self._peppers = peppers

    async def issue(self, record: KeyRecord, key: PlainKey) -> IssuedKey:
        name = record_key(key.id)
        if not await CompareAndSet({name: None}, {name: encode_new(record, self._peppers, key)}):
            raise StoreError("a key of this id exists already")  # 71 random bits: it does not happen
        return IssuedKey(key, record)

    async def get(self, id: str) -> KeyRecord:
        stored, _ = await self.stored(key_id(id))
        return decode(stored)

    async def revoke(self, id: str, reason: str | None) -> KeyRecord:
        why = None if reason is None else checked_text("a reason", reason)

        def revoked(record: KeyRecord, now: int) -> KeyRecord:
            if record.revoked is not None and record.revoked <= as_datetime(now):
                return record
            return replace(record, revoked=as_datetime(now), revoked_for=why)

        return await self.change(id, revoked, untrusted=True)

    async def rotate(self, id: str, overlap: int) -> IssuedKey:
        for _ in range(_TRIES):
            stored, now = await self.stored(key_id(id))
            old = self.trusted(stored)
            if read_head(stored).pepper and not self._peppers.current:
                raise ConfigurationError(NO_PEPPER)
            if old.replaced_by is not None:
                raise ValueError(f"key {old.id} was rotated already, to {old.replaced_by}: rotate that one")
            status = old.status(as_datetime(now))
            if status not in ("active", "pending"):
                raise ValueError(f"key {old.id} is {status}: issue a new one instead")
            key = new_key(old.prefix, old.env)
            successor = replace(old, id=key.id, created=as_datetime(now), replaces=old.id)
            retired = replace(old, replaced_by=key.id, retires=as_datetime(now + overlap))
            name, new_name = record_key(old.id), record_key(key.id)
            await self.noted()
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

    async def change(
        self, id: str, change: Callable[[KeyRecord, int], KeyRecord], *, untrusted: bool = False
    ) -> KeyRecord:
        """Change a record; with `untrusted` also one that is not valid, and will not be."""
        name = record_key(key_id(id))
        for _ in range(_TRIES):
            stored, now = await self.stored(key_id(id))
            record = change(decode(stored) if untrusted else self.trusted(stored), now)
            data = encode_again(record, self._peppers, stored)
            if data == stored or await CompareAndSet({name: stored}, {name: data}):
                return record
        raise StoreError("the key is being changed by others all the time")

    async def noted(self) -> bool:
        """Note that the store holds keys with a pepper, if this registry makes such; else read the note.

        Returns whether there is a note. Raises if it tells of keys with a pepper, and this registry makes keys without.
        """
        if self._peppers.current:
            await Put(PEPPERED, b"1")
            return True
        (note,) = await Read(PEPPERED)
        if note == b"1":
            raise ConfigurationError(NO_PEPPER)
        return note is not None

    async def stored(self, id: str) -> tuple[bytes, int]:
        """Return what is stored of a key, and the store's time."""
        looked: Any = await ReadWithTime(record_key(id))
        now, (stored,) = looked
        if stored is None:
            raise KeyNotFound(f"there is no key with the id {id}")
        return stored, now

    # -- checking -----------------------------------------------------------------------------------------

    def check_peppers(self, records: Sequence[bytes]) -> None:
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

    def trusted(self, stored: bytes) -> KeyRecord:
        """Read the record in stored bytes. Raises if a change of it would seal what somebody else has changed."""
        record = decode(stored)
        version = read_head(stored).pepper
        if version not in self._peppers:
            what = f"pepper {version}, which is not set" if version else "no pepper, and version 0 is not named"
            raise ConfigurationError(
                f"key {word(record.id)} was made with {what}: set KEYGUARD_PEPPER as the app has it"
            )
        if not trusted(stored, self._peppers):
            raise StoreError(f"the record of key {word(record.id)} was changed without the pepper: revoke it")
        return record
