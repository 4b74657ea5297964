"""The store of one process: two dicts, a lock, and a bound on memory that forgives nobody.

Rules:
- Entries live in two generations. New and touched ones are in `_young`; when `_old` has been emptied, young becomes
  old. An entry that is met in `_old` has not been touched for a while: lapsed ones go, living ones move on.
- At the bound, callers who have not been seen for a while and have spent less than half of a limit are forgotten:
  that is what an attack by millions of addresses mostly consists of. The bound of this approximation: a caller may
  get less than half of a limit anew once a turn of the generations, and a turn goes through the whole store.
- Callers who have spent more are kept. Where only such are left, they are *folded*: merged into one of a fixed number
  of cells shared by the callers of a rule. A cell is at least as spent as each of its callers was, so nobody over a
  limit is forgiven; but a newcomer who falls into such a cell is refused for what others did. `stats()` tells.
- What is no state of a limit (API keys) always stays: callers cannot add to it.
- The clock never jumps, so neither do the limits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from keyguard.clock import SECOND, Clock, steady_clock
from keyguard.errors import ConfigurationError
from keyguard.logs import logger
from keyguard.ops import Op, Take, Taken
from keyguard.process.fork import check_process, renew_after_fork
from keyguard.rates import Limit

log = logger("keyguard.stores")

Entry: TypeAlias = tuple[bytes, int, Limit | None]
"""`(value, expiry in microseconds, limit)`."""

_NEVER = 2**63 - 1
_LEAST = 1024 * 1024
# Measured: a tuple of three, a bytes object, a str of the key, an int, and two slots of a dict that is on average
# half full, and what the allocator leaves between them. Text and value come on top.
_ENTRY_COST = 430
_CELLS = 1024  # a pool
_POOLS = 64
_TRIES = 64  # entries looked at to make room for one
_SWEEP_EVERY = SECOND // 100
_SWEEP_MOST = 32  # entries at a time


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """How full a memory store is."""

    entries: int
    bytes: int
    """An estimate, on the high side."""
    max_bytes: int
    cells: int
    """Cells that stand for callers who were folded together."""
    forgotten: int
    """How many callers were forgotten since the start, none of whom had spent half of a limit."""
    folded: int
    """How many callers were folded since the start."""
    at_bound: bool


class MemoryStore:
    """Keys and counters in this process, within `max_bytes` (at least 1 MiB; 64 MiB by default).

    `on_bound` is called with the stats each time the store reaches its bound, once until it has been below it again.
    """

    def __init__(
        self,
        max_bytes: int = 64 * 1024 * 1024,
        *,
        clock: Clock | None = None,
        on_bound: Callable[[MemoryStats], None] | None = None,
    ) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < _LEAST:
            raise ConfigurationError(f"max_bytes is a whole number of bytes, at least {_LEAST}, not {max_bytes!r}")
        self._clock = clock or steady_clock()
        self._max_bytes = max_bytes
        self._on_bound = on_bound
        self._young: dict[str, Entry] = {}
        self._old: dict[str, Entry] = {}
        self._cells: dict[str, dict[int, Entry]] = {}
        self._cell_count = 0
        # A dict keeps its room when entries leave it, so what counts is the most that each generation may hold.
        self._bytes = 0
        self._forgotten = 0
        self._folded = 0
        self._at_bound = False
        self._news: MemoryStats | None = None
        self._next_sweep = 0
        self._lock = threading.Lock()
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._young) + len(self._old)} entries>"

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run each operation under the lock."""
        check_process()
        results = []
        with self._lock:
            now = self._clock()
            for op in ops:
                if op.__class__ is Take:
                    taken = self._take(op, now)
                    if taken is not None:
                        results.append(taken)
                        continue
                young, old = self._young, self._old
                values: list[bytes | None] = []
                for key in op.keys:
                    entry = young.get(key)
                    if entry is None and (old or self._cells):
                        entry = old.get(key) or self._cell_of(key)
                    values.append(entry[0] if entry is not None and entry[1] > now else None)
                result, changes = op.apply(values, now)
                results.append(result)
                for key, value, ttl, limit in changes:
                    if value is None:
                        self._drop(key)
                        continue
                    self._put(key, (value, now + ttl if ttl is not None else _NEVER, limit), now)
            if now >= self._next_sweep or self._next_sweep > now + _SWEEP_EVERY:
                self._next_sweep = now + _SWEEP_EVERY
                self._sweep(_SWEEP_MOST, now)
        if self._news is not None:
            self._tell()
        return results

    def _take(self, op: Take, now: int) -> Taken | None:
        """`Take.apply` without what lies between it and the dicts; `None` where a limit refuses: then it is asked."""
        young = self._young
        takings = []
        for demand in op.demands:
            entry = young.get(demand.key)
            if entry is None and (self._old or self._cells):
                entry = self._old.get(demand.key) or self._cell_of(demand.key)
            state = entry[0] if entry is not None and entry[1] > now else None
            taking = demand.limit.take(state, now, demand.cost)
            if taking[4]:
                return None
            takings.append(taking)
        for demand, (value, ttl, _, _, _) in zip(op.demands, takings):  # noqa: B905 - one taking a demand
            if value is not None:
                self._put(demand.key, (value, now + ttl, demand.limit), now)
        return Taken(op.demands, takings, now, False)

    def _put(self, key: str, entry: Entry, now: int) -> None:
        young = self._young
        before = young.get(key)
        young[key] = entry
        if before is None:
            self._added(key, entry[0], now)
        else:
            grown = len(entry[0]) - len(before[0])
            self._bytes += grown
            if grown > 0 and self._bytes > self._max_bytes:
                self._make_room(key, now)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Every living key that starts with `prefix`, in order."""
        check_process()
        with self._lock:
            now = self._clock()
            entries = {**self._old, **self._young}
        return sorted((key, entry[0]) for key, entry in entries.items() if key.startswith(prefix) and entry[1] > now)

    def stats(self) -> MemoryStats:
        """How full the store is."""
        return MemoryStats(
            entries=len(self._young) + len(self._old),
            bytes=self._bytes,
            max_bytes=self._max_bytes,
            cells=self._cell_count,
            forgotten=self._forgotten,
            folded=self._folded,
            at_bound=self._at_bound,
        )

    def _tell(self) -> None:
        stats, self._news = self._news, None
        log.warning("the memory store is at its bound of %d bytes: %s", self._max_bytes, stats)
        if self._on_bound is not None and stats is not None:
            try:
                self._on_bound(stats)
            except Exception:
                log.exception("on_bound failed")

    # -- keeping within the bound: all of this runs under the lock ----------------------------------------

    def _cell_of(self, key: str) -> Entry | None:
        """What stands for a caller who may have been folded."""
        if not self._cells:
            return None
        cells = self._cells.get(key.partition("|")[0])
        return None if cells is None else cells.get(hash(key) % _CELLS)

    def _drop(self, key: str) -> None:
        for generation in (self._young, self._old):
            entry = generation.pop(key, None)
            if entry is not None:
                self._bytes -= _ENTRY_COST + len(key) + len(entry[0])

    def _added(self, key: str, value: bytes, now: int) -> None:
        """Account for a key that is new in the young generation, and make room where there is none."""
        moved = self._old.pop(key, None)
        if moved is not None:
            self._bytes += len(value) - len(moved[0])
        else:
            self._bytes += _ENTRY_COST + len(key) + len(value)
        if self._bytes > self._max_bytes:
            self._make_room(key, now)

    def _make_room(self, here: str, now: int) -> None:
        if not self._at_bound:
            self._at_bound = True
            self._news = self.stats()
        for attempt in range(_TRIES):
            if self._bytes <= self._max_bytes:
                return
            if not self._old:
                self._turn()
                entry = self._old.pop(here, None)
                if entry is not None:
                    self._young[here] = entry  # the caller who is here right now is not the one to forget
                if not self._old:
                    return
            self._retire(now, at_bound=True, fold=attempt >= _TRIES // 2)

    def _turn(self) -> None:
        self._old, self._young = self._young, {}

    def _retire(self, now: int, *, at_bound: bool, fold: bool = False) -> None:
        """Take one entry from the old generation: drop, forget or fold it, or move it on."""
        key, entry = self._old.popitem()
        value, expiry, limit = entry
        if expiry > now:
            if not at_bound or limit is None or not limit.may_be_forgotten:
                self._young[key] = entry
                return
            if not limit.half_spent(value, now):
                self._forgotten += 1
            elif fold and self._fold(key, value, expiry, limit, now):
                self._folded += 1
            else:
                self._young[key] = entry
                return
        self._bytes -= _ENTRY_COST + len(key) + len(value)

    def _fold(self, key: str, value: bytes, expiry: int, limit: Limit, now: int) -> bool:
        """Merge a caller into its cell. False where there is no room for more cells: then nothing is forgotten."""
        pool = key.partition("|")[0]
        cells = self._cells.get(pool)
        if cells is None:
            if len(self._cells) >= _POOLS:
                return False
            cells = self._cells[pool] = {}
        place = hash(key) % _CELLS  # the hash of text differs in each process: nobody can aim at a cell
        there = cells.get(place)
        if there is None:
            self._cell_count += 1
            self._bytes += _ENTRY_COST + len(value)
        else:
            if there[1] > now:
                value, expiry = limit.merge(there[0], value), max(there[1], expiry)
            self._bytes += len(value) - len(there[0])
        cells[place] = (value, expiry, limit)
        return True

    def _sweep(self, most: int, now: int) -> None:
        """Go on through the old generation, so that what has lapsed leaves although nobody asks for it."""
        old = self._old
        if not old:
            if self._young:
                self._turn()
            self._sweep_cells(now)
            return
        for _ in range(min(most, len(old))):
            self._retire(now, at_bound=False)
        if self._at_bound and self._bytes < self._max_bytes * 0.9:
            self._at_bound = False

    def _sweep_cells(self, now: int) -> None:
        """Drop the lapsed cells of one pool; each time it is the next one's turn."""
        if not self._cells:
            return
        pool = next(iter(self._cells))
        cells = self._cells.pop(pool)
        for place in [place for place, cell in cells.items() if cell[1] <= now]:
            self._bytes -= _ENTRY_COST + len(cells.pop(place)[0])
            self._cell_count -= 1
        if cells:
            self._cells[pool] = cells
