"""Conditions on requests, for settings such as `when=`, `exempt=` or `public=`, in place of a function or a list.

Rules:
- A condition that opens a door is exact; one that closes a door is wide, and holds for everything that an app may take
  for what it names. The setting says which of the two is meant; called as a function, it closes.
- `~` changes sides: what closes a door unless a condition holds asks the exact one, and the other way round.
- If it depends on a path that can be read in more than one way it raises `AmbiguousPath`, which refuses the request.
- A condition is checked when it is made, and says nothing of a request on a setting that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from keyguard.errors import AmbiguousPath, ConfigurationError
from keyguard.flow import check_takes, is_async, is_blocking
from keyguard.request import Request


class Condition:
    """Something that holds for a request, or does not. `&`, `|` and `~` make others of it."""

    __slots__ = ()

    needs: frozenset[str] = frozenset()
    """The facts about a request that must be known before: `identity`."""

    def holds(self, request: Any, *, wide: bool) -> bool:
        """Tell whether it holds. Raises `AmbiguousPath` if that depends on how the path is read."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[object, ...]:
        """Return what it is made of: two of one class hold for the same requests if these are the same."""
        raise NotImplementedError

    @property
    def needed(self) -> tuple[str, ...] | None:
        """Return patterns, one of which the path has in some case, if it holds; `None` if it may hold for any path."""
        return None

    def within(self) -> Iterator[Condition]:
        """Yield it, and all conditions that it is made of."""
        yield self

    def closes(self, request: Request) -> bool:
        """Tell whether it holds, for something that closes a door: a limit, a filter, a scope that is needed."""
        return self.holds(request, wide=True)

    def opens(self, request: Request) -> bool:
        """Tell whether it holds, for something that opens a door: a public path, an exemption."""
        return self.holds(request, wide=False)

    def surely(self, request: Request) -> bool:
        """Tell the same, and false if it cannot be known: for a help that decides nothing, such as a cache."""
        try:
            return self.holds(request, wide=False)
        except AmbiguousPath:
            return False

    __call__ = closes

    def __and__(self, other: Condition | Callable[[Request], object]) -> Condition:
        return Every(self, condition_of(other))

    def __rand__(self, other: Callable[[Request], object]) -> Condition:
        return Every(condition_of(other), self)

    def __or__(self, other: Condition | Callable[[Request], object]) -> Condition:
        return Either(self, condition_of(other))

    def __ror__(self, other: Callable[[Request], object]) -> Condition:
        return Either(condition_of(other), self)

    def __invert__(self) -> Condition:
        return Not(self)

    def __bool__(self) -> NoReturn:
        # `path("/a") and method("POST")` would be the second one alone, and nobody would notice.
        raise TypeError("conditions are joined by &, | and ~, with brackets: not by `and`, `or` and `not`")


class _Joined(Condition):
    """Two or more conditions as one."""

    __slots__ = ("conditions", "needs")

    sign = ""

    def __init__(self, *conditions: Condition) -> None:
        self.conditions: tuple[Condition, ...] = ()
        for one in conditions:
            self.conditions += one.conditions if isinstance(one, type(self)) else (one,)
        self.needs = frozenset[str]().union(*[one.needs for one in self.conditions])

    def __repr__(self) -> str:
        return f" {self.sign} ".join(
            [f"({one!r})" if isinstance(one, _Joined) else repr(one) for one in self.conditions]
        )

    @property
    def parts(self) -> tuple[object, ...]:
        return self.conditions

    def within(self) -> Iterator[Condition]:
        yield self
        for one in self.conditions:
            yield from one.within()

    def _settled(self, request: Any, wide: bool, *, by: bool) -> bool:
        """Tell whether it holds, which one that says `by` settles, in whatever order they stand.

        Raises `AmbiguousPath` if none settles it and one cannot say.
        """
        unsaid: AmbiguousPath | None = None
        for one in self.conditions:
            try:
                if one.holds(request, wide=wide) is by:
                    return by
            except AmbiguousPath as error:
                unsaid = error
        if unsaid is not None:
            raise unsaid
        return not by


class Every(_Joined):
    """Holds if all of them do."""

    __slots__ = ()
    sign = "&"

    def holds(self, request: Any, *, wide: bool) -> bool:
        return self._settled(request, wide, by=False)

    @property
    def needed(self) -> tuple[str, ...] | None:
        found = [needed for one in self.conditions if (needed := one.needed) is not None]
        return min(found, key=len, default=None)


class Either(_Joined):
    """Holds if one of them does."""

    __slots__ = ()
    sign = "|"

    def holds(self, request: Any, *, wide: bool) -> bool:
        return self._settled(request, wide, by=True)

    @property
    def needed(self) -> tuple[str, ...] | None:
        texts: dict[str, None] = {}
        for one in self.conditions:
            needed = one.needed
            if needed is None:
                return None
            texts |= dict.fromkeys(needed)
        return tuple(texts)


class Not(Condition):
    """Holds if another one does not."""

    __slots__ = ("condition", "needs")

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.needs = condition.needs

    def __repr__(self) -> str:
        return f"~({self.condition!r})" if isinstance(self.condition, _Joined) else f"~{self.condition!r}"

    def holds(self, request: Any, *, wide: bool) -> bool:
        return not self.condition.holds(request, wide=not wide)

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.condition,)

    def within(self) -> Iterator[Condition]:
        yield self
        yield from self.condition.within()

    def __invert__(self) -> Condition:
        return self.condition


class Asked(Condition):
    """Holds if a function of the user's returns something true."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.function = function

    def __repr__(self) -> str:
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    def holds(self, request: Any, *, wide: bool) -> bool:
        return bool(self.function(request))

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.function,)


def condition_of(given: Any) -> Condition:
    """Make a condition of a plain function of the request; one that is a condition already stays as it is.

    Raises `ConfigurationError` for anything else.
    """
    if isinstance(given, Condition):
        return given
    if isinstance(given, type) or not callable(given):
        raise ConfigurationError(
            f"a condition is made by path(...), method(...) and the like, or a function of the request, not {given!r}"
        )
    if is_async(given) or is_blocking(given):
        raise ConfigurationError(f"{given!r} would have to be awaited, and a condition is a plain function")
    check_takes("a condition", given, "the request")
    return Asked(given)
