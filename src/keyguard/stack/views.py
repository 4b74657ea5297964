"""Views, as frameworks hand them to a decorator: functions, methods and classes; their parts and their names.

Django's `method_decorator` binds the method for each call and decorates it anew, so what is decorated lives no longer
than the call. Before, it decorates a function of its own to see what a decorator adds to one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any

_DEEPEST = 100
"""So many decorators are looked through."""


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


def unwrapping(view: Any) -> Iterator[Any]:
    """Yield a view and what it wraps, the outermost first."""
    for _ in range(_DEEPEST):
        yield view
        view = getattr(view, "__wrapped__", None)
        if view is None:
            return


def bare(view: Any) -> Any:
    """Return a view without its decorators."""
    while isinstance(view, partial):
        view = view.func
    return inspect.unwrap(view)


def parts_of_view(view: Any) -> list[Any]:
    """Return what runs of a view: of a class, the methods."""
    if not inspect.isclass(view):
        return [] if view is None else [view]
    names = ("get", "head", "post", "put", "patch", "delete", "options", "on_connect", "on_receive", "on_disconnect")
    return [part for name in names if (part := getattr(view, name, None)) is not None]


# -- names --------------------------------------------------------------------------------------------------------


def place_of_view(view: Any) -> str:
    """Return the name of a view in full: `module.qualname`."""
    return names_of_view(view)[0]


def names_of_view(view: Any) -> tuple[str, str]:
    """Return the name of a view in full, and a short one for people."""
    of_class = names_of_class(view)
    if of_class is not None:
        return of_class
    function = bare(view)
    return _names(function if hasattr(function, "__qualname__") else type(function))


def names_of_method(owner: type, name: str) -> tuple[str, str]:
    """Return the name in full of a method of the class that it is called on, and a short one for people."""
    return _names(owner, f".{name}")


def names_of_class(view: Any) -> tuple[str, str] | None:
    """Return the names of the class that a view was made of by `as_view()`, if it was."""
    owner = getattr(view, "view_class", None)  # of REST framework, which has `cls`, each method is a view
    if not inspect.isclass(owner):
        return None
    called = getattr(view, "__name__", "view")  # Flask gives it a name, and a class may have several
    return _names(owner, "" if called in ("view", owner.__name__) else f".{called}")


def _names(named: Any, more: str = "") -> tuple[str, str]:
    qualname = named.__qualname__
    if qualname.rpartition(".")[2] != named.__name__:  # renamed by Flask's `as_view`, or by `api_view`
        qualname = named.__name__
    text = qualname.replace("<", "").replace(">", "") + more
    return f"{named.__module__}.{text}", text.rpartition("locals.")[2]
