"""Who sends the requests: the pool's own flow, and two models of what people use today."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from keyguard import ops
from keyguard.clock import SECOND
from keyguard.flow import Flow, Wait
from keyguard.ops import Learn, Op
from keyguard.upstream.answers import Answer, Asked, Fields
from keyguard.upstream.attempt import attempt
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.events import Telling
from keyguard.upstream.keys import Key
from keyguard.upstream.outbox import Outbox
from keyguard.upstream.parts import Group, PoolParts
from keyguard.upstream.steps import Discard, Pause, ReadBody, Send
from tests.upstream.simulation.provider import Reply
from tests.upstream.simulation.world import PATIENCE, SPAN, Request, World

_TRIP = 1_000  # microseconds to the store and back
_BEGAN = 1_800_000_000 * SECOND


class Head(dict[str, str]):
    """The head of an answer: none of its fields matter, but what they would tell."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply


class _Judge:
    """Judges answers by what the simulated provider says."""

    def answer(self, status: int, headers: Fields, body: bytes, now: int, model: str) -> Verdict:
        assert isinstance(headers, Head)
        reply = headers.reply
        if reply.admitted:
            return Verdict(UpstreamCause.OK, Scope.NONE, seen=reply.seen)
        return Verdict(UpstreamCause.EXHAUSTED, Scope.MODEL, reply.wait, reply.seen)

    def event(self, name: str, data: bytes, now: int) -> Verdict:
        raise NotImplementedError

    def fingerprint(self, status: int, body: bytes) -> str:
        return f"{status}"


class Store:
    """A store that workers share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.table: dict[str, tuple[bytes, int | None]] = {}

    def run(self, op: Op[Any]) -> Any:
        self.world.operations += 1
        return ops.run(op, self.table, _BEGAN + self.world.now)


class PoolWorker:
    """A process with the pool: its flow, its line and its outbox, as they are."""

    def __init__(self, world: World, store: Store) -> None:
        self.world, self.store = world, store
        self.killed = False
        """Whether it does nothing any more, whatever it was at."""
        self._groups = {group.name: group for group in world.groups}
        self._outbox = Outbox(self._clock, lambda: None)
        groups = [
            Group(group.name, 0, group.rpm, (Key(group.name, f"secret-of-{group.name}"),), ()) for group in world.groups
        ]
        self._pool = PoolParts(
            "simulated",
            groups,
            _Judge(),
            models=(),
            clock=self._clock,
            telling=Telling("simulated", lambda event: None),
            outbox=self._outbox,
            random=Random(1),
        )
        world.later(SECOND, self._flush)

    def _clock(self) -> int:
        return _BEGAN + self.world.now

    def _flush(self) -> None:
        """Send what is to be learnt from, as the thread does each second."""
        if self.killed:
            return
        while taken := self._outbox.take():
            self.store.run(Learn(self._outbox.reports(taken)))
        if self.world.now < SPAN:
            self.world.later(SECOND, self._flush)

    def take(self, request: Request) -> None:
        asked = Asked("m", request.affinity, request.cost, PATIENCE / SECOND, True)
        if not self.killed:
            self._go_on(request, attempt(self._pool, asked), None)

    def _go_on(self, request: Request, flow: Flow[Any], value: Any) -> None:
        def later(span: int, answer: Callable[[], Any]) -> None:
            self.world.later(span, lambda: self._go_on(request, flow, answer()))

        if self.killed:
            return
        try:
            step = flow.send(value)
            while isinstance(step, (ReadBody, Discard)):
                step = flow.send(b"" if isinstance(step, ReadBody) else None)
        except StopIteration:
            return
        if isinstance(step, Op):
            later(_TRIP, lambda: self.store.run(step))
        elif isinstance(step, Pause):
            later(round(step.seconds * SECOND), lambda: None)
        elif isinstance(step, Wait):
            self._wait(step, lambda moved: self._go_on(request, flow, moved))
        else:
            assert isinstance(step, Send)

            def answered(reply: Reply) -> None:
                status = 200 if reply.admitted else 429
                self._go_on(request, flow, Answer(status, Head(reply), None))

            self.world.send(request, self._groups[step.key.id], answered)

    def _wait(self, step: Wait, go_on: Callable[[bool], None]) -> None:
        done: list[bool] = []

        def end(moved: bool) -> None:
            if not done:
                done.append(moved)
                step.signal.forget(wake)
                go_on(moved)

        def wake() -> None:
            self.world.later(0, lambda: end(True))

        if not step.signal.call_when_moved(step.seen, wake):
            wake()
        self.world.later(round(step.timeout * SECOND), lambda: end(False))


class RetryModel:
    """A model of plain retries: a key for each request by chance, and a pause that doubles after each refusal."""

    def __init__(self, world: World) -> None:
        self.world = world

    def take(self, request: Request) -> None:
        world = self.world
        group = world.chance.choices(world.groups, [group.rpm for group in world.groups])[0]

        def answered(reply: Reply) -> None:
            pause = reply.wait or round(SECOND / 2 * 2**request.tries * (0.75 + world.chance.random() / 4))
            if not reply.admitted and world.now + pause <= request.deadline:
                world.later(pause, lambda: self.take(request))

        world.send(request, group, answered)


class CooldownModel:
    """A model of a router that leaves a key alone for a while once it was refused, and goes on with the next."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._cool: dict[str, int] = {}

    def take(self, request: Request) -> None:
        world = self.world
        warm = [group for group in world.groups if self._cool.get(group.name, 0) <= world.now]
        if not warm:
            pause = min(self._cool.values()) - world.now
            if world.now + pause <= request.deadline:
                world.later(pause, lambda: self.take(request))
            return
        group = world.chance.choices(warm, [group.rpm for group in warm])[0]

        def answered(reply: Reply) -> None:
            if not reply.admitted:
                self._cool[group.name] = world.now + (reply.wait or 5 * SECOND)
                self.take(request)

        world.send(request, group, answered)


Worker = PoolWorker | RetryModel | CooldownModel


def run(world: World, requests: Sequence[Request], workers: Sequence[Worker]) -> None:
    """Have the requests come to workers by chance."""
    world.arrive(requests, lambda request: workers[world.chance.randrange(len(workers))].take(request))
    world.run()
