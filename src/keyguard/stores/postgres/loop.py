"""The event loop that the connections live on, in a thread of its own.

Under gevent a thread is a greenlet: it runs in the same thread of the system as the app, and maybe as an event loop of
the app's own. So this loop says that it is running only while it does something, and not while it waits.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from keyguard.process.fork import forks_in_c

T = TypeVar("T")


class _Polite(selectors.BaseSelector):
    """A selector that puts things as they were for as long as others may run."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.outer: Any = None
        """The loop known to run in this thread of the system, and the hooks that look after its generators."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        mine = (asyncio._get_running_loop(), sys.get_asyncgen_hooks())
        _set_running(self.outer)
        try:
            return self._selector.select(timeout)
        finally:
            self.outer = (asyncio._get_running_loop(), sys.get_asyncgen_hooks())
            _set_running(mine)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def close(self) -> None:
        self._selector.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        found: Mapping[Any, selectors.SelectorKey] = self._selector.get_map()
        return found


def _set_running(state: Any) -> None:
    loop, hooks = state
    asyncio._set_running_loop(loop)
    sys.set_asyncgen_hooks(*hooks)


class Loop(asyncio.SelectorEventLoop):
    """The loop: of the kind that psycopg needs, whatever the app runs on."""

    def __init__(self) -> None:
        self._polite = _Polite()
        super().__init__(self._polite)

    def serve(self) -> None:
        """Run until it is stopped, then close."""
        self._polite.outer = (asyncio._get_running_loop(), sys.get_asyncgen_hooks())
        asyncio._set_running_loop(None)  # or it would not begin
        try:
            self.run_forever()
            if forks_in_c():  # names of hosts are looked up in threads of the loop's own, which outlive it for a moment
                self.run_until_complete(self.shutdown_default_executor())
        finally:
            self.close()
            _set_running(self._polite.outer)


class Tasks:
    """The tasks that run on a loop: held, or they could be garbage before they have ended."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def hold(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has been told

    async def ended(self) -> None:
        """Wait until all have ended but the one that asks."""
        while others := self._running - {asyncio.current_task()}:
            await asyncio.gather(*others, return_exceptions=True)
