"""Tasks that outlive the request they belong to, in the event loop of asyncio or of trio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextvars import copy_context
from typing import Any, TypeAlias

from keyguard.process.event_loops import in_trio

_held: set[Task] = set()
"""The event loop of asyncio itself holds tasks only weakly."""


class TrioTask:
    """A task of trio's that belongs to no nursery of the app's: it goes on when its request is over."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        import trio

        self.over = trio.Event()
        self.token = trio.lowlevel.current_trio_token()
        self._scope = trio.CancelScope()
        self._callbacks: list[Callable[[Any], object]] = []
        trio.lowlevel.spawn_system_task(self._run, work, name="keyguard", context=copy_context())

    async def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        import trio

        try:
            with self._scope:
                await work
        except (Exception, trio.Cancelled):
            pass  # nobody waits for it any more: a guard raises again what it was told, a cancellation too
        finally:
            self.over.set()
            for callback in self._callbacks:
                callback(self)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Have `callback(self)` called at its end."""
        self._callbacks.append(callback)

    def cancel(self) -> None:
        """Stop it at its next `await`."""
        self._scope.cancel()


Task: TypeAlias = "asyncio.Task[Any] | TrioTask"


def hold(work: Coroutine[Any, Any, Any]) -> Task:
    """Begin a task that runs to its end, whoever waits for it."""
    task: Task = TrioTask(work) if in_trio() else asyncio.get_running_loop().create_task(work)
    _held.add(task)
    task.add_done_callback(_release)
    return task


def _release(task: Task) -> None:
    _held.discard(task)
    if not isinstance(task, TrioTask) and not task.cancelled():
        task.exception()  # nobody waits for it any more: a guard raises again what it was told


async def ended(task: Task) -> None:
    """Wait for its end. A caller that is cancelled meanwhile stops waiting, and the task goes on."""
    if isinstance(task, TrioTask):
        await task.over.wait()
    else:
        await asyncio.shield(task)


async def ended_in_spite(task: Task) -> None:
    """Wait for the end of a task that has been cancelled, also in one that is cancelled itself."""
    if isinstance(task, TrioTask):
        import trio

        with trio.CancelScope(shield=True):
            await task.over.wait()
    else:
        await asyncio.wait([task])


def is_lost(task: Task) -> bool:
    """Tell whether it never ends, since its event loop was closed with work in it."""
    return not isinstance(task, TrioTask) and task.get_loop().is_closed()


async def end(tasks: Iterable[Task], patience: float) -> None:
    """Let those of this event loop come to their end, for so many seconds; then stop them."""
    if in_trio():
        import trio

        token = trio.lowlevel.current_trio_token()
        await _end_in_trio([task for task in tasks if isinstance(task, TrioTask) and task.token is token], patience)
        return
    loop = asyncio.get_running_loop()
    ours = [task for task in tasks if not isinstance(task, TrioTask) and task.get_loop() is loop]
    if ours:
        _, late = await asyncio.wait(ours, timeout=patience)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def _end_in_trio(tasks: list[TrioTask], patience: float) -> None:
    import trio

    with trio.move_on_after(patience):
        for task in tasks:
            await task.over.wait()
    for task in tasks:
        task.cancel()
        await task.over.wait()
