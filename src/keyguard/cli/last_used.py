"""When keys were last used, as the ledger tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from keyguard.cli.ledger import NO_LEDGER
from keyguard.cli.output import moment_text, warn
from keyguard.clock import wall_clock
from keyguard.errors import KeyguardError, StoreError
from keyguard.keys import KeyRecord
from keyguard.units import as_datetime, microseconds
from keyguard.usage.asking import Asking


class LastUsed:
    """When each of some keys was last used, to the minute."""

    def __init__(self, known: Mapping[str, datetime] | None, begun: datetime | None = None) -> None:
        self.known = known
        """By id; `None` if no ledger tells it."""
        self.begun = begun
        """When the ledger was begun, if that is known."""

    def members(self, record: KeyRecord) -> dict[str, Any]:
        """Return it for scripts; nothing if no ledger tells it."""
        if self.known is None:
            return {}
        when = self.known.get(record.id)
        return {"last_used": None if when is None else moment_text(when)}

    def column(self, record: KeyRecord) -> str:
        """Return it for a table."""
        when = (self.known or {}).get(record.id)
        return "" if when is None else moment_text(when)


def last_used(records: Sequence[KeyRecord], ledger: Asking | None) -> LastUsed:
    """Return when keys were last used. A ledger that cannot be read is told of, and the keys are listed without it."""
    if ledger is None:
        return LastUsed(None)
    try:
        found = ledger.last_used(*{record.subject for record in records})
        known = {id: when.replace(second=0, microsecond=0) for id, when in found.items()}  # to the minute
        return LastUsed(known, ledger.of(None, timedelta(hours=1)).begun)
    except StoreError as error:
        warn(f"the ledger cannot be read, so it is not known when keys were last used: {error}")
        return LastUsed(None)


def unused(records: Sequence[KeyRecord], used: LastUsed, span: str) -> list[KeyRecord]:
    """Return the keys that were not used for so long, and are older. Raises `KeyguardError` without a ledger."""
    if used.known is None:
        raise KeyguardError(f"it is not known when keys were last used: {NO_LEDGER}")
    since = as_datetime(wall_clock() - microseconds("--unused", span))
    if used.begun is not None and used.begun > since + timedelta(minutes=1):
        warn(f"the ledger was begun at {moment_text(used.begun)}: what was used before that alone is listed as well")
    return [
        record for record in records if record.created <= since and used.known.get(record.id, record.created) <= since
    ]
