"""The methods of `Keyguard` about policies, shadow mode and overrides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.clock import Clock
from keyguard.errors import ConfigurationError
from keyguard.guard import Guard
from keyguard.ops import Store
from keyguard.stack.policies import records_of
from keyguard.stack.written import StackNote, names_of_overridable

if TYPE_CHECKING:
    from keyguard.overrides import Overrides
    from keyguard.policies import ShadowStats
    from keyguard.stack.description import Description
    from keyguard.stack.limit_overrides import LimitOverrides


class ForPolicies:
    """The part of `Keyguard` that is about policies and shadow mode."""

    store: Store
    _clock: Clock
    _declared: list[Guard]
    _note: StackNote
    _overridden: Overrides | None
    _stacked: tuple[Any, ...]

    @property
    def overrides(self) -> LimitOverrides:
        """Return the overrides of this stack's store, for stacks with `overrides=True`: `set`, `list` and `remove`.

            guard.overrides.set("acme", {"api": "1000/minute"}, expires="2 days")

        They count for callers whose identity is known where the limit stands, in all processes within a second. Raises
        `ConfigurationError` if the stack reads none.
        """
        from keyguard.stack.limit_overrides import LimitOverrides

        if self._overridden is None:
            raise ConfigurationError("this stack reads no overrides: say Keyguard(..., overrides=True)")
        return LimitOverrides(self.store, self._overridable, self._clock, self._overridden)

    def _overridable(self) -> set[str]:
        return names_of_overridable(self._note.facts)

    @property
    def shadows(self) -> tuple[ShadowStats, ...]:
        """Return what policies and guards in shadow mode would have refused, in this process since it began."""
        return tuple([record.stats for record in records_of(self._declared)])

    def describe(self) -> Description:
        """Return the stack as a table: each guard with its policy, the requests that it is about, and its limits.

            print(guard.describe())

        The command `keyguard policies --app module:guard` prints it.
        """
        from keyguard.stack.description import described

        return described(self._stacked)
