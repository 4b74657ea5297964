"""Objects and functions, looked at from the outside: what they refer to, which of it are apps, what texts they hold.

Nothing is called. Of what is not known only its type is asked, and `object` for its attributes: a proxy might do
anything for its own.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from keyguard.drivers.inspection.code import (
    FRAMEWORKS,
    cells_of,
    codes,
    functions_of,
    held_by,
    inside_of,
    is_a,
    named_in,
)
from keyguard.drivers.interpreter import Engine

MOST = 2000
"""So many things are looked at, of one app and of one list."""
_PREFIX = re.compile(r"/[^\s?#*<>|]{1,200}")
_SPEAKING = re.compile("prefix|root|mount|script|base", re.IGNORECASE)
"""Names of settings that may hold a prefix without its slash."""
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, CodeType, re.Pattern)


def modules_of(thing: Any) -> frozenset[str]:
    """Return the modules in which its class and the bases of that are at home."""
    return modules_of_class(type(thing))


def modules_of_class(kind: Any) -> frozenset[str]:
    """Return the same of a class."""
    return frozenset(base.__module__ for base in getattr(kind, "__mro__", ()))


def is_ours(thing: Any) -> bool:
    """Tell whether it is a driver of this project."""
    return is_a(held_by(thing).get("engine"), Engine)


def is_framework(thing: Any) -> bool:
    """Tell whether it is an app of a framework, or a mount of one, and not middleware that came with it."""
    homes = modules_of(thing)
    names = {home.partition(".")[0] for home in homes}
    return bool(names & FRAMEWORKS) and not any(".middleware" in home for home in homes)


def is_app(thing: Any, *, loosely: bool = False) -> bool:
    """Tell whether it can be called as an ASGI or a WSGI app is: by the names and number of what it takes.

    `loosely`: by the number alone, for who would rather take a helper for an app than miss one.
    """
    if is_a(thing, *_ATOMS) or not callable(thing):
        return False
    if is_framework(thing) or is_ours(thing):
        return True
    if is_a(thing, partial):
        return any(is_app(part, loosely=loosely) for part in (thing.func, *thing.args, *thing.keywords.values()))
    code, names = _signature(thing)
    if code is None:
        return False
    if not names:
        return bool(code.co_flags & inspect.CO_VARARGS)
    # ASGI's (scope, receive, send) and WSGI's (environ, start_response), as nearly everybody calls them.
    if len(names) == 3 and (names[0] == "scope" or names[2] == "send"):
        return True
    if loosely:
        return len(names) == 2 or (len(names) == 3 and bool(code.co_flags & inspect.CO_COROUTINE))
    return len(names) >= 2 and "start" in names[1]


def _signature(thing: Any) -> tuple[CodeType | None, tuple[str, ...]]:
    """Return the code that runs when it is called, and the names of what that takes."""
    function = thing if is_a(thing, FunctionType, MethodType) else _call_of(thing)
    bound = not is_a(thing, FunctionType)
    if is_a(function, MethodType):
        function = function.__func__
    if not is_a(function, FunctionType):
        return None, ()
    code = function.__code__
    return code, code.co_varnames[: code.co_argcount][1 if bound else 0 :]


def world_of(thing: Any) -> str | None:
    """Tell whether it is called as an `"asgi"` or a `"wsgi"` app is; `None` if that cannot be seen."""
    _, names = _signature(thing)
    if len(names) == 3 and (names[0] == "scope" or names[2] == "send"):
        return "asgi"
    return "wsgi" if len(names) == 2 and "start" in names[1] else None


def parts(thing: Any) -> Iterator[Any]:
    """List what an object or a function refers to by itself, and the items of its lists and mappings."""
    if is_ours(thing):
        yield held_by(thing).get("app")  # the rest is keyguard's own
        return
    for part in _references(thing):
        if is_a(part, MethodType) and part.__self__ is thing:
            continue  # its own
        if is_a(part, MethodType) and part.__name__ == "__call__":
            part = part.__self__
        yield from inside_of(part)


def further_parts(thing: Any) -> Iterator[Any]:
    """List what the functions refer to that it may run, and the items of lists and mappings there."""
    if not is_ours(thing):
        for function in functions_of(thing):
            for part in _of_function(function):
                yield from inside_of(part)


def _references(thing: Any) -> Iterator[Any]:
    if is_a(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif is_a(thing, MethodType):
        yield thing.__self__
    elif is_a(thing, FunctionType):
        yield from _of_function(thing)
    else:
        yield from _attributes(thing).values()
        call = _call_of(thing)
        if is_a(call, FunctionType):
            yield from _of_function(call)


def _of_function(function: FunctionType) -> Iterator[Any]:
    yield from cells_of(function)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    wrapped = held_by(function).get("__wrapped__")
    if wrapped is not None:
        yield wrapped
    yield from named_in(function)


def _call_of(thing: Any) -> Any:
    return inspect.getattr_static(type(thing), "__call__", None)


def _attributes(thing: Any) -> dict[str, Any]:
    """Collect the attributes of an instance, and the texts of its class."""
    held: dict[str, Any] = {}
    for base in reversed(type(thing).__mro__):
        for name, value in vars(base).items():
            if isinstance(value, str) and not name.startswith("__"):
                held[name] = value
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            with suppress(AttributeError):
                held[name] = object.__getattribute__(thing, name)
    with suppress(Exception):
        held["__wrapped__"] = object.__getattribute__(thing, "__wrapped__")
        if held_by(thing) is held_by(held["__wrapped__"]):  # a proxy, of agents that wrap apps say
            return {"__wrapped__": held["__wrapped__"]}
    return held | held_by(thing)


def texts(thing: Any) -> Iterator[str]:
    """List the texts of a wrapper that could be a prefix, and those in the functions that it runs."""
    if not is_a(thing, partial, MethodType, FunctionType, type):
        for name, value in _attributes(thing).items():
            if isinstance(value, str) and _SPEAKING.search(name):
                yield from strings(["/" + value.strip("/")])
    if not is_a(thing, type):
        yield from strings(_references(thing))
    for function in functions_of(thing):
        yield from strings(_of_function(function))
        for code in codes(function.__code__):
            yield from strings(code.co_consts)


def strings(values: Iterable[Any]) -> Iterator[str]:
    """List the texts that could be a prefix, among any values, and in the mappings, lists and objects there."""
    for value in values:
        for text in inside_of(value):
            if is_a(text, str) and _PREFIX.fullmatch(text) and text.strip("/"):
                yield "/" + text.strip("/")


def class_of_view(view: Any) -> Any:
    """Return the class that a view was made of by `as_view()`; `None` if it was not."""
    return getattr(view, "cls", None) or getattr(view, "view_class", None)


def django_settings(app: Any) -> Any:
    """Return the settings of Django, if an app is one of Django's; else `None`."""
    if modules_of(app) & {"django.core.handlers.asgi", "django.core.handlers.wsgi"}:
        return sys.modules["django.conf"].settings
    return None


def early_middleware(app: Any) -> list[Any]:
    """List middleware of an app's own kind that runs before it looks for a route: that of Falcon and of Django."""
    homes = modules_of(app)
    if "falcon.app" in homes or "falcon.asgi.app" in homes:
        return [type(component) for component in getattr(app, "_unprepared_middleware", ())]
    settings = django_settings(app)
    if settings is not None:
        places = [name.rpartition(".") for name in settings.MIDDLEWARE]
        return [getattr(sys.modules.get(module), name, None) for module, _, name in places]
    return []


def distinct(things: Iterable[Any]) -> list[Any]:
    """List each thing once."""
    return [*{id(thing): thing for thing in things}.values()]
