"""Other questions to a ledger than reports: who has asked most, when keys were last used, which processes there are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from keyguard.clock import SECOND, Clock
from keyguard.ops import BestEffort, Read, ReadWithTime
from keyguard.ops.usage import LATEST, OTHER, PROCESSES, UsageValue, processes_in
from keyguard.units import as_datetime
from keyguard.usage.hours import TOTALS
from keyguard.usage.names import DAY, HOUR, day_ranking_key, hour_ranking_key, latest_key, spelled, total_key
from keyguard.usage.reading import FINE, Since, begin_of, most_first, named, vanished
from keyguard.usage.report import ProcessInfo, SubjectUse


async def ranking(number: int, since: Since, clock: Clock) -> tuple[SubjectUse, ...]:
    """Return who has asked most."""
    now = clock()
    begin = begin_of(since, now)
    if begin >= now - FINE:
        keys = [hour_ranking_key(hour) for hour in range(begin // HOUR, now // HOUR + 2)]
    else:
        keys = [day_ranking_key(day) for day in range(begin // DAY, (now + HOUR) // DAY + 1)]
    requests: dict[str, int] = {}
    refused: dict[str, int] = {}
    for value in await Read(*keys):
        found = UsageValue.read(value)
        if found is None:
            continue
        for kind, counts in (("s", requests), ("f", refused)):
            for name, count in found.counts.get(kind, {}).items():
                counts[name] = counts.get(name, 0) + count
    ranked = list(most_first(named(requests)).items())[: max(0, number)]
    return tuple([SubjectUse(name, count, min(count, refused.get(name, 0))) for name, count in ranked])


async def last_used(subjects: Sequence[str]) -> dict[str, datetime]:
    """Return when the keys of some subjects were last used, by their ids."""
    asked = list(dict.fromkeys(subjects))
    seconds: dict[str, int] = {}
    for place in range(0, len(asked), _AT_ONCE):
        some = asked[place : place + _AT_ONCE]
        for (value,) in await BestEffort(*[Read(latest_key(spelled(subject))) for subject in some]):
            found = UsageValue.read(value)
            for key_id, second in found.counts.get(LATEST, {}).items() if found is not None else ():
                seconds[key_id] = max(second, seconds.get(key_id, 0))
    return {key_id: as_datetime(second * SECOND) for key_id, second in seconds.items() if key_id != OTHER}


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
    found = UsageValue.read(value)
    return None if value is None or found is None else found.counts.get(TOTALS, {})
