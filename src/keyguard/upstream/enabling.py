"""Having a key tried again that was left alone."""

from __future__ import annotations

from typing import Any

from keyguard.audit import AuditRecord, new_record
from keyguard.learnt import Report
from keyguard.units import in_microseconds
from keyguard.upstream.parts import no_grant
from keyguard.upstream.snapshot import PoolSnapshot, Shown


def enabling(pool: Shown, group: Any, digest: str) -> list[Report]:
    """Return the reports that have a key tried again at once, and its group in all model classes."""
    return [
        Report(pool.candidate(model_class, group, group.keys), no_grant(digest), cause="enable")
        for model_class in pool.classes
    ]


def record_of(found: PoolSnapshot, id: str, actor: str) -> AuditRecord:
    """Return the record for the audit log that a key is tried again, of a pool as it was found before."""
    return new_record(
        in_microseconds(found.at),
        actor=actor,
        action="upstream.enable",
        caller=f"{found.name}/{id}",
        before=_state(found, id),
        after={"state": "ok"},
    )


def _state(found: PoolSnapshot, id: str) -> dict[str, str]:
    groups = [group for group in found.groups if any(key.id == id for key in group.keys)]
    cause = next((str(group.cause) for group in groups if group.cause != "ok"), "ok")
    state = next((key.state for group in groups for key in group.keys if key.id == id and key.state != "ok"), "ok")
    return {"state": state, "cause": cause}
