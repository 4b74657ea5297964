"""Steps: what a guard asks its driver to do.

A guard performs no I/O. It awaits a step, plain data, and the driver carries it out: one driver under ASGI, one
under WSGI, one for scripts. That is how a guard is written once for all of them.

    taken = await Take(demands)          # the driver asks the store, and sends back the answer

`await step` yields the step itself to whoever drives the coroutine, and evaluates to what the driver sends in.
A coroutine that awaits only steps is called a flow here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeAlias, TypeVar

if TYPE_CHECKING:
    from keyguard.request import Request
    from keyguard.response import Response  # noqa: F401 - named in a quoted type argument

R = TypeVar("R")
P = ParamSpec("P")

Flow: TypeAlias = Coroutine[Any, Any, R]
"""A coroutine that awaits steps and evaluates to an `R`."""


class Step(Generic[R]):
    """Something a driver can do. Frozen data; evaluates to an `R`."""

    __slots__ = ()

    def __await__(self) -> Generator[Self, R, R]:
        return (yield self)


class CallApp(Step["Response"]):
    """Run the app, up to the head of its response."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


async def call(function: Callable[P, Awaitable[R] | R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a user's function, `def` or `async def`.

    A `def` runs in place: it must not block for long under ASGI. An `async def` may await what the server's event
    loop offers; under WSGI there is none, and the driver says so.
    """
    result = function(*args, **kwargs)
    if inspect.isawaitable(result):
        return await result
    return result


def is_async(function: object) -> bool:
    """Whether a user's setting is a function that needs an event loop."""
    method = getattr(function, "__call__", None)  # noqa: B004 - the method itself is looked at
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(method)
