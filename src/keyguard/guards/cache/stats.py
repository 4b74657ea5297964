"""What a cache tells: counts, and why a response was stored or not."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, fields

_NOTES = 2000


@dataclass(slots=True)
class CacheCounts:
    """What has happened since the start, in this process."""

    hits: int = 0
    """Answers from the cache, without the app; stale and collapsed ones are among them."""
    misses: int = 0
    """Requests that went to the app because nothing that could be used was stored."""
    stale: int = 0
    """Answers that were stale: while they were refreshed, or because the app failed."""
    validated: int = 0
    """Stale entries that the app confirmed with a 304."""
    collapsed: int = 0
    """Answers that another request's miss brought."""
    bypassed: int = 0
    """Requests that the cache has nothing to do with."""
    stored: int = 0
    not_stored: int = 0
    invalidated: int = 0
    """URIs that an unsafe method or a purge made void."""
    errors: int = 0
    """Operations of a shared store that failed; each was a miss, or something not stored."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache has done since the start, and what it holds, in this process."""

    hits: int
    misses: int
    stale: int
    validated: int
    collapsed: int
    bypassed: int
    stored: int
    not_stored: int
    invalidated: int
    errors: int
    evicted: int
    """Entries that made room for others."""
    entries: int
    bytes: int
    """An estimate, on the high side."""
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of the last response for a URL."""

    stored: bool
    rule: str
    """The deciding rule, in words."""
    section: str
    """Where that rule stands."""
    status: int | None = None
    lifetime: int | None = None
    """Seconds that it is fresh from when it was generated; `None` where it is not stored."""

    def __str__(self) -> str:
        head = "stored" if self.stored else "not stored"
        tail = f", fresh for {self.lifetime} s" if self.lifetime is not None else ""
        return f"{head}: {self.rule} ({self.section}){tail}" if self.section else f"{head}: {self.rule}{tail}"


NOTHING_KNOWN = Explanation(False, "no response for this URL has come by since the start, as far as is remembered", "")


class Reports:
    """The counts and the notes of one cache."""

    def __init__(self) -> None:
        self.counts = CacheCounts()
        self._notes: OrderedDict[str, Explanation] = OrderedDict()
        self._lock = threading.Lock()

    def renew(self) -> None:
        """Called in a forked child."""
        self._lock = threading.Lock()

    def note(self, place: str, explanation: Explanation) -> None:
        """Remember what became of a response, by the digest of its URL: a URL may hold secrets."""
        with self._lock:
            self._notes[place] = explanation
            self._notes.move_to_end(place)
            if len(self._notes) > _NOTES:
                self._notes.popitem(last=False)

    def last(self, place: str) -> Explanation:
        """The last note of a place."""
        return self._notes.get(place, NOTHING_KNOWN)

    def values(self) -> dict[str, int]:
        """The counts by name."""
        return {field.name: getattr(self.counts, field.name) for field in fields(self.counts)}
