"""The border of the memory store: operations read and write bytes by key, whatever these stand in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any

from keyguard.checks import is_whole
from keyguard.clock import steady_clock
from keyguard.errors import ConfigurationError
from keyguard.manual_clock import GivenClock, clock_from
from keyguard.ops import Droppable, Op
from keyguard.process.fork import check_process
from keyguard.rates import Limit, Slots
from keyguard.rates.window import is_window
from keyguard.stores.memory.core import Core, MemoryStats
from keyguard.stores.memory.held import HeldPool
from keyguard.stores.memory.holding import Holding
from keyguard.stores.memory.loose import Loose
from keyguard.stores.memory.pool import Answer, Counted, Pool
from keyguard.stores.memory.slots import SlotPool
from keyguard.stores.memory.table import Column, Table

_NEVER = 2**63 - 1
_MIN_BYTES = 1024 * 1024


class MemoryStore:
    """Keys and counters in this process, within `max_bytes` (at least 1 MiB; 64 MiB by default).

    `on_bound` is called with the stats each time the store reaches its bound, once until it has been below it again.
    """

    of_one_process = True
    """Other processes have stores of their own."""

    def __init__(
        self,
        max_bytes: int = 64 * 1024 * 1024,
        *,
        clock: GivenClock | None = None,
        on_bound: Callable[[MemoryStats], None] | None = None,
    ) -> None:
        if not is_whole(max_bytes) or max_bytes < _MIN_BYTES:
            raise ConfigurationError(f"max_bytes is a whole number of bytes, at least {_MIN_BYTES}, not {max_bytes!r}")
        self._core = core = Core(clock_from(clock, steady_clock()), max_bytes, on_bound)
        self.clock = core.clock
        self.values = core.values
        """The values without a time to live, by key, for reading alone."""
        self._loose = Loose(core)
        core.parts.append(self._loose)
        self._droppable = core.droppables.values
        self._places: dict[str, tuple[Table, Column]] = {}
        """The place of counters, by the beginning of their keys."""

    def __repr__(self) -> str:
        return f"<MemoryStore: {self._core.entries} entries>"

    def stats(self) -> MemoryStats:
        """Return how full the store is."""
        return self._core.stats()

    # -- operations -----------------------------------------------------------------------------------------

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run each operation under the lock."""
        check_process()
        core = self._core
        results = []
        with core.lock:
            now = core.clock()
            for op in ops:
                result, changes = op.apply([self._read(key, now) for key in op.keys], now)
                results.append(result)
                for key, value, ttl, limit in changes:
                    self._write(key, value, now + ttl if ttl is not None else _NEVER, limit, now)
            core.sweep(now)
        if core.news is not None:
            core.tell()
        return results

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return every living key that starts with `prefix`, in order, with its value."""
        check_process()
        core = self._core
        with core.lock:
            now = core.clock()
            values = list(core.values.items())
            entries = [*self._loose.old.items(), *self._loose.young.items()]
            tables = {id(table): table for table, _ in self._places.values()}
            counted = [pair for table in tables.values() for pair in table.scan(prefix, now)]
            droppable = self._core.droppables.items()
        values += [(key, value) for key, (value, expiry, _) in entries if expiry > now]
        values += [(key, value) for key, value, expiry in droppable if expiry > now]
        return sorted([pair for pair in values if pair[0].startswith(prefix)] + counted)

    def some(self, prefix: str, most: int) -> tuple[list[tuple[str, bytes]], bool]:
        """Return so many at most of the values that `scan` would, and whether these are all."""
        check_process()
        with self._core.lock:
            now = self._core.clock()
            entries = chain(self._loose.old.items(), self._loose.young.items())
            lasting = ((key, value) for key, (value, expiry, _) in entries if key.startswith(prefix) and expiry > now)
            matching = chain((pair for pair in self._core.values.items() if pair[0].startswith(prefix)), lasting)
            found = list(islice(matching, most + 1))
        return found[:most], len(found) <= most

    def _read(self, key: str, now: int) -> bytes | None:
        value = self.values.get(key)
        if value is not None:
            return value
        place = self._place(key)
        if place is None:
            if self._droppable and key in self._droppable:
                return self._core.droppables.read(key, now)
            return self._loose.read(key, now)
        table, column = place
        return table.read(key[len(column.prefix) :], column, now)

    def _write(self, key: str, value: bytes | None, expiry: int, limit: Limit | Droppable | None, now: int) -> None:
        place = self._place(key)
        if place is not None:
            table, column = place
            if isinstance(limit, Limit):
                column.note(limit)
            table.write(key[len(column.prefix) :], column, value, expiry, now)
            return
        droppable = isinstance(limit, Droppable) and value is not None
        if droppable or (self._droppable and key in self._droppable):
            self._core.put_droppable(key, value if droppable else None, expiry, now)
        lasting = expiry == _NEVER and limit is None
        if lasting or key in self.values:
            self._core.put_value(key, value if lasting else None, now)
        if lasting or value is None or isinstance(limit, Droppable):
            self._core.drop(self._loose, key)
        else:
            self._loose.write(key, (value, expiry, limit), now)

    def _place(self, key: str) -> tuple[Table, Column] | None:
        return self._places.get(key[: key.find("|") + 1]) if self._places else None

    # -- pools ----------------------------------------------------------------------------------------------

    def pool(self, rules: Sequence[Counted], among: Sequence[Counted] = (), *, holds: bool = False) -> Pool | None:
        """Return a pool of the counters of these rules, or `None` if they cannot stand together.

        `among` are all rules that may count for the same callers, such as those of other plans. Pools with a rule in
        common count in one table. If units of the rules may be held, `holds` says so, and it is a `HeldPool`.
        """
        if getattr(self.execute, "__func__", None) is not MemoryStore.execute:
            return None  # of a subclass, which wants to be asked
        check_process()
        every = [*among, *rules]
        if not rules or any(rule.prefix.find("|") != len(rule.prefix) - 1 for rule in every):
            return None
        with self._core.lock:
            tables = {id(place[0]): place[0] for rule in every if (place := self._places.get(rule.prefix)) is not None}
            if len(tables) > 1:
                return None
            table = next(iter(tables.values()), None)
            if table is None:
                table = Table(self._core)
                self._core.parts.append(table)
            for rule in every:
                place = self._places.get(rule.prefix)
                if place is None:
                    self._move_into(table, table.add_column(rule.prefix, rule.limit))
                else:
                    place[1].note(rule.limit)
            columns = [self._places[rule.prefix][1] for rule in rules]
            alike = [bool(column.width) == is_window(rule.limit) for column, rule in zip(columns, rules, strict=True)]
            if len(set(columns)) < len(columns) or not all(alike):
                return None
            limits = [rule.limit for rule in rules]
            if not holds:
                return Pool(self._core, table, columns, limits)
            holding = [Holding(self._core, self._loose, rule.prefix) for rule in rules]
            return HeldPool(self._core, table, columns, limits, holding)

    def slots(self, prefix: str, limit: Slots, lease: int) -> SlotPool | None:
        """Return a pool of the slots that are held under keys with this beginning, each for a lease."""
        if getattr(self.execute, "__func__", None) is not MemoryStore.execute:
            return None  # of a subclass, which wants to be asked
        return SlotPool(self._core, Holding(self._core, self._loose, prefix), limit, lease)

    def _move_into(self, table: Table, column: Column) -> None:
        """Have a rule's counters, which may have stood by themselves, stand in a table from now on."""
        now = self._core.clock()
        for key, (value, expiry, limit) in self._loose.release(column.prefix):
            if limit is not None:
                column.note(limit)
            table.write(key[len(column.prefix) :], column, value, expiry, now)
        for place, (value, expiry, _) in self._loose.release_cells(column.prefix):
            table.add_to_cell(place, column, value, expiry)
        self._places[column.prefix] = table, column

    def take_together(self, asked: Sequence[tuple[Pool, str, int]]) -> list[Answer] | None:
        """Take for `(pool, bucket, cost)` each, from all of them or from none: then the operation is asked.

        The caller has checked the process.
        """
        core = self._core
        if len({(id(pool.table), bucket) for pool, bucket, _ in asked}) < len(asked):
            return None
        answers: list[Answer] = []
        with core.lock:
            now = core.clock()
            before = []
            for pool, bucket, cost in asked:
                before.append(pool.table.copy_of(bucket))
                answer = pool.charge(bucket, cost, now)
                if not isinstance(answer, list):
                    break
                answers.append(answer)
            else:
                before = []
            for (pool, bucket, _), entry in zip(asked, before[: len(answers)]):  # noqa: B905 - of those that were charged
                pool.table.restore(bucket, entry, now)
        if core.news is not None:
            core.tell()
        return answers if len(answers) == len(asked) else None
