"""The records in the audit log of what is changed about keys: right after the change, since they lie elsewhere.

Rules:
- Of the metadata of a key the names are told alone: the values may be anything.
- A change that was made stays made if its record cannot be written: a new key would be lost with the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from keyguard import audit
from keyguard.clock import SECOND
from keyguard.keys.record import MOMENTS, KeyRecord, to_json
from keyguard.units import as_datetime, rfc3339


def members_at(record: KeyRecord, now: datetime) -> dict[str, Any]:
    """Return a record as it is told to scripts: moments as RFC 3339 text, and the status that it has at a moment."""
    members = to_json(record)
    for name in MOMENTS:
        if members[name] is not None:
            members[name] = rfc3339(members[name] // SECOND)
    return {"name": None, "imported": None, **members, "status": record.status(now)}


async def note_made(record: KeyRecord, now: int, actor: str) -> None:
    """Note that a key was made."""
    await note(now, actor, "keys.issue", record.id, {}, _whole(record, now))


async def note_deleted(before: KeyRecord, now: int, actor: str) -> None:
    """Note that a key was deleted, and what it was."""
    await note(now, actor, "keys.delete", before.id, _whole(before, now), {})


async def note_changed(before: KeyRecord, after: KeyRecord, now: int, action: str, actor: str) -> None:
    """Note what is different about a key; nothing if nothing is."""
    was, is_now = _told(before, now), _told(after, now)
    names = [name for name in is_now if was[name] != is_now[name]]
    if names:
        changed = [{name: told[name] for name in names} for told in (was, is_now)]
        await note(now, actor, action, after.id, *changed)


async def note(
    now: int, actor: str, action: str, id: str | None, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Write a record of a change that was made."""
    await audit.note(audit.new_record(now, actor=actor, action=action, caller=id, before=before, after=after))


def _told(record: KeyRecord, now: int) -> dict[str, Any]:
    """Return what may be told of a key."""
    members = members_at(record, as_datetime(now))
    names = sorted(members.pop("metadata") or ())
    return {name: value for name, value in {**members, "metadata": names}.items() if name != "id"}


def _whole(record: KeyRecord, now: int) -> dict[str, Any]:
    return {name: value for name, value in _told(record, now).items() if value}
