"""The methods of `Keyguard` for people who run a service: keys, limits, bans, the cache, and how things are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.clock import Clock
from keyguard.errors import ConfigurationError
from keyguard.guard import AnyGuard, Guard
from keyguard.lazy import instances_of
from keyguard.ops import Store
from keyguard.stack.for_answers import ForAnswers
from keyguard.stack.written import StackNote
from keyguard.stores.circuit_breaker import CircuitBreaker, StoreHealth

if TYPE_CHECKING:
    from keyguard.audit import AuditLog
    from keyguard.guards.cache import ResponseCache
    from keyguard.guards.overload import Overload
    from keyguard.keys import KeyRegistry
    from keyguard.stack.bans import Bans
    from keyguard.stack.limits import Limits


class ForOperators(ForAnswers):
    """The part of `Keyguard` that is for operators."""

    guards: tuple[AnyGuard, ...]
    store: Store
    _declared: list[Guard]
    _clock: Clock
    _note: StackNote
    _watched: CircuitBreaker | None

    @property
    def keys(self) -> KeyRegistry:
        """Return the registry of the keys that this stack accepts: it issues, lists, rotates and revokes them."""
        for guard in self._declared:
            if "keys" in guard.keeps:
                return guard.registry(self.store)
        raise ConfigurationError("this stack has no APIKeys guard, so it has no keys")

    @property
    def limits(self) -> Limits:
        """Return the limits of this stack, by caller: `peek` at what is spent, `reset` or `set` it, `grant` more."""
        from keyguard.stack.limits import Limits

        return Limits(self.store, self._note.facts, clock=self._clock)

    @property
    def bans(self) -> Bans:
        """Return the bans of this stack: `list` and `lift`."""
        from keyguard.stack.bans import bans_of

        return bans_of(self.guards, self.store)

    @property
    def audit(self) -> AuditLog:
        """Return the audit log: which changes were made by hand in this stack's store, and by whom."""
        from keyguard.audit import AuditLog

        return AuditLog(self.store)

    @property
    def cache(self) -> ResponseCache:
        """Return the stack's response cache: `purge`, `stats`, `explain`."""
        # By its class: what is returned is that, with all its methods.
        found: list[ResponseCache] = instances_of(self.guards, "keyguard.guards.cache.guard", "ResponseCache")
        if found:
            return found[0]
        raise ConfigurationError("this stack has no ResponseCache")

    @property
    def overload(self) -> Overload:
        """Return the stack's guard against overload: `stats`."""
        found: list[Overload] = instances_of(self.guards, "keyguard.guards.overload.guard", "Overload")
        if found:
            return found[0]
        raise ConfigurationError("this stack has no Overload guard")

    @property
    def health(self) -> StoreHealth:
        """Return whether the store is in order, as this process sees it, and what was decided without it."""
        return StoreHealth(True, None, "", 0, 0) if self._watched is None else self._watched.health
