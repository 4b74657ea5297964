"""Views that are methods or classes, as Django and Flask hand them to a decorator.

Django's `method_decorator` binds the method for each call and decorates it anew, so what is decorated lives no longer
than the call. Before, it decorates a function of its own to see what a decorator adds to one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any


def is_trial(view: Any) -> bool:
    """Tell whether it is the function on which `method_decorator` tries a decorator."""
    named = getattr(view, "__module__", None), getattr(view, "__name__", None)
    return named == ("django.utils.decorators", "dummy")


def bound_in(view: Any) -> MethodType | None:
    """Return the method that `method_decorator` has bound for one call, if it is that, with decorators around it."""
    while view is not None and not isinstance(view, partial):
        view = getattr(view, "__wrapped__", None)
    bound = None if view is None or not hasattr(view, "__wrapped__") else view.func
    return bound if isinstance(bound, MethodType) else None


def owned(method: MethodType) -> tuple[type, Callable[..., Any]]:
    """Return the class that a bound method is called on, and the function that it is."""
    return type(method.__self__), method.__func__


def is_awaited(view: Any) -> bool:
    """Tell whether what calls a view awaits what that returns."""
    if any(map(inspect.iscoroutinefunction, (view, getattr(view, "__call__", None)))):  # noqa: B004
        return True
    if getattr(view, "_is_coroutine", None) is not None:  # a plain function that asgiref or asyncio has marked
        return True
    method = bound_in(view)
    # Django's classes with asynchronous methods have a plain `dispatch`, which returns what they return.
    return method is not None and method.__name__ == "dispatch" and getattr(method.__self__, "view_is_async", False)


def names_of_method(owner: type, name: str) -> tuple[str, str]:
    """Return the name in full of a method of the class that it is called on, and a short one for people."""
    return _names(owner, f".{name}")


def names_of_class(view: Any) -> tuple[str, str] | None:
    """Return the names of the class that a view was made of by `as_view()`, if it was."""
    owner = getattr(view, "view_class", None)
    if not inspect.isclass(owner):
        return None
    called = getattr(view, "__name__", "view")  # Flask gives it a name, and a class may have several
    return _names(owner, "" if called in ("view", owner.__name__) else f".{called}")


def _names(owner: type, more: str) -> tuple[str, str]:
    qualname = owner.__qualname__
    if qualname.rpartition(".")[2] != owner.__name__:  # REST framework has named it after a function
        qualname = owner.__name__
    named = qualname.replace("<", "").replace(">", "") + more
    return f"{owner.__module__}.{named}", named.rpartition("locals.")[2]
