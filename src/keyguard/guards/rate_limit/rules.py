"""The settings of `RateLimit`: checked when the guard is made, and turned into rules and buckets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from keyguard.buckets import LONGEST_BUCKET as LONGEST_BUCKET
from keyguard.buckets import UNKNOWN_ADDRESS as UNKNOWN_ADDRESS
from keyguard.buckets import bucket_text as bucket_text
from keyguard.buckets import digest as digest
from keyguard.checks import is_whole
from keyguard.clock import whole_seconds
from keyguard.errors import ConfigurationError
from keyguard.flow import check_takes
from keyguard.guards.rate_limit.settling import Settling
from keyguard.http.fields import DRAFTS, quoted
from keyguard.ops import Demand, Take
from keyguard.rates import Limit, parse_rates, window
from keyguard.response import ReadyFields, field_value

SINGLE = ("x-ratelimit", "github")
"""Profiles whose fields know one limit, and have the same names."""
PROFILES = (*DRAFTS, *SINGLE)


class Naming(NamedTuple):
    """All that the rules of one guard have in common."""

    number: int
    """Tells guards apart that have one name, in several stacks."""
    name: str
    """The public name."""
    counter: str
    """The name in the keys of counters."""
    profiles: tuple[str, ...]
    if_store_fails: str
    by_address: bool
    """Whether they count by the client's address, whoever calls."""
    binding: bool = False
    """Whether of several limits the one with least left is told of alone."""
    settling: Settling | None = None
    """Says what a request cost in the end; `None` if it costs what was taken."""
    holds: bool = False
    """Whether units may be held, though its own requests hold none."""
    unit: str = ""
    """The name of its units in header fields; empty for requests."""


class Rule:
    """One limit of a guard, with everything about it that does not change from request to request."""

    __slots__ = (
        "binding",
        "by_address",
        "draft",
        "guard",
        "holds",
        "if_store_fails",
        "lease",
        "limit",
        "member",
        "name",
        "number",
        "policy",
        "prefix",
        "settling",
        "single",
        "window",
    )

    def __init__(self, guard: Naming, limit: Limit) -> None:
        self.guard = guard.name
        self.number = guard.number
        """Of its guard."""
        self.limit = limit
        self.if_store_fails = guard.if_store_fails
        self.single = next((profile for profile in guard.profiles if profile in SINGLE), None)
        """The profile of fields that know one limit; `None` if none of them tells about it."""
        self.draft = next((DRAFTS[profile] for profile in guard.profiles if profile in DRAFTS), None)
        """The draft whose fields tell about it, if any do."""
        self.binding = guard.binding
        self.by_address = guard.by_address
        self.settling = guard.settling
        self.lease = 0 if guard.settling is None else guard.settling.lease
        self.holds = guard.holds or self.lease > 0
        """Whether units of it may be held, which then count as if they were spent."""
        self.name = f"{guard.name}:{limit.text}"
        """The public name: in the header, the refusal, the log."""
        self.prefix = f"rl:{guard.counter}:{limit.code}|"
        """The beginning of a counter's key. No quota stands in it: an edited limit keeps its counters, as long as its
        period stays the same."""
        told = quoted(self.name)
        # A period of the calendar is not of one length, and a balance has none: then no window is told.
        window = f";w={whole_seconds(limit.period)}" if limit.rolling else ""
        unit = f';qu="{guard.unit}"' if guard.unit else ""
        self.policy = f"{told};q={limit.quota}{unit}{window}"
        left, window = self.draft or DRAFTS["draft-11"]
        self.member = f"{told};{left}="
        self.window = f";{window}="


class Terms:
    """The rules that count for a caller, with all that is the same for each of them: those of a guard, or of a plan."""

    __slots__ = ("_ready", "balances", "binding", "fields", "holds", "legacy", "rules", "settled", "shut", "template")

    def __init__(self, rules: Sequence[Rule], *, shut: bool = False) -> None:
        self.rules = tuple(rules)
        """None of them: no limit."""
        self.shut = shut
        """Whether the plan does not include what the limit is about, so that all is refused."""
        told = [rule for rule in rules if rule.draft is not None]
        policy = field_value(", ".join([rule.policy for rule in told]))
        self.fields = ReadyFields("RateLimit-Policy", policy, "RateLimit") if told else None
        """The fields of the draft, the first of which is the same for every outcome; `None` if no rule asks for any."""
        self.template: bytes | None = None
        """`RateLimit` without its numbers, what remains and the reset of each rule, if every rule has both."""
        self.binding = len(told) > 1 and any(rule.binding for rule in told)
        """Whether `RateLimit` leaves out some of them, which depends on how much is left."""
        if told and len(told) == len(rules) and not self.binding and all(rule.limit.returns for rule in rules):
            members = [f"{rule.member.replace('%', '%%')}%d{rule.window}%d" for rule in rules]
            self.template = ", ".join(members).encode("latin-1")
        self.legacy = any(rule.single is not None for rule in rules)
        """Whether there are fields to be told that know one limit."""
        self.settled = any(rule.settling is not None for rule in rules)
        """Whether some of them say what a request costs when it is over."""
        self.holds = any(rule.holds for rule in rules)
        """Whether units of some of them may be held."""
        self.balances = [rule.name for rule in rules if not rule.limit.may_be_forgotten]
        """Names of rules that keep a balance for each caller."""
        self._ready: dict[tuple[str, int], Take] = {}

    def check_caller(self, bucket: str) -> None:
        """Raise `ConfigurationError` if a caller without a key would have a balance, which is never forgotten."""
        if self.balances and bucket[:1] == "@":
            raise ConfigurationError(
                f"{', '.join(self.balances)}: a caller without a key has no balance; let no such caller pass "
                "(APIKeys(optional=True) does), or exempt them"
            )

    def take(self, bucket: str, cost: int) -> Take:
        """Return the operation that takes from all of them. It is kept for the next request of the same caller."""
        take = self._ready.get((bucket, cost))
        if take is None:
            if len(self._ready) >= KEPT:
                self._ready.clear()
            take = self._ready[bucket, cost] = self.new_take(bucket, cost)
        return take

    def new_take(self, bucket: str, cost: int) -> Take:
        """Return the same, made anew."""
        demands = [
            Demand(rule.name, rule.prefix + bucket, rule.limit, cost, rule.lease, holds=rule.holds)
            for rule in self.rules
        ]
        return Take(RuleDemands(self, demands))


Counted: TypeAlias = tuple[Terms, str, int]
"""What counts for a request, under which name, and how many units it takes."""

KEPT = 4096
"""Operations that are ready for the next request of the same caller."""


class RuleDemands(list[Demand]):
    """Demands that know their rules, so that the outcome can be described; made once for each caller."""

    __slots__ = ("rules", "terms")

    def __init__(self, terms: Terms, demands: Iterable[Demand]) -> None:
        super().__init__(demands)
        self.terms = terms
        self.rules = terms.rules


# -- checking settings ------------------------------------------------------------------------------------------


def rules_of(guard: Naming, rates: Sequence[Any]) -> tuple[Rule, ...]:
    """The rules of a guard, from texts and limits."""
    limits: list[Limit] = []
    for rate in rates:
        if isinstance(rate, Limit):
            limits.append(rate)
        elif callable(rate):
            raise ConfigurationError("a function that chooses the limit stands alone: RateLimit(function)")
        else:
            for quota, period, text in parse_rates(rate):
                try:
                    limits.append(window(quota, period, text))
                except ValueError as error:
                    raise ConfigurationError(f"{text}: {error}") from None
    if not limits:
        raise ConfigurationError("a limit needs at least one rate, such as '10/second'")
    rules = tuple(Rule(guard, limit) for limit in limits)
    prefixes = [rule.prefix for rule in rules]
    for rule in rules:
        if guard.by_address and not rule.limit.may_be_forgotten:
            raise ConfigurationError(
                f"{rule.name}: addresses have no balance, of which none is ever forgotten; count by='key' or 'subject'"
            )
        if prefixes.count(rule.prefix) > 1:
            raise ConfigurationError(f"{rule.name}: a guard has one limit a period; drop the weaker one")
    return rules


def listed(rates: Any) -> tuple[Any, ...]:
    """One rate, or several in a list."""
    return tuple(rates) if isinstance(rates, (list, tuple)) else (rates,)


@lru_cache(maxsize=1024)
def known_terms_of(guard: Naming, rates: tuple[Any, ...]) -> Terms:
    """Return the same for rates that a function chose on a request."""
    return Terms(rules_of(guard, rates))


def plans_of(guard: Naming, plans: Any, default: Any) -> tuple[dict[str, Terms], Terms]:
    """Return the terms of each plan, and of callers with none or one that is not known."""
    if not isinstance(plans, Mapping) or not plans:
        raise ConfigurationError(
            f"plans are a mapping of names to rates, such as {{'free': '2/second'}}, not {plans!r}"
        )
    made = {}
    for name, rates in plans.items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"the name of a plan is a text, not {name!r}")
        made[name] = _terms_of(guard, rates)
    if isinstance(default, str) and default in made:
        return made, made[default]
    if default is None:
        raise ConfigurationError(
            "plans need a default, for callers whose key has no plan or one that is not listed: default='free', say"
        )
    try:
        return made, _terms_of(guard, default)
    except ConfigurationError as error:
        names = ", ".join(map(repr, made))
        raise ConfigurationError(f"default={default!r} is none of the plans {names}, and no rate: {error}") from None


def _terms_of(guard: Naming, rates: Any) -> Terms:
    """Return the terms of a plan: none for `None`, and for 0 those that refuse all."""
    if rates is None or _is_nothing(rates):
        return Terms((), shut=rates is not None)
    return Terms(rules_of(guard, listed(rates)))


def _is_nothing(rates: Any) -> bool:
    """Tell whether a plan admits nothing: it is 0, or a text such as `"0/day"`."""
    if not isinstance(rates, str):
        return is_whole(rates) and rates == 0
    zero = _ZERO.fullmatch(rates)
    if zero is not None:
        parse_rates("1" + _OF_CALENDAR.sub("day", zero[1]))  # what is not a rate stays none
    return zero is not None


_ZERO = re.compile(r"\s*0+(\s*(?:/|per)[^;,|]*)")
_OF_CALENDAR = re.compile("(?:month|year)(?=s?\\s*$)")
NOT_INCLUDED = "Your plan does not include this. Waiting does not help: another plan does."


def checked_cost(cost: Any) -> Any:
    if callable(cost):
        check_takes("cost", cost, "the request")
        return cost
    if not is_whole(cost) or cost < 0:
        raise ConfigurationError(f"cost is a whole number of units, 0 or more, or a function, not {cost!r}")
    return cost


def whole_cost(cost: Any) -> int:
    if not is_whole(cost) or cost < 0:
        told = cost if type(cost) in (int, float) else type(cost).__name__
        raise ValueError(f"a cost function returned {told}, not a whole number of units, 0 or more")
    return cost


def checked_profiles(headers: Any) -> tuple[str, ...]:
    given = () if headers is None else (headers,) if isinstance(headers, str) else headers
    profiles = tuple(given) if isinstance(given, Iterable) else (given,)
    for profile in profiles:
        if profile not in PROFILES:
            raise ConfigurationError(f"headers are {' or '.join(map(repr, PROFILES))}, or None, not {profile!r}")
    for alike in (tuple(DRAFTS), SINGLE):
        if len({*alike}.intersection(profiles)) > 1:
            names = " and ".join(map(repr, alike))
            raise ConfigurationError(f"headers {names} have the same names: choose one of them")
    return profiles


def tells_binding(tell: Any) -> bool:
    if tell in ("all", "binding"):
        return bool(tell == "binding")
    raise ConfigurationError(f"tell is 'all' or 'binding', the limit with least left alone, not {tell!r}")
