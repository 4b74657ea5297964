"""Decisions of limits while the store is out of order: each as its setting `if_store_fails` says."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError
from keyguard.problem import refuse_for
from keyguard.refusal import Cause
from keyguard.request import Request
from keyguard.response import Response

FailureMode: TypeAlias = Literal["local", "refuse", "allow"]

DONE: Final = {"refuse": "refused", "local": "counted locally", "allow": "allowed"}
"""By the setting: what was done, as `Degraded` tells it."""

_RETRY = SECOND
"""A caller is told to wait so long, in microseconds: the store is asked again more often than that."""


def checked_failure_mode(mode: Any) -> str:
    """Return the setting. Raises `ConfigurationError` if there is no such way."""
    if mode in ("local", "refuse", "allow"):
        return str(mode)
    raise ConfigurationError(f"if_store_fails is 'local', 'refuse' or 'allow', not {mode!r}")


def refuse_unchecked(request: Request) -> Response:
    """Answer with a 503: limits cannot be checked, and the caller has not used them up."""
    return refuse_for(
        request,
        Cause.FAULT,
        "The service cannot check its limits at the moment. Neither your key nor what you have used is the reason.",
        reason="store-failed",
        wait=_RETRY,
    )
