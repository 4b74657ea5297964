"""The audit log: which changes were made by hand, by whom, and what stood there before.

Rules:
- A record is one value of its own, under `audit|{id}`. An id begins with the time, so the order of the keys is that of
  the records. It is written once, only if nothing stands there, and never changed.
- It is kept for `KEPT`, and then it leaves by itself.
- No secret stands in it: keys are named by their ids.
- It is JSON with a version, `1`. A reader takes what it knows, and leaves out records of later versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from keyguard.checks import is_name
from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.logs import logger, plain
from keyguard.ops import Put, Store, traits_of
from keyguard.process.event_loops import in_thread
from keyguard.process.tokens import new_token
from keyguard.units import as_datetime, in_microseconds, moment

KEPT = 400 * 86400 * SECOND
"""Microseconds for which a record is kept."""

POOL = "audit"
"""The pool of the records."""

_VERSION = 1
_LONGEST = 256  # characters of a name
_SPANS = (6, 7, 8, 9, 10, 11)
"""Hexadecimal digits of microseconds: spans of 17 seconds, 4 minutes, 72 minutes, 19 hours, 13 days and 204 days."""
_LOOKED_AT = 5000
_NONE: Mapping[str, Any] = MappingProxyType({})

log = logger("keyguard")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A change that somebody made by hand."""

    at: datetime
    """When it was made, by the store's clock where it was made in one operation with its record."""
    actor: str
    """The person or program that made it: for a command the user of the operating system, else `actor=`."""
    action: str
    """The kind of change: a room and a verb, such as `limits.grant` or `bans.lift`."""
    caller: str | None = None
    """Whom it concerns: an address, the id of a key, a subject, or a digest; never a key."""
    limit: str | None = None
    """The public name of the limit that it concerns."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """The state before it: names and values as JSON has them."""
    after: Mapping[str, Any] = field(default_factory=dict)
    """The state after it, likewise."""
    id: str = field(default="", compare=False)
    """The name under which the store keeps it: 32 characters, the time first."""

    @property
    def key(self) -> str:
        """The store's key of the record."""
        return f"{POOL}|{self.id}"


def new_record(
    now: int,
    *,
    actor: str,
    action: str,
    caller: str | None = None,
    limit: str | None = None,
    before: Mapping[str, Any] = _NONE,
    after: Mapping[str, Any] = _NONE,
) -> AuditRecord:
    """Return a record of a change made at `now`, in microseconds, with an id of its own.

    Raises `ValueError` for an actor or action that is not a name.
    """
    id = f"{max(0, now):016x}{new_token()[::-1].hex()}"
    return AuditRecord(as_datetime(now), checked_actor(actor), action, caller, limit, dict(before), dict(after), id)


def checked_actor(actor: object) -> str:
    """Return who makes a change. Raise `ValueError` that says what would be right."""
    if not is_name(actor, _LONGEST):
        raise ValueError(f"actor is a printable text of 1 to {_LONGEST} characters, not {actor!r:.80}")
    return actor


def writing(record: AuditRecord) -> Put:
    """Return the operation that appends a record: `await writing(record)` in a flow.

    It may be executed again: it writes only if the record does not stand there yet.
    """
    return Put(record.key, encode(record), KEPT, expected=None)


async def note(record: AuditRecord) -> None:
    """Append the record of a change that stands elsewhere and was made: it stays made if this fails.

    The log of the process tells of it then.
    """
    try:
        await writing(record)
    except StoreError as error:
        log.warning("the change %s was made, and is not in the audit log: %s", record.action, plain(error))


def encode(record: AuditRecord) -> bytes:
    """Return a record as it is stored."""
    members = {
        "v": _VERSION,
        "at": in_microseconds(record.at),
        "actor": record.actor,
        "action": record.action,
        "caller": record.caller,
        "limit": record.limit,
        "before": dict(record.before),
        "after": dict(record.after),
    }
    return json.dumps(members, allow_nan=False, separators=(",", ":")).encode()


def decode(id: str, data: bytes) -> AuditRecord | None:
    """Return the record that is stored under an id; `None` for one of a later version.

    Raises `StoreError` for what is not a record.
    """
    try:
        found: dict[str, Any] = json.loads(data)
        if found["v"] != _VERSION:
            return None
        at = as_datetime(int(found["at"]))
        actor, action, caller, limit = [found[name] for name in ("actor", "action", "caller", "limit")]
        before, after = dict(found["before"]), dict(found["after"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise StoreError(f"the audit record {id!r:.80} is damaged") from error
    return AuditRecord(at, actor, action, caller, limit, before, after, id)


def _records(
    pairs: Iterable[tuple[str, bytes]], action: str | None, caller: str | None, actor: str | None
) -> list[AuditRecord]:
    """Return the records in stored pairs, oldest first, of one action, caller or actor, if given."""
    found = []
    for key, value in dict(pairs).items():
        try:
            record = decode(key.removeprefix(f"{POOL}|"), value)
        except StoreError as error:
            log.warning("%s", error)
            continue
        if (
            record is not None
            and (action is None or f"{record.action}.".startswith(f"{action}."))
            and (caller is None or record.caller == caller)
            and (actor is None or record.actor == actor)
        ):
            found.append(record)
    return sorted(found, key=lambda record: (record.at, record.id))


class AuditLog:
    """The audit log of a store, for reading.

    The methods with an `a` before their name are the same for event loops.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def list(
        self,
        *,
        since: datetime | None = None,
        action: str | None = None,
        caller: str | None = None,
        actor: str | None = None,
    ) -> list[AuditRecord]:
        """Return the records, oldest first; those from a moment on, or of one action, caller or actor, if given.

        `action` may be the first part of one: `"limits"` means all that begin with `limits.`. A record that cannot be
        read is left out, and told of in the log. Raises `StoreError` if the store fails, and `ConfigurationError` if
        `since` has no time zone.
        """
        begin = None if since is None else moment("since", since)
        found = _records(self.store.scan(f"{POOL}|"), action, caller, actor)
        return [record for record in found if begin is None or in_microseconds(record.at) >= begin]

    def latest(
        self,
        number: int,
        *,
        now: int,
        action: str | None = None,
        caller: str | None = None,
        actor: str | None = None,
    ) -> tuple[Sequence[AuditRecord], bool]:
        """Return the latest records, the last one first, and whether all there are were looked at: for pages.

        If there are very many, only the latest spans of time are read, as far as they are needed and the store can.
        """
        some = traits_of(self.store).some
        if some is None:
            return _records(self.store.scan(f"{POOL}|"), action, caller, actor)[::-1][:number], True
        pairs, whole = some(f"{POOL}|", _LOOKED_AT)
        found = _records(pairs, action, caller, actor)
        for digits in () if whole else _SPANS:
            ends = [now - each for each in (0, 16**digits)]
            parts = [some(f"{POOL}|{max(0, end):016x}"[:-digits], _LOOKED_AT) for end in ends]
            more = _records([pair for listed, _ in parts for pair in listed], action, caller, actor)
            crowded = not all(all_of_it for _, all_of_it in parts)  # then of a longer span even more is left out
            if not crowded or digits == _SPANS[0]:
                found = more
            if crowded or len(found) >= number:
                break
        return found[::-1][:number], whole

    async def alist(
        self,
        *,
        since: datetime | None = None,
        action: str | None = None,
        caller: str | None = None,
        actor: str | None = None,
    ) -> Sequence[AuditRecord]:
        """Do as `list` does, under an event loop."""
        return await in_thread(self.list, since=since, action=action, caller=caller, actor=actor)
