"""Operations of stores with a stopwatch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from keyguard.clock import monotonic
from keyguard.ops import Op

Execute: TypeAlias = Callable[[Sequence[Op[Any]]], list[Any]]
AExecute: TypeAlias = Callable[[Sequence[Op[Any]]], list[Any] | Awaitable[list[Any]]]
Took: TypeAlias = Callable[[float], None]


def timed(execute: Execute, took: Took) -> Execute:
    """Return the same, which tells how long it has taken."""

    def run(ops: Sequence[Op[Any]]) -> list[Any]:
        began = monotonic()
        try:
            return execute(ops)
        finally:
            took(monotonic() - began)

    return run


def timed_async(execute: AExecute, took: Took) -> AExecute:
    """Do the same for what may have to be awaited."""

    async def whole(results: Awaitable[list[Any]], began: float) -> list[Any]:
        try:
            return await results
        finally:
            took(monotonic() - began)

    def run(ops: Sequence[Op[Any]]) -> list[Any] | Awaitable[list[Any]]:
        began = monotonic()
        try:
            results = execute(ops)
        except BaseException:
            took(monotonic() - began)
            raise
        if not isinstance(results, list):
            return whole(results, began)
        took(monotonic() - began)
        return results

    return run
