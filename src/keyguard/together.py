"""Neighbouring guards that only count, asked in one operation: it takes from all of their limits, or from none.

They answer as they would one after the other (`tests/guards/test_together.py`). The first one whose part is refused
refuses, those outside of it have taken nothing, and those further in say nothing. While the store is out of order each
does what it was told to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

from keyguard.errors import StoreError
from keyguard.gate import Branch, Gate
from keyguard.guard import Ask, Decide, counting
from keyguard.ops import Demand, Store, Take, Taken, traits_of
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response


class Together(Ask):
    """Asks for several neighbours: for those that have something to ask."""

    __slots__ = ("asks", "branch", "then")

    def __init__(self, op: Any, asks: Sequence[Any], then: Decide | None, branch: Branch | None = None) -> None:
        super().__init__(op)
        self.branch = branch
        """The chain that a gate among these has sent the request to; `None` for the one that asked."""
        self.asks = asks
        """The answer of each guard that was asked, in order: an `Ask`, or `None`. The first is an `Ask`."""
        self.then = then
        """Gives the answer of the guard after these, which is known too, but is not a part of the operation."""

    def decided(self, result: Any) -> list[Decide]:
        """Return what gives the answers of these guards, now that the store has answered."""
        asking = [ask for ask in self.asks if ask is not None]
        if len(asking) == 1:
            parts, refused = [result], False
        else:
            parts, refused = parts_of(result, [ask.op for ask in asking]), result.refused
        found = iter(parts)
        decides = [_passes if ask is None else _decide_by(ask, next(found), refused) for ask in self.asks]
        return decides if self.then is None else [*decides, self.then]

    def without_store(self, error: StoreError, forward: Forward) -> Forward:
        """Return what goes on with the guards after the first, none of which the store has answered."""
        for ask in reversed(self.asks[1:]):
            if ask is not None:
                forward = partial(_go_on_without, ask, error, forward)
        return forward


def ask_together(first: Ask, place: int, beside: Sequence[Decide], spread: bool, request: CarriedRequest) -> Together:
    """Ask the guards beside the one at `place` what they want to ask, as far as one operation can do it for all.

    `spread`: several servers share the callers.
    """
    asks: list[Ask | None] = [first]
    op, then, branch = first.op, None, None
    while len(asks) <= len(beside):
        try:
            answer = beside[len(asks) - 1](request)
        except Exception:
            break  # it is asked again in its turn, and fails then
        if answer is None:
            asks.append(None)
        elif isinstance(answer, Branch):
            branch, beside = answer, answer.beside(place)  # with others in the place of the gate
        elif isinstance(answer, Ask) and (joined := _joined(op, answer.op, spread)) is not None:
            op = joined
            answer.stand_beside(asks)
            asks.append(answer)
        else:
            then = partial(_say, answer)
            break
    return Together(op, asks, then, branch)


def neighbours(guards: Sequence[Any], decides: Sequence[Decide], store: Store | None) -> list[tuple[Decide, ...]]:
    """Return for each guard those further in that may be asked together with it.

    None of a store that answers with no trip now and then: it would make one for all. None either of one that takes
    nothing back, which asks for one limit after the other by itself.
    """
    traits = traits_of(store)
    if store is None or traits.here is not None or traits.limitations is not None:
        return [()] * len(guards)
    counts = [guard.counting if isinstance(guard, Gate) else counting(guard) for guard in guards]
    found: list[tuple[Decide, ...]] = []
    for place, first in enumerate(counts):
        end = place + 1
        charged = first == "charges"
        while first is not None and end < len(counts) and counts[end] is not None:
            if charged and counts[end] == "checks":
                break  # limits outside of it may keep what they took, if it refuses
            charged = charged or counts[end] == "charges"
            end += 1
        found.append(tuple(decides[place + 1 : end]))
    return found


def _joined(one: Any, other: Any, spread: bool) -> Take | None:
    """Return one operation for two, if it is one decision for the store as well."""
    if one.__class__ is not Take or other.__class__ is not Take:
        return None
    if spread and len({_bucket_of(demand) for op in (one, other) for demand in op.demands}) > 1:
        return None
    joined: Take | None = one.joined_with(other)
    return joined


def parts_of(taken: Taken, takes: Sequence[Take]) -> list[Taken]:
    """Return what came of each operation of which one was made."""
    parts = []
    first = 0
    for take in takes:
        demands = take.demands
        here = slice(first, first + len(demands))
        takings, moments = taken.takings[here], taken.moments[here]
        held = taken.held[here] if any(demand.holds for demand in demands) else ()
        refused = taken.refused and any(taking[4] for taking in takings)
        parts.append(Taken(demands, takings, taken.at, refused, held, moments))
        first = here.stop
    return parts


def _bucket_of(demand: Demand) -> str:
    return demand.key.partition("|")[2]


def _decide_by(ask: Ask, taken: Taken, refused: bool) -> Decide:
    return partial(ask.spared if refused and not taken.refused else ask.answered, taken)


def _passes(request: CarriedRequest) -> None:
    return None


def _say(answer: Any, request: CarriedRequest) -> Any:
    return answer


def _go_on_without(ask: Ask, error: StoreError, forward: Forward, request: Any) -> Awaitable[Response]:
    return ask.failed(error, request, forward)
