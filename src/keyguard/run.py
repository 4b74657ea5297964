"""Running flows outside a request: for commands, scripts and an app's own administration.

A flow is written once; here it is driven by plain calls, or by an event loop.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from keyguard.errors import GuardError
from keyguard.flow import Flow
from keyguard.ops import BestEffort, Op, Store, traits_of
from keyguard.process.event_loops import in_thread, in_trio
from keyguard.process.fork import check_process

R = TypeVar("R")


class _Done:
    """A flow has ended, with this result."""

    def __init__(self, result: Any) -> None:
        self.result = result


def run_flow(store: Store, flow: Flow[R]) -> R:
    """Drive a flow that awaits operations, and nothing else."""
    check_process()
    op = _next(flow, None, None)
    while not isinstance(op, _Done):
        try:
            value, error = (store.execute(op.ops) if isinstance(op, BestEffort) else store.execute((op,))[0]), None
        except Exception as failure:
            value, error = None, failure
        op = _next(flow, value, error)
    result: R = op.result
    return result


async def arun_flow(store: Store, flow: Flow[R]) -> R:
    """Do the same without holding up the event loop, if the store can do that."""
    check_process()
    execute: Any = store.execute
    aexecute = traits_of(store).aexecute or execute
    if in_trio() and traits_of(store).needs_asyncio is not False:
        aexecute = partial(in_thread, execute)
    op = _next(flow, None, None)
    while not isinstance(op, _Done):
        try:
            results = aexecute(op.ops if isinstance(op, BestEffort) else (op,))
            results = results if isinstance(results, list) else await results
            value, error = (results if isinstance(op, BestEffort) else results[0]), None
        except Exception as failure:
            value, error = None, failure
        op = _next(flow, value, error)
    result: R = op.result
    return result


def _next(flow: Flow[Any], value: Any, error: Exception | None) -> Op[Any] | BestEffort | _Done:
    try:
        step = flow.send(value) if error is None else flow.throw(error)
    except StopIteration as stop:
        return _Done(stop.value)
    if not isinstance(step, (Op, BestEffort)):
        raise GuardError(f"a flow outside a request awaits operations only, not {type(step).__name__}")
    return step
