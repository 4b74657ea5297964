"""Overrides: other limits for one subject, as they stand in the store, and as requests find them.

Rules:
- All of a store stand in one value, `override|all`: JSON with a version, `1`. A reader leaves out what it does not know
  of it. It is changed by comparing: two people who change it at once both see their change, or an error.
- A request looks in this process's memory alone. In a process that others share the store with, one request in
  `FRESH` reads the value first, in a trip of its own; so no decision rests on what is older than that and the time
  that the reading takes. If the store cannot say, what was known stays.
- An override is a text of rates. It counts under the same keys as the limit that it stands for, if its period is one
  of that limit's: what is spent stays spent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from keyguard.clock import monotonic
from keyguard.logs import logger

log = logger("keyguard")

KEY = "override|all"
"""The key of all overrides of a store."""

FRESH = 0.5
"""Seconds after which a process reads them again."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Row:
    """The limit of one subject, in the place of the limits of a guard."""

    subject: str
    limit: str
    """The name of the guard."""
    rate: str | None
    """Rates as text; `None` for no limit."""
    expires: int | None
    """When it ends, in microseconds since the Unix epoch; `None` for never."""
    since: int
    """When it was set, likewise."""
    actor: str


def encode(rows: Iterable[Row]) -> bytes:
    """Return overrides as they are stored."""
    listed = [[row.subject, row.limit, row.rate, row.expires, row.since, row.actor] for row in rows]
    return json.dumps({"v": _VERSION, "rows": listed}, allow_nan=False, separators=(",", ":")).encode()


def decode(data: bytes | None) -> list[Row]:
    """Return the overrides that are stored. Raises `ValueError` for what is damaged, or of a later version."""
    if not data:
        return []
    try:
        found: dict[str, Any] = json.loads(data)
        if found["v"] != _VERSION:
            raise ValueError("the overrides in the store were written by a later keyguard")
        rows = [Row(*row) for row in found["rows"]]
        if not all(map(_is_whole, rows)):
            raise TypeError
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError("the overrides in the store are damaged") from error
    return rows


def _is_whole(row: Row) -> bool:
    texts = isinstance(row.subject, str) and isinstance(row.limit, str) and isinstance(row.actor, str)
    return texts and isinstance(row.rate, str | None) and isinstance(row.expires, int | None) and type(row.since) is int


class Overrides:
    """The overrides of a store, as requests find them in this process."""

    __slots__ = ("__weakref__", "_data", "_told", "limits", "next", "watching")

    def __init__(self, *, watching: bool) -> None:
        self.limits: Mapping[str, Mapping[str, Row]] = {}
        """By the names of limits, and by subject. Mostly there are none."""
        self.watching = watching
        """Whether others may change them: then they are read again and again."""
        self.next = 0.0
        """When they have to be read again, as `keyguard.clock.monotonic`."""
        self._data: bytes | None = None
        self._told = False

    def is_due(self) -> bool:
        """Tell whether to read them now. A caller that is told so does it, and no other until the next time."""
        if not self.watching:
            return False
        now = monotonic()
        if now < self.next:
            return False
        self.next = now + FRESH
        return True

    def load(self, data: bytes | None) -> None:
        """Take over what stands in the store. A value that cannot be read changes nothing, and is told of once."""
        if data == self._data:
            return
        try:
            rows = decode(data)
        except ValueError as error:
            if not self._told:
                self._told = True
                log.error("%s: those that were known before stay", error)
            return
        limits: dict[str, dict[str, Row]] = {}
        for row in rows:
            limits.setdefault(row.limit, {})[row.subject] = row
        self.limits, self._data, self._told = limits, data, False  # a request sees the old ones, or the new


_tables: WeakKeyDictionary[Any, Overrides] = WeakKeyDictionary()


def overrides_of(store: Any, *, watching: bool) -> Overrides:
    """Return the overrides of a store: the same for all stacks of this process that use this store object."""
    try:
        found = _tables.get(store)
        if found is None:
            found = _tables[store] = Overrides(watching=watching)
    except TypeError:  # it cannot be a key
        found = Overrides(watching=watching)
    return found
