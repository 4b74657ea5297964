"""The audit log: what was changed by hand, the latest first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keyguard.audit import AuditRecord
from keyguard.dashboard.answers import Outcome, Shown
from keyguard.dashboard.pages.usage import utc
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import AuditLog, Change
from keyguard.logs import plain
from keyguard.units import in_microseconds

_ROWS = 50
_LONGEST = 200


def audit(reading: Reading) -> Outcome:
    """Show the latest changes, or those of one actor, action or caller."""
    reading.look_around()
    query = reading.asked.query
    who, what, subject = [query.get(name, "").strip()[:_LONGEST] for name in ("who", "what", "subject")]
    skipped = reading.asked.skipped
    found, whole = reading.service.audit.latest(
        skipped + _ROWS + 1,
        now=in_microseconds(reading.now),
        action=what or None,
        caller=subject or None,
        actor=who or None,
    )
    rows = tuple([change_of(reading, record) for record in found[skipped : skipped + _ROWS]])
    more = ""
    if len(found) > skipped + _ROWS:
        more = reading.href("audit", who=who, what=what, subject=subject, skip=str(skipped + _ROWS))
    return Shown(AuditLog(reading.shell("audit"), rows, more, who, what, subject, bounded=not whole))


def change_of(reading: Reading, record: AuditRecord) -> Change:
    """Return one record, as a row."""
    caller = record.caller or ""
    leads = reading.href("upstream") if record.action.startswith("upstream.") else reading.href("keys", find=caller)
    return Change(
        at=utc(record.at),
        who=record.actor,
        what=record.action,
        subject=caller,
        limit=record.limit or "",
        href=leads if caller else "",
        before=_texts(record.before),
        after=_texts(record.after),
    )


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(name): plain("none" if value is None else value if isinstance(value, str) else json.dumps(value))[:_LONGEST]
        for name, value in values.items()
    }
