"""The decisions that wait, and how those that travel next are put together.

Rules:
- Decisions that wait for the same travel together, first come, first served; a key is in one transaction of this
  process at a time, so that it does not wait for its own lock.
- Decisions that only read go apart from those that write: they need no locks, and wait for none.
- A decision whose key somebody else holds waits for that key in a transaction of its own kind, and keeps nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from keyguard.stores.postgres.transaction import Asked

_DECISIONS = 256
_KEYS = 48
"""In one transaction. The locks of a server are few: some 6400, of all its clients together."""


class Queue:
    """The decisions that wait for a turn."""

    def __init__(self) -> None:
        self._reading: deque[Asked] = deque()
        self._writing: deque[Asked] = deque()
        self._held: deque[Asked] = deque()
        self.busy: set[str] = set()
        """The keys of the transactions under way that write."""

    def __bool__(self) -> bool:
        return bool(self._reading or self._writing or self._held)

    def put(self, asked: Asked) -> None:
        """Have it wait."""
        (self._held if asked.held else self._reading if asked.reading else self._writing).append(asked)

    def put_back(self, asked: Iterable[Asked]) -> None:
        """Have them wait in front of the others: they have been on their way already."""
        for one in reversed([*asked]):
            (self._held if one.held else self._reading if one.reading else self._writing).appendleft(one)

    def put_apart(self, asked: Iterable[Asked], *, held: bool) -> None:
        """Have each of them travel alone, in front of the others; if `held`, it waits for its keys."""
        apart = [*asked]
        for one in apart:
            one.alone = True
            if held:
                one.held = one.keys
        self.put_back(apart)

    def retry_held(self) -> None:
        """Have those whose keys were held try again in company, without waiting for the keys."""
        back = [*self._held]
        self._held.clear()
        for one in back:
            one.held = frozenset()
        self.put_back(back)

    def empty(self) -> list[Asked]:
        """Take out all."""
        found = [*self._reading, *self._writing, *self._held]
        for waiting in (self._reading, self._writing, self._held):
            waiting.clear()
        return found

    @property
    def holding(self) -> bool:
        """Whether some wait for keys that others hold."""
        return bool(self._held)

    def next_held(self) -> list[Asked]:
        """Return those who wait for the same keys as the first of them."""
        taken: list[Asked] = []
        left: list[Asked] = []
        for asked in self._held:
            if asked.future.done():
                continue
            fits = not taken or (asked.held == taken[0].held and not asked.alone and not taken[0].alone)
            if fits and self.busy.isdisjoint(asked.keys):
                taken.append(asked)
            else:
                left.append(asked)
        self._held = deque(left)
        return taken

    def next(self) -> list[Asked]:
        """Return those who travel next, none of them waiting for anybody."""
        return self._read() or self._write()

    def _read(self) -> list[Asked]:
        taken: list[Asked] = []
        keys: set[str] = set()
        while self._reading and len(taken) < _DECISIONS and len(keys) < 4 * _KEYS:
            asked = self._reading.popleft()
            if not asked.future.done():
                taken.append(asked)
                keys |= asked.keys
        return taken

    def _write(self) -> list[Asked]:
        taken: list[Asked] = []
        left: list[Asked] = []
        keys: set[str] = set()
        passed = set(self.busy)
        waiting = self._writing
        while waiting and len(taken) < _DECISIONS and len(keys) < _KEYS:
            asked = waiting.popleft()
            if asked.future.done():
                continue
            # A decision that shares a key with one that has to wait comes after it, or that would wait for ever.
            if not passed.isdisjoint(asked.keys) or (asked.alone and taken):
                passed |= asked.keys
                left.append(asked)
                continue
            taken.append(asked)
            keys |= asked.keys
            if asked.alone:
                break
        waiting.extendleft(reversed(left))
        return taken
