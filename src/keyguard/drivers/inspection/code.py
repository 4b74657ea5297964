"""Code that stands in front of an app: which functions it runs, and whether it may give the app another path.

Rules:
- Nothing is called: only the code of functions is read, and what the names in it stand for.
- A function that puts something in the place of a request's path, or hands the request on to an app that cannot be
  seen, may cut off anything. One too many is better than one that is not found: it closes what need not be closed.
- Packages that are known are not read: their middleware hands on the path as it is, or its prefixes are looked for.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import chain, islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

FRAMEWORKS = frozenset(
    {
        *("fastapi", "starlette", "flask", "quart", "django", "litestar", "falcon", "blacksheep"),
        *("bottle", "pyramid", "sanic", "aiohttp", "cherrypy"),
    }
)
"""Packages whose apps are not wrappers."""
_READ_BY_US = FRAMEWORKS | {
    *("keyguard", "werkzeug", "asgiref", "a2wsgi", "socketio", "engineio", "uvicorn", "hypercorn", "gunicorn", "wrapt"),
    *(
        "sentry_sdk",
        "opentelemetry",
        "newrelic",
        "elasticapm",
        "ddtrace",
        "whitenoise",
        "corsheaders",
        "rest_framework",
    ),
    *("anyio", "pydantic", "limits", "asgi_correlation_id", "structlog", "prometheus_client"),
}
_MOST = 200
"""So many functions are read, of one wrapper."""
_HELD, _LARGEST = 3, 4000
"""So deep in lists, mappings and plain objects things are looked for, and so many of them."""
_PATH = frozenset({"path", "raw_path", "PATH_INFO", "root_path", "SCRIPT_NAME"})
"""The keys under which a request holds its path."""
_PATH_ATTRIBUTES = frozenset({"path", "path_info", "raw_path"})


def is_a(thing: Any, *kinds: type) -> bool:
    """Tell whether it is an instance, whatever it says itself."""
    return issubclass(type(thing), kinds)


def is_known(thing: Any) -> bool:
    """Tell whether a function or a class is of Python itself or of a package whose middleware is known."""
    home: Any = None
    if is_a(thing, FunctionType):  # which may have taken over the name of another one's module: `functools.wraps`
        home = thing.__globals__.get("__name__")
    elif is_a(thing, type):
        home = getattr(thing, "__module__", None)
    top = home.partition(".")[0] if isinstance(home, str) else ""
    return top in _READ_BY_US or (top in sys.stdlib_module_names and top != "__main__")


def codes(code: CodeType) -> Iterator[CodeType]:
    """List the code of a function, and of those that stand in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def named_in(function: FunctionType) -> Iterator[Any]:
    """List what the global names in a function stand for, and what it takes from modules, classes and objects."""
    for name, *attributes in _names(function.__code__):
        value: Any = function.__globals__.get(name)
        for attribute in attributes:
            value = None if value is None else _namespace(value).get(attribute)
        if value is not None:
            yield value


@lru_cache(maxsize=4096)
def _names(whole: CodeType) -> tuple[tuple[str, ...], ...]:
    """List the global names in a code, each also with the attributes that are taken of it."""
    found: dict[tuple[str, ...], None] = {}
    for code in codes(whole):
        taken: tuple[str, ...] = ()
        for one in dis.get_instructions(code):
            if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                taken = (one.argval,)
            elif one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                taken = taken and (*taken, one.argval)
            elif one.opname not in _NOTHING:
                taken = ()
            if taken:
                found[taken] = None
    return tuple(found)


def _namespace(value: Any) -> Mapping[str, Any]:
    """Return the names that something of the app's own holds: a module of settings, a class of them, an object."""
    if is_a(value, ModuleType):
        known = value.__name__.partition(".")[0] in _READ_BY_US | sys.stdlib_module_names
        return {} if known else vars(value)
    if is_a(value, type):
        return (
            {} if is_known(value) else {name: part for base in value.__mro__[:-1] for name, part in vars(base).items()}
        )
    return {} if is_known(type(value)) else held_by(value)


def held_by(thing: Any) -> dict[str, Any]:
    """Return the attributes of an instance; none if it cannot be asked."""
    try:
        held: dict[str, Any] = object.__getattribute__(thing, "__dict__")
    except Exception:  # it has none, or a proxy has no object
        return {}
    return held


def inside_of(value: Any) -> Iterator[Any]:
    """List a thing and what stands in it, if it is a list, a mapping or a plain object of the app's own.

    The nearest things come first, and a large one is listed only in part.
    """
    waiting: deque[tuple[Any, int]] = deque([(value, 0)])
    listed = 0
    while waiting and listed < _LARGEST:
        thing, depth = waiting.popleft()
        listed += 1
        yield thing
        if depth < _HELD:
            waiting.extend([(part, depth + 1) for part in islice(_parts_of(thing), _LARGEST - len(waiting))])


def _parts_of(value: Any) -> Iterable[Any]:
    kind = type(value)
    if issubclass(kind, Mapping):
        return chain(value.keys(), value.values())
    if issubclass(kind, (list, tuple, set, frozenset)):
        return chain(value)
    plain = not callable(value) and not issubclass(kind, (str, bytes, int, float, ModuleType, CodeType))
    return held_by(value).values() if plain and not is_known(kind) else ()


# -- the functions of a wrapper ---------------------------------------------------------------------------------


def functions_of(thing: Any) -> list[FunctionType]:
    """List the functions that a wrapper may run for a request, as far as they are the app's own."""
    found: dict[int, FunctionType] = {}
    waiting = deque(_of(thing))
    while waiting and len(found) < _MOST:
        function = waiting.popleft()  # the nearest first
        if id(function) in found or is_known(function):
            continue
        found[id(function)] = function
        for part in (*named_in(function), *cells_of(function)):
            if is_a(part, FunctionType, MethodType):
                waiting += _of(part)
    return [*found.values()]


def _of(thing: Any) -> Iterator[FunctionType]:
    if is_a(thing, partial):
        yield from [function for part in (thing.func, *thing.args, *thing.keywords.values()) for function in _of(part)]
    elif is_a(thing, MethodType):
        yield from _of(thing.__func__)
    elif is_a(thing, FunctionType):
        yield thing
        yield from _of(held_by(thing).get("__wrapped__"))
    elif is_a(thing, type):
        yield from methods_of(thing)
    elif not is_a(thing, ModuleType) and callable(thing):
        yield from methods_of(type(thing))
        for part in held_by(thing).values():
            if is_a(part, FunctionType, partial):
                yield from _of(part)


def methods_of(kind: type) -> Iterator[FunctionType]:
    """List the methods of a class that are the app's own, less those that only run before any request."""
    for base in kind.__mro__[:-1]:
        if is_known(base):
            continue
        for name, member in vars(base).items():
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if is_a(member, FunctionType) and name not in ("__init__", "__new__", "__repr__"):
                yield member


def cells_of(function: Any) -> Iterator[Any]:
    """Yield what a function has closed over, in the order of its names: `None` for what is not there yet."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:
            yield None


# -- what they do -----------------------------------------------------------------------------------------------


def gives_another_path(functions: Iterable[FunctionType]) -> bool:
    """Tell whether one of them may put something in the place of a request's path."""
    for function in functions:
        by_name = any(is_a(value, str) and value in _PATH for value in named_in(function))
        if any(_sets_path(code, by_name) for code in codes(function.__code__)):
            return True
    return False


@lru_cache(maxsize=4096)
def _sets_path(code: CodeType, by_name: bool) -> bool:
    """`by_name`: a global name stands for the key of a path."""
    shown = False  # as a key that a mapping is made with
    joins = not _JOINS.isdisjoint(code.co_names)
    stores = False
    before: object = ""
    instructions = [one for one in dis.get_instructions(code) if one.opname not in _NOTHING]
    for one, after in zip(instructions, [*instructions[1:], instructions[-1]], strict=True):
        if one.opname == "STORE_ATTR" and one.argval in _PATH_ATTRIBUTES:
            return True
        stores = stores or one.opname == "STORE_SUBSCR"
        joins = joins or one.opname in ("DICT_UPDATE", "DICT_MERGE") or one.argrepr in ("|", "|=")
        if _is_key(one.argval) and before != "get" and not _only_reads(after):
            if after.opname == "STORE_SUBSCR":
                return True
            by_name = by_name or after.opname == "GET_ITER" or after.opname.startswith("STORE_")
            shown = True
        before = one.argval
    return (shown and joins) or (by_name and stores)


_JOINS = frozenset({"update", "dict", "ChainMap", "setdefault", "__setitem__"})
_NOTHING = frozenset({"CACHE", "EXTENDED_ARG", "PRECALL", "NOP", "RESUME"})


def _is_key(value: object) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return any(isinstance(part, str) and part in _PATH for part in value)
    return isinstance(value, str) and value in _PATH


def _only_reads(after: dis.Instruction) -> bool:
    return after.opname in ("BINARY_SUBSCR", "CONTAINS_OP", "COMPARE_OP") or after.argrepr == "[]"


def passes_on(functions: Iterable[FunctionType]) -> bool:
    """Tell whether one of them hands all of a request on to something, as middleware does to its app."""
    for function in functions:
        answers = any(map(_is_response, named_in(function)))
        if any(_hands_on(code, answers) for code in codes(function.__code__)):
            return True
    return False


def _is_response(thing: Any) -> bool:
    return is_a(thing, type) and is_known(thing) and thing.__name__.endswith("Response")


@lru_cache(maxsize=4096)
def _hands_on(code: CodeType, answers: bool) -> bool:
    """`answers`: it makes a response, to which an app may hand a request on that answers by itself."""
    names = [*code.co_varnames[: code.co_argcount]]
    if names[:1] == ["self"]:
        del names[0]
    if not names and code.co_flags & inspect.CO_VARARGS:
        return any(one.opname == "CALL_FUNCTION_EX" for one in dis.get_instructions(code))
    if len(names) not in (2, 3):
        return False
    loaded: list[tuple[str, Any]] = []
    for one in dis.get_instructions(code):
        if one.opname in _NOTHING:
            continue
        if one.opname.startswith("LOAD_"):
            several: Any = one.argval  # from Python 3.13 on
            loaded += [(one.opname, name) for name in (several if is_a(several, tuple) else (several,))]
            continue
        if one.opname == "CALL" and [name for _, name in loaded[1 - len(names) :]] == names[1:]:
            callee = loaded[-len(names) - 1][0] if len(loaded) > len(names) else ""
            if not answers or callee in ("LOAD_ATTR", "LOAD_METHOD"):
                return True
        loaded = []
    return False
