"""The records in the audit log of what commands change about keys: right after the change, since keys lie elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyguard.audit import new_record, writing
from keyguard.cli.operator import operator
from keyguard.cli.output import members_of, warn
from keyguard.clock import wall_clock
from keyguard.errors import StoreError
from keyguard.keys import KeyRecord
from keyguard.ops import Store


def note_issued(store: Store, record: KeyRecord) -> None:
    """Note that a key was made."""
    _note(store, "keys.issue", record.id, {}, {name: value for name, value in _told(record).items() if value})


def note_imported(store: Store, found: Mapping[str, int]) -> None:
    """Note that keys were imported, and how many."""
    _note(store, "keys.import", None, {}, found)


def note_deleted(store: Store, before: KeyRecord) -> None:
    """Note that a key was deleted, and what it was."""
    _note(store, "keys.delete", before.id, {name: value for name, value in _told(before).items() if value}, {})


def note_rotated(store: Store, successor: KeyRecord, overlap: str) -> None:
    """Note that a key has got a successor."""
    _note(store, "keys.rotate", str(successor.replaces), {}, {"replaced_by": successor.id, "overlap": overlap})


def note_changed(store: Store, action: str, before: KeyRecord, after: KeyRecord) -> None:
    """Note what is different about a key; nothing if nothing is."""
    was, now = _told(before), _told(after)
    changed = [name for name in now if was[name] != now[name]]
    if changed:
        _note(store, action, after.id, {name: was[name] for name in changed}, {name: now[name] for name in changed})


def _told(record: KeyRecord) -> dict[str, Any]:
    """Return what may be told of a key. Of its metadata that is the names: the values may be anything."""
    members = members_of(record)
    names = sorted(members.pop("metadata") or ())
    return {name: value for name, value in {**members, "metadata": names}.items() if name != "id"}


def _note(store: Store, action: str, id: str | None, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    record = new_record(wall_clock(), actor=operator(), action=action, caller=id, before=before, after=after)
    try:
        store.execute([writing(record)])
    except StoreError as error:
        warn(f"the change was made, and is not in the audit log: {error}")
