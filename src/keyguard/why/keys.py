"""The state of a key, as its record tells."""

from __future__ import annotations

from datetime import datetime

from keyguard.keys import KeyRecord
from keyguard.why.diagnosis import KeyState


def state_of(record: KeyRecord, at: datetime, last_used: datetime | None, requests: int | None) -> KeyState:
    """Return the state of a key at a moment. What the ledger knows of it is told beside."""
    status = record.status(at)
    return KeyState(
        id=record.id,
        status=status,
        subject=record.subject,
        owner=record.owner,
        name=record.name,
        plan=record.plan,
        scopes=tuple(sorted(record.scopes)),
        networks=record.networks,
        created=record.created,
        since={"revoked": record.revoked, "expired": record.expires, "replaced": record.retires}.get(status),
        until=record.not_before if status == "pending" else record.not_after,
        why=record.revoked_for,
        replaced_by=record.replaced_by,
        last_used=last_used,
        requests=requests,
    )
