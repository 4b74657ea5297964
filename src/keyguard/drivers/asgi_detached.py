"""Work beside a request under ASGI: requests of nobody's, functions in threads, waiting for a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from keyguard.drivers.asgi_exchange import ASGIApp, Exchange, Message, Receive, Send, hold
from keyguard.drivers.asgi_request import ASGIRequest
from keyguard.drivers.engine import Engine, Pending, inherit, without_findings
from keyguard.drivers.threads import in_thread
from keyguard.flow import Blocking, Detach, Flow, Wait
from keyguard.logs import logger
from keyguard.request import Request
from keyguard.response import Response

log = logger("keyguard")

_detached: set[asyncio.Task[Any]] = set()
_MOST = 64  # at a time
_PATIENCE = 5.0  # seconds


def detach(app: ASGIApp, engine: Engine, step: Detach) -> bool:
    """Start a request of nobody's, as a task of its own. Whether there was room for it."""
    if len(_detached) >= _MOST:
        # An event loop that was closed with work in it leaves tasks that never end.
        _detached.difference_update([task for task in list(_detached) if task.get_loop().is_closed()])
        if len(_detached) >= _MOST:
            return False
    request = ASGIRequest(without_findings(step.request.carrier), engine)
    inherit(request, step.request)
    task = hold(_run(_Detached(app, engine, request, _Silence(), _swallow, step.guard)))
    _detached.add(task)
    task.add_done_callback(_detached.discard)
    return True


class _Detached(Exchange):
    """A request of nobody's: one guard, and what is inside of it."""

    __slots__ = ("guard",)

    def __init__(
        self,
        app: ASGIApp,
        engine: Engine,
        request: Request,
        receive: Receive,
        send: Send,
        guard: Callable[[Request], Flow[Response]],
    ) -> None:
        super().__init__(app, engine, request, receive, send)
        self.guard = guard

    def _start(self) -> Any:
        return self.guard(self.request)


class _Silence:
    """The `receive` of a request without a body, whose client stays."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked = False

    async def __call__(self) -> Message:
        if self.asked:
            await asyncio.Event().wait()
        self.asked = True
        return {"type": "http.request", "body": b"", "more_body": False}


async def _swallow(message: Message) -> None:
    """The `send` of a request whose client is nobody."""


async def _run(exchange: _Detached) -> None:
    try:
        await exchange.run()
    except Exception:
        log.warning("a request in the background failed", exc_info=True)


async def end_detached() -> None:
    """Let requests in the background come to their end, for a moment; then stop them."""
    loop = asyncio.get_running_loop()
    tasks = [task for task in _detached if task.get_loop() is loop]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=_PATIENCE)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def wait(step: Wait) -> Pending:
    """Wait for a signal, in an event loop."""
    return Pending(_waited(step))


def call(step: Blocking[Any]) -> Pending:
    """Call a function that may block, in a thread."""
    return Pending(in_thread(step))


async def _waited(step: Wait) -> Sequence[bool]:
    return (await step.in_loop(),)
