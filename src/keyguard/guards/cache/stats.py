"""Statistics of a cache, and the reasons why a response was stored or not."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, fields

_MAX_NOTES = 2000


@dataclass(slots=True)
class CacheCounts:
    """Counts of what a cache has done since the start, in this process."""

    hits: int = 0
    """Answers from the cache, without the app; stale and collapsed ones are among them."""
    misses: int = 0
    """Requests that went to the app because no entry could be used."""
    stale: int = 0
    """Answers that were stale: while they were refreshed, or because the app failed."""
    validated: int = 0
    """Stale entries that the app confirmed with a 304."""
    collapsed: int = 0
    """Answers that another request's miss has brought."""
    bypassed: int = 0
    """Requests that the cache does not answer: other methods, `when`, `no-store` and the like."""
    stored: int = 0
    not_stored: int = 0
    invalidated: int = 0
    """URIs that an unsafe method or a purge has made void."""
    errors: int = 0
    """Operations of a shared store that failed; each was a miss, or a response that was not stored."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The counts of a cache since the start, and how full it is, in this process."""

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
    """The reason why the last response for a URL was stored or was not."""

    stored: bool
    rule: str
    """The deciding rule, in words."""
    section: str
    """The section that has that rule; empty for a setting."""
    status: int | None = None
    lifetime: int | None = None
    """Seconds for which it is fresh from when it was generated; `None` if it is not stored."""

    def __str__(self) -> str:
        head = "stored" if self.stored else "not stored"
        tail = f", fresh for {self.lifetime} s" if self.lifetime is not None else ""
        return f"{head}: {self.rule} ({self.section}){tail}" if self.section else f"{head}: {self.rule}{tail}"


NOTHING_KNOWN = Explanation(
    False, "no response for this URL has been seen since the start, as far as is remembered", ""
)
BYPASSED = Explanation(False, "the function `when` says that it does not go through the cache", "")
AMBIGUOUS_URL = Explanation(False, "its URL or its Host cannot be read in one way", "RFC 9112, section 3.2")
NO_COPY_ANSWERS = Explanation(False, "the request has a body, or a field to which no copy answers", "")
NO_STORE = Explanation(False, "the request says no-store", "RFC 9111, section 5.2.1.5")


class Reports:
    """The counts and the notes of one cache."""

    def __init__(self) -> None:
        self.counts = CacheCounts()
        self._notes: OrderedDict[str, Explanation] = OrderedDict()
        self._lock = threading.Lock()

    def renew(self) -> None:
        """Take a new lock, in a forked child."""
        self._lock = threading.Lock()

    def note(self, digests: Iterable[str], explanation: Explanation) -> None:
        """Remember what became of a response, by the digests of its URL: a URL may hold secrets."""
        with self._lock:
            for digest in digests:
                self._notes[digest] = explanation
                self._notes.move_to_end(digest)
                if len(self._notes) > _MAX_NOTES:
                    self._notes.popitem(last=False)

    def last(self, digest: str) -> Explanation:
        """Return the last note of a URL."""
        return self._notes.get(digest, NOTHING_KNOWN)

    def values(self) -> dict[str, int]:
        """Return the counts by name."""
        return {field.name: getattr(self.counts, field.name) for field in fields(self.counts)}
