"""Needs of guards: things that others outside of them must provide, as far as it can be seen before any request."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from keyguard.conditions import Asked, Condition
from keyguard.errors import ConfigurationError
from keyguard.flow import is_async
from keyguard.gate import Gate, members_of
from keyguard.guard import declared
from keyguard.stack.policies import shadows_among


def needs_of(guard: Any) -> frozenset[str]:
    """List the words that a guard names itself, and `identity` if one of its functions reads that of the request.

    An async guard is not looked into: it may read the identity after it has called those further in.
    """
    told = declared(guard)
    needs = frozenset(told.needs)
    functions: list[Callable[..., Any]] = [*told.functions().values()]
    if callable(guard) and not is_async(guard):
        functions.append(guard)
    return needs | {"identity"} if any(map(reads_identity, functions)) else needs


def unmet_needs(guards: Iterable[Any]) -> frozenset[str]:
    """List what guards need of layers further out. A need that only a later guard provides is an order gone wrong.

    Facts that a guard behind a gate provides are there for those that are chosen with it, and for no others.
    """
    return _Needs().of(guards, frozenset())


class _Needs:
    """The needs of a stack, as they are found from the outside to the inside."""

    def __init__(self) -> None:
        self.opening: object = None
        """The outermost guard that lets callers without a key pass."""

    def of(self, guards: Iterable[Any], provided: frozenset[str]) -> frozenset[str]:
        """List what guards need besides `provided`."""
        guards = list(guards)
        unmet: frozenset[str] = frozenset()
        for place, guard in enumerate(guards):
            told = declared(guard)
            if told.wants_keys and self.opening is not None:
                raise ConfigurationError(
                    f"{guard!r} spends balances, and {self.opening!r} lets callers pass who have no key, and so no "
                    "balance: say by paths= or exempt= which requests it is about"
                )
            if told.lets_anonymous_pass:
                self.opening = guard
            missing = needs_of(guard) - provided
            _check_later(guard, missing, guards[place + 1 :])
            unmet |= missing
            if isinstance(guard, Gate):
                for _, chosen in guard.ways():
                    theirs = self.of(chosen, provided)
                    _check_later(guard, theirs, guards[place + 1 :])
                    unmet |= theirs
            else:
                provided |= frozenset(told.provides)
        return unmet


def _check_later(guard: object, missing: frozenset[str], later: Iterable[Any]) -> None:
    """Raise if one of the guards further in provides what this one misses."""
    for word in missing:
        for other in later:
            if word in declared(other).provides:
                raise ConfigurationError(f"{guard!r} needs the {word} that {other!r} finds: put it after that")


def why_unmet(guards: Iterable[Any], needs: Iterable[str]) -> str:
    """Return what to tell a developer whose stack provides nowhere what some of its guards need."""
    for guard in shadows_among(members_of(guards)):
        if set(needs) & set(declared(guard.guard).provides):
            return f": {guard!r} lets everybody pass, so nobody can rely on what it finds: make it a real one first"
    for guard in members_of(guards):
        if set(needs) & set(declared(guard).provides):
            return f": what {guard!r} finds is known to the guards of its own policy alone: put it before the policies"
    return ", and none finds it: put APIKeys() first"


def reads_identity(function: Callable[..., Any]) -> bool:
    """Tell whether a function reads `.identity` of its argument, the request.

    The functions that it calls are not looked into.
    """
    given = 0
    if isinstance(function, Condition):
        asked = [one.function for one in function.within() if isinstance(one, Asked)]
        return "identity" in function.needs or any(map(reads_identity, asked))
    while isinstance(function, partial):
        given += len(function.args)
        function = function.func
    if not isinstance(function, (FunctionType, MethodType)):
        call = inspect.getattr_static(type(function), "__call__", None)
        if not isinstance(call, FunctionType):
            return False
        function, given = call, given + 1
    elif isinstance(function, MethodType):
        given += 1
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    return len(names) > given and _reads(code, names[given])


def _reads(code: CodeType, name: str) -> bool:
    import dis  # which only the start needs

    loaded = False
    for instruction in dis.get_instructions(code):
        if loaded and instruction.argval == "identity" and "LOAD_ATTR" in instruction.opname:
            return True
        # From Python 3.13 on one instruction may load two variables.
        last = instruction.argval[-1] if isinstance(instruction.argval, tuple) else instruction.argval
        loaded = instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and last == name
    return any(
        _reads(inner, name) for inner in code.co_consts if isinstance(inner, CodeType) and name in inner.co_freevars
    )
