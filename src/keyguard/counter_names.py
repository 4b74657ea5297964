"""Names of limits, and whether two of them are one.

A limit has two names. The public one stands in header fields, refusals and the log, and says by whom it counts and
where it applies. The other one stands in the keys of its counters, and names all that it depends on, functions in full
with their module: so limits that differ have counters of their own, on one store and in all processes.

How much is admitted stands in neither: a quota that is edited keeps its counters. So two limits that differ in nothing
else are told apart by a name that they are given, and those of one process that were not do not start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter, itemgetter, methodcaller
from types import FunctionType, MethodType
from typing import Any

from keyguard.conditions import Asked, Condition, OnPaths
from keyguard.rates import Limit

_LONGEST = 80  # characters: a name stands in every response, a long list of paths does not


def public_name(by: object, methods: Iterable[str], paths: Iterable[str]) -> str:
    """Name a limit for those whom it limits: by whom it counts, and for which paths."""
    return named([by if isinstance(by, str) else _short(by), *sorted(methods), *sorted(paths)])


def counter_name(
    by: object, methods: Iterable[str], paths: Iterable[str], functions: Mapping[str, object], cost: object, plans: bool
) -> str:
    """Name its counters, by all that it depends on: the same after a restart, and in every process."""
    parts = [by if isinstance(by, str) else _qualified(by), *sorted(methods), *sorted(paths)]
    parts += ["plans"] if plans else []
    given = {word: function for word, function in functions.items() if function is not None}
    parts += [f"{word} {one if isinstance(one, str) else _qualified(one)}" for word, one in given.items()]
    if cost != 1:
        parts.append(f"cost {cost if isinstance(cost, int) else _qualified(cost)}")
    return named(parts)


def guess_name(name: str, lookup: object) -> str:
    """Name the counters of wrong keys of a look-up."""
    return named([name, _qualified(lookup)])


def named(parts: Iterable[str]) -> str:
    """Make one printable name of these; of a long one, or one with other characters, a digest is a part."""
    text = " ".join(parts)
    plain = "".join(char if char.isascii() and char.isprintable() and char != "|" else "-" for char in text)
    if plain == text and len(text) <= _LONGEST:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{plain[:60]} {digest}"


def nameless(function: object) -> bool:
    """Tell whether a function has no name that would tell it from another one."""
    if isinstance(function, Condition):
        return any(isinstance(one, Asked) and nameless(one.function) for one in function.within())
    if not callable(function):
        return False
    if isinstance(function, MethodType):
        function = function.__func__
    return getattr(function, "__name__", "<>").startswith("<")


def _short(function: object) -> str:
    if isinstance(function, Condition):
        return _condition(function)
    if isinstance(function, partial):
        return _short(function.func)
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


def _condition(condition: Condition) -> str:
    return " ".join(condition.texts) if isinstance(condition, OnPaths) else repr(condition)


def _qualified(function: object) -> str:
    if isinstance(function, Condition):
        return _condition(function)
    if isinstance(function, partial):
        return f"partial {_qualified(function.func)}"
    named = function if hasattr(function, "__qualname__") else type(function)
    # Without the brackets of "<lambda>" and "<locals>": they do not belong to a name that is quoted elsewhere.
    return f"{named.__module__}.{named.__qualname__}".replace("<", "").replace(">", "")


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """A limit of a guard, as far as it is known before any request: enough to find a caller's counter in a store."""

    guard: str
    """The public name of its guard."""
    name: str
    """Its own public name, which stands in header fields and refusals."""
    prefix: str
    """The beginning of the keys of its counters: the caller's bucket follows."""
    limit: Limit | None
    """`None` for none: callers of `plans` have no limit here. Without plans, a function chooses on each request."""
    by: str
    """The way in which it tells callers apart: `ip`, `key`, `subject`, or the name of a function in full."""
    plans: tuple[str, ...] | None = None
    """The plans for whose callers it counts; `None` if it is for all callers."""
    default: bool = False
    """Whether it counts for callers without a plan, and those whose plan is not listed."""
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """The patterns of paths it applies to; all paths, if there are none."""
    if_store_fails: str = "local"
    ipv6_prefix: int = 64
    """The bits of an IPv6 address by which its stack tells callers apart."""
    overridable: bool = False
    """Whether overrides may put other limits in its place, for one subject."""


def facts_by(by: object) -> str:
    """Return what a limit counts callers by, as text."""
    return by if isinstance(by, str) else _qualified(by)


class Counters:
    """The counters of a guard: their name, and what is admitted there. Other guards of the process may not clash.

    - `name`: stands in the keys of the counters. Guards with different names share nothing.
    - `meaning`: all that decides whom and what they admit, such as its settings; compared by `same`.
    - `limits`: the limits themselves, as far as they are known before any request.
    - `rules`: the public names of its limits, which stand in header fields and refusals.
    - `keys`: what the keys of its counters begin with; `None` if that is not known before a request.
    - `named`: whether the user gave it its name.
    - `functions`: its settings that are functions: by one without a name two guards cannot be told apart.
    - `facts`: what operators need to look at its limits, and to change what is spent of them.
    """

    def __init__(
        self,
        name: str,
        meaning: object,
        *,
        limits: Sequence[Limit] = (),
        rules: Iterable[str] = (),
        keys: Iterable[str] | None = None,
        named: bool = True,
        functions: Iterable[object] = (),
        facts: Iterable[LimitFacts] = (),
    ) -> None:
        self.name = name
        self.limits = tuple(limits)
        self.rules = frozenset(rules)
        self.named = named
        self.facts = tuple(facts)
        self._meaning = meaning
        self._keys = None if keys is None else frozenset(keys)
        self._nameless = not named and any(map(nameless, functions))

    def shares(self, other: Counters) -> bool:
        """Tell whether some caller could be counted by both in one counter; or they would be named alike by chance."""
        if self.name != other.name:
            return False
        return self._nameless or self._keys is None or other._keys is None or not self._keys.isdisjoint(other._keys)

    def differs_unseen_from(self, other: Counters) -> bool:
        """Tell whether both share counters, and yet admit something else, of other callers or for other requests."""
        return other is not self and self.shares(other) and not same(self._meaning, other._meaning)


# -- sameness ---------------------------------------------------------------------------------------------------


def same(one: object, other: object) -> bool:
    """Tell whether two settings mean the same: equal values, and functions that do the same with the same."""
    return _same(one, other, {})


def _same(one: object, other: object, seen: dict[tuple[int, int], object]) -> bool:
    """Tell the same. `seen` are pairs that are the same if all the rest is: things may refer to each other."""
    pair = (id(one), id(other))
    if one is other or pair in seen:
        return True
    if type(one) is not type(other) or len(seen) >= _MOST:
        return False
    seen[pair] = one, other  # which keeps their numbers from being given to others
    parts, others = _parts(one), _parts(other)
    if parts is None or others is None:
        try:
            return bool(one == other)
        except Exception:  # what it is compared by is the user's own
            return False
    return len(parts) == len(others) and all(_same(*twins, seen) for twins in zip(parts, others, strict=True))


_MOST = 1000  # pairs that are compared; what is larger is another one


def _parts(value: Any) -> Sequence[object] | None:
    """Take a setting apart, all of it that counts; `None` if it is one piece."""
    if isinstance(value, Condition):
        return value.parts
    if isinstance(value, Limit):
        return value.code, value.quota, value.max_cost
    if isinstance(value, FunctionType):
        return _made_of(value)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if isinstance(value, (attrgetter, itemgetter, methodcaller)):
        return value.__reduce__()[1:]  # what it was made of
    if isinstance(value, (tuple, list)):
        return value
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    by_itself = not any("__eq__" in vars(base) for base in type(value).__mro__[:-1])
    return [value.__dict__] if by_itself and hasattr(value, "__dict__") and not isinstance(value, type) else None


def _made_of(function: Any) -> tuple[object, ...]:
    """Return the code of a function, which equals that of one with the same text at the same place, and its values."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not filled yet
            cells.append(cell)
    return function.__module__, function.__code__, function.__defaults__, function.__kwdefaults__, cells
