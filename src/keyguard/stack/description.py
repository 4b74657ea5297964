"""A stack as a table: which guards stand in it, for which requests, and with which limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from keyguard.conditions import Condition, Not
from keyguard.conditions.criteria import OfPlan
from keyguard.counter_names import facts_by
from keyguard.guard import declared
from keyguard.policies import PolicySet, Shadow
from keyguard.policies.policy import EVERYTHING


@dataclass(frozen=True, slots=True)
class StackRow:
    """One guard of a stack."""

    order: int
    """The place of the guard, from 1 on: in this order guards are asked."""
    name: str
    """The name of the guard."""
    kind: str
    """Its class, such as `RateLimit`; `function` for a function."""
    policy: str
    """The name of the policy that it stands in; empty for none."""
    chosen: str
    """The way in which the policy is chosen: `first match` or `all`; empty without a policy."""
    when: str
    """The requests that it is about, in words; empty for all."""
    limits: tuple[str, ...]
    """The rates that it admits, such as `10/second`; with plans, `free: 10/second`."""
    by: str
    """By what it tells callers apart; empty if it does not."""
    shadow: bool
    """Whether it is in shadow mode, and refuses nobody."""


class Description(tuple[StackRow, ...]):
    """The rows of a stack, as guards are asked. Its text is a table."""

    notes: tuple[str, ...] = ()
    """Sentences on what is worth a second look: a policy over a plan that no limit of the stack knows, say."""

    def rows(self) -> list[list[str]]:
        """Return the rows as texts, the names of the columns first."""
        lines = [
            [
                *(str(row.order), row.policy, row.name, row.kind, row.when or "always", ", ".join(row.limits), row.by),
                "shadow" if row.shadow else "",
            ]
            for row in self
        ]
        return [["#", "POLICY", "GUARD", "KIND", "WHEN", "LIMITS", "BY", "MODE"], *lines]

    def members(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {"guards": [asdict(row) for row in self], "notes": list(self.notes)}

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *[f"note: {note}" for note in self.notes]])


def described(stacked: Iterable[Any]) -> Description:
    """Describe the guards and policies of a stack."""
    stacked = [*stacked]
    rows: list[StackRow] = []
    for guard in stacked:
        if isinstance(guard, PolicySet):
            chosen = "first match" if guard.first else "all"
            for policy in guard.policies:
                words = "" if policy.condition is EVERYTHING else repr(policy.condition)
                if not policy.guards:
                    rows.append(StackRow(len(rows) + 1, "-", "nothing", policy.name, chosen, words, (), "", False))
                for one in policy.guards:
                    rows.append(_row(len(rows) + 1, one, policy.name, chosen, words))
        else:
            rows.append(_row(len(rows) + 1, guard, "", "", ""))
    found = Description(rows)
    found.notes = tuple(_unknown_plans(stacked))
    return found


def _row(order: int, given: Any, policy: str, chosen: str, when: str) -> StackRow:
    guard = given.guard if isinstance(given, Shadow) else given
    function = getattr(guard, "__name__", "")
    own = " & ".join(_conditions(guard))
    both = f"({when}) & {own}" if when and own and "|" in when else " & ".join(filter(None, (when, own)))
    return StackRow(
        order,
        str(getattr(guard, "name", "") or function or type(guard).__name__),
        "function" if function else type(guard).__name__,
        policy,
        chosen,
        both,
        tuple(_limits(guard)),
        _by(guard),
        isinstance(given, Shadow),
    )


def _by(guard: Any) -> str:
    by = getattr(getattr(guard, "selection", guard), "by", None)
    return "" if by is None or not declared(guard).counters else facts_by(by)


def _limits(guard: Any) -> Iterator[str]:
    told = declared(guard)
    facts = [each for counters in told.counters for each in counters.facts]
    if facts:
        for each in facts:
            rate = "by a function" if each.limit is None and each.plans is None else "no limit"
            rate = rate if each.limit is None else each.limit.text
            plans = [*(each.plans or ()), *(["other plans"] if each.default else [])]
            yield f"{'/'.join(plans)}: {rate}" if plans else rate
    else:
        for counters in told.counters:
            yield from [limit.text for limit in counters.limits]


def _conditions(guard: Any) -> Iterator[str]:
    """Yield in words which requests a guard is about, by its own settings."""
    selection = getattr(guard, "selection", None)
    paths = getattr(guard, "paths", None)
    if paths is not None:
        yield repr(paths)
    if isinstance(public := getattr(guard, "public", None), Condition):
        yield repr(Not(public))
    if selection is None:
        return
    if selection.methods is not None:
        yield f"method({', '.join(map(repr, sorted(selection.methods)))})"
    if selection.when is not None:
        yield _words(selection.when)
    if selection.exempt is not None:
        exempt = selection.exempt
        yield repr(Not(exempt)) if isinstance(exempt, Condition) else f"~{_words(exempt)}"


def _words(condition: Any) -> str:
    if isinstance(condition, Condition):
        text = repr(condition)
        return f"({text})" if " | " in text else text
    return str(getattr(condition, "__qualname__", type(condition).__qualname__))


# -- plans ----------------------------------------------------------------------------------------------------------


def _unknown_plans(stacked: Iterable[Any]) -> Iterator[str]:
    """Yield what is to be said of policies over a plan that no limit of the stack lists.

    Which plans issued keys have, and those of a look-up, is not known here: so it is a note, and no error.
    """
    known: set[str] = set()
    asked: list[tuple[str, str]] = []
    for guard in stacked:
        members = guard.members if isinstance(guard, PolicySet) else (guard,)
        for member in members:
            inner = member.guard if isinstance(member, Shadow) else member
            known |= set(getattr(inner, "plans", None) or ())
            condition = getattr(getattr(inner, "selection", None), "when", None)
            asked += [(repr(inner), name) for name in _plans_of(condition)]
        if isinstance(guard, PolicySet):
            asked += [
                (f"policy {policy.name!r}", name) for policy in guard.policies for name in _plans_of(policy.condition)
            ]
    if not known:
        return  # no limit lists any: plans are known to keys alone
    for what, name in asked:
        if name not in known:
            yield f"{what} is about the plan {name!r}, which no plans= of this stack lists: {', '.join(sorted(known))}"


def _plans_of(condition: Any) -> Iterator[str]:
    if isinstance(condition, Condition):
        for one in condition.within():
            if isinstance(one, OfPlan):
                yield from sorted(one.values)
