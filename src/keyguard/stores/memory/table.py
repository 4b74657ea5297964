"""The counters of a guard's rules: one entry a caller for all of them, counted in place.

An entry is a list with four places for each rule, its *column*. Slices of a window stand in it taken apart:
`newest, spent, back, older`, where `back` is the moment at which units come back, and the rest is as in
`keyguard.rates.slices.Slices`. Whatever else a state may be stands in it as it is: `-1, expiry, note, state`, as
`Limit.take_quickly` has it. A column in which nothing was counted is `-99, 0, 0, b""`: slices that lapsed before any
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from keyguard.rates import Limit
from keyguard.rates.slices import SLICES, packed, slice_width, unpacked
from keyguard.rates.window import is_window
from keyguard.stores.memory.core import CELLS, Core, Generations

Entry: TypeAlias = "list[Any]"

PLACES = 4  # that a column has in an entry
WHOLE = -1  # in the place of `newest`: the state is not taken apart
_BLANK = (-99, 0, 0, b"")
# Measured as `VALUE_COST` is: the name of the caller, a list, two slots of a dict; and for each column four places, two
# numbers, and bytes.
_ENTRY_COST = 240
_COLUMN_COST = 130


class Column:
    """The place of one rule's counters in each entry of a table."""

    __slots__ = ("_lapse", "_newest", "limit", "offset", "prefix", "width")

    def __init__(self, prefix: str, offset: int, limit: Limit) -> None:
        self.prefix = prefix
        """The beginning of the keys of its counters."""
        self.offset = offset
        self.limit = limit
        """The smallest of all limits that count here: a caller who has spent half of any of them is not forgotten."""
        self.width = slice_width(limit.period) if is_window(limit) else 0
        """Microseconds of a slice; 0 if what counts here has none."""
        self._newest, self._lapse = -1, 0

    def note(self, limit: Limit) -> None:
        """Note that this limit counts here too."""
        if limit.max_cost < self.limit.max_cost:
            self.limit = limit

    def slice_at(self, now: int) -> int:
        """Return the number of the slice at a time, the same object each time until another one is asked for."""
        newest = now // self.width
        if newest != self._newest:
            self._newest = newest
            self._lapse = (newest + SLICES + 1) * self.width
        return self._newest

    def expiry(self, entry: Entry) -> int:
        newest: int = entry[self.offset]
        if newest == WHOLE:
            expiry: int = entry[self.offset + 1]
            return expiry
        return (newest + SLICES + 1) * self.width

    def read(self, entry: Entry, now: int) -> bytes | None:
        """Return a caller's state as the bytes that an operation reads; `None` if it has lapsed."""
        offset = self.offset
        newest = entry[offset]
        if newest == WHOLE:
            state: bytes | None = entry[offset + 3] if entry[offset + 1] > now else None
            return state
        if (newest + SLICES + 1) * self.width <= now:
            return None
        return packed(newest, entry[offset + 1], entry[offset + 3])

    def write(self, entry: Entry, state: bytes | None, expiry: int) -> int:
        """Set a caller's state, or nothing. Return by how many bytes it is longer than before."""
        offset = self.offset
        size = len(entry[offset + 3])
        slices = unpacked(state) if self.width and state is not None else None
        if state is None:
            entry[offset : offset + PLACES] = _BLANK
        # They lapse by themselves. If they are to do so earlier, they are kept as they are.
        elif slices is not None and expiry >= (slices[0] + SLICES + 1) * self.width:
            self.set_slices(entry, *slices)
        else:
            entry[offset : offset + PLACES] = WHOLE, expiry, 0, state
        return len(entry[offset + 3]) - size

    def set_slices(self, entry: Entry, newest: int, spent: int, older: bytes) -> int:
        """Set a caller's slices. Return the moment when units come back."""
        back = self._lapse  # one number for all who have only just come, of whom there may be millions
        if older or newest is not self._newest:
            back = (newest + SLICES + 1 - (len(older) >> 2)) * self.width
        offset = self.offset
        entry[offset] = newest
        entry[offset + 1] = spent
        entry[offset + 2] = back
        entry[offset + 3] = older
        return back

    def half_spent(self, entry: Entry, now: int) -> bool:
        newest, spent = entry[self.offset : self.offset + 2]
        if newest != WHOLE and spent * 2 < self.limit.max_cost:
            return False  # it can only have become less since
        state = self.read(entry, now)
        return state is not None and self.limit.half_spent(state, now)

    def merge(self, one: Entry, other: Entry, now: int) -> None:
        """Make the first at least as spent as both."""
        theirs = self.read(other, now)
        if theirs is None:
            return
        mine = self.read(one, now)
        if mine is None:
            one[self.offset : self.offset + PLACES] = other[self.offset : self.offset + PLACES]
        else:
            self.write(one, self.limit.merge(mine, theirs), max(self.expiry(one), self.expiry(other)))


class Table(Generations[Entry]):
    """The counters of rules that are taken from together, by caller."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self._core = core
        self.columns: list[Column] = []
        self.cells: dict[int, Entry] = {}
        self._blank: Entry = []
        self._cost = _ENTRY_COST
        self._may_go = True

    def add_column(self, prefix: str, limit: Limit) -> Column:
        """Add a place for the counters of another rule to each entry."""
        column = Column(prefix, len(self._blank), limit)
        self.columns.append(column)
        if not limit.may_be_forgotten:
            self._may_go, self.bytes = False, 0
        self._blank += _BLANK
        self._cost += _COLUMN_COST
        for entries in (self.young, self.old):
            for entry in entries.values():
                entry += _BLANK
            self.bytes += _COLUMN_COST * len(entries) * self._may_go
            self._core.bytes += _COLUMN_COST * len(entries)
        for cell in self.cells.values():
            cell += _BLANK
            self._core.bytes += _COLUMN_COST
        return column

    def at_hand(self, bucket: str) -> Entry:
        """Return an entry to count in, for a caller who is not in the young generation.

        If it is not the caller's own, it is a copy of what stands for it. `Core.put` keeps it.
        """
        entry = self.old.get(bucket)
        if entry is None and self.cells:
            cell = self.cells.get(hash(bucket) % CELLS)
            entry = None if cell is None else cell[:]
        return self._blank[:] if entry is None else entry

    def entry(self, bucket: str) -> Entry | None:
        """Return a caller's own entry, which belongs to the young generation then; `None` if there is none."""
        entry = self.young.get(bucket)
        if entry is None and (entry := self.old.pop(bucket, None)) is not None:
            self.young[bucket] = entry
        return entry

    def read(self, bucket: str, column: Column, now: int) -> bytes | None:
        entry = self.young.get(bucket)
        if entry is None:
            if not self.old and not self.cells:
                return None
            entry = self.at_hand(bucket)
        return column.read(entry, now)

    def write(self, bucket: str, column: Column, state: bytes | None, expiry: int, now: int) -> None:
        entry = self.young.get(bucket)
        if entry is not None:
            self._core.grow(self, bucket, entry, column.write(entry, state, expiry), now)
        elif state is not None or bucket in self.old:
            entry = self.at_hand(bucket)
            self.keep(bucket, entry, column.write(entry, state, expiry), now)

    def keep(self, bucket: str, entry: Entry, grown: int, now: int) -> None:
        """Put an entry that was at hand into the young generation; it has grown by so many bytes since."""
        own = bucket in self.old
        self._core.put(self, bucket, entry, now)
        if own:
            self._core.grow(self, bucket, entry, grown, now)

    def copy_of(self, bucket: str) -> Entry | None:
        """Return a copy of a caller's own entry."""
        entry = self.own(bucket)
        return None if entry is None else entry[:]

    def restore(self, bucket: str, before: Entry | None, now: int) -> None:
        """Set a caller's entry back to such a copy, or to nothing. If it was let go since, that stays so."""
        entry = self.own(bucket)
        if entry is None:
            return
        if before is None:
            self._core.drop(self, bucket)
            return
        grown = self._cell_size(before) - self._cell_size(entry)
        entry[:] = before
        self._core.grow(self, bucket, entry, grown, now)

    def add_to_cell(self, place: int, column: Column, state: bytes, expiry: int) -> None:
        """Set what a cell holds of a rule that has just got its column."""
        cell = self.cells.get(place)
        if cell is None:
            cell = self.cells[place] = self._blank[:]
            self._core.cells += 1
            self._core.bytes += self._cost
        self._core.bytes += column.write(cell, state, expiry)

    def scan(self, prefix: str, now: int) -> Iterator[tuple[str, bytes]]:
        """Yield what stands under keys that begin with `prefix`."""
        for column in self.columns:
            if not column.prefix.startswith(prefix[: len(column.prefix)]):
                continue
            for bucket, entry in [*self.old.items(), *self.young.items()]:
                state = column.read(entry, now)
                if state is not None and (column.prefix + bucket).startswith(prefix):
                    yield column.prefix + bucket, state

    # -- what `Core` asks -----------------------------------------------------------------------------------

    def size(self, name: str, entry: Entry) -> int:
        return self._cell_size(entry) + len(name)

    def may_go(self, entry: Entry) -> bool:
        return self._may_go

    def living(self, entry: Entry, now: int) -> bool:
        return any(column.expiry(entry) > now for column in self.columns)

    def half_spent(self, entry: Entry, now: int) -> bool:
        try:
            return any(column.half_spent(entry, now) for column in self.columns)
        except Exception:  # something else has written it: what is spent is not known
            return True

    def fold(self, name: str, entry: Entry, now: int) -> bool:
        place = hash(name) % CELLS  # the hash of text differs in each process: nobody can aim at a cell
        cell = self.cells.get(place)
        if cell is None:
            self._core.cells += 1
            self._core.bytes += self._cell_size(entry)
            self.cells[place] = entry[:]
            return True
        merged = cell[:]
        try:
            for column in self.columns:
                column.merge(merged, entry, now)
        except Exception:  # as above
            return False
        self._core.bytes += self._cell_size(merged) - self._cell_size(cell)
        self.cells[place] = merged
        return True

    def sweep_cells(self, now: int) -> None:
        for place in [place for place, cell in self.cells.items() if not self.living(cell, now)]:
            self._core.bytes -= self._cell_size(self.cells.pop(place))
            self._core.cells -= 1

    def _cell_size(self, entry: Entry) -> int:
        return self._cost + sum(map(len, entry[3::PLACES]))
