"""Work beside a request under ASGI: requests of nobody's, functions in threads, waiting for a signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keyguard.drivers.asgi.exchange import Exchange
from keyguard.drivers.asgi.messages import ASGIApp, Message
from keyguard.drivers.asgi.request import ASGIRequest
from keyguard.drivers.interpreter import Engine, Pending
from keyguard.drivers.tasks import Task, end, hold, is_lost
from keyguard.drivers.threads import in_thread
from keyguard.flow import Blocking, Flow, Signal, Wait
from keyguard.logs import logger
from keyguard.process.fork import renew_after_fork
from keyguard.request import SHARED_ASGI, CarriedRequest
from keyguard.response import Response
from keyguard.steps import Detach

log = logger("keyguard")

_detached: set[Task] = set()
_inherited: list[set[Task]] = []
"""Those of this process's parents. They never end here, and if they were dropped their `finally` would run here too."""
_MOST = 64  # at a time
_PATIENCE = 5.0  # seconds
_LONG = 86400.0  # seconds


class _Renewal:
    def after_fork(self) -> None:
        global _detached
        _inherited.append(_detached)
        _detached = set()


_renewal = _Renewal()
renew_after_fork(_renewal)


def detach(app: ASGIApp, engine: Engine, step: Detach) -> bool:
    """Start a request of nobody's, as a task of its own. Whether there was room for it."""
    if len(_detached) >= _MOST:
        _detached.difference_update([task for task in list(_detached) if is_lost(task)])
        if len(_detached) >= _MOST:
            return False
    scope = step.request.of_the_same_caller()
    request = ASGIRequest(step.request.method, scope, engine, scope[SHARED_ASGI])
    note_detached(hold(_run(Exchange(app, engine, request, _Silence(), _swallow), step.guard)))
    return True


def note_detached(task: Task) -> None:
    """Note a task that nobody waits for: it has a moment to come to its end before the app's lifespan does."""
    detached = _detached
    detached.add(task)
    task.add_done_callback(detached.discard)


class _Silence:
    """The `receive` of a request without a body, whose client stays."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked = False

    async def __call__(self) -> Message:
        while self.asked:
            await Wait(Signal(), 0, _LONG).in_loop()
        self.asked = True
        return {"type": "http.request", "body": b"", "more_body": False}


async def _swallow(message: Message) -> None:
    """The `send` of a request whose client is nobody."""


async def _run(exchange: Exchange, guard: Callable[[CarriedRequest], Flow[Response]]) -> None:
    """Run one guard, and those further in."""
    try:
        await exchange.run(guard(exchange.request))
    except Exception:
        log.warning("a request in the background failed", exc_info=True)


async def end_detached() -> None:
    """Let requests in the background come to their end, for a moment; then stop them."""
    await end(list(_detached), _PATIENCE)


def wait(step: Wait) -> Pending:
    """Wait for a signal, in an event loop."""
    return Pending(_waited(step))


def call(step: Blocking[Any]) -> Pending:
    """Call a function that may block, in a thread."""
    return Pending(in_thread(step))


async def _waited(step: Wait) -> Sequence[bool]:
    return (await step.in_loop(),)
