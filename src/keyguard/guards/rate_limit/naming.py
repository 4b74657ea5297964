"""The names of a rate limit, and what its counters mean: see `keyguard.counter_names`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from keyguard.conditions import OnPaths
from keyguard.counter_names import Counters, counter_name, named, public_name
from keyguard.guards.rate_limit.facts import facts_of
from keyguard.guards.rate_limit.rules import Rule, Terms
from keyguard.guards.rate_limit.settling import Settling
from keyguard.rates import Limit
from keyguard.selection import checked_name


class Named(Protocol):
    """A rate limit, as far as its names depend on it."""

    by: Any
    choose: Callable[..., Any] | None
    cost: Any
    counter: str
    exempt: Any
    if_store_fails: str
    methods: frozenset[str] | None
    name: str
    named: bool
    paths: OnPaths | None
    rules: tuple[Rule, ...]
    settling: Settling | None
    unit: str
    when: Any

    @property
    def all_rules(self) -> tuple[Rule, ...]: ...

    def functions(self) -> dict[str, Callable[..., Any]]: ...


class PlaceName(str):
    """The public name of a limit that counts at one place of an app: its counters are named by the place."""

    place: str
    """The place: the name of a view in full, or a router's prefix."""

    @classmethod
    def at(cls, place: str, name: str) -> PlaceName:
        """Return the name of a limit that counts at a place. `name` is made printable, and short."""
        made = cls(named([name]))
        made.place = place
        return made


def names_of(limit: Named, given: str | None, *, plans: bool) -> tuple[str, str]:
    """Return the public name, and that in the keys of counters."""
    place = [given.place] if isinstance(given, PlaceName) else []
    if given is not None and not place:
        name = checked_name(given)
        return name, name
    methods = limit.methods or ()
    paths = () if limit.paths is None else limit.paths.texts
    functions = {"rates": limit.choose, "when": limit.when, "exempt": limit.exempt}
    if limit.settling is not None:
        functions |= limit.settling.named
    public = public_name(limit.by, methods, paths) if given is None else str(given)
    counter = counter_name(limit.by, methods, [*place, *paths], functions, limit.cost, plans)
    return (named([limit.unit, public]), named([limit.unit, counter])) if limit.unit else (public, counter)


def counters_of(limit: Named, plans: Mapping[str, Terms] | None, default: Terms) -> Counters:
    """Return what its counters mean."""
    limits = None if plans is None else {name: _limits_of(terms) for name, terms in plans.items()}
    other = None if plans is None else _limits_of(default)
    where = limit.choose, limit.by, limit.cost, limit.when, limit.exempt, limit.methods, limit.paths
    settling = None if limit.settling is None else limit.settling.parts
    return Counters(
        limit.counter,
        (_limits(limit.rules), limits, other, *where, settling),
        limits=[rule.limit for rule in limit.all_rules],
        rules=[rule.name for rule in limit.rules],
        keys=None if limit.choose is not None else [rule.prefix for rule in limit.all_rules],
        named=limit.named,
        functions=[*limit.functions().values(), None if limit.settling is None else limit.settling.settle],
        facts=facts_of(limit, plans, default),
    )


def _limits_of(terms: Terms) -> object:
    return 0 if terms.shut else _limits(terms.rules)


def _limits(rules: Sequence[Rule]) -> list[Limit] | None:
    return [rule.limit for rule in rules] or None
