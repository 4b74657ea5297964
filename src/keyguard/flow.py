"""Flows: what a guard asks its driver to do, step by step.

A guard performs no I/O. It awaits a step, plain data, and the driver carries it out: one driver under ASGI, one
under WSGI, one for scripts. That is how a guard is written once for all of them.

    taken = await Take(demands)          # the driver asks the store, and sends back the answer

`await step` yields the step itself to whoever drives the coroutine, and evaluates to what the driver sends in.
A coroutine that awaits only steps is called a flow here.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Self, TypeAlias, TypeVar

from keyguard.errors import ConfigurationError
from keyguard.process.event_loops import in_trio

R = TypeVar("R")
P = ParamSpec("P")

Flow: TypeAlias = Coroutine[Any, Any, R]
"""A coroutine that awaits steps and evaluates to an `R`."""


class Step(Generic[R]):
    """Something a driver can do. Frozen data; evaluates to an `R`."""

    __slots__ = ()

    def __await__(self) -> Generator[Self, R, R]:
        return (yield self)


class Signal:
    """Something that others may wait for: a counter that only goes up.

    `move` never blocks and never awaits, and works from any thread, event loop, `finally` or cancellation.
    """

    __slots__ = ("_lock", "_wakers", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []

    def move(self) -> None:
        """Count one up, and wake all that wait."""
        with self._lock:
            self.count += 1
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def call_when_moved(self, seen: int, wake: Callable[[], None]) -> bool:
        """Call `wake` once, when the count has gone beyond `seen`. Return false, and do not call, if it already has."""
        with self._lock:
            if self.count > seen:
                return False
            self._wakers.append(wake)
            return True

    def forget(self, wake: Callable[[], None]) -> None:
        """Do not call `wake` any more."""
        with self._lock:
            if wake in self._wakers:
                self._wakers.remove(wake)


class Wait(Step[bool]):
    """Wait until `signal` has gone beyond `seen`, for `timeout` seconds at most. Evaluates to whether it has."""

    __slots__ = ("seen", "signal", "timeout")

    def __init__(self, signal: Signal, seen: int, timeout: float) -> None:
        self.signal = signal
        self.seen = seen
        self.timeout = timeout

    def block(self) -> bool:
        """Wait in this thread."""
        moved = threading.Event()
        if not self.signal.call_when_moved(self.seen, moved.set) or moved.wait(self.timeout):
            return True
        self.signal.forget(moved.set)
        return False

    async def in_loop(self) -> bool:
        """Wait in an event loop, of asyncio or of trio."""
        if in_trio():
            return await self._in_trio()
        import asyncio  # threads need none

        loop = asyncio.get_running_loop()
        moved = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(moved.set)

        if not self.signal.call_when_moved(self.seen, wake):
            return True
        try:
            async with asyncio.timeout(self.timeout):
                await moved.wait()
        except TimeoutError:
            return False
        finally:
            self.signal.forget(wake)
        return True

    async def _in_trio(self) -> bool:
        import trio

        token, moved = trio.lowlevel.current_trio_token(), trio.Event()

        def wake() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(moved.set)

        if not self.signal.call_when_moved(self.seen, wake):
            return True
        try:
            with trio.move_on_after(self.timeout):
                await moved.wait()
        finally:
            self.signal.forget(wake)
        return moved.is_set()


class Blocking(Step[R]):
    """Call a function that may hold up whoever calls it: in a thread if that is an event loop, else in place.

    It sees the context variables of the request. It goes on if the request is stopped, and is not heard then.
    """

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs

    def run(self) -> R:
        """Call it in this thread."""
        return self.function(*self.args, **self.kwargs)


class Stepwise:
    """The base of functions of a request whose calls must be awaited: they await steps, so they need no event loop."""


class _Blocks(Stepwise, Generic[P, R]):
    """A function whose calls are `Blocking`."""

    def __init__(self, function: Callable[P, R]) -> None:
        update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Blocking[R]:
        return Blocking(self._function, args, kwargs)

    def __repr__(self) -> str:
        return f"blocking({self._function!r})"


def blocking(function: Callable[P, R]) -> Callable[P, Blocking[R]]:
    """Have a plain function of yours called in a thread under ASGI, since it waits for something: a database, a file.

    For the functions that guards take: `by=`, `cost=`, `when=`, `exempt=`, `scopes=`, and one that chooses a limit.
    Otherwise they run in the event loop, and all other requests wait for them. Under WSGI it changes nothing. Raises
    `ConfigurationError` for what is not a plain function.
    """
    if not callable(function):
        raise ConfigurationError(f"blocking() takes a plain function, not {function!r}")
    if is_async(function):
        raise ConfigurationError(f"{function!r} is async: it needs no thread, pass it as it is")
    if isinstance(function, _Blocks):
        return _Blocks(function._function)
    return _Blocks(function)


def is_blocking(function: object) -> bool:
    """Tell whether a function was made by `blocking`, or awaits other steps, so that its calls must be awaited."""
    return isinstance(function, Stepwise)


async def call(function: Callable[P, Awaitable[R] | R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a user's function, `def` or `async def`, or made by `blocking`.

    A `def` runs in place: it must not block for long under ASGI. An `async def` may await what the server's event
    loop offers; under WSGI there is none, and the driver says so.
    """
    result: Any = function(*args, **kwargs)
    while inspect.isawaitable(result):  # what a thread returns may have to be awaited in its turn
        result = await result
    returned: R = result
    return returned


def is_async(function: object) -> bool:
    """Whether a user's setting is a function that needs an event loop."""
    method = getattr(function, "__call__", None)  # noqa: B004 - the method itself is looked at
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(method)


def check_takes(word: str, function: Callable[..., Any], what: str) -> None:
    """Raise `ConfigurationError` if a user's function cannot be called with one argument, `what`."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # some built-in functions do not say what they take
    try:
        signature.bind(None)
    except TypeError:
        name = getattr(function, "__name__", type(function).__name__)
        raise ConfigurationError(f"{word} is called with {what} alone; {name}{signature} cannot be") from None
