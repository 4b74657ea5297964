"""The notation of rates: `"10/second; 5000/day"`, `"100 per 5 minutes"`, `"5/m"`, `"1/week"`.

The grammar is that of the `limits` library, with short units and weeks. What is plain is read here: the library takes
longer to load than a whole stack. Its parser reads all other texts, and its rate items are taken. What it reads in a
surprising way is refused: a limit of 0, a period of 0, months and years.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from limits import RateLimitItem

Rate: TypeAlias = tuple[int, int, str]
"""`(quota, period in microseconds, normal text)`."""

LONGEST = 20 * 365 * 86400 * SECOND
"""The longest period, in microseconds. Stores calculate with numbers that are exact up to 2**53."""

_PART = re.compile(r"\s*([0-9]+)\s*(?:/|per)\s*([0-9]+)?\s*([a-z]+)\s*")
# Small letters alone: "5/M" could be five a month.
_SHORT = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}
_WEEKS = frozenset({"w", "week", "weeks"})
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
_UNITS = {**_SHORT, "w": "week", **{name: unit for unit in _SECONDS for name in (unit, f"{unit}s")}}

_HELP = "write for example '10/second', '100/5 minutes' or '10/second; 5000/day'"


def parse_rates(text: str | RateLimitItem) -> list[Rate]:
    """Read one rate or several, separated by `;`, `,` or `|`; or take one from the `limits` library.

    Raises `ConfigurationError` that says what is wrong and what would be right.
    """
    if isinstance(text, str):
        rates = [rate for part in _parts(text) if (rate := _plain(part))]
        if len(rates) == len(_parts(text)):
            return rates
    return _read_by_limits(text)


def _plain(part: str) -> Rate | None:
    """Read a rate that is as most are; None if it is another one, or wrong."""
    match = _PART.fullmatch(part)
    if match is None or match[3] not in _UNITS or len(part) > 40:  # Python refuses to read very long numbers
        return None
    quota, many, unit = int(match[1]), int(match[2] or 1), _UNITS[match[3]]
    period = many * _SECONDS[unit] * SECOND
    return (quota, period, f"{quota}/{_period(many, unit)}") if quota and 0 < period <= LONGEST else None


def _read_by_limits(text: str | RateLimitItem) -> list[Rate]:
    from limits import RateLimitItem, parse_many

    if isinstance(text, RateLimitItem):
        items, parts = [text], [f"{text.amount}/{text.multiples} {text.GRANULARITY.name}"]
    elif not isinstance(text, str):
        raise ConfigurationError(f"a rate is a text, not {text!r}: {_HELP}")
    else:
        try:
            parts = _parts(text)
            items = parse_many(";".join(map(_written_out, parts)))
        except ValueError as error:
            raise ConfigurationError(f"cannot read the rate {text!r}: {_HELP}") from error
    rates = []
    for item, part in zip(items, parts, strict=True):
        unit = item.GRANULARITY.name
        if unit in ("month", "year"):
            written = f"quota({f'{item.amount}/{unit}'!r})"
            raise ConfigurationError(
                f"{part!r}: a {unit} has no fixed length; count by the calendar, {written}, or write days, for example "
                f"'{item.amount}/30 days'"
            )
        if item.amount == 0:
            raise ConfigurationError(f"{part!r} admits nothing, ever: a limit is at least 1")
        if _says_zero_periods(part):
            raise ConfigurationError(f"{part!r}: a period of 0 {unit}s is not a period; {_HELP}")
        many = item.multiples
        if _says_weeks(part):
            many, unit = many // 7, "week"
        if item.get_expiry() * SECOND > LONGEST:
            raise ConfigurationError(f"{part!r}: a period is at most {LONGEST // 86400 // SECOND} days")
        rates.append((item.amount, item.get_expiry() * SECOND, f"{item.amount}/{_period(many, unit)}"))
    return rates


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.replace(",", ";").replace("|", ";").split(";")]


def _written_out(part: str) -> str:
    """Return a rate as the parser knows it, which has neither short units nor weeks."""
    match = _PART.fullmatch(part)
    if match is None:
        return part
    amount, many, unit = match.groups()
    if unit in _WEEKS:
        return f"{amount}/{7 * int(many or 1)} days"
    return f"{amount}/{many or 1} {_SHORT.get(unit, unit)}"


def _says_weeks(part: str) -> bool:
    match = _PART.fullmatch(part)
    return match is not None and match[3] in _WEEKS


def _says_zero_periods(part: str) -> bool:
    # `limits` reads "10/0 seconds" as "10/1 second".
    period = part.replace("per", "/").partition("/")[2].strip()
    number = period[: len(period) - len(period.lstrip("0123456789"))]
    return number != "" and int(number) == 0


def _period(many: int, unit: str) -> str:
    return unit if many == 1 else f"{many} {unit}s"
