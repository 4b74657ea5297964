"""The settings of `Ban`: each is checked at the start, and an error says what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyguard.checks import is_whole
from keyguard.errors import ConfigurationError
from keyguard.http.addresses import Networks
from keyguard.rates import parse_rates
from keyguard.rates.strikes import Strikes
from keyguard.refusal import Cause
from keyguard.units import Duration, microseconds

_MOST = 1_000_000  # strikes
_LONGEST: Duration = "365 days"
BLAMELESS = (Cause.FAULT, Cause.OVERLOAD, Cause.UPSTREAM)


def strikes_of(after: Any, for_: Any, growing: Any, max_for: Any) -> Strikes:
    """Return the limit that counts strikes and knows how long a ban lasts."""
    if not isinstance(after, str):
        raise ConfigurationError(f"after is a rate such as '20/minute', not {after!r}")
    rates = parse_rates(after)
    if len(rates) != 1:
        raise ConfigurationError(f"after is one rate, such as '20/minute', not {after!r}")
    quota, period, text = rates[0]
    if quota > _MOST:
        raise ConfigurationError(f"after is at most {_MOST} in a period, not {after!r}")
    if not isinstance(growing, bool):
        raise ConfigurationError(f"growing is True or False, not {growing!r}")
    length = microseconds("for_", for_, min=1, max=_LONGEST)
    longest = microseconds("max_for", max_for, min=1, max=_LONGEST)
    if growing and longest < length:
        raise ConfigurationError(f"max_for={max_for!r} is less than for_={for_!r}, with which bans begin")
    return Strikes(quota, period, text, length, longest if growing else length)


def split(of: Any) -> tuple[frozenset[int], frozenset[Cause]]:
    """Return the statuses and the causes that are strikes."""
    given = (of,) if isinstance(of, (int, str)) else of
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"of is a list of statuses and causes, such as (401, Cause.ADDRESS), not {of!r}")
    statuses: set[int] = set()
    causes: set[Cause] = set()
    for each in given:
        if is_whole(each) and 400 <= each <= 599:
            statuses.add(each)
        elif isinstance(each, str) and each in tuple(Cause):
            causes.add(Cause(each))
        else:
            raise ConfigurationError(f"of has statuses from 400 to 599 and causes such as Cause.ADDRESS, not {each!r}")
    for cause in causes.intersection(BLAMELESS):
        raise ConfigurationError(f"of: nobody is banned for the cause {cause.value!r}, which no caller is to blame for")
    if not statuses and not causes:
        raise ConfigurationError("of is empty: nothing would be a strike")
    return frozenset(statuses), frozenset(causes)


def checked_exempt(exempt: Any) -> Networks:
    try:
        return Networks([exempt] if isinstance(exempt, str) else exempt)
    except ConfigurationError as error:
        raise ConfigurationError(f"exempt: {error}") from None


def checked_name(name: Any) -> str:
    if isinstance(name, str) and name and name.isascii() and name.isprintable() and "|" not in name:
        return name
    raise ConfigurationError(f"a name is printable ASCII text without '|', not {name!r}")


def checked_failure_mode(mode: Any) -> str:
    if mode in ("allow", "refuse"):
        return str(mode)
    raise ConfigurationError(f"if_store_fails is 'allow' or 'refuse', not {mode!r}")
