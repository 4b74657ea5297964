"""The clock, the lock and the bytes within the bound, which a memory store and its pools share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar

from keyguard.clock import SECOND, Clock
from keyguard.logs import logger
from keyguard.ops.store import Values
from keyguard.process.fork import renew_after_fork
from keyguard.stores.memory.droppable import VALUE_COST, Droppables

E = TypeVar("E")

log = logger("keyguard.stores")

CELLS = 1024
"""Cells that stand for the callers of one table who were folded together."""
_TRIES = 64  # entries looked at to make room for one
_SWEEP_EVERY = SECOND // 100
_SWEEP_MAX = 32  # entries at a time
_TURN_EVERY = 10 * SECOND
"""The least time between two sweeps of the same entries. Were it less, most callers of a small store would be found in
its old generation."""


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Figures that tell how full a memory store is."""

    entries: int
    """Values, and callers: one for all the rules of a guard."""
    bytes: int
    """An estimate, on the high side."""
    max_bytes: int
    cells: int
    """Cells that stand for callers who were folded together."""
    forgotten: int
    """Callers who were forgotten since the start, none of whom had spent half of a limit."""
    folded: int
    """Callers who were folded since the start."""
    at_bound: bool
    dropped: int = 0
    """Values that may be dropped, such as those of usage, and were since the start."""


class Generations(Generic[E]):
    """Entries by name, in two generations. A dict keeps its room when entries leave it, until the next turn."""

    def __init__(self) -> None:
        self.young: dict[str, E] = {}
        self.old: dict[str, E] = {}
        self.cells: dict[Any, Any] = {}
        self.swept = 0
        """The moment at which the last sweep began."""
        self.bytes = 0
        """Bytes of what may have to go, without cells: where most of it is, room is made."""

    def own(self, name: str) -> E | None:
        """Return the entry of that name; `None` if there is none, or if it was folded."""
        entry = self.young.get(name)
        return self.old.get(name) if entry is None else entry

    def turn(self) -> None:
        self.old, self.young = self.young, {}

    def size(self, name: str, entry: E) -> int:
        """Estimate the bytes that an entry takes."""
        raise NotImplementedError

    def may_go(self, entry: E) -> bool:
        """Tell whether an entry may be forgotten or folded at the bound: a value may not."""
        raise NotImplementedError

    def living(self, entry: E, now: int) -> bool:
        raise NotImplementedError

    def half_spent(self, entry: E, now: int) -> bool:
        """Tell whether at least half of a limit is taken."""
        raise NotImplementedError

    def fold(self, name: str, entry: E, now: int) -> bool:
        """Merge a caller into its cell. `False` if there is no room for more cells: then nothing is forgotten."""
        raise NotImplementedError

    def sweep_cells(self, now: int) -> None:
        """Drop lapsed cells."""
        raise NotImplementedError


class Core:
    """The clock, the lock, and the accounts. All but `stats` and `tell` runs under the lock."""

    def __init__(self, clock: Clock, max_bytes: int, on_bound: Callable[[MemoryStats], None] | None) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.max_bytes = max_bytes
        self.news: MemoryStats | None = None
        """The stats to tell of as soon as the lock is free."""
        self.values = Values()
        self.droppables = Droppables()
        self.parts: list[Generations[Any]] = []
        self.next_sweep = 0
        self.bytes = 0
        self.cells = 0
        self._on_bound = on_bound
        self._forgotten = 0
        self._folded = 0
        self._at_bound = False
        self._swept = 0
        renew_after_fork(self)

    def after_fork(self) -> None:
        self.lock = threading.Lock()

    @property
    def entries(self) -> int:
        return (
            len(self.values)
            + len(self.droppables.values)
            + sum([len(part.young) + len(part.old) for part in self.parts])
        )

    def stats(self) -> MemoryStats:
        return MemoryStats(
            entries=self.entries,
            bytes=self.bytes,
            max_bytes=self.max_bytes,
            cells=self.cells,
            forgotten=self._forgotten,
            folded=self._folded,
            at_bound=self._at_bound,
            dropped=self.droppables.dropped,
        )

    def tell(self) -> None:
        """Tell that the bound has been reached."""
        stats, self.news = self.news, None
        log.warning("the memory store is at its bound of %d bytes: %s", self.max_bytes, stats)
        if self._on_bound is not None and stats is not None:
            try:
                self._on_bound(stats)
            except Exception:
                log.exception("on_bound failed")

    # -- accounts -------------------------------------------------------------------------------------------

    def put(self, part: Generations[E], name: str, entry: E, now: int) -> None:
        """Put an entry that is not in the young generation into it, and make room if there is none."""
        part.young[name] = entry
        moved = part.old.pop(name, None)
        grown = part.size(name, entry)
        if moved is not None and moved is not entry:
            self._account(part, moved, -part.size(name, moved))
        if moved is not entry:
            self.grow(part, name, entry, grown, now)

    def grow(self, part: Generations[E], name: str, entry: E, grown: int, now: int) -> None:
        """Account for an entry that is so many bytes larger than before, and make room if there is none."""
        self._account(part, entry, grown)
        if grown > 0 and self.bytes > self.max_bytes:
            self._make_room(part, name, now)

    def drop(self, part: Generations[Any], name: str) -> None:
        for generation in (part.young, part.old):
            entry = generation.pop(name, None)
            if entry is not None:
                self._account(part, entry, -part.size(name, entry))

    def put_value(self, key: str, value: bytes | None, now: int) -> None:
        """Set a value that stays for good, or drop it."""
        before = self.values.pop(key, None)
        if before is not None:
            self.bytes -= VALUE_COST + len(key) + len(before)
        if value is not None:
            self.values[key] = value
            self.bytes += VALUE_COST + len(key) + len(value)
            if self.bytes > self.max_bytes:
                self._make_room(None, "", now)
        self.values.version = object()  # after the change: an answer to it has not been given yet

    def put_droppable(self, key: str, value: bytes | None, expiry: int, now: int) -> None:
        """Set a value that may be dropped, or let it go."""
        before = self.droppables.bytes
        if value is None:
            self.droppables.remove(key)
        else:
            self.droppables.write(key, value, expiry, now)
        self.bytes += self.droppables.bytes - before
        if self.bytes > self.max_bytes:
            self._make_room(None, "", now)

    def _account(self, part: Generations[E], entry: E, grown: int) -> None:
        self.bytes += grown
        if part.may_go(entry):
            part.bytes += grown

    # -- keeping within the bound ---------------------------------------------------------------------------

    def _make_room(self, here: Generations[Any] | None, name: str, now: int) -> None:
        if self.droppables.values:
            before = self.droppables.bytes
            self.droppables.drop(self.bytes - self.max_bytes, now)
            self.bytes += self.droppables.bytes - before
            if self.bytes <= self.max_bytes:
                return
        if not self._at_bound:
            self._at_bound = True
            self.news = self.stats()
        for attempt in range(_TRIES):
            if self.bytes <= self.max_bytes:
                return
            part = max(self.parts, key=_BYTES)
            if not part.old:
                part.turn()
                entry = part.old.pop(name, None) if part is here else None
                if entry is not None:
                    part.young[name] = entry  # the caller who is here right now is not the one to forget
                if not part.old:
                    return
            self._retire(part, now, at_bound=True, fold=attempt >= _TRIES // 2)

    def _retire(self, part: Generations[Any], now: int, *, at_bound: bool, fold: bool = False) -> None:
        """Take one entry from the old generation: drop, forget or fold it, or move it on."""
        name, entry = part.old.popitem()
        if part.living(entry, now):
            if not at_bound or not part.may_go(entry):
                part.young[name] = entry
                return
            if not part.half_spent(entry, now):
                self._forgotten += 1
            elif fold and part.fold(name, entry, now):
                self._folded += 1
            else:
                part.young[name] = entry
                return
        self._account(part, entry, -part.size(name, entry))

    def sweep(self, now: int) -> None:
        """Go on through the old generation of one part, so that what has lapsed leaves although nobody asks for it."""
        if now < self.next_sweep <= now + _SWEEP_EVERY:  # further away if time was set back
            return
        self.next_sweep = now + _SWEEP_EVERY
        if self.droppables.values:
            before = self.droppables.bytes
            self.droppables.sweep(now)
            self.bytes += self.droppables.bytes - before
        part = self._next_part()
        if part is None:
            return
        if not part.old:
            if not part.swept <= now < part.swept + _TURN_EVERY:
                part.swept = now
                part.turn()
                part.sweep_cells(now)
            return
        for _ in range(min(_SWEEP_MAX, len(part.old))):
            self._retire(part, now, at_bound=False)
        if self._at_bound and self.bytes < self.max_bytes * 0.9:
            self._at_bound = False

    def _next_part(self) -> Generations[Any] | None:
        for _ in self.parts:
            self._swept = (self._swept + 1) % len(self.parts)
            part = self.parts[self._swept]
            if part.young or part.old or part.cells:
                return part
        return None


_BYTES = attrgetter("bytes")
