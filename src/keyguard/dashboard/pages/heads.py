"""Keys, as lists and their own pages begin with them."""

from __future__ import annotations

from datetime import datetime

from keyguard.dashboard.pages.usage import utc
from keyguard.dashboard.views import KeyHead, KeyState
from keyguard.keys import KeyRecord


def head_of(
    record: KeyRecord,
    now: datetime,
    *,
    last: datetime | None = None,
    last_known: bool = False,
    state: KeyState | None = None,
) -> KeyHead:
    """Return what stands at the head of a key's page. `state`, if it says more than the record does."""
    status: KeyState = record.status(now)  # type: ignore[assignment]
    return KeyHead(
        key_id=record.id,
        shown=f"{record.prefix}_{record.env}_{record.id}…",
        name=record.name or record.owner,
        owner=record.owner,
        subject=record.subject,
        plan=record.plan or "",
        scopes=tuple(sorted(record.scopes)),
        state=state if state is not None and status in ("active", "rotating") else status,
        created=utc(record.created),
        expires=_utc(record.expires),
        last=_utc(last),
        last_known=last_known,
        networks=record.networks,
        replaces=record.replaces or "",
        replaced_by=record.replaced_by or "",
        retires=_utc(record.retires),
        revoked=_utc(record.revoked),
        revoked_for=record.revoked_for or "",
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else utc(moment)
