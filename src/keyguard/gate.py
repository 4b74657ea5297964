"""Gates: places in a stack at which each request is told which guards to pass; and how guards are arranged to run.

A gate is asked once a request, when its turn comes. The guards that it chooses stand in its place then, as if the stack
had been made of these: they join, share operations with their neighbours, and answer in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from keyguard.conditions import Condition
from keyguard.errors import ConfigurationError
from keyguard.guard import AnyGuard, Decide, Guard, declared, speaks_for_call
from keyguard.request import CarriedRequest
from keyguard.response import Response

Choice: TypeAlias = tuple[int, ...]
"""The numbers of what a gate has chosen; empty for nothing."""


class Gate(Guard):
    """A place in a stack at which each request is told which guards to pass."""

    members: tuple[AnyGuard, ...] = ()
    """All guards that may stand in its place, each once."""

    def ways(self) -> Iterator[tuple[Condition, Sequence[AnyGuard]]]:
        """Yield the guards that are chosen together, with the condition on which they are."""
        raise NotImplementedError

    def choose(self, request: CarriedRequest) -> Choice | Response:
        """Return what is chosen for a request, or the refusal of one for which that cannot be said."""
        raise NotImplementedError

    def chosen(self, choice: Choice) -> Sequence[AnyGuard]:
        """Return the guards of a choice, as they run."""
        raise NotImplementedError


class Branch:
    """The answer of a gate to its chain: the request goes on in another one, at the same place."""

    __slots__ = ()

    def beside(self, place: int) -> Sequence[Decide]:
        """Return those further in that may be asked in the same operation as the guard at a place."""
        raise NotImplementedError


def members_of(guards: Iterable[Any]) -> list[Any]:
    """Return all guards of a stack, those behind gates too.

    Raises `ConfigurationError` if one stands behind two gates, or behind one and before it.
    """
    found: list[Any] = []
    gates: dict[int, object] = {}
    for guard in guards:
        for member in guard.members if isinstance(guard, Gate) else (guard,):
            if isinstance(member, Guard) and gates.setdefault(id(member), guard) is not guard:
                raise ConfigurationError(
                    f"{member!r} stands twice in one stack, and would be asked twice: let policies of one set hold it"
                )
            found.append(member)
    return found


# -- arranging ----------------------------------------------------------------------------------------------------


def arranged(guards: Sequence[Any]) -> list[Any]:
    """Return the guards as they run: those that join as one; those for exhausted callers outside of the limits."""
    return joined(with_those_around_limits(guards))


def with_those_around_limits(guards: Sequence[Any]) -> list[Any]:
    """Put what answers exhausted callers outside of the limits.

    No other guard may stand between: it would not be asked about a caller whom the limit has refused.
    """
    made = list(guards)
    for guard in guards:
        outer = declared(guard).around_limits()
        if outer is None:
            continue
        first = last = made.index(guard)
        while first and declared(made[first - 1]).counters:
            first -= 1
        if first == last:
            raise ConfigurationError(
                f"{guard!r} serves exhausted callers: put it right after the RateLimit they exhaust"
            )
        made.insert(first, outer)
    return made


def joined(guards: Iterable[Any]) -> list[Any]:
    """Return the guards with those as one that stand next to each other and join."""
    made: list[Any] = []
    for join, run in groupby(guards, _join_of):
        members = list(run)
        made += [join(members)] if join is not None and len(members) > 1 else members
    return made


def _join_of(guard: Any) -> Any:
    return declared(guard).joined if speaks_for_call(guard, "joined") else None
