"""Issuing, reading, changing, rotating and revoking keys. `flows` says how; the methods here drive what it says.

The methods with an `a` before their name are the same for event loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keyguard.audit import checked_actor
from keyguard.clock import wall_clock, whole_seconds
from keyguard.errors import ConfigurationError, StoreError
from keyguard.flow import Flow
from keyguard.keys.drafts import UNCHANGED, Moment, changes_of, draft
from keyguard.keys.flows import NO_PEPPER, PEPPERED, Flows, IssuedKey
from keyguard.keys.format import Pepper, Peppers, PlainKey, check_words
from keyguard.keys.imported import HmacSecret, Imported
from keyguard.keys.noting import note
from keyguard.keys.record import ENTRY, KeyRecord, decode, has_pepper, record_key
from keyguard.keys.switches import Switches
from keyguard.keys.taking_over import TakesOver
from keyguard.logs import word
from keyguard.manual_clock import GivenClock, clock_from
from keyguard.ops import Put, Store, head_of
from keyguard.process.event_loops import in_thread
from keyguard.run import arun_flow, run_flow
from keyguard.units import Duration, as_datetime, in_words, microseconds

_LONGEST_OVERLAP = "10000 days"


class KeyRegistry(TakesOver, Switches):
    """The keys in a store.

    A method that takes an id also takes the whole key, so that a leaked one can be revoked as it was found; but for an
    imported one of which only a slow hash is known. `actor` is who makes a change, for the audit log.
    Raises `KeyNotFound` for an unknown id, `ValueError` for a value that is not possible, `StoreError` if the store
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
        clock: GivenClock | None = None,
        hmac_secret: HmacSecret = None,
    ) -> None:
        check_words(prefix, env)
        self.store = store
        self.prefix = prefix
        self.env = env
        self._peppers = Peppers(pepper)
        self._hmac = None if hmac_secret is None else Imported(self._peppers, hmac_secret)
        self._flows = Flows(self._peppers, self._hmac)
        self._clock = clock_from(clock, wall_clock)

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
        name: str | None = None,
        actor: str = "app",
    ) -> IssuedKey:
        """Make a new key.

        `subject` is the one its limits belong to, by default the owner. `not_before` and `expires` are aware datetimes,
        or durations from now (a `timedelta`, or a text such as `"30 days"`). `scopes`, `networks` and `metadata` are
        what `KeyRecord` says. `env` is the second word of the key, by default the registry's. `name` is what you call
        it, for people to read.
        """
        record, key = self._draft(
            env,
            owner=owner,
            subject=subject,
            plan=plan,
            scopes=scopes,
            networks=networks,
            metadata=metadata,
            not_before=not_before,
            expires=expires,
            name=name,
        )
        self._note()
        return run_flow(self.store, self._flows.issue(record, key, actor))

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
        name: str | None = None,
        actor: str = "app",
    ) -> IssuedKey:
        """Do as `issue` does, under an event loop."""
        record, key = self._draft(
            env,
            owner=owner,
            subject=subject,
            plan=plan,
            scopes=scopes,
            networks=networks,
            metadata=metadata,
            not_before=not_before,
            expires=expires,
            name=name,
        )
        if not await arun_flow(self.store, self._flows.noted()):
            await in_thread(self._look)
        return await arun_flow(self.store, self._flows.issue(record, key, actor))

    def get(self, id: str) -> KeyRecord:
        """Return the record of a key."""
        return run_flow(self.store, self._flows.get(id))

    async def aget(self, id: str) -> KeyRecord:
        """Do as `get` does, under an event loop."""
        return await arun_flow(self.store, self._flows.get(id))

    def list(
        self, *, subject: str | None = None, status: str | None = None, owner: str | None = None
    ) -> list[KeyRecord]:
        """Return all keys, oldest first; of one subject, status (see `KeyRecord.status`) or owner, if given."""
        now = as_datetime(self._clock())
        records = [_named(key, value) for key, value in self._stored()]
        found = [
            record
            for record in records
            if (subject is None or record.subject == subject)
            and (status is None or record.status(now) == status)
            and (owner is None or record.owner == owner)
        ]
        return sorted(found, key=lambda record: (record.created, record.id))

    async def alist(
        self, *, subject: str | None = None, status: str | None = None, owner: str | None = None
    ) -> Sequence[KeyRecord]:
        """Do as `list` does, under an event loop."""
        return await in_thread(self.list, subject=subject, status=status, owner=owner)

    def issue_if_absent(
        self,
        owner: str,
        name: str,
        *,
        subject: str | None = None,
        plan: str | None = None,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        not_before: Moment | None = None,
        expires: Moment | None = None,
        env: str | None = None,
        actor: str = "app",
    ) -> IssuedKey | KeyRecord:
        """Make a new key, unless the subject has one of this name that is not revoked, expired or deleted.

        Then the record of that key, or of its last successor, is returned as it is, whatever plan and scopes are asked
        for. Of many that call it at the same time one makes a key. The rest is as `issue` says.
        """
        record, key = self._draft(
            env,
            owner=owner,
            subject=subject,
            plan=plan,
            scopes=scopes,
            networks=networks,
            metadata=metadata,
            not_before=not_before,
            expires=expires,
            name=name,
        )
        self._note()
        return run_flow(self.store, self._flows.issue_if_absent(record, key, actor))

    async def aissue_if_absent(
        self,
        owner: str,
        name: str,
        *,
        subject: str | None = None,
        plan: str | None = None,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        not_before: Moment | None = None,
        expires: Moment | None = None,
        env: str | None = None,
        actor: str = "app",
    ) -> IssuedKey | KeyRecord:
        """Do as `issue_if_absent` does, under an event loop."""
        return await in_thread(
            self.issue_if_absent,
            owner,
            name,
            subject=subject,
            plan=plan,
            scopes=scopes,
            networks=networks,
            metadata=metadata,
            not_before=not_before,
            expires=expires,
            env=env,
            actor=actor,
        )

    def revoke(self, id: str, reason: str | None = None, *, actor: str = "app") -> KeyRecord:
        """Make a key invalid, for good, in every process within a second. Revoking it again changes nothing."""
        return run_flow(self.store, self._flows.revoke(id, reason, actor))

    async def arevoke(self, id: str, reason: str | None = None, *, actor: str = "app") -> KeyRecord:
        """Do as `revoke` does, under an event loop."""
        return await arun_flow(self.store, self._flows.revoke(id, reason, actor))

    def rotate(self, id: str, *, overlap: Duration = "24 hours", actor: str = "app") -> IssuedKey:
        """Issue a successor with the same subject, plan, scopes, networks, metadata and expiry.

        The old key goes on working for `overlap`, a duration; 0 ends it at once. Limits are the subject's, so
        nothing is reset. Raises `ValueError` for a key that is not valid any more or was rotated already.
        """
        return run_flow(self.store, self._rotated(id, overlap, actor))

    async def arotate(self, id: str, *, overlap: Duration = "24 hours", actor: str = "app") -> IssuedKey:
        """Do as `rotate` does, under an event loop."""
        return await arun_flow(self.store, self._rotated(id, overlap, actor))

    def update(
        self,
        id: str,
        *,
        plan: str | None = UNCHANGED,
        scopes: Iterable[str] = UNCHANGED,
        networks: Iterable[str] = UNCHANGED,
        metadata: Mapping[str, Any] | None = UNCHANGED,
        expires: Moment | None = UNCHANGED,
        owner: str = UNCHANGED,
        actor: str = "app",
    ) -> KeyRecord:
        """Change what is given of a key, and nothing else."""
        changed = self._changed(
            id, actor, plan=plan, scopes=scopes, networks=networks, metadata=metadata, expires=expires, owner=owner
        )
        return run_flow(self.store, changed)

    async def aupdate(
        self,
        id: str,
        *,
        plan: str | None = UNCHANGED,
        scopes: Iterable[str] = UNCHANGED,
        networks: Iterable[str] = UNCHANGED,
        metadata: Mapping[str, Any] | None = UNCHANGED,
        expires: Moment | None = UNCHANGED,
        owner: str = UNCHANGED,
        actor: str = "app",
    ) -> KeyRecord:
        """Do as `update` does, under an event loop."""
        changed = self._changed(
            id, actor, plan=plan, scopes=scopes, networks=networks, metadata=metadata, expires=expires, owner=owner
        )
        return await arun_flow(self.store, changed)

    def migrate(self, *, actor: str = "app") -> tuple[int, int]:
        """Write the records of earlier layouts anew, sealed. Returns how many were, and how many could not be.

        Those are the records whose pepper is not set, and damaged ones. Raises `ConfigurationError`, and changes
        nothing, if a pepper is not the one that sealed records of its version were made with: keys would be lost.
        """
        checked_actor(actor)
        done = left = 0
        found = self._stored()
        self._flows.check_peppers([stored for _, stored in found])
        for name, stored in found:
            if (head := head_of(stored)) is not None and head.layout > 1:
                continue
            if head is None or head.pepper not in self._peppers:
                left += 1
                continue
            id = name.removeprefix(record_key(""))
            run_flow(self.store, self._flows.change(id, lambda record, now: record, "keys.migrate", actor))
            done += 1
        if done:
            run_flow(self.store, note(self._clock(), actor, "keys.migrate", None, {}, {"sealed": done, "left": left}))
        return done, left

    # -- what each and its twin have in common -----------------------------------------------------------

    def _draft(self, env: str | None, **given: Any) -> tuple[KeyRecord, PlainKey]:
        return draft(self._clock(), self.prefix, self.env if env is None else env, **given)

    def _rotated(self, id: str, overlap: Duration, actor: str) -> Flow[IssuedKey]:
        span = microseconds("overlap", overlap, max=_LONGEST_OVERLAP)
        told = overlap if isinstance(overlap, str) else in_words(whole_seconds(span))
        return self._flows.rotate(id, span, told, actor)

    def _changed(self, id: str, actor: str, **given: Any) -> Flow[KeyRecord]:
        changes = changes_of(self._clock(), **given)
        return self._flows.change(id, lambda record, now: replace(record, **changes), "keys.update", actor)

    def _stored(self) -> Sequence[tuple[str, bytes]]:
        """Return the records, as they are stored, and their places."""
        return [pair for pair in self.store.scan(record_key("")) if not pair[0].startswith(ENTRY)]

    def _note(self) -> None:
        if not run_flow(self.store, self._flows.noted()):
            self._look()

    def _look(self) -> None:
        """Look through the keys of a store of which nothing is noted: made by an earlier keyguard, or copied."""
        peppered = any(has_pepper(stored) for _, stored in self._stored())
        self.store.execute([Put(PEPPERED, b"1" if peppered else b"0", expected=None)])
        if peppered:
            raise ConfigurationError(NO_PEPPER)


def _named(key: str, value: bytes) -> KeyRecord:
    """Return the record of a key; if it is damaged, the error says which it is."""
    try:
        return decode(value)
    except StoreError as error:
        raise StoreError(f"{error}: {word(key.removeprefix(record_key('')))}") from None
