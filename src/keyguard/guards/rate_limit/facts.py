"""The facts about a guard's limits that operators need: where each counts, for whom, and by what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from keyguard.conditions import OnPaths
from keyguard.counter_names import LimitFacts, facts_by
from keyguard.guards.rate_limit.rules import Terms
from keyguard.rates import Limit


class Told(Protocol):
    """A rate limit, as far as operators are told of it."""

    by: Any
    counter: str
    if_store_fails: str
    methods: frozenset[str] | None
    name: str
    paths: OnPaths | None


def facts_of(limit: Told, plans: Mapping[str, Terms] | None, default: Terms) -> Iterator[LimitFacts]:
    """Yield what is known of a guard's limits before any request, plan by plan."""
    listed: dict[Terms, list[str]] = {terms: [] for terms in (*(plans or {}).values(), default)}
    for name, terms in (plans or {}).items():
        listed[terms].append(name)
    for terms, names in listed.items():
        rules: list[tuple[str, str, Limit | None]] = [(rule.name, rule.prefix, rule.limit) for rule in terms.rules]
        none = f"{limit.name}:0, not in the plan" if terms.shut else limit.name
        for name, prefix, rate in rules or [(none, f"rl:{limit.counter}:", None)]:
            yield LimitFacts(
                limit.name,
                name,
                prefix,
                rate,
                facts_by(limit.by),
                plans=None if plans is None else tuple(names),
                default=plans is not None and terms is default,
                methods=tuple(sorted(limit.methods or ())),
                paths=() if limit.paths is None else tuple(limit.paths.texts),
                if_store_fails=limit.if_store_fails,
            )
