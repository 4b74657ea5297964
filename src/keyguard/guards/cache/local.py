"""The entries that this process holds: so many bytes, entries, and variants of a key; least recently used out first.

With a store that is this process's own this is the cache. In front of a shared store it is the first level, whose
entries are used for a moment only without asking the store.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.key import Key


class Slot:
    """The variants that are held for one key."""

    __slots__ = ("digests", "entries", "key", "size")

    def __init__(self, key: Key, digests: tuple[str, ...], size: int) -> None:
        self.key = key
        """The very object that its entries have too: another request's key would take as much memory as its URL."""
        self.entries: list[Entry] = []
        """The newest first."""
        self.digests = digests
        """The digests by which its URI is purged."""
        self.size = size


class LocalCache:
    """Entries by key, within `max_bytes`, `max_entries` and `max_variants` for a key."""

    def __init__(self, max_bytes: int, max_entries: int, max_variants: int) -> None:
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.max_variants = max_variants
        self.bytes = 0
        self.count = 0
        self.evicted = 0
        self.varied = False
        """Whether there has ever been an entry that is chosen by more than its URL."""
        self.plain: dict[tuple[object, ...], Entry] = {}
        """The entries that have an address, by that: each is its URL's only one, and the same for everybody."""
        self._slots: OrderedDict[Key, Slot] = OrderedDict()
        self._by_digest: dict[str, set[Key]] = {}
        self._lock = threading.Lock()

    def renew(self) -> None:
        """Take a new lock, in a forked child: a thread that is not there may hold the old one."""
        if self._lock.locked():  # that thread may have left things half done: nothing of them can be relied on
            self.bytes = self.count = 0
            self.plain.clear()
            self._slots.clear()
            self._by_digest.clear()
        for slot in self._slots.values():
            for entry in slot.entries:
                entry.refreshing_since = 0  # the parent refreshes it for itself
        self._lock = threading.Lock()

    def get(self, key: Key) -> Slot | None:
        """Return the slot of a key, which is now the most recently used."""
        with self._lock:  # moving is changing, and other threads may be walking over them
            slot = self._slots.get(key)
            if slot is not None:
                self._slots.move_to_end(key)
        return slot

    def put(self, key: Key, digests: tuple[str, ...], entry: Entry) -> bool:
        """Hold an entry instead of the one with the same variance. False if it is too large to be held at all."""
        if entry.size > self.max_bytes:
            slot = self._slots.get(key)
            for other in () if slot is None else slot.entries:
                if _same(other, entry):
                    self.drop(key, other)  # it has been superseded all the same
            return False
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = Slot(key, digests, 2 * sum(map(len, key)) + 600)
                self.bytes += slot.size
                for digest in digests:
                    self._by_digest.setdefault(digest, set()).add(key)
            else:
                self._slots.move_to_end(key)
            entry.key = slot.key
            kept = [other for other in slot.entries if not _same(other, entry)]
            entries = [entry, *kept][: self.max_variants]
            self.bytes += sum(e.size for e in entries) - sum(e.size for e in slot.entries)
            self.count += len(entries) - len(slot.entries)
            self.evicted += 1 + len(kept) - len(entries)
            for other in slot.entries:
                # The newest that matches is used: an older one that varies by nothing must not answer before it.
                if other is not entry and (other not in entries or entry.part is None):
                    self._unaddress(other)
            slot.entries = entries  # replaced, not changed: other threads may be reading it
            if entry.address is not None:
                self.plain[entry.address] = entry
            else:
                self.varied = True
            while (self.bytes > self.max_bytes or self.count > self.max_entries) and self._slots:
                self.evicted += len(self._remove(next(iter(self._slots))).entries)
        return True

    def drop(self, key: Key, entry: Entry) -> None:
        """Drop one entry."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None or entry not in slot.entries:
                return
            if len(slot.entries) == 1:
                self._remove(key)
                return
            slot.entries = [other for other in slot.entries if other is not entry]
            self._unaddress(entry)
            self.bytes -= entry.size
            self.count -= 1

    def drop_uri(self, digest: str) -> int:
        """Drop all entries of a URI. Returns how many there were."""
        with self._lock:
            return sum(len(self._remove(key).entries) for key in list(self._by_digest.get(digest, ())))

    def drop_where(self, condition: Callable[[Entry], bool]) -> int:
        """Drop the entries for which `condition` holds. Returns how many there were."""
        with self._lock:
            slots = list(self._slots.items())
        found = [(key, entry) for key, slot in slots for entry in slot.entries if condition(entry)]
        for key, entry in found:
            self.drop(key, entry)
        return len(found)

    def expire_all(self, now: int) -> None:
        """Make everything stale, as of now."""
        with self._lock:
            entries = [entry for slot in self._slots.values() for entry in slot.entries]
        for entry in entries:
            entry.age = max(entry.age, entry.lifetime)
            entry.received = now
            entry.ready = None

    def touch(self, key: Key) -> None:
        """Make a key the most recently used."""
        with self._lock, suppress(KeyError):
            self._slots.move_to_end(key)

    def _unaddress(self, entry: Entry) -> None:
        if entry.address is not None and self.plain.get(entry.address) is entry:
            del self.plain[entry.address]

    def _remove(self, key: Key) -> Slot:
        slot = self._slots.pop(key)
        for entry in slot.entries:
            self._unaddress(entry)
        self.bytes -= slot.size + sum(entry.size for entry in slot.entries)
        self.count -= len(slot.entries)
        for digest in slot.digests:
            keys = self._by_digest.get(digest)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._by_digest[digest]
        return slot


def _same(one: Entry, other: Entry) -> bool:
    """Tell whether one entry replaces the other: both were chosen by the same fields, and are whole or both parts."""
    return one.variance == other.variance and (one.part is None) == (other.part is None)
