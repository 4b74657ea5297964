"""Drivers of the flow of a request: one blocks, one awaits. A transport brings the hands that send and read.

Whatever ends a flow, its answers that are not returned are closed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, cast

from keyguard.clock import pause
from keyguard.errors import GuardError
from keyguard.flow import Flow, Wait
from keyguard.ops import Op
from keyguard.process.event_loops import in_trio
from keyguard.process.fork import check_process
from keyguard.upstream.answers import Answer, Asked, Result
from keyguard.upstream.attempt import attempt
from keyguard.upstream.keys import Key
from keyguard.upstream.parts import PoolParts
from keyguard.upstream.place import StorePlace
from keyguard.upstream.steps import Discard, Pause, ReadBody, Send

R = TypeVar("R")


class Hands(Protocol):
    """The hands of a transport: what it does for the flow of one request, in a thread."""

    def send(self, key: Key, number: int) -> Answer:
        """Send a copy of the request with this key as its only credential; `number` counts from 1.

        Return the head of the answer. A connection that fails is an `Answer` with a `Fault`.
        """
        ...

    def read(self, answer: Answer, most: int) -> bytes:
        """Return the first bytes of a body, decoded, so that its caller can still read all of it."""
        ...

    def discard(self, answer: Answer) -> None:
        """Close an answer."""
        ...


class AsyncHands(Protocol):
    """The same in an event loop."""

    async def send(self, key: Key, number: int) -> Answer:
        """Do as `Hands.send` does."""
        ...

    async def read(self, answer: Answer, most: int) -> bytes:
        """Do as `Hands.read` does."""
        ...

    async def discard(self, answer: Answer) -> None:
        """Do as `Hands.discard` does."""
        ...


class Driven(Protocol):
    """A pool, as its transports see it."""

    @property
    def parts(self) -> PoolParts:
        """The parts that its flows work with."""
        ...

    @property
    def place(self) -> StorePlace:
        """Its store."""
        ...


def drive(pool: Driven, asked: Asked, hands: Hands) -> Result:
    """Send a request in this thread, and return what its caller gets."""
    return follow(pool.place, attempt(pool.parts, asked), hands)


async def adrive(pool: Driven, asked: Asked, hands: AsyncHands) -> Result:
    """Do the same in an event loop, of asyncio or of trio."""
    return await afollow(pool.place, attempt(pool.parts, asked), hands)


def follow(store: StorePlace, flow: Flow[R], hands: Hands | None = None) -> R:
    """Drive a flow to its end in this thread, and return its result. Without hands it cannot send."""
    check_process()
    following: _Following[R] = _Following(flow)
    try:
        while following.goes_on:
            step, value = following.step, None
            try:
                if isinstance(step, Op):
                    value = store.execute(step)
                elif isinstance(step, Pause):
                    pause(step.seconds)
                elif isinstance(step, Wait):
                    value = step.block()
                elif hands is None:
                    raise _unknown(step)
                elif isinstance(step, Send):
                    value = following.opened(hands.send(step.key, step.number))
                elif isinstance(step, ReadBody):
                    value = hands.read(step.answer, step.most)
                elif isinstance(step, Discard):
                    with suppress(Exception):
                        hands.discard(following.closed(step.answer))
                else:
                    raise _unknown(step)
            except Exception as error:
                following.fail(error)
            else:
                following.answer(value)
        return following.result
    finally:
        for answer in following.end():
            assert hands is not None
            with suppress(Exception):
                hands.discard(answer)


async def afollow(store: StorePlace, flow: Flow[R], hands: AsyncHands | None = None) -> R:
    """Drive a flow to its end in an event loop, of asyncio or of trio, and return its result."""
    check_process()
    following: _Following[R] = _Following(flow)
    try:
        while following.goes_on:
            step, value = following.step, None
            try:
                if isinstance(step, Op):
                    value = await store.aexecute(step)
                elif isinstance(step, Pause):
                    await _sleep(step.seconds)
                elif isinstance(step, Wait):
                    value = await step.in_loop()
                elif hands is None:
                    raise _unknown(step)
                elif isinstance(step, Send):
                    value = following.opened(await hands.send(step.key, step.number))
                elif isinstance(step, ReadBody):
                    value = await hands.read(step.answer, step.most)
                elif isinstance(step, Discard):
                    with suppress(Exception):
                        await hands.discard(following.closed(step.answer))
                else:
                    raise _unknown(step)
            except Exception as error:
                following.fail(error)
            else:
                following.answer(value)
        return following.result
    finally:
        await _discard_all(following.end(), hands)


async def _discard_all(answers: list[Answer], hands: AsyncHands | None) -> None:
    """Close them all, though each await may be cancelled."""
    if answers and hands is not None:
        try:
            with suppress(Exception):
                await hands.discard(answers[0])
        finally:
            await _discard_all(answers[1:], hands)


class _Following(Generic[R]):
    """A flow that is driven: its present step, and the answers that are open."""

    def __init__(self, flow: Flow[R]) -> None:
        self._flow = flow
        self._open: list[Answer] = []
        self.goes_on = True
        self.step: Any = None
        self._result: R | None = None
        self._advance(None, None)

    @property
    def result(self) -> R:
        return cast(R, self._result)

    def answer(self, value: Any) -> None:
        self._advance(value, None)

    def fail(self, error: Exception) -> None:
        self._advance(None, error)

    def opened(self, answer: Answer) -> Answer:
        if answer.error is None:
            self._open.append(answer)
        return answer

    def closed(self, answer: Answer) -> Answer:
        self._open = [one for one in self._open if one is not answer]
        return answer

    def end(self) -> list[Answer]:
        """End a flow that has not come to its end, and return the answers that nobody will see."""
        self._flow.close()
        kept = self._result.answer if isinstance(self._result, Result) else None
        return [one for one in self._open if one is not kept]

    def _advance(self, value: Any, error: Exception | None) -> None:
        try:
            self.step = self._flow.send(value) if error is None else self._flow.throw(error)
        except StopIteration as stop:
            self.goes_on, self._result = False, stop.value


def _unknown(step: object) -> GuardError:
    return GuardError(f"the flow of a request to a provider cannot await {type(step).__name__}")


async def _sleep(seconds: float) -> None:
    if in_trio():
        import trio

        await trio.sleep(seconds)
        return
    import asyncio

    await asyncio.sleep(seconds)
