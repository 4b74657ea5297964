"""The exceptions of keyguard, in one place so that a caller can catch them by meaning."""

from __future__ import annotations


class KeyguardError(Exception):
    """Base of every exception that keyguard raises on purpose."""


class ConfigurationError(KeyguardError, ValueError):
    """A setting is wrong. Raised while the app is being put together; on a request only by what could not be seen then.

    That is a function that reads the caller's identity though no `APIKeys` stands outside of it; the answer is a 503.
    """


class StoreError(KeyguardError):
    """The store could not answer: unreachable, locked, full or damaged. Never the caller's fault."""

    partial = False
    """Whether only some keys are concerned: one node of a cluster, say."""

    logged = False
    """Whether the operator has been told."""


class StoreBusy(StoreError):
    """The operation got no turn within its time: too much is asked at once, of this process or of one key.

    It says nothing about whether the store is in order, so nothing may be decided without the store, and no circuit
    opens: the request is refused with cause `overload`, and charged nowhere.
    """

    logged = True


class AmbiguousPath(KeyguardError):
    """The path of a request can be read in more than one way, and something asked for it to decide by.

    Raised by `Request.path` and by conditions such as `keyguard.path(...)`; a guard that lets it through refuses the
    request with 400.
    """


class KeyNotFound(KeyguardError, LookupError):
    """No key has this id."""


class OutsideRequest(KeyguardError, LookupError):
    """It is not known which request the calling code works for: there is none, or its thread was not told of it."""


class NoResponse(KeyguardError, RuntimeError):
    """The app returned without sending a response."""


class GuardError(KeyguardError, TypeError):
    """A guard broke its contract: it returned no `Response`, or awaited what its server cannot do."""
