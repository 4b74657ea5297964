"""Event loops for one request each: a loop in which nothing was left serves for the next one as well.

To open a loop, watch for signals and close it takes several times as long as a request to an app in memory.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_idle: list[Any] = []
"""At most one loop."""


def run_alone(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end what has a loop to itself, as `asyncio.run` does: what is left there ends as well."""
    if threading.current_thread() is not threading.main_thread() or asyncio._get_running_loop() is not None:
        return asyncio.run(work)
    loop = _idle.pop() if _idle else asyncio.new_event_loop()
    try:
        result: T = loop.run_until_complete(work)
    except BaseException:
        _end(loop)
        raise
    if _is_as_new(loop):
        _idle.append(loop)
    else:
        _end(loop)
    return result


def _is_as_new(loop: Any) -> bool:
    """Return whether nothing is open, under way or due in a loop, but for what wakes it."""
    left = loop._ready or loop._scheduled or loop._default_executor or loop._signal_handlers or [*loop._asyncgens]
    return not left and len(loop._selector.get_map()) == 1 and not asyncio.all_tasks(loop)


def _end(loop: Any) -> None:
    with asyncio.Runner(loop_factory=lambda: loop):
        pass


def _end_the_idle() -> None:
    while _idle:
        _idle.pop().close()


atexit.register(_end_the_idle)
os.register_at_fork(before=_end_the_idle)  # a child would share what it waits with
