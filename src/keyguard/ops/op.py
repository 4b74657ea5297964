"""The definition of an operation, and a way for a simple store to run one."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Final, TypeAlias, TypeVar

from keyguard.flow import Step
from keyguard.rates.limit import Limit

R = TypeVar("R")


class Droppable:
    """What stands in the place of a limit if a value may be dropped: no decision hangs on it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "DROPPABLE"


DROPPABLE: Final = Droppable()

Change: TypeAlias = tuple[str, bytes | None, int | None, Limit | Droppable | None]
"""`(key, value, ttl, limit)`.

- `value`: what to write; `None` deletes.
- `ttl`: microseconds from now after which the key is as if it had never been; `None` keeps it for good.
- `limit`: what the value is a caller's state of. A store at its memory bound may ask it how much is spent, and fold
  states together; `None` if a value must never be lost. A store at its bound drops what is `DROPPABLE`, oldest first,
  before it forgets any caller; stores that have no bound take it for `None`.
"""


class Op(Step[R]):
    """One atomic operation on known keys."""

    __slots__ = ("keys",)

    keys: tuple[str, ...]
    """Every key it reads or writes, each once. Those that it writes and are not counters are of one pool."""
    likely: Sequence[bytes | None] | None = None
    """Values that probably stand there: if they do, a store need not read them first. The changes that `apply`
    makes of them do not depend on the time."""

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[R, Sequence[Change]]:
        """Decide. `old` holds the values of `keys`, in order; `now` is the store's time in microseconds.

        Pure: the same arguments give the same answer, and nothing else is touched. A store may call it again
        when it lost a race.
        """
        raise NotImplementedError


def run(op: Op[R], table: MutableMapping[str, tuple[bytes, int | None]], now: int) -> R:
    """Run one operation on a mapping of `key -> (value, expiry in microseconds or None)`.

    All a simple store needs: call it under a lock. See `examples/custom_store.py`.
    """
    old: list[bytes | None] = []
    for key in op.keys:
        entry = table.get(key)
        old.append(entry[0] if entry is not None and (entry[1] is None or entry[1] > now) else None)
    result, changes = op.apply(old, now)
    for key, value, ttl, _ in changes:
        if value is None:
            table.pop(key, None)
        else:
            table[key] = (value, None if ttl is None else now + ttl)
    return result


def is_counter(key: str) -> bool:
    """Tell whether a key holds the state of a limit. Such keys have a time to live, and can be packed by caller."""
    return key.startswith(COUNTERS)


COUNTERS = ("rl:", "guess:")
