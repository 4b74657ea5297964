"""Selections: which requests a rule is about, and under whose name each counts. The same for all guards that limit.

Some of it may be said by functions of the user's, which may have to be awaited. So a guard *asks*: it yields the
function, and is sent what that returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable
from inspect import isawaitable, iscoroutine
from typing import Any, Literal, TypeAlias, TypeVar

from keyguard.body_fields import BodyField
from keyguard.buckets import UNKNOWN_ADDRESS, bucket_text, digest
from keyguard.conditions import Condition, OnPaths, on_paths
from keyguard.errors import ConfigurationError
from keyguard.flow import call, check_takes, is_async, is_blocking
from keyguard.guard import LONG, Long
from keyguard.http.fields import METHOD_OVERRIDES
from keyguard.http.fields import METHODS as METHODS
from keyguard.identity import UNKNOWN, Identity
from keyguard.request import CarriedRequest, Request

T = TypeVar("T")
Setting: TypeAlias = "T | Callable[[Request], T | Awaitable[T]]"
"""A value, or a function of the request that returns one; the function may be `async` under ASGI."""
By: TypeAlias = 'Literal["ip", "key", "subject"] | Callable[[Request], Any]'
Asking: TypeAlias = Generator[Callable[[Request], Any], Any, T]
"""Yields the functions that have a say, each to be sent what it returns; returns a `T`."""


class Selection:
    """The requests that a rule is about: their methods and paths, conditions, and by whom they count.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    __slots__ = ("_opens", "by", "exempt", "methods", "paths", "uncounted", "when")

    def __init__(
        self,
        by: Any,
        when: Any,
        exempt: Any,
        methods: Any,
        paths: Iterable[str] | OnPaths | None,
        ignore_case: bool,
        *,
        bodies: bool = False,
    ) -> None:
        """`bodies`: whether callers may be named by a field of the body."""
        self.by = checked_by(by, bodies=bodies)
        self.when = checked_condition("when", when)
        self.exempt = checked_condition("exempt", exempt)
        self._opens = self.exempt.opens if isinstance(self.exempt, Condition) else self.exempt
        self.methods = _checked_methods(methods)
        self.uncounted = _uncounted(self.methods)
        """The methods that are known not to count."""
        self.paths = on_paths("paths", paths, ignore_case)
        if isinstance(self.by, BodyField) and self.methods is None:
            raise ConfigurationError(
                f"by={self.by!r} needs methods=['POST'], or what else has a body: all requests without one share one "
                "counter, and a page that is only looked at would be one of them"
            )

    @property
    def fixed(self) -> bool:
        """Whether no function has a say."""
        return isinstance(self.by, str) and self.when is None and self.exempt is None

    @property
    def everything(self) -> bool:
        """Whether it is about requests of all methods and paths."""
        return self.paths is None and not self.uncounted

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """Its settings that are functions of the request."""
        given = {"by": self.by, "when": self.when, "exempt": self.exempt}
        return {word: value for word, value in given.items() if callable(value)}

    def covers(self, request: CarriedRequest) -> bool:
        """Tell whether a request has one of the methods and paths. Raises `AmbiguousPath` if that cannot be said."""
        if request.method in self.uncounted and not request.sends(METHOD_OVERRIDES):
            return False
        return self.paths is None or self.paths.closes(request)

    def bucket(self, request: Request, guard: object) -> str:
        """Return under whose name a request counts, if no function says it. `guard` is named in errors."""
        if self.by == "ip":
            client = request.client
            return UNKNOWN_ADDRESS if client is None else client.bucket
        identity = identity_for(request, guard, self.by)
        if identity.anonymous:
            client = request.client
            return "@" + (UNKNOWN_ADDRESS if client is None else client.bucket)
        return bucket_text(identity.key_id if self.by == "key" else identity.subject)

    def asking_whether(self, request: CarriedRequest) -> Asking[bool]:
        """Ask whether the rule is about a request."""
        if not self.covers(request):
            return False
        if self.when is not None and not (yield self.when):
            return False
        return self._opens is None or not (yield self._opens)

    def asking_whose(self, request: Request, guard: object) -> Asking[str | None]:
        """Ask under whose name a request counts; `None` if it does not."""
        if isinstance(self.by, str):
            return self.bucket(request, guard)
        who = yield self.by
        return None if who is None else digest(who)


def identity_for(request: Request, guard: object, by: str) -> Identity:
    """Return the identity by which a guard counts. Raises `ConfigurationError` if none was looked for."""
    identity = request.state.identity
    if identity is None:
        raise ConfigurationError(f"{guard!r} counts by {by}, but {UNKNOWN}")
    return identity


async def asked(asking: Asking[T], request: Request) -> T:
    """Return what asking comes to, and await what has to be awaited."""
    value = None
    while True:
        try:
            function = asking.send(value)
        except StopIteration as stop:
            found: T = stop.value
            return found
        value = await call(function, request)


def asked_at_once(asking: Asking[T], request: Request) -> T | Literal[Long.LONG]:
    """Return the same without waiting; `LONG` if something has to be awaited: then all is asked again."""
    value = None
    while True:
        try:
            function = asking.send(value)
        except StopIteration as stop:
            found: T = stop.value
            return found
        value = function(request)
        if value.__class__ not in _AT_HAND and isawaitable(value):
            if iscoroutine(value):
                value.close()
            return LONG


_AT_HAND = frozenset({bool, int, str, tuple, type(None)})
"""Classes of nearly all that such functions return, of which it need not be asked whether it is awaitable."""


def at_hand(functions: Iterable[Callable[..., Any]]) -> bool:
    """Tell whether functions can be called in place, as far as is known."""
    return not any(is_async(function) or is_blocking(function) for function in functions)


# -- checking settings ------------------------------------------------------------------------------------------


def checked_by(by: Any, *, bodies: bool = False) -> Any:
    if isinstance(by, BodyField) and not bodies:
        raise ConfigurationError(
            f"by={by!r} is for RateLimit(by=...) alone: anybody can send the name of somebody else"
        )
    if callable(by):
        check_takes("by", by, "the request")
        return by
    if by in ("ip", "key", "subject"):
        return by
    raise ConfigurationError(f"by is 'ip', 'key', 'subject' or a function of the request, not {by!r}")


def checked_condition(word: str, condition: Any) -> Any:
    """Return a condition as a function, or `None`. Raises `ConfigurationError` for what is none."""
    if condition is None:
        return None
    if callable(condition) and not isinstance(condition, BodyField):
        check_takes(word, condition, "the request")
        return condition
    if isinstance(condition, bool):
        return always if condition else never
    raise ConfigurationError(f"{word} is a function of the request, not {condition!r}")


def always(request: Any) -> bool:
    """A condition that always holds."""
    return True


def never(request: Any) -> bool:
    """A condition that never holds."""
    return False


def _checked_methods(methods: Any) -> frozenset[str] | None:
    if methods is None:
        return None
    if not isinstance(methods, Iterable):
        raise ConfigurationError(f"methods are a list of names, such as ['POST'], not {methods!r}")
    names = [methods] if isinstance(methods, str) else [*methods]
    for name in names:
        if not isinstance(name, str) or name not in METHODS:
            raise ConfigurationError(f"{name!r} is no HTTP method; they are written in capitals, such as 'POST'")
    if not names:
        raise ConfigurationError("methods is empty: the limit would apply to nothing")
    return frozenset(names)


def _uncounted(methods: frozenset[str] | None) -> frozenset[str]:
    """Return the methods that a limit on these skips. One that HTTP does not define may be routed as any: it counts."""
    if methods is None:
        return frozenset()
    return METHODS - methods - (frozenset({"HEAD"}) if "GET" in methods else frozenset())


def checked_name(name: Any) -> str:
    """Return the name of a limit. Raises `ConfigurationError` if it is none."""
    if isinstance(name, str) and name and name.isascii() and name.isprintable() and "|" not in name:
        return name
    raise ConfigurationError(f"a name is printable ASCII text without '|', not {name!r}")
