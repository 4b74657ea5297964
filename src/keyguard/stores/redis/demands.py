"""Demands on the wire, and what came of them. `lua/decisions.lua` is the other side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct, pack
from typing import Any

from keyguard.errors import StoreError
from keyguard.ops import Demand, Settle, Taken
from keyguard.rates.limit import Taking
from keyguard.stores.redis.scripts import KINDS

_DEMAND = Struct("<BBB4QQQ")  # kind, place of the hash, flags, four numbers of the limit, cost, length of the lease
_VERDICT = Struct("<qq")
_FOUR = Struct("<4q")
_MAX = 2**52  # more is more than any limit has

Settled = tuple[Demand, Taking, int]
"""A demand, what was taken for it, and what it costs in the end."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Demands as a script is told them."""

    kinds: frozenset[str]
    """The files of the kinds of limit that the script must hold."""
    keys: list[bytes]
    """Their hashes, each once."""
    blob: bytes
    fields: list[bytes]
    numbers: list[tuple[int, int, int, int]]
    """Of each limit, as of the time for which they were packed."""


def known(demands: Sequence[Demand]) -> bool:
    """Tell whether the scripts know the kinds of these limits, and that nothing of them is held."""
    return all(demand.limit.script in KINDS and not demand.holds for demand in demands)


def packed(demands: Sequence[Demand], place: Callable[[str], tuple[bytes, bytes]], now: int, first: int = 1) -> Packed:
    """Pack demands whose kinds are known. `first`: the number of their first hash among the keys of the call."""
    kinds = set()
    keys: list[bytes] = []
    fields: list[bytes] = []
    numbers: list[tuple[int, int, int, int]] = []
    blob = b""
    for demand in demands:
        hash, field = place(demand.key)
        if hash not in keys:
            keys.append(hash)
        fields.append(field)
        number, file = KINDS[demand.limit.script]
        kinds.add(file)
        cost = min(demand.cost, _MAX)
        four = demand.limit.numbers(now)
        numbers.append(four)
        blob += _DEMAND.pack(number, keys.index(hash) + first, 0, *four, cost, 0)
    return Packed(frozenset(kinds), keys, blob, fields, numbers)


def settlement(token: bytes, at: int, settled: Sequence[Settled]) -> bytes:
    """Pack what is settled of a decision that was made at a time."""
    told = token + at.to_bytes(8, "little")
    for demand, taking, cost in settled:
        told += pack("<qq", taking[1], min(_MAX, max(-_MAX, cost - demand.cost)))
    return told


def settled_of(op: Settle) -> list[Settled]:
    """Return what an operation settles, demand by demand."""
    return [*zip(op.taken.demands, op.taken.takings, op.costs, strict=True)]


def other_time(outcome: Any) -> int | None:
    """Return the server's time if the numbers of the demands hold for another one: nothing has happened then."""
    if outcome.__class__ is not bytes or len(outcome) != 8:
        return None
    return int.from_bytes(outcome, "little")


def taken_of(demands: Sequence[Demand], outcome: bytes) -> Taken:
    """Return what an outcome says of the demands. Raises `StoreError` if the decision was called off."""
    if len(outcome) < 16:
        raise StoreError("Redis: the decision was called off")
    at, refused = _VERDICT.unpack_from(outcome)
    takings: list[Taking] = [(None, *four) for four in _FOUR.iter_unpack(outcome[16:])]
    return Taken(demands, takings, at, refused == 1)


def steady(demands: Sequence[Demand]) -> bool:
    return all(demand.limit.steady for demand in demands)


def free(demand: Demand) -> Demand:
    return Demand(demand.name, demand.key, demand.limit, 0, holds=demand.holds)


def bucket_of(demand: Demand) -> str:
    return demand.key.partition("|")[2]


def by_bucket(demands: Sequence[Demand]) -> list[list[Demand]]:
    groups: dict[str, list[Demand]] = {}
    for demand in demands:
        groups.setdefault(bucket_of(demand), []).append(demand)
    return [*groups.values()]
