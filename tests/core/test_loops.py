"""The loops of tests: a request finds one as `asyncio.run` would have made it, whatever the last one left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from tests.support.loops import run_alone


async def here() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_a_loop_in_which_nothing_was_left_serves_again() -> None:
    assert run_alone(here()) is run_alone(here())


ended: list[str] = []


async def sleeper() -> None:
    try:
        await asyncio.sleep(600)
    finally:
        ended.append("task")


async def numbers() -> AsyncGenerator[int, None]:
    try:
        yield 1
        yield 2
    finally:
        ended.append("generator")


kept: list[Any] = []


async def a_task() -> None:
    kept.append(asyncio.create_task(sleeper()))
    await asyncio.sleep(0)


async def a_generator() -> None:
    kept.append(numbers())
    await anext(kept[-1])


async def a_thread() -> None:
    await asyncio.to_thread(lambda: None)


async def a_timer() -> None:
    asyncio.get_running_loop().call_later(600, lambda: None)


async def a_connection() -> None:
    pair = socket.socketpair()
    kept.extend(pair)
    asyncio.get_running_loop().add_reader(pair[0], lambda: None)


async def a_failure() -> None:
    raise LookupError("work")


@pytest.mark.parametrize("leave", [a_task, a_generator, a_thread, a_timer, a_connection])
def test_what_a_request_left_ends_with_its_loop(leave: Callable[[], Awaitable[None]]) -> None:
    async def work() -> asyncio.AbstractEventLoop:
        await leave()
        return asyncio.get_running_loop()

    ended.clear()
    try:
        loop = run_alone(work())
        assert loop.is_closed()
        assert run_alone(here()) is not loop
        assert ended == {a_task: ["task"], a_generator: ["generator"]}.get(leave, [])
    finally:
        for each in kept:
            if isinstance(each, socket.socket):
                each.close()
        kept.clear()


def test_a_failure_reaches_the_caller_and_ends_its_loop() -> None:
    before = run_alone(here())
    with pytest.raises(LookupError, match="work"):
        run_alone(a_failure())
    assert before.is_closed()


def test_within_a_loop_it_refuses_as_asyncio_does() -> None:
    async def nested() -> None:
        work = here()
        try:
            run_alone(work)
        finally:
            work.close()

    with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
        run_alone(nested())
