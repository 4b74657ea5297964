"""The event loop that code runs in: asyncio's, or trio's.

Neither is imported here before it runs: an app that is served by threads needs none. Code that awaits asks each time
which one it runs in, for a process may have several, and of both kinds.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any, ParamSpec, TypeVar

from keyguard.process.fork import forks_in_c

P = ParamSpec("P")
R = TypeVar("R")


def in_trio() -> bool:
    """Tell whether trio's event loop runs in this thread, also as a guest of another."""
    lowlevel: Any = sys.modules.get("trio.lowlevel")
    if lowlevel is None:
        return False
    if hasattr(lowlevel, "in_trio_run"):
        return bool(lowlevel.in_trio_run())
    try:  # before 0.26
        lowlevel.current_trio_token()
    except (AttributeError, RuntimeError):
        return False
    return True


def in_loop() -> bool:
    """Tell whether an event loop runs in this thread."""
    events: Any = sys.modules.get("asyncio.events")
    return (events is not None and events._get_running_loop() is not None) or in_trio()


def is_stopped() -> bool:
    """Tell whether what runs here in an event loop has been cancelled, even if it has not come to know of it yet."""
    if in_trio():
        import trio

        return trio.current_effective_deadline() == -inf
    if not in_loop():
        return False
    import asyncio

    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return True
    anyio: Any = sys.modules.get("anyio")  # it keeps count of what it has cancelled itself
    return anyio is not None and anyio.current_effective_deadline() == -inf


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a thread, in the caller's context.

    It runs to its end, even if its result is not waited for. The thread is the event loop's, and stays for a while: so
    if there must be none (`forks_in_c`), it runs in place.
    """
    if forks_in_c():
        return function(*args, **kwargs)
    if in_trio():
        import trio

        # Its result is not lost if the caller is cancelled meanwhile: the caller's next `await` is.
        with trio.CancelScope(shield=True):
            return await trio.to_thread.run_sync(lambda: function(*args, **kwargs))
    import asyncio

    return await asyncio.to_thread(function, *args, **kwargs)


def keep(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Have `close` awaited before asyncio's event loop, which runs here, ends; or once what is returned is closed.

    Not every server tells an app that it ends, and a test, a script or a command does not tell at all. But whoever ends
    a loop ends its asynchronous generators first (`loop.shutdown_asyncgens`), as `asyncio.run` does.
    """
    keeper = _closing(close)
    with suppress(StopIteration):
        keeper.__anext__().send(None)  # to its `yield`: from now on the loop knows of it
    return keeper


async def _closing(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await close()


def mark_coroutine_function(function: Any) -> None:
    """Have `iscoroutinefunction` take a plain function that returns an awaitable for a coroutine function."""
    if sys.version_info >= (3, 12):
        import inspect

        inspect.markcoroutinefunction(function)
    else:
        import asyncio

        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
