"""Dimensions: what a provider counts, and over how long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError

UNITS = {"r": "requests", "t": "tokens", "it": "input_tokens", "ot": "output_tokens"}
PERIODS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
_SHORT = re.compile(rf"({'|'.join(sorted(UNITS, key=len, reverse=True))})p([{''.join(PERIODS)}])")


class Dimension(NamedTuple):
    """A count that a provider keeps of a limit group, such as that of tokens in a minute."""

    unit: str
    """The unit: `requests`, `tokens`, `input_tokens` or `output_tokens`."""
    period: int
    """The length of the window, or the time in which a bucket fills, in microseconds."""

    def __str__(self) -> str:
        """Return the field's short word for it, such as `tpm`."""
        unit = next(short for short, unit in UNITS.items() if unit == self.unit)
        period = next((short for short, period in PERIODS.items() if period == self.period), None)
        return f"{unit}p{period}" if period else f"{self.unit}/{self.period // SECOND}s"


def dimension_of(word: str) -> Dimension:
    """Return the dimension that a short word names: `rps`, `rpm`, `rph`, `rpd`, `tpm`, `tpd`, `itpm`, `otpm`.

    Raises `ConfigurationError` for another word.
    """
    found = _SHORT.fullmatch(word) if isinstance(word, str) else None
    if found is None:
        raise ConfigurationError(f"{word!r} is not a dimension: write one such as 'rpm', 'tpm', 'rpd' or 'itpm'")
    return Dimension(UNITS[found[1]], PERIODS[found[2]])


def spent_of(cost: Mapping[str, int], unit: str) -> int:
    """Return the units that a request costs; input and output add up to tokens, if those are not told."""
    if unit == "tokens" and "tokens" not in cost:
        return cost.get("input_tokens", 0) + cost.get("output_tokens", 0)
    return cost.get(unit, 1 if unit == "requests" else 0)
