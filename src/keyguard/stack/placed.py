"""The guards of a stack where they stand: by themselves, or in a policy that says which requests they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from keyguard.conditions import Condition, Every, OnPaths
from keyguard.conditions.criteria import OfMethod
from keyguard.drivers.inspection.routes import Route
from keyguard.policies import PolicySet, Shadow
from keyguard.policies.policy import EVERYTHING
from keyguard.stack.policies import unwrapped
from keyguard.stack.route_patterns import covered, covers, meets


class Placed(NamedTuple):
    """A guard at its place."""

    guard: Any
    condition: Condition | None
    """The condition of its policy; `None` if it stands by itself."""
    shadow: bool
    """Whether it refuses nobody."""
    before: tuple[Condition, ...] = ()
    """The conditions of the policies before its own, of which `first_match` takes the first that holds."""

    def about_all(self, route: Route) -> bool:
        """Tell whether its policy is about all paths of a route, as far as these have a say."""
        needed = None if self.condition is None else self.condition.needed
        return needed is None or any(covers(text, route, ignore_case=True) for text in needed)

    def may_be_asked(self, route: Route) -> bool:
        """Tell whether it is asked about some request of a route, as far as paths and methods have a say."""
        if self.condition is None:
            return True
        return _may_hold(self.condition, route) and not any(_surely_holds(one, route) for one in self.before)

    def is_surely_asked(self, route: Route) -> bool:
        """Tell whether it is asked about every request of a route."""
        if self.condition is None:
            return True
        return _surely_holds(self.condition, route) and not any(_may_hold(one, route) for one in self.before)


def _may_hold(condition: Condition, route: Route) -> bool:
    needed = condition.needed
    if needed is not None and not any(meets(text, route, ignore_case=True) for text in needed):
        return False
    methods = [one.values for one in _joined_in(condition) if isinstance(one, OfMethod)]
    return not route.methods or not any(values.isdisjoint(route.methods) for values in methods)


def _surely_holds(condition: Condition, route: Route) -> bool:
    return all(
        one is EVERYTHING
        or (isinstance(one, OnPaths) and covered(one, route))
        or (isinstance(one, OfMethod) and bool(route.methods) and route.methods <= one.values)
        for one in _joined_in(condition)
    )


def _joined_in(condition: Condition) -> tuple[Condition, ...]:
    """Return the conditions that all have to hold for one."""
    return condition.conditions if isinstance(condition, Every) else (condition,)


def placed(guards: Iterable[Any]) -> Iterator[Placed]:
    """List all guards of a stack with their places."""
    for guard in guards:
        if isinstance(guard, PolicySet):
            before: tuple[Condition, ...] = ()
            for policy in guard.policies:
                for one in policy.guards:
                    yield Placed(unwrapped(one), policy.condition, isinstance(one, Shadow), before)
                if guard.first and not policy.shadow:
                    before += (policy.condition,)
        else:
            yield Placed(unwrapped(guard), None, isinstance(guard, Shadow))
