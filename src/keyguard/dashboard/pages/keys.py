"""The keys: a list that is bounded, and a search by name, owner, subject and id."""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import chain, islice
from operator import attrgetter

from keyguard.dashboard.answers import Elsewhere, Outcome, Shown
from keyguard.dashboard.pages.curve import limit_of
from keyguard.dashboard.pages.heads import head_of
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import KeyRow, Keys
from keyguard.keys import KeyRecord, parse_key, record_key
from keyguard.keys.listing import SomeKeys, some_keys
from keyguard.ops import Read

_ROWS = 50
_LONGEST = 200
_STATES = ("active", "rotating", "pending", "disabled", "expired", "replaced", "revoked")


def keys(reading: Reading) -> Outcome:
    """Show keys, the newest first."""
    registry = reading.service.registry
    if registry is None:
        return reading.problem(404, "not-found")
    query = reading.asked.query
    search = query.get("find", "").strip()[:_LONGEST]
    key = parse_key(search)
    if key is not None:  # it should not stand in a URL; at least it does not stay there
        return Elsewhere(reading.href("keys", key.id))
    state = query.get("state", "") if query.get("state") in _STATES else ""
    skipped = reading.asked.skipped
    reading.look_around()
    there = some_keys(reading.service.store, MOST_KEYS)
    known = _known(reading, search)
    ids = {record.id for record in known}
    records = chain(known, (one for one in there if one.id not in ids and _matches(one, search)))
    matching = (record for record in records if _is(record, state, reading))
    found = list(islice(matching, skipped, skipped + _ROWS + 1))
    rows = _rows(reading, found[:_ROWS])
    more = ""
    if len(found) > _ROWS:
        more = reading.href("keys", find=search, state=state, skip=str(skipped + _ROWS))
    page = Keys(
        shell=reading.shell("keys", reload=0 if search or state or skipped else 30),
        search=search,
        rows=rows,
        more=more,
        total=len(there.stored) if there.whole and not search and not state else None,
        bounded=not there.whole,
        state=state,
    )
    return Shown(page)


_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_LATELY = timedelta(days=7)
MOST_KEYS = 10_000
"""Keys that are looked at for one page."""


def _known(reading: Reading, search: str) -> list[KeyRecord]:
    """Return the key of this id, and those with which a subject of this name has called lately: they are found however
    many keys there are."""
    ids = [search] if _ID.fullmatch(search) else []
    if search:
        report = reading.ledger(lambda usage: usage.of(search, _LATELY))
        ids += [] if report is None else [one.key_id for one in report.by_key[:_ROWS]]
    if not ids:
        return []
    places = [record_key(id) for id in dict.fromkeys(ids)]
    stored = reading.service.store.execute([Read(*places)])[0]
    return list(SomeKeys([pair for pair in zip(places, stored, strict=True) if pair[1] is not None], True))


def _matches(record: KeyRecord, search: str) -> bool:
    wanted = search.casefold()
    names = (record.id, record.name or "", record.owner, record.subject)
    return not wanted or any(wanted in name.casefold() for name in names)


def _is(record: KeyRecord, state: str, reading: Reading) -> bool:
    return not state or record.status(reading.now) == state


def _rows(reading: Reading, records: list[KeyRecord]) -> tuple[KeyRow, ...]:
    """Return some keys, with what the ledger knows of their subjects."""
    subjects = list(dict.fromkeys(record.subject for record in records))
    used = reading.ledger(lambda usage: usage.last_used(*subjects)) if subjects else {}
    top = reading.ledger(lambda usage: usage.top(1000, timedelta(days=1))) if subjects else ()
    counted = None if top is None else {one.subject: one for one in top}
    limits = reading.service.limits_of(records)
    rows = []
    for record in records:
        counting = limits.get(record.id, ())
        lasting = [one for one in counting if one.period is None or one.period >= _LASTING]
        most = max(lasting, key=attrgetter("share"), default=None)
        use = None if counted is None else counted.get(record.subject)
        rows.append(
            KeyRow(
                head=head_of(
                    record,
                    reading.now,
                    last=None if used is None else used.get(record.id),
                    last_known=used is not None,
                    state="exhausted" if any(one.exhausted for one in counting) else None,
                ),
                href=reading.href("keys", record.id),
                requests=None if counted is None else (use.requests if use else 0),
                refused=None if counted is None else (use.refused if use else 0),
                quota_used=None if most is None else min(1.0, most.share),
                quota=None if most is None else limit_of(most),
            )
        )
    return tuple(rows)


_LASTING = timedelta(hours=1)
"""The period of a limit that is shown in a list, at least: of shorter ones little can be said."""
