"""Counters that no guard has made a pool of, and values with a time to live: bytes, by key."""

from __future__ import annotations

from typing import TypeAlias

from keyguard.rates import Limit
from keyguard.stores.memory.core import CELLS, Core, Generations
from keyguard.stores.memory.droppable import VALUE_COST

Entry: TypeAlias = tuple[bytes, int, Limit | None]
"""`(value, expiry in microseconds, limit)`; the limit is `None` for what must never be lost."""

_POOLS = 64  # that may have cells


class Loose(Generations[Entry]):
    def __init__(self, core: Core) -> None:
        super().__init__()
        self._core = core
        self.cells: dict[str, dict[int, Entry]] = {}
        """By pool, and by place."""

    def read(self, key: str, now: int) -> bytes | None:
        entry = self.young.get(key)
        if entry is None and (self.old or self.cells):
            entry = self.old.get(key) or self._cell_of(key)
        return entry[0] if entry is not None and entry[1] > now else None

    def write(self, key: str, entry: Entry, now: int) -> None:
        before = self.young.get(key)
        if before is None:
            self._core.put(self, key, entry, now)
        elif before[2] is entry[2]:
            self.young[key] = entry
            grown = len(entry[0]) - len(before[0])
            if grown:
                self._core.grow(self, key, entry, grown, now)
        else:
            self._core.drop(self, key)
            self._core.put(self, key, entry, now)

    def release(self, prefix: str) -> list[tuple[str, Entry]]:
        """Give away all entries whose keys begin with `prefix`."""
        entries = [(key, entry) for key, entry in [*self.old.items(), *self.young.items()] if key.startswith(prefix)]
        for key, _ in entries:
            self._core.drop(self, key)
        return entries

    def release_cells(self, prefix: str) -> list[tuple[int, Entry]]:
        """Give away the cells of the callers whose keys begin with `prefix`."""
        cells = self.cells.pop(prefix[:-1], {})
        for entry in cells.values():
            self._core.bytes -= VALUE_COST + len(entry[0])
            self._core.cells -= 1
        return list(cells.items())

    def _cell_of(self, key: str) -> Entry | None:
        """Return what stands for a caller who may have been folded."""
        pool, _, bucket = key.partition("|")
        cells = self.cells.get(pool)
        return None if cells is None else cells.get(hash(bucket) % CELLS)

    # -- what `Core` asks -----------------------------------------------------------------------------------

    def size(self, name: str, entry: Entry) -> int:
        return VALUE_COST + len(name) + len(entry[0])

    def may_go(self, entry: Entry) -> bool:
        limit = entry[2]
        return limit is not None and limit.may_be_forgotten

    def living(self, entry: Entry, now: int) -> bool:
        return entry[1] > now

    def half_spent(self, entry: Entry, now: int) -> bool:
        value, _, limit = entry
        return limit is None or limit.half_spent(value, now)

    def fold(self, name: str, entry: Entry, now: int) -> bool:
        value, expiry, limit = entry
        if limit is None:
            return False
        pool, _, bucket = name.partition("|")
        cells = self.cells.get(pool)
        if cells is None:
            if len(self.cells) >= _POOLS:
                return False
            cells = self.cells[pool] = {}
        place = hash(bucket) % CELLS  # the hash of text differs in each process: nobody can aim at a cell
        there = cells.get(place)
        if there is None:
            self._core.cells += 1
            self._core.bytes += VALUE_COST + len(value)
        else:
            if there[1] > now:
                value, expiry = limit.merge(there[0], value), max(there[1], expiry)
            self._core.bytes += len(value) - len(there[0])
        cells[place] = (value, expiry, limit)
        return True

    def sweep_cells(self, now: int) -> None:
        """Drop the lapsed cells of one pool; each time it is the next one's turn."""
        if not self.cells:
            return
        pool = next(iter(self.cells))
        cells = self.cells.pop(pool)
        for place in [place for place, cell in cells.items() if cell[1] <= now]:
            self._core.bytes -= VALUE_COST + len(cells.pop(place)[0])
            self._core.cells -= 1
        if cells:
            self.cells[pool] = cells
