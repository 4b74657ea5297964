"""Flows that a handler drives in place, inside its request: by a plain call, which blocks, or by `await`.

A handler may be called long after its request began, and often. So the time that a request has for its store is not
counted here: each operation takes at most the store's own `timeout`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from keyguard.drivers.interpreter import Engine
from keyguard.errors import GuardError
from keyguard.flow import Blocking, Flow, Wait
from keyguard.ops import Degraded, Op, TakeHere
from keyguard.process.event_loops import in_loop

R = TypeVar("R")


def would_block_a_loop(engine: Engine) -> bool:
    """Tell whether a plain call would hold up an event loop, since the store has to be awaited there."""
    return engine.aexecute is not None and in_loop()


def drive_in_place(engine: Engine, flow: Flow[R]) -> R:
    """Drive a flow to its end in this thread, also if an event loop serves the request in another one."""
    value: Any = None
    error: Exception | None = None
    while True:
        try:
            step = flow.send(value) if error is None else flow.throw(error)
        except StopIteration as stop:
            result: R = stop.value
            return result
        value = error = None
        try:
            if isinstance(step, Op):
                value = engine.execute((step,))[0]
            elif isinstance(step, TakeHere):
                value = engine.here.take_here(step.demands)
            elif isinstance(step, Degraded):
                engine.here.count(step.what)
            elif isinstance(step, Wait):
                value = Wait.block(step)
            elif isinstance(step, Blocking):
                value = Blocking.run(step)
            else:
                raise GuardError(
                    f"a plain function of the app cannot await {type(step).__name__}: make it an `async def`, or the "
                    "function that is a setting of the guard a plain one"
                )
        except Exception as failure:
            error = failure


async def adrive_in_place(engine: Engine, flow: Flow[R]) -> R:
    """Drive a flow to its end, and await what has to be awaited."""
    from keyguard.drivers.asgi.driving import WAITS, awaited  # which an app under WSGI does not load

    stop = engine.advance(flow)
    while stop.__class__ in WAITS:
        value, error = await awaited(stop)
        stop = engine.advance(flow, value, error)
    result: R = stop
    return result
