"""The exceptions of keyguard, in one place so that a caller can catch them by meaning."""

from __future__ import annotations


class KeyguardError(Exception):
    """Base of every exception that keyguard raises on purpose."""


class ConfigurationError(KeyguardError, ValueError):
    """A setting is wrong. Raised while the app is being put together, never on a request."""


class StoreError(KeyguardError):
    """The store could not answer: unreachable, locked, full or damaged. Never the caller's fault."""

    partial = False
    """Whether only some keys are concerned: one node of a cluster, say."""

    own = False
    """Whether it is this process that was too busy to ask: that says nothing about the store."""

    logged = False
    """Whether the operator has been told."""


class KeyNotFound(KeyguardError, LookupError):
    """No key has this id."""


class NoResponse(KeyguardError, RuntimeError):
    """The app returned without sending a response."""


class GuardError(KeyguardError, TypeError):
    """A guard broke its contract: it returned no `Response`, or awaited what its server cannot do."""
