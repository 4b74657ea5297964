"""Policies, and sets of them: gates that choose by conditions which guards a request has to pass.

Rules:
- A policy closes a door: its condition is wide. In `first_match` it opens one, too, since it spares a request the
  policies behind it: so it does that only if its condition holds exactly. A request that might be another one (a method
  that HTTP does not define, a slash at the end of a path) has to pass both.
- A path that can be read in more than one way is refused with 400, if it matters to a policy how.
- A policy in shadow mode takes no request away from the ones behind it, and refuses none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any

from keyguard.chain import decide_of
from keyguard.conditions import Condition, PathIndex, condition_of
from keyguard.errors import AmbiguousPath, ConfigurationError
from keyguard.gate import Choice, Gate, joined, with_those_around_limits
from keyguard.guard import AnyGuard, AsyncGuard, Guard, counting, declared, is_plain
from keyguard.logs import logger
from keyguard.policies.shadow import Record, Shadow
from keyguard.problem import refuse_ambiguous
from keyguard.request import CarriedRequest, Forward, Request
from keyguard.response import Response
from keyguard.selection import checked_name

log = logger("keyguard")


class Policy:
    """Guards for the requests that a condition is about.

    - `name`: in the log, in what shadow mode tells, and in `Keyguard.describe`. No two of a stack have the same.
    - `when`: a condition of `keyguard.policies`, such as `path("/v1/*") & ~ip("10.0.0.0/8")`, or a plain function of
      the request; `None` for all requests.
    - `then`: the guards that those requests have to pass, the outermost first. None of them, in `first_match`, spares
      such requests the policies behind it.
    - `shadow`: whether its guards only record what they would refuse.

    An identity that one of its guards finds is known to its own guards alone. Policies hold guards, not policies: put
    the conditions together instead.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        when: Condition | Callable[[Request], object] | None = None,
        then: Iterable[AnyGuard],
        shadow: bool = False,
    ) -> None:
        self.name = _named(name)
        self.condition: Condition = EVERYTHING if when is None else _condition(self.name, when)
        self.shadow = shadow
        if not isinstance(shadow, bool):
            raise ConfigurationError(f"policy {name!r}: shadow is True or False, not {shadow!r}")
        if callable(then) or not isinstance(then, Iterable):
            raise ConfigurationError(f"policy {name!r}: then is a list of guards, not {then!r}")
        given = tuple(then)
        for guard in given:
            if isinstance(guard, (Policy, Gate)):
                raise ConfigurationError(
                    f"policy {name!r} holds {guard!r}: policies do not nest; join their conditions with & instead"
                )
            _checked_guard(self.name, guard)
        if shadow and not given:
            raise ConfigurationError(f"policy {name!r} has nothing to try out in shadow mode: then is empty")
        if shadow:
            record = Record(self.name)
            self.record: Record | None = record
            given = tuple(guard if isinstance(guard, Shadow) else Shadow(guard, record) for guard in given)
        else:
            self.record = None
        self.guards: tuple[Any, ...] = given
        """The guards, in shadow mode if it is."""

    def __repr__(self) -> str:
        return f"<Policy {self.name}: {self.condition!r}>"


def first_match(*policies: Policy) -> PolicySet:
    """Return a place in a stack at which a request has to pass the guards of the first policy that is about it.

    Policies in shadow mode are looked at as well, as far as they stand before that one.

    A policy spares a request those behind it only if it is surely about it: one that may be for another path or method,
    by the way in which apps read it, has to pass both. Raises `ConfigurationError` for what is not a policy.
    """
    return PolicySet(policies, first=True)


def all_of(*policies: Policy) -> PolicySet:
    """Return a place in a stack at which a request has to pass the guards of all policies that are about it, in order.

    Raises `ConfigurationError` for what is not a policy, and for one without guards.
    """
    return PolicySet(policies, first=False)


class PolicySet(Gate):
    """A place in a stack at which policies say which guards a request has to pass: see `first_match` and `all_of`."""

    def __init__(self, policies: Sequence[Policy], *, first: bool) -> None:
        self.first = first
        """Whether the first policy that is about a request is the only one."""
        self.policies = policies = tuple(policies)
        if not policies:
            raise ConfigurationError("no policies are given: no guard would be asked")
        names: set[str] = set()
        for policy in policies:
            if not isinstance(policy, Policy):
                raise ConfigurationError(f"a set is made of policies, Policy('name', ...), not of {policy!r}")
            if policy.name in names:
                raise ConfigurationError(f"two policies are called {policy.name!r}: give each a name of its own")
            names.add(policy.name)
            if not policy.guards and not first:
                raise ConfigurationError(
                    f"{policy!r} has no guards, which means something in first_match(...) only: there it spares "
                    "requests the policies behind it"
                )
        if first:
            _check_reached(policies)
        self._conditions = [policy.condition for policy in policies]
        self._index = PathIndex(self._conditions)
        self._arranged = [with_those_around_limits(policy.guards) for policy in policies]
        unique = {id(guard): guard for policy in policies for guard in policy.guards}
        self.members = tuple(unique.values())
        self.needs = frozenset[str]().union(*[condition.needs for condition in self._conditions])
        counted = {counting(guard) for guard in self.members}
        self.counting = counted.pop() if len(counted) == 1 else None
        self.counters = [counters for guard in self.members for counters in declared(guard).counters]

    def __repr__(self) -> str:
        kind = "first_match" if self.first else "all_of"
        names = [policy.name for policy in self.policies[:_SHOWN]]
        more = len(self.policies) - len(names)
        return f"<{kind} {', '.join(names)}{f' and {more} more' if more else ''}>"

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Return its conditions, by the names of the policies."""
        return {policy.name: policy.condition for policy in self.policies}

    def ways(self) -> Iterator[tuple[Condition, Sequence[AnyGuard]]]:
        for policy in self.policies:
            yield policy.condition, policy.guards

    def with_members(self, instead: Callable[[Any], Any]) -> PolicySet:
        """Return the same set with other guards in the place of its own."""
        made = copy(self)
        made._arranged = [[instead(guard) for guard in guards] for guards in self._arranged]
        made.members = tuple([instead(guard) for guard in self.members])
        return made

    def choose(self, request: CarriedRequest) -> Choice | Response:
        chosen: Choice = ()
        try:
            for number in self._index.candidates(request):
                policy = self.policies[number]
                if policy.record is not None:
                    if _tries(policy, policy.record, request):
                        chosen += (number,)
                    continue
                condition = policy.condition
                if condition.holds(request, wide=True):
                    if policy.guards:
                        chosen += (number,)
                    if self.first and condition.holds(request, wide=False):
                        break
        except AmbiguousPath:
            return refuse_ambiguous(request)
        return chosen

    def chosen(self, choice: Choice) -> Sequence[AnyGuard]:
        return joined({id(guard): guard for number in choice for guard in self._arranged[number]}.values())

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        choice = self.choose(request)
        if isinstance(choice, Response):
            return choice
        for guard in reversed(self.chosen(choice)):
            forward = _before(guard, forward)
        return await forward(request)


def _before(guard: Any, forward: Forward) -> Forward:
    """Return what asks a guard first."""

    async def asked(request: Any) -> Response:
        if not is_plain(guard):
            surrounding: AsyncGuard = guard
            return await surrounding(request, forward)
        answer: Response | None = guard(request)
        return await forward(request) if answer is None else answer

    return asked


def _tries(policy: Policy, record: Record, request: CarriedRequest) -> bool:
    """Tell whether a policy in shadow mode is about a request. It refuses none, whatever happens."""
    try:
        return policy.condition.holds(request, wide=True)
    except AmbiguousPath:
        record.note(request, refuse_ambiguous(request))
    except Exception:
        record.broke()
    return False


class _Everything(Condition):
    """Holds for every request."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "always"

    def holds(self, request: Any, *, wide: bool) -> bool:
        return True

    @property
    def parts(self) -> tuple[object, ...]:
        return ()


EVERYTHING = _Everything()
"""The condition of a policy that has none."""

_SHOWN = 5  # names of policies that stand for a set


# -- checks -------------------------------------------------------------------------------------------------------


def _check_reached(policies: Sequence[Policy]) -> None:
    """Raise if policies stand behind one that takes every request."""
    for place, policy in enumerate(policies[:-1]):
        if policy.condition is EVERYTHING and not policy.shadow:
            raise ConfigurationError(
                f"{policies[place + 1]!r} is never reached: {policy!r} stands before it and is about every request"
            )


def _named(name: object) -> str:
    try:
        return checked_name(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"Policy: {error}") from None


def _condition(name: str, when: Any) -> Condition:
    try:
        return condition_of(when)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy {name!r}: {error}") from None


def _checked_guard(name: str, guard: Any) -> None:
    try:
        decide_of(guard, None) if not isinstance(guard, Guard) else is_plain(guard)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy {name!r}: {error}") from None
