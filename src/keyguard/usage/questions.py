"""Other questions to a ledger than reports: who has asked most, when keys were last used, which processes there are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from keyguard.clock import SECOND, Clock
from keyguard.ops import BestEffort, Read, ReadWithTime
from keyguard.ops.usage import LATEST, PROCESSES, USAGE_VERSION, processes_in, usage_value
from keyguard.units import as_datetime
from keyguard.usage.names import DAY, HOUR, latest_key, ranking_key, spelled, total_key
from keyguard.usage.pending import ONE, TOTALS
from keyguard.usage.reading import Since, begin_of, most_first, named, vanished
from keyguard.usage.report import ProcessInfo, SubjectUse


async def ranking(number: int, since: Since, clock: Clock) -> tuple[SubjectUse, ...]:
    """Return who has asked most."""
    now = clock()
    begin = begin_of(since, now)
    days = range(begin // DAY, (now + HOUR) // DAY + 1)
    values = await Read(*[ranking_key(day) for day in days])
    requests: dict[str, int] = {}
    refused: dict[str, int] = {}
    for day, value in zip(days, values, strict=True):
        found = usage_value(value)
        if found is None or found["v"] != USAGE_VERSION:
            continue
        for kind, counts in (("s", requests), ("f", refused)):
            for name, slots in found["c"].get(kind, {}).items():
                for slot, count in slots.items():
                    if day * 24 + int(slot) >= begin // HOUR:
                        counts[name] = counts.get(name, 0) + count
    ranked = list(most_first(named(requests)).items())[: max(0, number)]
    return tuple([SubjectUse(name, count, min(count, refused.get(name, 0))) for name, count in ranked])


async def last_used(subjects: Sequence[str]) -> dict[str, datetime]:
    """Return when the keys of some subjects were last used, by their ids."""
    asked = list(dict.fromkeys(subjects))
    found: dict[str, datetime] = {}
    for place in range(0, len(asked), _AT_ONCE):
        some = asked[place : place + _AT_ONCE]
        values = await BestEffort(*[Read(latest_key(spelled(subject))) for subject in some])
        for value in values:
            known = usage_value(value[0])
            if known is None or known["v"] != USAGE_VERSION:
                continue
            for key_id, slots in known["c"].get(LATEST, {}).items():
                second = slots.get(ONE, 0)
                found[key_id] = max(found.get(key_id, as_datetime(0)), as_datetime(second * SECOND))
    return found


_AT_ONCE = 64


async def processes() -> tuple[ProcessInfo, ...]:
    """Return the processes that are known, by host and number."""
    read: Any = await ReadWithTime(PROCESSES)
    now, values = read
    known = processes_in(values[0]) or {}
    found = [
        ProcessInfo(
            host=str(facts.get("host", "")),
            pid=_number(facts.get("pid")),
            version=str(facts.get("version", "")),
            seen=as_datetime(facts["seen"]),
            vanished=vanished(facts, now),
            health=facts["health"] if isinstance(facts.get("health"), dict) else {},
            dropped=_number(facts.get("dropped")),
            overflow=_number(facts.get("overflow")),
            cache=facts["cache"] if isinstance(facts.get("cache"), dict) else {},
        )
        for facts in known.values()
    ]
    return tuple(sorted(found, key=lambda one: (one.host, one.pid)))


def _number(told: object) -> int:
    return told if isinstance(told, int) else 0


async def total(name: str) -> dict[str, int] | None:
    """Return totals that go on for good; `None` if there are none yet."""
    (value,) = await Read(total_key(name))
    found = usage_value(value)
    if value is None or found is None or found["v"] != USAGE_VERSION:
        return None
    return {name: slots.get(ONE, 0) for name, slots in found["c"].get(TOTALS, {}).items()}
