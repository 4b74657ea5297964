"""Whether an app speaks what its guards speak: one of the other world would fail, but not before its first request."""

from __future__ import annotations

import inspect
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from keyguard.errors import ConfigurationError

_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, partial, type)


def check_interface(app: Any, *, asynchronous: bool) -> None:
    """Raise `ConfigurationError` if an app cannot be called as ASGI has it, or, not `asynchronous`, as WSGI has it.

    What takes any arguments, or tells none, is taken to be right.
    """
    # Of an object its class is asked: a proxy might do anything for an attribute of its own.
    of_class = not isinstance(app, _FUNCTIONS)
    call = _called_of(type(app)) if of_class else app
    if call is None:
        raise ConfigurationError(f"guards stand around an app, which can be called, not around {app!r:.80}")
    if not isinstance(call, _FUNCTIONS):
        return
    if _takes(call, (3 if asynchronous else 2) + of_class):
        return
    if _takes(call, (2 if asynchronous else 3) + of_class):
        spoken, other = ("ASGI", "WSGI") if asynchronous else ("WSGI", "ASGI")
        right = "guard.wsgi(app), or guard.init_app(app) for Flask" if asynchronous else "guard.asgi"
        named = type(app).__name__ if of_class else f"{app!r:.80}"
        raise ConfigurationError(
            f"{named} is an app of {other}, and these guards speak {spoken}: put them around it by {right}"
        )


def _called_of(kind: type) -> Any:
    """Return the function that a call of its objects calls; a class itself can always be called."""
    return next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)


def _takes(call: Any, count: int) -> bool:
    """Tell whether a function takes so many arguments, as far as can be seen."""
    try:
        signature = inspect.signature(call)
    except Exception:  # it tells none, or something of its own does
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
