"""Flows of requests to a provider, on a virtual clock: many at once, in one thread, and nothing sleeps.

A script says what the provider answers with. All that flows ask for is noted, with the time of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from random import Random
from typing import Any

from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.flow import Flow, Wait
from keyguard.learnt import Seen, dimension_of
from keyguard.manual_clock import ManualClock
from keyguard.ops import Op
from keyguard.ops.upstream import Learn
from keyguard.stores.memory import MemoryStore
from keyguard.upstream.answers import Answer, Asked, Fault, Fields, Result
from keyguard.upstream.attempt import attempt
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.events import Telling, UpstreamEvent
from keyguard.upstream.keys import Key
from keyguard.upstream.outbox import Outbox
from keyguard.upstream.parts import Group, PoolParts
from keyguard.upstream.place import StorePlace
from keyguard.upstream.steps import Discard, Pause, ReadBody, Send

Said = tuple[UpstreamCause, Scope, float | None]
"""What an answer means in these tests: cause, scope, seconds to wait."""

OK: Said = (UpstreamCause.OK, Scope.NONE, None)
DRY: Said = (UpstreamCause.EXHAUSTED, Scope.MODEL, 20)
DEAD: Said = (UpstreamCause.INVALID, Scope.KEY, None)
POOR: Said = (UpstreamCause.BILLING, Scope.GROUP, None)
BUSY: Said = (UpstreamCause.OVERLOAD, Scope.ENDPOINT, None)
NOT_THIS: Said = (UpstreamCause.UNSUPPORTED, Scope.PAIR, None)
TOO_LARGE: Said = (UpstreamCause.TOO_LARGE, Scope.REQUEST, None)
BROKEN: Said = (UpstreamCause.SYSTEM, Scope.ENDPOINT, None)
BAD: Said = (UpstreamCause.REQUEST, Scope.REQUEST, None)
UNREACHABLE = "no connection"
LOST = "lost"

_STATUS = {UpstreamCause.OK: 200, UpstreamCause.INVALID: 401, UpstreamCause.BILLING: 402, UpstreamCause.REQUEST: 400}
_STATUS |= {UpstreamCause.OVERLOAD: 529, UpstreamCause.SYSTEM: 500, UpstreamCause.UNSUPPORTED: 404}


class Head(dict[str, str]):
    """Header fields, and what the answer means."""

    def __init__(self, said: Said, fields: Mapping[str, str], known: bool, seen: tuple[Seen, ...]) -> None:
        super().__init__(fields)
        self.said = said
        self.known = known
        self.seen = seen


class ByWord:
    """Judges answers by what the script said that they mean."""

    def answer(self, status: int, headers: Fields, body: bytes, now: int, model: str) -> Verdict:
        assert isinstance(headers, Head)
        cause, scope, wait = headers.said
        span = None if wait is None else round(wait * SECOND)
        return Verdict(cause, scope, span, headers.seen, known=headers.known)

    def event(self, name: str, data: bytes, now: int) -> Verdict:
        return Verdict(UpstreamCause.OVERLOAD, Scope.ENDPOINT)

    def fingerprint(self, status: int, body: bytes) -> str:
        return f"{status} strange"


class Breakable(MemoryStore):
    """A store that can be out of order."""

    down = False

    def execute(self, ops: Any) -> list[Any]:
        if self.down:
            raise StoreError("it is down")
        return super().execute(ops)


class Task:
    """One flow, how far it is, and what came of it."""

    def __init__(self, flow: Flow[Any]) -> None:
        self.flow = flow
        self.result: Any = None
        self.failure: Exception | None = None
        self.ended: float | None = None
        """Seconds from the beginning of the world to its end; `None` if it goes on."""
        self.steps = 0


class World:
    """A pool, a provider and a clock.

    `script(key, number of hits of it so far, 1 for the first)` says what an answer means. An answer takes a second of
    the world's time, or so many as `latency` says.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        script: Callable[[str, int], Said | str] = lambda key, number: OK,
        *,
        limits: Mapping[str, Mapping[str, int]] | None = None,
        latency: float = 0.0,
        models: Iterable[str] = (),
        **settings: Any,
    ) -> None:
        self.clock = ManualClock()
        self.began = self.clock()
        self.store = Breakable(clock=self.clock)
        self.events: list[UpstreamEvent] = []
        self.hits: list[tuple[float, str]] = []
        """When which key was sent."""
        self.ops: list[Op[Any]] = []
        self.closed: list[Any] = []
        self.fields: dict[str, str] = {}
        self.known = True
        self.seen: tuple[Seen, ...] = ()
        """The limits that all answers tell of."""
        self.latency = latency
        self.script = script
        self.outbox = Outbox(self.clock, lambda: None)
        groups: dict[str, list[Key]] = {}
        for key in keys:
            groups.setdefault(key.group, []).append(key)
        known = {group: tuple((dimension_of(w), n) for w, n in of.items()) for group, of in (limits or {}).items()}
        self.pool = PoolParts(
            "test",
            [
                Group(name, min(k.rank for k in of), sum(k.weight for k in of), tuple(of), known.get(name, ()))
                for name, of in groups.items()
            ],
            ByWord(),
            models=tuple(models),
            clock=self.clock,
            telling=Telling("test", self.events.append),
            outbox=self.outbox,
            random=Random(1),
            **settings,
        )
        self.place = StorePlace(self.store, clock=self.clock)
        self.answer_of = self._answer
        """Makes the answer to a request with a key."""
        self._queue: list[tuple[int, int, Task, Any]] = []
        self._kept: list[Any] = []
        self._stop: Callable[[], bool] = lambda: False
        self._numbers = count()

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return (self.clock() - self.began) / SECOND

    def begin(self, asked: Asked | None = None, at: float | None = None) -> Task:
        """Begin a request, now or at a second of the world."""
        return self.follow(attempt(self.pool, asked or Asked()), at)

    def follow(self, flow: Flow[Any], at: float | None = None) -> Task:
        """Begin a flow."""
        task = Task(flow)
        self._later(task, None, None if at is None else self.began + round(at * SECOND))
        return task

    def run(self, until: float | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until nothing goes on, until a second of the world, or until it is to stop."""
        self._stop = stop
        while not stop() and self._queue and (until is None or self._queue[0][0] <= self.began + round(until * SECOND)):
            when, _, task, value = heapq.heappop(self._queue)
            if when > self.clock():
                self.clock.advance((when - self.clock()) / SECOND)
            if task.ended is None:
                self._advance(task, value)
        if until is not None and until > self.now:
            self.clock.advance(until - self.now)

    def ask(self, asked: Asked | None = None) -> Result:
        """Send one request, and return what its caller gets."""
        task = self.begin(asked)
        self.run()
        result: Result = task.result
        return result

    def cancel(self, task: Task) -> None:
        """End a flow where it is."""
        task.flow.close()
        task.ended = self.now

    def forget(self, task: Task) -> None:
        """Let a flow never go on, as if its process had been killed."""
        self._kept.append(task.flow)
        task.ended = self.now

    def flush(self) -> None:
        """Send what is to be learnt from, as the thread does."""
        while taken := self.outbox.take():
            self.place.execute(Learn(self.outbox.reports(taken)))

    def _later(self, task: Task, value: Any, when: int | None = None) -> None:
        heapq.heappush(self._queue, (self.clock() if when is None else when, next(self._numbers), task, value))

    def _advance(self, task: Task, value: Any) -> None:
        while True:
            if self._stop():
                self._later(task, value)
                return
            try:
                step = task.flow.throw(value) if isinstance(value, Exception) else task.flow.send(value)
            except StopIteration as stop:
                task.result, task.ended = stop.value, self.now
                return
            except Exception as error:
                task.failure, task.ended = error, self.now
                return
            task.steps += 1
            if isinstance(step, Op):
                self.ops.append(step)
                try:
                    value = self.place.execute(step)
                except StoreError as error:
                    value = error
            elif isinstance(step, Send):
                try:
                    answer = self.answer_of(step.key)
                except Exception as error:
                    value = error
                    continue
                self._later(task, answer, self.clock() + round(self.latency * SECOND))
                return
            elif isinstance(step, ReadBody):
                value = self._body(step.answer)
            elif isinstance(step, Discard):
                self.closed.append(step.answer.native)
                value = None
            elif isinstance(step, Pause):
                self._later(task, None, self.clock() + round(step.seconds * SECOND))
                return
            else:
                assert isinstance(step, Wait)
                self._wait(task, step)
                return

    def _wait(self, task: Task, step: Wait) -> None:
        done: list[bool] = []

        def moved() -> None:
            if not done:
                done.append(True)
                self._later(task, True)

        if not step.signal.call_when_moved(step.seen, moved):
            moved()
            return
        timer = Task(self._timer(task, step, moved, done))
        self._later(timer, None, self.clock() + round(step.timeout * SECOND))

    async def _timer(self, task: Task, step: Wait, moved: Callable[[], None], done: list[bool]) -> None:
        if not done and task.ended is None:
            done.append(True)
            step.signal.forget(moved)
            self._later(task, False)

    def _body(self, answer: Answer) -> bytes:
        return b"{}"

    def _answer(self, key: Key) -> Answer:
        self.hits.append((round(self.now, 6), key.id))
        said = self.script(key.id, sum(one == key.id for _, one in self.hits))
        if isinstance(said, str):
            return Answer(0, {}, error=Fault(OSError(said), sent=said == LOST))
        native = f"answer {len(self.hits)} by {key.id}"
        status = _STATUS.get(said[0], 429)
        return Answer(status, Head(said, self.fields, self.known, self.seen), native)


def keys(*names: str, **settings: Any) -> list[Key]:
    """Return keys, each a group of its own."""
    return [Key(name, f"sk-secret-of-{name}", **settings) for name in names]
