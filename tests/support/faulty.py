"""What the fault tests have in common: a stack on a store that fails, asked as a client would ask."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from keyguard import APIKeys, Keyguard, RateLimit, StoreError
from keyguard.ops import Demand, Take
from keyguard.stores.circuit_breaker import StoreHealth
from keyguard.testing import play
from tests.support.harness import Ask, aask, asgi_app
from tests.support.servers import Proxy, wait_until

LIMIT = 10_000
PATIENCE = 0.15
"""Seconds that no request may wait longer for a store, whatever has happened to it."""
SOON = 1.0
"""Seconds in which a store that has come back decides again; see `soon`."""
LONG = 45.0
"""Seconds after which it is not slow, but does not come back at all."""
NOISE = 0.1
"""Seconds by which a machine may make it look longer; more if there is more to do than it has cores: see `noise`."""


def noise() -> float:
    """Seconds by which this machine may make it look longer now.

    Twice what its load says beyond its cores: whoever waits several times on the way waits for a core each time.
    """
    return NOISE * max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1) - 1)


def soon() -> float:
    """Seconds in which a store that has come back decides again on this machine.

    On one that has more to do than it has cores, opening connections and trying again are many turns, each of which is
    late; and what is later than a store's time-out is tried once more.
    """
    return SOON + 10 * (noise() - NOISE)


class _Metronome(threading.Thread):
    """Knows when this whole process stood still: then it is the machine that was busy, and not the store that was slow.

    A thread that waits for a store, a lock or a socket does not stop it.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stalls: deque[tuple[float, float]] = deque(maxlen=1000)
        self.latest = time.monotonic()

    def run(self) -> None:
        while True:
            time.sleep(0.005)
            before, self.latest = self.latest, time.monotonic()
            if self.latest - before > 0.02:
                self.stalls.append((before, self.latest))

    def between(self, began: float, ended: float) -> float:
        """Seconds of that time in which the process stood still."""
        stalls = [*self.stalls]
        if ended - self.latest > 0.02:
            stalls.append((self.latest, ended))
        return sum(max(0.0, min(end, ended) - max(start, began)) for start, end in stalls)


@cache
def _metronome() -> _Metronome:
    started = _Metronome()
    started.start()
    return started


def passed(began: float) -> float:
    """Seconds since `began`, but for those in which the process stood still."""
    now = time.monotonic()
    return now - began - _metronome().between(began, now)


@dataclass
class Seen:
    """One answer: what a client can tell."""

    status: int
    cause: str
    told: bool
    """Whether it was told what is left: so the store has decided."""
    seconds: float
    retry_after: str | None


def _seen(status: int, headers: dict[str, str], body: bytes, seconds: float) -> Seen:
    cause = json.loads(body)["cause"] if status >= 400 and body.startswith(b"{") else ""
    return Seen(status, cause, "ratelimit" in headers, seconds, headers.get("retry-after"))


@dataclass
class Service:
    """An app with a key and a limit, on `store`."""

    store: Any
    options: dict[str, Any] = field(default_factory=dict)
    limit: str = f"{LIMIT}/hour"
    news: list[StoreHealth] = field(default_factory=list)

    def __post_init__(self) -> None:
        _metronome()
        self.stack = Keyguard(
            APIKeys(), RateLimit(self.limit, by="key", **self.options), store=self.store, on_health=self.news.append
        )
        self.issued = wait_until(lambda: self.stack.keys.issue("acme"), "the store")
        self.key = self.issued.key.reveal()

    def ask(self, key: str | None = None) -> Seen:
        began = time.monotonic()
        answer = play(self.stack, headers={"Authorization": f"Bearer {key or self.key}"})
        headers = {name.lower(): value for name, value in answer.headers}
        return _seen(answer.status, headers, answer.body, passed(began))

    async def aask(self, key: str | None = None) -> Seen:
        ask = Ask(headers=(("authorization", f"Bearer {key or self.key}"),))
        began = time.monotonic()
        answer = await aask(self.stack.asgi(asgi_app), ask)
        return _seen(answer.status, dict(answer.headers), answer.body, passed(began))

    def warm(self) -> None:
        """Until the store has decided: a machine may be busy while servers start."""
        wait_until(lambda: self.ask().told and self.stack.health.ok, "the store to decide")
        self.news.clear()

    def used(self) -> int:
        """Units that the shared store says are taken."""
        guard = next(guard for guard in self.stack.guards if isinstance(guard, RateLimit))
        rule = guard.rules[0]
        take = Take([Demand("", f"{rule.prefix}{self.issued.record.id}", rule.limit, 0)])
        return rule.limit.quota - self.store.execute([take])[0].takings[0][2]

    def check(self, answers: Iterable[Seen]) -> list[Seen]:
        """Whatever happens to a store: nobody's key is blamed, nobody waits, and a refusal says when to come again."""
        answers, longest = list(answers), PATIENCE + 2 * noise()
        for seen in answers:
            assert seen.status in (200, 503), seen
            if seen.status == 503:
                assert seen.cause in ("fault", "overload"), seen
                assert seen.retry_after == "1", seen
            assert seen.seconds < longest, seen
        return answers

    def hammered(self, threads: int, each: int, bursts: int = 1) -> None:
        """Have so many threads ask at once, each so many times in a burst, and check what they are answered."""

        def hammer() -> int:
            asked = 0
            for burst in range(bursts):
                if burst:
                    time.sleep(0.3)  # the store is tried again
                asked += len(self.check([self.ask() for _ in range(each)]))
            return asked

        with ThreadPoolExecutor(threads) as pool:
            hammering = [pool.submit(hammer) for _ in range(threads)]
        assert sum(done.result() for done in hammering) == threads * each * bursts

    def told_of_outages(self, at_least: int) -> None:
        """Check that each outage was told of when it began and when it ended."""
        told = [news.ok for news in self.news]
        assert told == [False, True] * (len(told) // 2)
        assert len(told) >= 2 * at_least

    def recovers(self, ask: Callable[[], Seen] | None = None) -> float:
        """Seconds until requests are decided by the store again."""
        began = time.monotonic()
        while time.monotonic() < began + LONG:
            if self.check([(ask or self.ask)()])[0].told:
                return passed(began)
            time.sleep(0.01)
        raise AssertionError(f"not recovered in {LONG} s: {self.stack.health}")

    def recovers_in_time(self, fault: Callable[[], AbstractContextManager[None]]) -> int:
        """Within a second of the store's return. Returns how often it was tried.

        A busy machine may be late once, so the fault is made up to three times; what is late each time is too late.
        """
        for tries in range(1, 4):
            if self.recovers() < soon():
                return tries
            with fault():
                wait_until(lambda: not self.check([self.ask()])[0].told and not self.stack.health.ok, "the fault")
        raise AssertionError("not recovered within a second")


@contextmanager
def killed(server: Any, proxy: Proxy) -> Iterator[None]:
    """The server is killed; in the end it starts again, and recovers what it has written."""
    server.kill()
    try:
        yield
    finally:
        server.start()


def proxied(mode: str) -> Callable[[Any, Proxy], AbstractContextManager[None]]:
    """A fault of the network, as a proxy makes it."""

    @contextmanager
    def failing(server: Any, proxy: Proxy) -> Iterator[None]:
        proxy.mode, proxy.delay = mode, 0.3
        try:
            yield
        finally:
            proxy.mode = ""

    return failing


def queued() -> float:
    """Seconds for which this thread has been ready to run, while other threads and processes had the cores."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # not on every system
        return 0.0


async def flood(service: Service, tasks: int, each: int) -> tuple[list[Seen], float]:
    """So many tasks that ask one after the other; and the longest time that the event loop stood still.

    The time for which the machine let it stand does not count.
    """
    lag, done = 0.0, False

    async def watch() -> None:
        nonlocal lag
        while not done:
            began, before = time.monotonic(), queued()
            await asyncio.sleep(0.001)
            lag = max(lag, passed(began) - (queued() - before) - 0.001)

    async def one() -> list[Seen]:
        answers = []
        for _ in range(each):
            answers.append(await service.aask())
            await asyncio.sleep(0)  # as a server does, which reads the next request
        return answers

    watching = asyncio.create_task(watch())
    found = await asyncio.gather(*[one() for _ in range(tasks)])
    done = True
    await watching
    return [seen for answers in found for seen in answers], lag


async def keeps_the_loop_going(service: Service) -> None:
    """Hold the event loop up no longer than a moment, while many ask a store that fails, and when it is tried again.

    A busy machine may stop it now and then; what a store does happens each time that it is tried.
    """
    went_on = 0
    for _ in range(20):
        answers, lag = await flood(service, 16, 5)
        service.check(answers)
        # Less than it takes to find that a store does not answer, where the machine has a turn for each task.
        went_on += lag < 0.06 + noise() - NOISE
        if went_on == 2:
            return
        await asyncio.sleep(0.3)  # the store is tried again
    raise AssertionError(f"the event loop stood still for {lag} s")


async def survived_by_a_loop(service: Service, fault: AbstractContextManager[None]) -> None:
    """Ask in an event loop before a fault, while it lasts, and until the store decides again, within a second."""
    await flood(service, 4, 5)
    await asyncio.to_thread(service.warm)
    await asyncio.to_thread(fault.__enter__)
    try:
        await keeps_the_loop_going(service)
        assert not service.stack.health.ok
    finally:
        await asyncio.to_thread(fault.__exit__, None, None, None)
    began = time.monotonic()
    while not (seen := service.check([await service.aask()])[0]).told:
        assert passed(began) < soon(), (seen, service.stack.health)
        await asyncio.sleep(0.01)


def in_children(count: int, work: Callable[[], object], meanwhile: Callable[[], object]) -> None:
    """Do the same work in so many forked children, and other work here at the same time."""
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    meanwhile()
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


def admitted_by_processes(store: Any, take: Take, *, processes: int = 4, tasks: int, each: int = 10) -> range:
    """How many are admitted, of all that so many processes ask with so many tasks in flight.

    One number; but what a busy machine made fail is charged or not, so it might have been up to so many more.
    """
    children = []
    for _ in range(processes):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.write(writer, json.dumps(asyncio.run(_admitted(store, take, tasks, each))).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        children.append((child, reader))
    admitted = failed = 0
    for child, reader in children:
        with os.fdopen(reader) as told:
            text = told.read()
        assert os.waitpid(child, 0)[1] == 0
        found = json.loads(text)
        admitted, failed = admitted + found[0], failed + found[1]
    return range(admitted, admitted + failed + 1)


async def _admitted(store: Any, take: Take, tasks: int, each: int) -> tuple[int, int]:
    admitted = failed = 0

    async def some() -> None:
        nonlocal admitted, failed
        for _ in range(each):
            try:
                answer = store.aexecute([take])
                taken = (answer if isinstance(answer, list) else await answer)[0]
                admitted += not taken.refused
            except StoreError:
                failed += 1

    await asyncio.gather(*[some() for _ in range(tasks)])
    return admitted, failed
