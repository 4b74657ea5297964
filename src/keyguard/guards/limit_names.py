"""What limits are called, and when two of them are one.

A limit has two names. The public one stands in header fields, refusals and the log, and says by whom it counts and
where it applies. The other one stands in the keys of its counters, and names all that it depends on, functions in full
with their module: so limits that differ have counters of their own, on one store and in all processes.

How much is admitted stands in neither: a quota that is edited keeps its counters. So two limits that differ in nothing
else are told apart by a name that they are given, and those of one process that were not do not start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from keyguard.conditions import OnPaths
from keyguard.rates import Limit

_LONGEST = 80  # characters: a name stands in every response, a long list of paths does not


def public_name(by: object, methods: Iterable[str], paths: Iterable[str]) -> str:
    """By whom a limit counts, and where, for who is limited."""
    return _named([by if isinstance(by, str) else _short(by), *sorted(methods), *sorted(paths)])


def counter_name(
    by: object, methods: Iterable[str], paths: Iterable[str], functions: Mapping[str, object], cost: object, plans: bool
) -> str:
    """The same with all that a limit depends on: the same after a restart, and in every process."""
    parts = [by if isinstance(by, str) else _qualified(by), *sorted(methods), *sorted(paths)]
    parts += ["plans"] if plans else []
    parts += [f"{word} {_qualified(function)}" for word, function in functions.items() if function is not None]
    if cost != 1:
        parts.append(f"cost {cost if isinstance(cost, int) else _qualified(cost)}")
    return _named(parts)


def _named(parts: Iterable[str]) -> str:
    text = " ".join(parts)
    plain = "".join(char if char.isascii() and char.isprintable() and char != "|" else "-" for char in text)
    if plain == text and len(text) <= _LONGEST:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{plain[:60]} {digest}"


def nameless(function: object) -> bool:
    """Whether a function has no name that would tell it from another one."""
    if isinstance(function, OnPaths) or not callable(function):
        return False
    if isinstance(function, MethodType):
        function = function.__func__
    return getattr(function, "__name__", "<>").startswith("<")


def _short(function: object) -> str:
    if isinstance(function, OnPaths):
        return " ".join(function.texts)
    if isinstance(function, partial):
        return _short(function.func)
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


def _qualified(function: object) -> str:
    if isinstance(function, OnPaths):
        return " ".join(function.texts)
    if isinstance(function, partial):
        return f"partial {_qualified(function.func)}"
    named = function if hasattr(function, "__qualname__") else type(function)
    # Without the brackets of "<lambda>" and "<locals>": they are no part of a name that is quoted elsewhere.
    return f"{named.__module__}.{named.__qualname__}".replace("<", "").replace(">", "")


# -- sameness ---------------------------------------------------------------------------------------------------


def same(one: object, other: object, depth: int = 0) -> bool:
    """Whether two settings mean the same: equal values, and functions that do the same with the same."""
    if one is other:
        return True
    if type(one) is not type(other) or depth > _DEEPEST:
        return False
    if isinstance(one, OnPaths) and isinstance(other, OnPaths):
        return (one.texts, one.ignore_case) == (other.texts, other.ignore_case)
    if isinstance(one, Limit) and isinstance(other, Limit):
        return (one.code, one.quota, one.most) == (other.code, other.quota, other.most)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key], depth + 1) for key, value in one.items())
    parts, others = _parts(one), _parts(other)
    if parts is not None and others is not None:
        pairs = zip(parts, others, strict=False)
        return len(parts) == len(others) and all(same(part, twin, depth + 1) for part, twin in pairs)
    try:
        return bool(one == other)
    except Exception:  # what it is compared by is the user's own
        return False


_DEEPEST = 20  # a function may stand among its own values


def _parts(value: Any) -> tuple[object, ...] | list[object] | None:
    """What a setting is made of: all of it that counts; `None` where it is one piece."""
    if isinstance(value, FunctionType):
        return _made_of(value)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    return value if isinstance(value, (tuple, list)) else None


def _made_of(function: Any) -> tuple[object, ...]:
    """The code of a function, which equals that of another one of the same text at the same place, and its values."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not filled yet
            cells.append(cell)
    return function.__module__, function.__code__, function.__defaults__, function.__kwdefaults__, cells
