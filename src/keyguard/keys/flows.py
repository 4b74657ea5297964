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

from keyguard.audit import checked_actor
from keyguard.digests import digest
from keyguard.errors import ConfigurationError, KeyNotFound, StoreError
from keyguard.keys.format import Peppers, PlainKey, new_key, parse_key
from keyguard.keys.imported import Imported, ids_in, may_be_imported
from keyguard.keys.noting import note, note_changed, note_deleted, note_made
from keyguard.keys.record import ENTRY, KeyRecord, decode, encode_again, encode_new, read_head, record_key, trusted
from keyguard.keys.values import checked_text, key_id
from keyguard.logs import word
from keyguard.ops import CompareAndSet, Put, Read, ReadWithTime, head_of
from keyguard.units import as_datetime, in_microseconds

PEPPERED = "keys|peppered"
"""The store's key of the note whether it holds keys with a pepper: `1`, or `0`. It is missing if no process has
looked."""

NO_PEPPER = (
    "this store holds keys that were made with a pepper, and none is set: a key that is made without would not be "
    "accepted beside them. Set KEYGUARD_PEPPER to that of the app"
)
NAMED = ENTRY + "n"
"""The beginning of the store's keys of entries that lead from a subject and a name to the id of a key."""

_TRIES = 20
_GENERATIONS = 10_000


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: the only time that its text is known."""

    key: PlainKey
    record: KeyRecord


class Flows:
    """The actions on keys that are made, and sealed, with these peppers."""

    def __init__(self, peppers: Peppers, hmac: Imported | None = None) -> None:
        self._peppers = peppers
        self._hmac = hmac

    async def issue(self, record: KeyRecord, key: PlainKey, actor: str) -> IssuedKey:
        checked_actor(actor)
        name = record_key(key.id)
        if not await CompareAndSet({name: None}, {name: encode_new(record, self._peppers, key)}):
            raise StoreError("a key of this id exists already")  # 71 random bits: it does not happen
        await note_made(record, in_microseconds(record.created), actor)
        return IssuedKey(key, record)

    async def issue_if_absent(self, record: KeyRecord, key: PlainKey, actor: str) -> IssuedKey | KeyRecord:
        """Issue a key, unless its subject has a working one of its name: then return the record of that.

        An entry leads from subject and name to it, so of two that do so at the same time one issues.
        """
        checked_actor(actor)
        entry = NAMED + digest([record.subject, str(record.name)])
        for _ in range(_TRIES):
            known: Any = await Read(entry)
            there = await self._working(known[0])
            if there is not None:
                return there
            name = record_key(key.id)
            values = {name: encode_new(record, self._peppers, key), entry: key.id.encode()}
            if await CompareAndSet({name: None, entry: known[0]}, values):
                await note_made(record, in_microseconds(record.created), actor)
                return IssuedKey(key, record)
        raise StoreError("the key is being changed by others all the time")

    async def _working(self, known: bytes | None) -> KeyRecord | None:
        """Return the record that an entry leads to, or the last of its successors; `None` if that has ended."""
        id = None if known is None else known.decode("ascii", "replace")
        for _ in range(_GENERATIONS):
            if id is None:
                return None
            looked: Any = await ReadWithTime(record_key(id))
            now, (stored,) = looked
            if stored is None:
                return None
            record = decode(stored)
            if record.replaced_by is None:
                ended = record.status(as_datetime(now)) in ("revoked", "expired")
                return None if ended else record
            id = record.replaced_by
        raise StoreError("a key has too many successors")

    async def disable(self, id: str, disabled: bool, actor: str) -> KeyRecord:
        def changed(record: KeyRecord, now: int) -> KeyRecord:
            status = record.status(as_datetime(now))
            if status in ("revoked", "expired", "replaced"):
                raise ValueError(f"key {record.id} is {status}, and not valid any more: issue a new one instead")
            return replace(record, disabled=disabled)

        return await self.change(id, changed, "keys.disable" if disabled else "keys.enable", actor)

    async def delete(self, id: str, actor: str) -> KeyRecord:
        checked_actor(actor)
        id = await self._id_of(id)
        name = record_key(id)
        for _ in range(_TRIES):
            stored, now = await self.stored(id)
            record = decode(stored)
            if await CompareAndSet({name: stored}, {name: None}):
                await note_deleted(record, now, actor)
                return record
        raise StoreError("the key is being changed by others all the time")

    async def get(self, id: str) -> KeyRecord:
        id = await self._id_of(id)
        stored, _ = await self.stored(id)
        return decode(stored)

    async def revoke(self, id: str, reason: str | None, actor: str) -> KeyRecord:
        why = None if reason is None else checked_text("a reason", reason)

        def revoked(record: KeyRecord, now: int) -> KeyRecord:
            if record.revoked is not None and record.revoked <= as_datetime(now):
                return record
            return replace(record, revoked=as_datetime(now), revoked_for=why)

        return await self.change(id, revoked, "keys.revoke", actor, untrusted=True)

    async def rotate(self, id: str, overlap: int, told: str, actor: str) -> IssuedKey:
        """Issue a successor. `told` is the overlap in words, for the audit log."""
        checked_actor(actor)
        id = await self._id_of(id)
        for _ in range(_TRIES):
            stored, now = await self.stored(id)
            old = self.trusted(stored)
            if read_head(stored).pepper and not self._peppers.current:
                raise ConfigurationError(NO_PEPPER)
            if old.replaced_by is not None:
                raise ValueError(f"key {old.id} was rotated already, to {old.replaced_by}: rotate that one")
            status = old.status(as_datetime(now))
            if status not in ("active", "pending"):
                raise ValueError(f"key {old.id} is {status}: issue a new one instead")
            key = new_key(old.prefix, old.env)
            successor = replace(old, id=key.id, created=as_datetime(now), replaces=old.id, imported=None, verifier=None)
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
                await note(now, actor, "keys.rotate", old.id, {}, {"replaced_by": key.id, "overlap": told})
                return IssuedKey(key, successor)
        raise StoreError("the key is being changed by others all the time")

    async def change(
        self,
        id: str,
        change: Callable[[KeyRecord, int], KeyRecord],
        action: str,
        actor: str,
        *,
        untrusted: bool = False,
    ) -> KeyRecord:
        """Change a record, and note it; with `untrusted` also one that is not valid, and will not be."""
        checked_actor(actor)
        id = await self._id_of(id)
        name = record_key(id)
        for _ in range(_TRIES):
            stored, now = await self.stored(id)
            before = decode(stored) if untrusted else self.trusted(stored)
            record = change(before, now)
            data = encode_again(record, self._peppers, stored)
            if data == stored or await CompareAndSet({name: stored}, {name: data}):
                await note_changed(before, record, now, action, actor)
                return record
        raise StoreError("the key is being changed by others all the time")

    async def _id_of(self, text: str) -> str:
        """Return the id that is named, by itself or by its whole key, issued or imported.

        Raises `KeyNotFound`, which does not show what may be a key.
        """
        if parse_key(text) is None and may_be_imported(text):
            exact, _ = Imported(self._peppers, self._hmac).places(text)
            found = ids_in(await Read(*exact))
            if not found:
                raise KeyNotFound(
                    "there is no key of this text; an id has 12 characters, and an imported key of which only a slow "
                    "hash is known is named by its id"
                )
            return found[0]
        return key_id(text)

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
