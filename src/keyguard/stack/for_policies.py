"""What a stack tells of its policies."""

from __future__ import annotations

from typing import Any

from keyguard.guard import Guard
from keyguard.policies import ShadowStats
from keyguard.stack.description import Description, described
from keyguard.stack.policies import records_of


class ForPolicies:
    """The part of `Keyguard` that is about policies and shadow mode."""

    _declared: list[Guard]
    _stacked: tuple[Any, ...]

    @property
    def shadows(self) -> tuple[ShadowStats, ...]:
        """Return what policies and guards in shadow mode would have refused, in this process since it began."""
        return tuple([record.stats for record in records_of(self._declared)])

    def describe(self) -> Description:
        """Return the stack as a table: each guard with its policy, the requests that it is about, and its limits.

            print(guard.describe())

        The command `keyguard policies --app module:guard` prints it.
        """
        return described(self._stacked)
