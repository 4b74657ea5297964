"""Demands on the wire, and what came of them. `lua/decisions.lua` is the other side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from struct import Struct, pack, unpack
from typing import Any

from keyguard.errors import StoreError
from keyguard.ops import Authenticate, Demand, Settle, Take, Taken
from keyguard.ops.limits import hold_of
from keyguard.rates.limit import Taking
from keyguard.stores.redis.scripts import HOLDS, KINDS

_DEMAND = Struct("<BBB4QQQ")  # kind, place of the hash, flags, four numbers of the limit, cost, length of the lease
MAY_BE_HELD = 2
"""The flag of a demand beside which units may be held."""
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
    """Tell whether the scripts know the kinds of these limits."""
    return all(demand.limit.script in KINDS for demand in demands)


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
        if demand.holds:
            kinds.add(HOLDS)
        flags = MAY_BE_HELD if demand.holds else 0
        blob += _DEMAND.pack(number, keys.index(hash) + first, flags, *four, cost, demand.lease)
    return Packed(frozenset(kinds), keys, blob, fields, numbers)


def settlement(token: bytes, at: int, settled: Sequence[Settled]) -> bytes:
    """Pack what is settled of a decision that was made at a time."""
    told = token + at.to_bytes(8, "little")
    for demand, taking, cost in settled:
        ends = hold_of(demand, taking, at) + demand.lease - at if demand.lease else taking[1]
        told += pack("<qq", ends, min(_MAX, max(-_MAX, cost - demand.cost)))
    return told


def renewal(
    held: Sequence[tuple[Demand, Taking, int]], place: Callable[[str], tuple[bytes, bytes]]
) -> tuple[list[bytes], list[bytes]]:
    """Pack holds, all in one hash and each with when it began, to be renewed. Returns the hash, and the arguments."""
    blob = numbers = b""
    fields, hashes = [], []
    for demand, taking, at in held:
        hash, field = place(demand.key)
        hashes.append(hash)
        fields.append(field)
        blob += _DEMAND.pack(0, 1, MAY_BE_HELD, 0, 0, 0, 0, 0, demand.lease)
        numbers += hold_of(demand, taking, at).to_bytes(8, "little")
    return hashes[:1], [blob, numbers, *fields]


def settled_of(op: Settle) -> list[Settled]:
    """Return what an operation settles, demand by demand."""
    return [*zip(op.taken.demands, op.taken.takings, op.costs, strict=True)]


def by_node(op: Settle) -> tuple[list[list[Settled]], list[int]]:
    """Return what an operation settles caller by caller, and when each part was decided."""
    groups: dict[str, list[Settled]] = {}
    moments: dict[str, int] = {}
    for settled, at in zip(settled_of(op), moments_of(op.taken), strict=True):
        bucket = bucket_of(settled[0])
        groups.setdefault(bucket, []).append(settled)
        moments[bucket] = at
    return [*groups.values()], [*moments.values()]


OTHER_TIME = 8
"""The length of what stands in the place of an outcome if the numbers of the demands hold for another time."""


def other_time(outcome: Any) -> int | None:
    """Return the server's time if the numbers of the demands hold for another one: nothing has happened then."""
    if outcome.__class__ is not bytes or len(outcome) != OTHER_TIME:
        return None
    return int.from_bytes(outcome, "little")


def taken_of(demands: Sequence[Demand], outcome: bytes) -> Taken:
    """Return what an outcome says of the demands. Raises `StoreError` if the decision was called off."""
    if len(outcome) < 16:
        raise StoreError("Redis: the decision was called off")
    at, refused = _VERDICT.unpack_from(outcome)
    ending = 16 + _FOUR.size * len(demands)
    takings: list[Taking] = [(None, *four) for four in _FOUR.iter_unpack(outcome[16:ending])]
    if len(outcome) == ending:
        return Taken(demands, takings, at, refused == 1)
    return Taken(demands, takings, at, refused == 1, unpack(f"<{len(demands)}q", outcome[ending:]))


def together(demands: Sequence[Demand], parts: Sequence[Taken]) -> Taken:
    """Return what was decided on several nodes, each of which has a time of its own, as one decision."""
    at = max(part.at for part in parts)
    found: dict[str, tuple[Taking, int, int]] = {}
    for part in parts:
        for demand, taking, held in zip(part.demands, part.takings, part.held or repeat(0), strict=False):
            found[demand.key] = taking, part.at, held
    takings, moments, all_held = zip(*[found[demand.key] for demand in demands], strict=True)
    holding = all_held if any(part.held for part in parts) else ()
    return Taken(demands, takings, at, any(part.refused for part in parts), holding, moments)


def moments_of(taken: Taken) -> Sequence[int]:
    """Return when each demand was decided, by the time of its node."""
    return taken.moments or [taken.at] * len(taken.demands)


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


def demands_of(op: Take | Settle | Authenticate) -> Sequence[Demand]:
    if isinstance(op, Authenticate):
        return op.guess
    return op.demands if isinstance(op, Take) else op.taken.demands


def packed_change(value: bytes | None, ttl: int | None) -> bytes:
    """Pack what is to be written, or that it is to be deleted."""
    return b"-" if value is None else b"+" + (ttl or 0).to_bytes(8, "little") + value
