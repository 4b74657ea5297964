"""Limits as plain data, and back: to be written down by one process and read by another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from keyguard.errors import ConfigurationError
from keyguard.rates.balances import Credits
from keyguard.rates.gcra import Smooth
from keyguard.rates.limit import JSON, Limit
from keyguard.rates.quotas import Quota
from keyguard.rates.slots import Slots
from keyguard.rates.strikes import Strikes
from keyguard.rates.window import window

KINDS: Final[dict[str, Callable[..., Limit]]] = {
    "window": window,
    "smooth": Smooth.of_terms,
    "quota": Quota.of_terms,
    "credits": Credits.of_terms,
    "slots": Slots,
    "strikes": Strikes,
}
"""By `Limit.kind`: what makes a limit of its `terms`, which are given by name."""


def described(limit: Limit) -> dict[str, JSON]:
    """Return a limit as plain data, such as JSON can hold; `limit_of` makes an equal one of it.

    Spans of time are microseconds. Raises `ConfigurationError` for a kind of limit that is not keyguard's own.
    """
    if limit.kind not in KINDS:
        raise ConfigurationError(
            f"{limit!r} is of a kind of its own, {type(limit).__qualname__}: it cannot be written down, only "
            f"{', '.join(KINDS)} can"
        )
    return {"kind": limit.kind, **limit.terms()}


def limit_of(description: Mapping[str, Any]) -> Limit:
    """Return the limit that was described. Raises `ConfigurationError` if it is not such a description."""
    terms = dict(description)
    kind = terms.pop("kind", None)
    make = KINDS.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise ConfigurationError(f"a kind of limit is one of {', '.join(KINDS)}, not {kind!r:.80}")
    try:
        return make(**terms)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"this does not describe a limit of the kind {kind}: {error}") from None
