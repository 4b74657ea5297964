"""Several workers of an app in one process and on one clock: each has a pool of its own, and they share a store.

They call a `FakeProvider`, and nothing sleeps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2

from keyguard import Key, KeyPool
from keyguard.testing import FakeProvider
from keyguard.upstream.answers import Answer, Asked
from keyguard.upstream.attempt import attempt
from tests.support.virtual_upstream import Task, World

_PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
_BODY = json.dumps({"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}).encode()


class Workers(World):
    """Some workers, each with a pool of the same keys.

    `keys` are secrets and their groups. An answer takes `latency` seconds of the world's time.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        dialect: Any = "openai",
        *,
        workers: int = 4,
        latency: float = 0.3,
        max_wait: float = 5.0,
        limits: Mapping[str, Mapping[str, int]] | None = None,
        credits: Mapping[str, int] | None = None,
        unknown: Mapping[str, str] | None = None,
    ) -> None:
        """`limits` and `credits` are those of the provider; `unknown` are keys of the pools that it does not know."""
        given = [Key(secret, secret, group=group) for secret, group in {**keys, **(unknown or {})}.items()]
        super().__init__(given, latency=latency)
        self.provider = FakeProvider(dialect, keys=keys, limits=limits, credits=credits, clock=self.clock)
        self.path = _PATHS[dialect]
        self.pools = [
            KeyPool(
                given,
                profile=dialect,
                origin="http://127.0.0.1:9",
                store=self.store,
                clock=self.clock,
                name="shared",
                max_wait=max_wait,
                workers=workers,
            )
            for _ in range(workers)
        ]
        self.max_wait = max_wait
        self.tasks: list[Task] = []
        self.killed: list[Task] = []

    def busy(self, seconds: float, every: float, *, at_once: bool = False) -> None:
        """Have each worker begin a request so often, one after the other or all at once, and let that time pass."""
        start = self.now
        apart = 0 if at_once else every / len(self.pools)
        for number in range(round(seconds / every)):
            for place, pool in enumerate(self.pools):
                flow = attempt(pool.parts, Asked("m", max_wait=self.max_wait))
                self.tasks.append(self.follow(flow, start + number * every + place * apart))
        self.run(start + seconds)

    def begin_one(self) -> Task:
        """Begin one request of the first worker."""
        return self.follow(attempt(self.pools[0].parts, Asked("m", max_wait=self.max_wait)))

    def kill(self, task: Task) -> None:
        """End the process of a request, as `kill -9` does: nothing of it is told to anybody."""
        task.ended = self.now
        self.killed.append(task)  # or Python would end its flow properly

    def hits_of(self, key: str) -> list[float]:
        """Return when a key was sent."""
        return [when for when, name in self.hits if name == key]

    def answered(self) -> float:
        """Return which part of the requests that have ended was answered with a success."""
        ended = [task.result for task in self.tasks if task.ended is not None]
        return sum(result.outcome.cause == "ok" for result in ended) / len(ended)

    def _answer(self, key: Key) -> Answer:
        self.hits.append((round(self.now, 6), key.id))
        played = self.provider.ask(self.path, _BODY, key=key.id)
        return Answer(played.status, httpx2.Headers(played.headers), played)

    def _body(self, answer: Answer) -> bytes:
        body: bytes = answer.native.body
        return body


def most_in(times: list[float], seconds: float) -> int:
    """Return the most of some times that lie within so many seconds of each other."""
    return max((sum(start <= one < start + seconds for one in times) for start in times), default=0)
