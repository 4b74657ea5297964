"""The way that a request takes from the limits of a guard: fast path of `Take.apply`, same answers.

`tests/stores/test_pools.py` holds it to them. What takes nothing, or meets a state that cannot be read, it leaves to
the operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from keyguard.ops import Demand, Taken
from keyguard.rates import Limit, Taking
from keyguard.rates.window import SLICES, WindowSlices, is_window, moved_on
from keyguard.stores.memory.core import Core
from keyguard.stores.memory.table import PLACES, WHOLE, Column, Entry, Table

Answer: TypeAlias = "list[int]"
"""`[at, left, back, ...]`: the moment, and for each rule the units left and the moment when more units come back.

Times are microseconds. The numbers that follow are the pool's own.
"""

Refused: TypeAlias = "tuple[int, list[Taking]]"
"""`(at, takings)` if a limit refuses: nothing was charged."""

_TAKING = 5  # items of one; a part of an answer has fewer
_NO_SLICE = -2  # of limits that count in none


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

    __slots__ = ("_begin", "_columns", "_core", "_limits", "_only", "_rules", "_until", "table")

    def __init__(self, core: Core, table: Table, columns: Sequence[Column], limits: Sequence[Limit]) -> None:
        self.table = table
        self._core = core
        self._limits = tuple(limits)
        self._columns = {column.offset: (column, limit) for column, limit in zip(columns, limits, strict=True)}
        self._rules: list[tuple[int, int, int]] = []
        """`(offset, newest, quota)` of each, as long as no slice has turned."""
        self._only: tuple[int, int, int] | None = None
        """The only one of them."""
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

    def charge(self, bucket: str, cost: int, now: int) -> Answer | Refused | None:
        """Do the same, under the lock."""
        if not self._begin <= now < self._until:
            self._go_on(now)
        table = self.table
        entry = table.young.get(bucket) or table.entry(bucket)
        if entry is None or cost <= 0:
            return self._charge_slowly(bucket, cost, now)
        if self._only is not None:  # the same without a loop, for a single limit
            offset, newest, quota = self._only
            spent = entry[offset + 1] + cost
            if entry[offset] is not newest or spent > quota:
                return self._charge_slowly(bucket, cost, now)
            entry[offset + 1] = spent
            return [now, quota - spent, entry[offset + 2]]
        answer = [now]
        for offset, newest, quota in self._rules:
            if entry[offset] is not newest:  # the same object: comparing numbers of this size costs more
                break
            spent = entry[offset + 1] + cost
            if spent > quota:
                break
            entry[offset + 1] = spent
            answer.append(quota - spent)
            answer.append(entry[offset + 2])
        else:
            return answer
        for offset, *_ in self._rules[: len(answer) // 2]:  # that were charged
            entry[offset + 1] -= cost
        return self._charge_slowly(bucket, cost, now)

    def _charge_slowly(self, bucket: str, cost: int, now: int) -> Answer | Refused | None:
        """Do the same for a caller who has just come back, if a slice has turned, for other limits, or to refuse."""
        if cost <= 0:
            return None
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
            for offset, newest, _ in self._rules:
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
        for offset, (column, limit) in self._columns.items():
            if offset == first and known is not None:
                takings.append(known)
                continue
            state = column.read(entry, now)
            taking = limit.take(state, now, cost)
            takings.append(taking if taking[4] else limit.take(state, now, 0))
        for (column, _), (kept, ttl, *_) in zip(self._columns.values(), takings, strict=True):
            if kept is not None:  # moved, since time was set back: else each refusal would begin the wait anew
                self.table.write(bucket, column, kept, now + ttl, now)
        return now, takings

    def _take_one(self, entry: Entry, offset: int, newest: int, cost: int, now: int) -> tuple[Any, ...] | None:
        """Take from one limit, and return its part of the answer, and more.

        If it does not admit so many, return its taking, or `None`.
        """
        column, limit = self._columns[offset]
        last, spent, _, older = entry[offset : offset + PLACES]
        if newest >= last != WHOLE and newest != _NO_SLICE:
            if last != newest:
                spent, older = moved_on(spent, older, newest - last)
            left = limit.quota - spent - cost
            if left < 0:
                return None
            return left, column.set_slices(entry, newest, spent + cost, older)
        whole = newest == _NO_SLICE and last == WHOLE  # and will be, so it need not be looked at
        state: bytes | None = older if whole else column.read(entry, now)
        if whole and spent <= now:  # it has lapsed
            state = None
        kept, ttl, left, reset, wait = limit.take(state, now, cost)
        if wait:
            return kept, ttl, left, reset, wait
        if kept is not None and whole:
            entry[offset + 1] = now + ttl
            entry[offset + 3] = kept
        elif kept is not None:
            column.write(entry, kept, now + ttl)
        return (left, now + reset) if is_window(limit) else (left, now + reset, ttl)

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
                ttl = limit.period if is_window(limit) else next(more)
            takings.append((None, ttl, answer[1 + 2 * place], answer[2 + 2 * place] - at, 0))
        return Taken(demands, takings, at, False)

    def _go_on(self, now: int) -> None:
        """Begin another span, because a slice has turned or the store is to be swept."""
        core = self._core
        core.sweep(now)
        until = core.next_sweep
        self._rules = rules = []
        for offset, (column, limit) in self._columns.items():
            newest = _NO_SLICE
            if type(limit) is WindowSlices:
                newest = column.slice_at(now)
                until = min(until, (newest + 1) * column.width)
            rules.append((offset, newest, limit.quota))
        self._only = rules[0] if len(rules) == 1 else None
        self._begin, self._until = now, until
