"""Running flows outside a request: for commands, scripts and an app's own administration.

A flow is written once; here it is driven by plain calls, or by an event loop.
"""

from __future__ import annotations

from typing import Any, TypeVar

from keyguard.errors import GuardError
from keyguard.flow import Flow
from keyguard.ops import Op, Store

R = TypeVar("R")


def run_flow(store: Store, flow: Flow[R]) -> R:
    """Drive a flow that awaits operations, and nothing else."""
    value: Any = None
    error: Exception | None = None
    while True:
        try:
            op = flow.send(value) if error is None else flow.throw(error)
        except StopIteration as stop:
            result: R = stop.value
            return result
        error = None
        try:
            value = store.execute((_checked(op),))[0]
        except Exception as failure:
            error = failure


async def arun_flow(store: Store, flow: Flow[R]) -> R:
    """The same without holding up the event loop, where the store can do that."""
    aexecute = getattr(store, "aexecute", None)
    if aexecute is None:
        return run_flow(store, flow)
    value: Any = None
    error: Exception | None = None
    while True:
        try:
            op = flow.send(value) if error is None else flow.throw(error)
        except StopIteration as stop:
            result: R = stop.value
            return result
        error = None
        try:
            results = aexecute((_checked(op),))
            value = (results if isinstance(results, list) else await results)[0]
        except Exception as failure:
            error = failure


def _checked(step: Any) -> Op[Any]:
    if not isinstance(step, Op):
        raise GuardError(f"a flow outside a request awaits operations only, not {type(step).__name__}")
    return step
