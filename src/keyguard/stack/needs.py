"""Needs of guards: things that others outside of them must provide, as far as it can be seen before any request."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from keyguard.errors import ConfigurationError
from keyguard.flow import is_async
from keyguard.guard import declared


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
    """List what guards need of layers further out. A need that only a later guard provides is an order gone wrong."""
    guards = list(guards)
    unmet: set[str] = set()
    provided: set[str] = set()
    opening: object = None
    for place, guard in enumerate(guards):
        told = declared(guard)
        if told.wants_keys and opening is not None:
            raise ConfigurationError(
                f"{guard!r} spends balances, and {opening!r} lets callers pass who have no key, and so no balance: say "
                "by paths= or exempt= which requests it is about"
            )
        if told.lets_anonymous_pass:
            opening = guard
        missing = needs_of(guard) - provided
        for word in missing:
            for later in guards[place + 1 :]:
                if word in declared(later).provides:
                    raise ConfigurationError(f"{guard!r} needs the {word} that {later!r} finds: put it after that")
        unmet |= missing
        provided |= set(declared(guard).provides)
    return frozenset(unmet)


def reads_identity(function: Callable[..., Any]) -> bool:
    """Tell whether a function reads `.identity` of its argument, the request.

    The functions that it calls are not looked into.
    """
    given = 0
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
