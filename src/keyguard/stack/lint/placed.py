"""The guards of a stack where they stand: by themselves, or in a policy that says which requests they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from keyguard.conditions import Condition
from keyguard.drivers.inspection.routes import Route
from keyguard.policies import PolicySet, Shadow
from keyguard.stack.policies import unwrapped
from keyguard.stack.route_patterns import covers


class Placed(NamedTuple):
    """A guard at its place."""

    guard: Any
    condition: Condition | None
    """The condition of its policy; `None` if it stands by itself."""
    shadow: bool
    """Whether it refuses nobody."""

    def about_all(self, route: Route) -> bool:
        """Tell whether its policy is about all paths of a route, as far as these have a say."""
        needed = None if self.condition is None else self.condition.needed
        return needed is None or any(covers(text, route, ignore_case=True) for text in needed)


def placed(guards: Iterable[Any]) -> Iterator[Placed]:
    """List all guards of a stack with their places."""
    for guard in guards:
        if isinstance(guard, PolicySet):
            for policy in guard.policies:
                for one in policy.guards:
                    yield Placed(unwrapped(one), policy.condition, isinstance(one, Shadow))
        else:
            yield Placed(unwrapped(guard), None, isinstance(guard, Shadow))
