"""Guards, and how they nest.

A guard decides about a request. Two shapes:

    def no_robots(request: Request) -> Response | None:         # plain: None lets the request through
        ...

    async def timed(request: Request, forward: Forward) -> Response:
        response = await forward(request)                       # the next guard or, innermost, the app
        return response

Rules:
- A guard awaits steps and other guards; under ASGI it may await anything. It keeps nothing of a request on itself.
- It may be resumed in another task than it started in: it holds nothing bound to a task (a lock, a time-out
  scope, the token of a context variable) across `await forward(...)`.
- An `async` guard returns a `Response`. `None` is an error and refuses the request: a forgotten `return` must not
  let anybody in.
- An `async` guard may have a method `glance(request)`, which is asked first and plainly: a response, or `None` for the
  long way. It is for answers that the head alone decides, such as a hit of a cache.
- It may have a method `admits(request)` beside its `__call__`: true where the request goes on to the next guard at
  once, and this one is not called. It is for what is decided without asking anybody, such as a key that is known.
- `provides` and `needs` are optional sets of words on a guard, such as `{"identity"}`: a stack in which a need is
  not provided further out does not start.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from keyguard.errors import ConfigurationError
from keyguard.flow import Flow, is_async, is_blocking
from keyguard.request import Forward, Request
from keyguard.response import Response
from keyguard.steps import CallApp


class AsyncGuard(Protocol):
    """A guard that surrounds the app."""

    def __call__(self, request: Request, forward: Forward, /) -> Flow[Response]: ...


PlainGuard: TypeAlias = Callable[[Request], Response | None]
"""A guard that only looks at the request head."""

Guard: TypeAlias = AsyncGuard | PlainGuard


class Chain(NamedTuple):
    """A nest of guards, ready to run."""

    leading: tuple[PlainGuard, ...]
    """Plain guards that stand in front of all others, and the glance of the next one: they run without a coroutine."""
    start: Callable[[Request], Flow[Response]] | None
    """Starts the rest; `None` where there is none."""


def chain(guards: Sequence[Guard]) -> Chain:
    """Nest guards, the first one outermost. Raises `ConfigurationError` for what is not a guard."""
    shapes = [_is_plain(guard) for guard in guards]
    count = shapes.index(False) if False in shapes else len(shapes)
    leading: Any = tuple(guards[:count])
    forward: Any = CallApp
    for place in range(len(guards) - 1, count - 1, -1):
        guard: Any = guards[place]
        glance = None if shapes[place] else getattr(guard, "glance", None)
        if glance is not None and place == count:
            leading += (glance,)
            glance = None
        if shapes[place]:
            forward = _plain_layer(guard, forward)
        elif _may_admit(guard):
            forward = _admitting_layer(guard, forward)
        else:
            forward = _async_layer(guard, forward, glance)
    return Chain(leading, forward if count < len(guards) else None)


class Answer:
    """An awaitable that is already done."""

    __slots__ = ("response",)

    def __init__(self, response: Response) -> None:
        self.response = response

    def __await__(self) -> Generator[Any, Any, Response]:
        return self.response
        yield


def _async_layer(guard: Any, forward: Forward, glance: PlainGuard | None) -> Forward:
    def layer(request: Request) -> Awaitable[Response]:
        answer: Awaitable[Response] = guard(request, forward)
        return answer

    def glancing_layer(request: Request) -> Awaitable[Response]:
        assert glance is not None
        response = glance(request)
        return layer(request) if response is None else Answer(response)

    return layer if glance is None else glancing_layer


def _may_admit(guard: object) -> bool:
    """Whether `admits` speaks for `__call__`: a subclass that has its own `__call__` is always called."""
    calls = next((base for base in type(guard).__mro__ if "__call__" in vars(base)), object)
    return "admits" in vars(calls)


def _admitting_layer(guard: Any, forward: Forward) -> Forward:
    def layer(request: Request) -> Awaitable[Response]:
        answer: Awaitable[Response] = forward(request) if guard.admits(request) else guard(request, forward)
        return answer

    return layer


def _plain_layer(guard: Any, forward: Forward) -> Forward:
    def layer(request: Request) -> Awaitable[Response]:
        response = guard(request)
        return forward(request) if response is None else Answer(response)

    return layer


def _is_plain(guard: object) -> bool:
    name = getattr(guard, "__name__", type(guard).__name__)
    if isinstance(guard, type) or not callable(guard):
        raise ConfigurationError(f"{name} is not a guard: pass an instance or a function, such as {name}(...)")
    if is_blocking(guard):
        raise ConfigurationError(
            f"a plain guard runs in place: make {name} an `async def`, and await `blocking(function)(...)` in it"
        )
    asynchronous = is_async(guard)
    try:
        inspect.signature(guard).bind(*range(2 if asynchronous else 1))
    except TypeError:
        raise ConfigurationError(
            f"the guard {name} must be `async def {name}(request, forward)` or `def {name}(request)`"
        ) from None
    return not asynchronous
