"""Work that was put off until a request is over: run in place as far as it can be, and driven from there on."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from keyguard.errors import StoreError
from keyguard.flow import Flow, Step
from keyguard.logs import logger, plain
from keyguard.request import Deferred

log = logger("keyguard")


def settle(deferred: list[Deferred]) -> Flow[None] | None:
    """Run deferred work, last first, each once, whatever the others do.

    Return the rest of it, from the first on that must be driven; `None` if all is done.
    """
    flow = _until_a_flow(deferred)
    return None if flow is None else _settle_on(flow, deferred)


async def _settle_on(flow: Awaitable[Any] | None, deferred: list[Deferred]) -> None:
    while flow is not None:
        try:
            await flow
        except Exception as failure:
            _tell_of_failure(failure)
        flow = _until_a_flow(deferred)


def _until_a_flow(deferred: list[Deferred]) -> Awaitable[Any] | None:
    """Run work as long as it is done when it returns. Return the first that is not."""
    while deferred:
        work = deferred.pop()
        try:
            flow: Awaitable[Any] | None = work if isinstance(work, Step) else work()
        except Exception as failure:
            _tell_of_failure(failure)
        else:
            if flow is not None:
                return flow
    return None


def _tell_of_failure(failure: Exception) -> None:
    if not isinstance(failure, StoreError):
        log.error("deferred work failed", exc_info=failure)
    elif not failure.logged:
        log.error("deferred work failed: %s", plain(failure))
