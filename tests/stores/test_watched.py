"""The circuit breaker: when it opens, who probes, when it closes, and what it tells."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard, RateLimit
from keyguard.errors import StoreError
from keyguard.ops import Demand, Op, Read, Settle, Take
from keyguard.rates import smooth, window
from keyguard.stores import circuit as module
from keyguard.stores.circuit_breaker import CircuitBreaker, StoreHealth
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from keyguard.units import as_datetime
from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app


class Flaky:
    """A store that fails on the kinds of operation that it is told to."""

    timeout = 0.1

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.failing: tuple[type, ...] = ()
        self.partial = False
        self.calls = 0

    def execute(self, ops: Any) -> list[Any]:
        self.calls += 1
        if isinstance(ops[0], self.failing):
            error = StoreError("as told")
            error.partial = self.partial
            raise error
        return self.memory.execute(ops)

    async def aexecute(self, ops: Any) -> list[Any]:
        await asyncio.sleep(0)
        return self.execute(ops)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        return []


TAKE = Take([Demand("d", "rl:a:win60000000|x", window(100, 60_000_000, "100/minute"))])
READ = Read("key|x")


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


@pytest.fixture(params=["threads", "loop"])
def ask(request: pytest.FixtureRequest) -> Any:
    def threads(watched: CircuitBreaker, op: Op[Any]) -> bool:
        try:
            watched.execute([op])
        except StoreError:
            return False
        return True

    def loop(watched: CircuitBreaker, op: Op[Any]) -> bool:
        async def one() -> None:
            found = watched.aexecute([op])
            if not isinstance(found, list):
                await found

        try:
            asyncio.run(one())
        except StoreError:
            return False
        return True

    return threads if request.param == "threads" else loop


def test_it_opens_at_the_first_failure_probes_now_and_then_and_closes(time: list[float], ask: Any) -> None:
    store, news = Flaky(), []
    watched = CircuitBreaker(store, workers=1, clock=ManualClock(), notify=news.append)
    assert ask(watched, TAKE)
    store.failing = (Take, Read)
    assert [ask(watched, TAKE) for _ in range(10)] == [False] * 10
    assert store.calls == 2, "only the first of them waited for the store"
    time[0] += module.PROBE
    assert not ask(watched, TAKE)
    assert not ask(watched, TAKE)
    assert store.calls == 3, "one probe"
    store.failing = ()
    assert not ask(watched, TAKE), "it is too early"
    time[0] += module.PROBE
    assert ask(watched, TAKE)
    assert ask(watched, READ)
    assert [health.ok for health in news] == [False, True]
    assert watched.health == StoreHealth(True, None, "as told", 2, 1)


def test_a_store_that_only_reads_is_still_out_of_order(time: list[float], ask: Any) -> None:
    store, news = Flaky(), []
    watched = CircuitBreaker(store, workers=1, clock=ManualClock(), notify=news.append)
    store.failing = (Take,)
    for _ in range(5):
        assert not ask(watched, TAKE)
        time[0] += module.PROBE
        assert ask(watched, READ)  # the probe
    assert [health.ok for health in news] == [False]


def test_what_seldom_happens_does_not_keep_it_open(time: list[float], ask: Any) -> None:
    store = Flaky()
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())
    taken = watched.execute([TAKE])[0]
    store.failing = (Settle,)
    assert not ask(watched, Settle(taken))
    time[0] += module.PROBE
    assert ask(watched, TAKE)
    assert watched.health.ok


def test_what_concerns_some_keys_only_does_not_open_it(time: list[float], ask: Any) -> None:
    store = Flaky()
    store.failing, store.partial = (Take,), True
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())
    assert not ask(watched, TAKE)
    assert ask(watched, READ)
    assert not ask(watched, TAKE)
    assert store.calls == 3


def test_what_concerns_some_keys_only_is_told_about(
    time: list[float], ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A node of a cluster was down for hours, a third of the callers were refused, and all was said to be well."""
    clock = ManualClock()
    store, news = Flaky(), list[StoreHealth]()
    watched = CircuitBreaker(store, workers=1, clock=clock, notify=news.append)
    store.failing, store.partial = (Take,), True
    began = as_datetime(clock())
    for _ in range(10):
        assert not ask(watched, TAKE)
        assert ask(watched, READ)
        clock.advance(1)
        time[0] += 1
    assert [(health.ok, health.partial, health.since) for health in news] == [(False, True, began)]
    assert (watched.health.outages, watched.health.failures) == (1, 10)
    store.failing = ()
    time[0] += module.QUIET
    assert watched.health.ok
    assert ask(watched, READ)
    assert ask(watched, READ)
    assert [health.ok for health in news] == [False, True]
    assert caplog.records[0].getMessage().startswith("a part of the store is out of order")
    assert len(caplog.records) == 2


def test_a_store_that_comes_and_goes_does_not_give_everybody_a_new_share_each_time(time: list[float]) -> None:
    store = Flaky()
    stack = Keyguard(RateLimit("10/day"), store=store)  # type: ignore[arg-type]
    statuses = []
    for _ in range(5):
        store.failing = (Take,)
        statuses += [play(stack).status for _ in range(10)]
        store.failing = ()
        time[0] += module.PROBE
        assert play(stack).status == 200
    assert statuses.count(200) == 10
    assert {*statuses} == {200, 503}


def test_a_lease_is_spent_while_the_shared_store_is_down_and_is_no_proof_that_it_is_back(
    time: list[float], ask: Any
) -> None:
    """Each was taken for the store's return: it came and went four times a second, and local counts began anew."""
    store, news = Flaky(), list[StoreHealth]()
    watched = CircuitBreaker(Leased(store, workers=1), workers=1, clock=ManualClock(), notify=news.append)
    other = Take([Demand("d", "rl:a:win60000000|y", window(100, 60_000_000, "100/minute"))])
    while not watched.store.here([TAKE]):  # type: ignore[attr-defined]
        assert ask(watched, TAKE)
    store.failing = (Take,)
    assert not ask(watched, other)
    calls = store.calls
    while (taken := watched.store.here([TAKE])) is not None:  # type: ignore[attr-defined]
        watched.execute([Settle(taken[0])])
        time[0] += module.PROBE
        assert ask(watched, TAKE)
    assert store.calls == calls
    assert not ask(watched, TAKE)
    assert [health.ok for health in news] == [False]
    store.failing = ()
    time[0] += module.PROBE
    assert ask(watched, TAKE)
    assert [health.ok for health in news] == [False, True]


def test_a_store_that_fails_as_a_whole_after_a_part_of_it_is_one_that_fails(time: list[float], ask: Any) -> None:
    store, news = Flaky(), list[StoreHealth]()
    watched = CircuitBreaker(store, workers=1, clock=ManualClock(), notify=news.append)
    store.failing, store.partial = (Take,), True
    assert not ask(watched, TAKE)
    store.partial = False
    assert not ask(watched, TAKE)
    store.failing = ()
    time[0] += module.PROBE
    assert ask(watched, TAKE)
    assert ask(watched, TAKE)
    assert [(health.ok, health.partial) for health in news] == [(False, True), (False, False), (True, False)]


def due_for_a_probe(time: list[float]) -> CircuitBreaker:
    """A store that failed, is in order again, and has not been asked since."""
    store = Flaky()
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())
    store.failing = (Take,)
    with pytest.raises(StoreError):
        watched.execute([TAKE])
    store.failing = ()
    time[0] += module.PROBE
    return watched


def test_a_probe_that_is_cancelled_lets_the_next_one_go(time: list[float]) -> None:
    watched = due_for_a_probe(time)

    async def story() -> None:
        probe = asyncio.ensure_future(watched.aexecute([TAKE]))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        await watched.aexecute([TAKE])  # type: ignore[misc]

    asyncio.run(story())
    assert watched.health.ok


def test_a_probe_that_nobody_carries_out_lets_the_next_one_go(time: list[float]) -> None:
    """Its event loop ended before the first turn of its task."""
    watched = due_for_a_probe(time)
    probe: Any = watched.aexecute([TAKE])
    with pytest.raises(StoreError, match="out of order"):
        watched.execute([TAKE])
    time[0] += 1
    watched.execute([TAKE])
    assert watched.health.ok
    probe.cr_frame.f_locals["results"].close()
    probe.close()


def test_a_listener_that_fails_changes_nothing(time: list[float], caplog: pytest.LogCaptureFixture) -> None:
    store = Flaky()
    store.failing = (Take,)
    watched = CircuitBreaker(store, workers=1, clock=ManualClock(), notify=lambda health: 1 / 0)
    with pytest.raises(StoreError, match="as told"):
        watched.execute([TAKE])
    assert "on_health failed" in caplog.text


@pytest.mark.parametrize(
    ("limit", "workers", "admitted"),
    [
        (window(100, 60_000_000, "100/minute"), 4, 25),
        (window(10, 60_000_000, "10/minute"), 4, 2),
        (window(3, 60_000_000, "3/minute"), 8, 1),
        (smooth("60/hour", 8), 4, 2),
    ],
)
def test_each_process_admits_its_part(limit: Any, workers: int, admitted: int) -> None:
    watched = CircuitBreaker(Flaky(), workers=workers, clock=ManualClock())
    demands = [Demand("d", "rl:a:x|x", limit)]
    assert [watched.take_here(demands).refused for _ in range(30)].count(False) == admitted
    large = [Demand("d", "rl:a:x|y", limit, limit.max_cost)]
    assert not watched.take_here(large).refused, "what costs more than a part takes the whole part"


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("mode", "statuses"),
    [("local", [200, 200, 200, 503, 503]), ("allow", [200] * 5), ("refuse", [503] * 5)],
)
def test_what_happens_without_the_store_is_the_same_in_both_worlds(
    world: str, partial: bool, mode: Any, statuses: list[int]
) -> None:
    """Its part of 6 for two workers, everything, or nothing; and never 429 or 500."""
    store = Failing()
    guard = Keyguard(APIKeys(), RateLimit("6/minute", by="key", if_store_fails=mode), store=store, workers=2)
    known, unknown = (guard.keys.issue("acme").key.reveal() for _ in range(2))
    app = guard.asgi(asgi_app) if world == "asgi" else guard.wsgi(wsgi_app)

    def answer(key: str) -> Any:
        ask = Ask(headers=(("authorization", f"Bearer {key}"),))
        return ask_asgi(app, ask) if world == "asgi" else ask_wsgi(app, ask)

    assert answer(known).get("ratelimit") is not None
    store.fault = StoreError("as told")
    store.fault.partial = partial
    answers = [answer(known) for _ in range(5)]
    assert [found.status for found in answers] == statuses
    assert answer(unknown).status == 503, "of an unknown key nothing is known"
    for found in answers:
        if found.status == 503:
            assert json.loads(found.body)["cause"] == "fault"
            assert found.get("retry-after") == "1"
        else:
            assert found.get("ratelimit") is None, "the shared store has not decided"
    assert sum(guard.health.degraded.values()) >= 5
    store.fault = None


class Failing:
    """A store that raises what it is told to."""

    timeout = 0.1
    fault: StoreError | None = None

    def __init__(self) -> None:
        self.memory = MemoryStore()

    def execute(self, ops: Any) -> list[Any]:
        if self.fault is not None:
            raise self.fault
        return self.memory.execute(ops)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        return self.memory.scan(prefix)
