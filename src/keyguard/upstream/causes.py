"""The meanings that an upstream answer may have for the key that it was asked with."""

from __future__ import annotations

import enum
from typing import NamedTuple

from keyguard.learnt import Dimension, Seen


class UpstreamCause(enum.StrEnum):
    """The cause of an upstream answer, as far as the pool must know."""

    OK = "ok"
    EXHAUSTED = "exhausted"
    """A limit of a short period is used up: it works again soon."""
    QUOTA = "quota"
    """A daily or monthly quota is used up."""
    RAMP = "ramp"
    """Traffic grew faster than the provider allows, within all limits."""
    BILLING = "billing"
    """No money, or a spending limit: only people can help, or the next month."""
    INVALID = "invalid"
    """The key is unknown, revoked, or its account is closed."""
    UNSUPPORTED = "unsupported"
    """The key may not use this model or endpoint."""
    TOO_LARGE = "too_large"
    """The request is larger than the limit ever allows."""
    OVERLOAD = "overload"
    """The provider is overloaded; no key is to blame."""
    UNREACHABLE = "unreachable"
    """The request was not sent: no connection."""
    SYSTEM = "system"
    """The provider, or the way to it, failed after the request was sent."""
    REQUEST = "request"
    """The request itself is refused, whatever the key."""
    BUSY = "busy"
    """The pool's own store had too much to do to be asked for a key in time. No provider answers this."""


class Scope(enum.StrEnum):
    """The things that a cause may be about."""

    NONE = "none"
    KEY = "key"
    GROUP = "group"
    """The limit group, in all model classes."""
    MODEL = "model"
    """The limit group, in this model class."""
    PAIR = "pair"
    """This key with this model."""
    ENDPOINT = "endpoint"
    REQUEST = "request"


class Verdict(NamedTuple):
    """The meaning of an answer."""

    cause: UpstreamCause
    scope: Scope
    wait: int | None = None
    """Microseconds after which it works again, as the answer tells; `None` if it does not tell."""
    seen: tuple[Seen, ...] = ()
    """The limits that the fields tell of, also of a success."""
    dimension: Dimension | None = None
    """The limit that is used up, if the answer tells."""
    known: bool = True
    """Whether the answer is one that the profile knows; others are told of once."""
