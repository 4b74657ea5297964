"""The way to limits of which handlers may hold units: a pool that counts what is held as if it were spent.

It is a fast path of `Take.apply` and `Settle.apply`, with the same answers, as `Pool` is, and held to them by the same
test. What it would refuse, or would have to write although nothing is taken, it leaves to the operation.
"""

from __future__ import annotations

from collections.abc import Sequence

from keyguard.ops.holds import Holds
from keyguard.rates import Limit
from keyguard.rates.slices import SLICES, moved_on
from keyguard.stores.memory.core import Core
from keyguard.stores.memory.holding import Holding
from keyguard.stores.memory.pool import Answer, Pool, Refused
from keyguard.stores.memory.table import WHOLE, Column, Table


class HeldPool(Pool):
    """The limits of one guard, units of which are taken, looked at, held and settled."""

    __slots__ = ("_end", "_holding")

    def __init__(
        self, core: Core, table: Table, columns: Sequence[Column], limits: Sequence[Limit], holding: Sequence[Holding]
    ) -> None:
        super().__init__(core, table, columns, limits)
        self._holding = tuple(holding)
        self._end = 1 + 2 * len(self._holding)
        """The place in an answer after what is told of each rule."""

    def charge(self, bucket: str, cost: int, now: int) -> Answer | Refused | None:
        if not self._begin <= now < self._until:
            self._go_on(now)
        try:
            standing = [holding.standing(bucket, now) for holding in self._holding]
            if cost > 0 and not any(standing):
                return super().charge(bucket, cost, now)
            looked = self._look(bucket, cost, standing, now)
        except Exception:  # a state that cannot be read: the operation will tell
            return None
        if looked is None or cost <= 0:
            return looked
        answer = super().charge(bucket, cost, now)
        if not isinstance(answer, list):
            return None
        answer[1 : self._end] = looked[1 : self._end]
        return answer

    def hold(self, bucket: str, units: int, lease: int) -> tuple[int, ...] | None:
        """Hold units of each limit for a caller, at least one. Return the numbers of the holds.

        `None` if nothing was done: then the operation is asked. The caller has checked the process.
        """
        core = self._core
        numbers: tuple[int, ...] | None = None
        with core.lock:
            now = core.clock()
            if not self._begin <= now < self._until:
                self._go_on(now)
            try:
                standing = [holding.standing(bucket, now) for holding in self._holding]
                room = not any(holds is not None and holds.full for holds in standing)
                admitted = room and self._look(bucket, units, standing, now) is not None
            except Exception:  # as above
                admitted = False
            if admitted:
                pairs = zip(self._holding, standing, strict=True)
                numbers = tuple([holding.add(bucket, holds, units, lease, now) for holding, holds in pairs])
        if core.news is not None:
            core.tell()
        return numbers

    def release(self, bucket: str, numbers: Sequence[int], cost: int) -> bool:
        """End the holds of these numbers, and charge what it cost. Return whether it was done, as `settle` does."""
        core = self._core
        with core.lock:
            done = self._release(bucket, numbers, cost, core.clock())
        if core.news is not None:
            core.tell()
        return done

    def _release(self, bucket: str, numbers: Sequence[int], cost: int, now: int) -> bool:
        try:
            pairs = zip(self._holding, numbers, strict=True)
            ended = [(holding, holding.released(bucket, number, now)) for holding, number in pairs]
        except Exception:  # as above
            return False
        if cost and not self.book(bucket, cost, now):
            return False
        for holding, written in ended:
            if written is not None:
                holding.write(written, now)
        return True

    def _look(self, bucket: str, cost: int, standing: Sequence[Holds | None], now: int) -> Answer | None:
        """Return what taking so many would answer, as `ask` has it. Nothing is taken.

        `None` if one of the limits would refuse it, or its state must be written first, since time was set back.
        """
        table = self.table
        entry = table.young.get(bucket) or table.entry(bucket) or table.at_hand(bucket)
        answer = [now]
        more: list[int] = []
        for holds, (offset, newest, quota, _, asked) in zip(standing, self._rules, strict=True):
            wanted = cost
            if holds is not None:
                if holds.changed:
                    return None
                wanted += holds.units
            column, limit = self._columns[offset]
            last = entry[offset]
            if asked is not None and WHOLE != last <= newest:
                if last == newest:
                    spent, back = entry[offset + 1], entry[offset + 2]
                else:
                    spent, older = moved_on(entry[offset + 1], entry[offset + 3], newest - last)
                    back = (newest + SLICES + 1 - (len(older) >> 2)) * column.width
                spent += wanted
                if spent > quota and wanted:
                    return None
                answer.append(quota - spent if spent < quota else 0)
                answer.append(back if spent else now)
                continue
            if asked is not None:
                return None
            state = column.read(entry, now)
            _, ttl, left, reset, wait = limit.take(state, now, wanted)
            kept, lives, _, _, _ = limit.take(state, now, 0)
            if wait or kept is not None:
                return None
            answer.append(left)
            answer.append(now + reset)
            more.append(now + (ttl if state is None else lives))
        return answer + more
