"""The way that a request takes from the limits of a guard: fast path of `Take.apply`, same answers.

`tests/stores/test_pools.py` holds it to them. What takes nothing, or meets a state that cannot be read, it leaves to
the operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from keyguard.ops import Demand, Taken
from keyguard.rates import Limit, Taking
from keyguard.rates.slices import SLICES, moved_on
from keyguard.rates.window import WindowSlices
from keyguard.stores.memory.core import Core
from keyguard.stores.memory.table import PLACES, WHOLE, Column, Entry, Table

Answer: TypeAlias = "list[int]"
"""`[at, left, back, ...]`: the moment, and for each rule the units left and the moment when more units come back.

Times are microseconds. The numbers that follow are the pool's own.
"""

Refused: TypeAlias = "tuple[int, list[Taking]]"
"""`(at, takings)` if a limit refuses: nothing was charged."""

_TAKING = 5  # items of one; a part of an answer has fewer


_Span: TypeAlias = "tuple[int, int, int, Any, Any]"
"""`(offset, newest, quota, take_quickly, asked)` of a limit, as long as no slice turns. Slices are counted by the pool,
and only they have `asked`; other states are counted by `take_quickly`."""


class Counted(Protocol):
    """A rule, as far as a store cares."""

    @property
    def prefix(self) -> str:
        """The beginning of the keys of its counters, up to the first `|`."""
        ...

    @property
    def limit(self) -> Limit: ...


class Pool:
    """The limits of one guard, to be taken from all at once or not at all."""

    __slots__ = ("_begin", "_columns", "_core", "_limits", "_mixed", "_only", "_rules", "_until", "table")

    def __init__(self, core: Core, table: Table, columns: Sequence[Column], limits: Sequence[Limit]) -> None:
        self.table = table
        self._core = core
        self._limits = tuple(limits)
        self._columns = {column.offset: (column, limit) for column, limit in zip(columns, limits, strict=True)}
        self._rules: list[_Span] = []
        self._only: _Span | None = None
        """The only one of them."""
        self._mixed = len(limits) > 1 and any(type(limit) is not WindowSlices for limit in limits)
        self._begin = self._until = 0
        """The span in which no slice turns."""

    def take(self, bucket: str, cost: int = 1) -> Answer | Refused | None:
        """Take `cost` units from each limit for a caller. `None` if nothing was decided: then the operation is asked.

        The caller has checked the process.
        """
        core = self._core
        with core.lock:
            answer = self.charge(bucket, cost, core.clock())
        if core.news is not None:
            core.tell()
        return answer

    def knows(self, bucket: str) -> bool:
        """Tell whether anything may be counted for a caller; for one who is new, every limit is whole."""
        table = self.table
        with self._core.lock:
            return bucket in table.young or bucket in table.old or bool(table.cells)

    def charge(self, bucket: str, cost: int, now: int) -> Answer | Refused | None:
        """Do the same, under the lock."""
        if not self._begin <= now < self._until:
            self._go_on(now)
        if cost <= 0:
            return None
        table = self.table
        entry = table.young.get(bucket) or table.entry(bucket)
        if entry is None:
            return self._charge_slowly(bucket, cost, now)
        if self._mixed:
            return self._charge_mixed(bucket, entry, cost, now)
        if self._only is not None:  # the same without a loop, for a single limit
            offset, newest, quota, take, asked = self._only
            if entry[offset] is not newest:  # the same object: comparing numbers of this size costs more
                return self._charge_slowly(bucket, cost, now)
            if take is not None:
                try:
                    taken: list[int] | Taking | None = take(entry, offset + 1, now, cost)
                except Exception:  # a state that cannot be read: the operation will tell
                    return None
                if taken is None:
                    return self._charge_slowly(bucket, cost, now)
                if isinstance(taken, tuple):
                    return now, [taken]
                if taken[4]:
                    self._core.grow(table, bucket, entry, taken[4], now)
                return taken
            spent = entry[offset + 1] + cost
            if spent > quota:
                return now, [asked(entry, offset + 1, now, cost)]
            entry[offset + 1] = spent
            return [now, quota - spent, entry[offset + 2]]
        answer = [now]
        for offset, newest, quota, _, _ in self._rules:
            if entry[offset] is not newest:
                break
            spent = entry[offset + 1] + cost
            if spent > quota:
                break
            entry[offset + 1] = spent
            answer.append(quota - spent)
            answer.append(entry[offset + 2])
        else:
            return answer
        for charged, *_ in self._rules[: len(answer) // 2]:
            entry[charged + 1] -= cost
        if entry[offset] is not newest:
            return self._charge_slowly(bucket, cost, now)
        try:
            return self._refuse(bucket, entry, cost, now, offset, None)
        except Exception:  # as above
            return None

    def settle(self, bucket: str, cost: int) -> bool:
        """Charge units to each limit in the end, at least one, whatever is left of it. Return whether that was done.

        It is not if a state cannot be read: then the operation is asked. The caller has checked the process.
        """
        core = self._core
        with core.lock:
            done = self.book(bucket, cost, core.clock())
        if core.news is not None:
            core.tell()
        return done

    def book(self, bucket: str, cost: int, now: int) -> bool:
        """Do the same, under the lock."""
        if not self._begin <= now < self._until:
            self._go_on(now)
        table = self.table
        entry = table.young.get(bucket) or table.entry(bucket)
        slices: list[tuple[Column, int, int, bytes]] = []
        states: list[tuple[Column, bytes, int]] = []
        try:
            for offset, newest, quota, _, asked in self._rules:
                column, limit = self._columns[offset]
                if asked is not None and entry is not None and WHOLE != (last := entry[offset]) <= newest:
                    spent, older = entry[offset + 1], entry[offset + 3]
                    if last != newest:
                        spent, older = moved_on(spent, older, newest - last)
                    if spent + cost <= quota:
                        slices.append((column, newest, spent + cost, older))
                        continue
                states.append((column, *limit.charge(table.read(bucket, column, now), now, cost)))
        except Exception:  # a state that cannot be read: the operation will tell
            return False
        if entry is not None:
            grown = 0
            for column, newest, spent, older in slices:
                grown += len(older) - len(entry[column.offset + 3])
                column.set_slices(entry, newest, spent, older)
            if grown:
                self._core.grow(table, bucket, entry, grown, now)
        for column, state, ttl in states:
            table.write(bucket, column, state if ttl else None, now + ttl, now)
        return True

    def _charge_mixed(self, bucket: str, entry: Entry, cost: int, now: int) -> Answer | Refused | None:
        """Do the same for several limits, not all of which count in slices."""
        before = entry.copy()
        answer = [now]
        more: list[int] = []
        grown = 0
        try:
            for offset, newest, quota, take, _ in self._rules:
                if entry[offset] is not newest:
                    break
                if take is None:
                    spent = entry[offset + 1] + cost
                    if spent > quota:
                        entry[:] = before
                        return self._refuse(bucket, entry, cost, now, offset, None)
                    entry[offset + 1] = spent
                    answer.append(quota - spent)
                    answer.append(entry[offset + 2])
                    continue
                part = take(entry, offset + 1, now, cost)
                if part is None:
                    break
                if part.__class__ is tuple:
                    entry[:] = before
                    return self._refuse(bucket, entry, cost, now, offset, part)
                answer += part[1:3]
                more.append(part[3])
                grown += part[4]
            else:
                answer += more
                if grown:
                    self._core.grow(self.table, bucket, entry, grown, now)
                return answer
        except Exception:  # as above
            entry[:] = before
            return None
        entry[:] = before
        return self._charge_slowly(bucket, cost, now)

    def _charge_slowly(self, bucket: str, cost: int, now: int) -> Answer | Refused | None:
        """Do the same for a caller who is new, or of whom something else has written, or if a slice has turned."""
        table = self.table
        entry = table.young.get(bucket)
        young = entry is not None
        if entry is None:
            entry = table.at_hand(bucket)
        before = entry[:]
        answer = [now]
        more: tuple[int, ...] = ()
        grown = 0
        try:
            for offset, newest, *_ in self._rules:
                size = len(entry[offset + 3])
                found = self._take_one(entry, offset, newest, cost, now)
                if found is None or len(found) == _TAKING:
                    entry[:] = before
                    return self._refuse(bucket, entry, cost, now, offset, found)
                grown += len(entry[offset + 3]) - size
                answer += found[:2]
                more += found[2:]
        except Exception:  # a state that cannot be read: the operation will tell
            entry[:] = before
            return None
        answer += more
        if not young:
            table.keep(bucket, entry, grown, now)
        elif grown:
            self._core.grow(table, bucket, entry, grown, now)
        return answer

    def _refuse(self, bucket: str, entry: Entry, cost: int, now: int, first: int, known: Any) -> Refused:
        """Tell what is left of each limit, and how long a caller waits for those that do not admit so many.

        The one at `first` has refused, and `known` is its taking, if it has been asked for.
        """
        takings: list[Taking] = []
        moved: list[tuple[Column, Taking]] = []
        for offset, newest, _, _, asked in self._rules:
            column, limit = self._columns[offset]
            if offset == first and known is not None:
                taking = known
            elif asked is not None and entry[offset] is newest:
                taking = asked(entry, offset + 1, now, cost)
            else:
                state = column.read(entry, now)
                taking = limit.take(state, now, cost)
                if not taking[4]:
                    taking = limit.take(state, now, 0)
            takings.append(taking)
            if taking[0] is not None:
                moved.append((column, taking))
        for column, (kept, ttl, *_) in moved:  # since time was set back: else each refusal would begin the wait anew
            self.table.write(bucket, column, kept, now + ttl, now)
        return now, takings

    def _take_one(self, entry: Entry, offset: int, newest: int, cost: int, now: int) -> tuple[Any, ...] | None:
        """Take from one limit, and return its part of the answer, and more.

        If it does not admit so many, return its taking, or `None`.
        """
        column, limit = self._columns[offset]
        last, spent, _, older = entry[offset : offset + PLACES]
        if newest >= last != WHOLE and newest != WHOLE:
            if last != newest:
                spent, older = moved_on(spent, older, newest - last)
            left = limit.quota - spent - cost
            if left < 0:
                return None
            return left, column.set_slices(entry, newest, spent + cost, older)
        kept, ttl, left, reset, wait = limit.take(column.read(entry, now), now, cost)
        if wait:
            return kept, ttl, left, reset, wait
        if kept is not None:
            column.write(entry, kept, now + ttl)
        return (left, now + reset) if type(limit) is WindowSlices else (left, now + reset, now + ttl)

    def taken(self, demands: Sequence[Demand], answer: Answer | Refused) -> Taken:
        """Return what `Take` of the same demands would have evaluated to; if it was charged, without the states."""
        at = answer[0]
        if isinstance(answer, tuple):
            return Taken(demands, answer[1], at, True)
        more = iter(answer[1 + 2 * len(self._limits) :])
        takings: list[Taking] = []
        for place, limit in enumerate(self._limits):
            if type(limit) is WindowSlices:
                ttl = (at // limit.width + SLICES + 1) * limit.width - at
            else:
                ttl = next(more) - at
            takings.append((None, ttl, answer[1 + 2 * place], answer[2 + 2 * place] - at, 0))
        return Taken(demands, takings, at, False)

    def _go_on(self, now: int) -> None:
        """Begin another span, because a slice has turned or the store is to be swept."""
        core = self._core
        core.sweep(now)
        until = core.next_sweep
        rules: list[_Span] = []
        for offset, (column, limit) in self._columns.items():
            if type(limit) is WindowSlices:
                newest = column.slice_at(now)
                until = min(until, (newest + 1) * column.width)
                rules.append((offset, newest, limit.quota, None, limit.asked))
            else:
                rules.append((offset, WHOLE, limit.quota, limit.take_quickly, None))
        self._rules, self._only = rules, rules[0] if len(rules) == 1 else None
        self._begin, self._until = now, until
