"""One good answer ends an outage, whatever failed and whatever was asked; and what proves nothing changes nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
import time as real_time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from limits.storage import MemoryStorage

from keyguard import APIKeys, Keyguard, RateLimit
from keyguard.errors import StoreBusy, StoreError
from keyguard.guards.cache.shared_ops import Stamp
from keyguard.ops import Authenticate, CompareAndSet, Demand, Op, Put, Read, ReadWithTime, Settle, Take
from keyguard.rates import window
from keyguard.stores import circuit as module
from keyguard.stores.circuit_breaker import CircuitBreaker, StoreHealth
from keyguard.stores.leased import Leased
from keyguard.stores.limits import LimitsStore
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.every_store import store_of

LIMIT = window(1000, 60_000_000, "1000/minute")
TAKE = Take([Demand("d", "rl:a:win60000000|x", LIMIT)])
READ = Read("key|x")
OPS: dict[str, Op[Any]] = {
    "Read": READ,
    "ReadWithTime": ReadWithTime("key|x"),
    "Take": TAKE,
    "Settle": Settle(MemoryStore().execute([TAKE])[0]),
    "Authenticate": Authenticate("key|x", {0: b"d" * 32}),
    "CompareAndSet": CompareAndSet({"key|y": None}, {"key|y": None}),
    "Put": Put("key|y", b"1"),
    "Stamp": Stamp("key|z"),
}


class Faulty:
    """A store that can be told to fail: always, or for some kinds of operation only."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.fault: Callable[[Op[Any]], BaseException | None] = lambda op: None
        self.timeout = getattr(store, "timeout", None) or 0.1
        for name in ("here", "limitations", "holds_values"):
            if hasattr(store, name):
                setattr(self, name, getattr(store, name))

    def execute(self, ops: Any) -> list[Any]:
        for op in ops:
            fault = self.fault(op)
            if fault is not None:
                raise fault
        results: list[Any] = self.store.execute(ops)
        return results

    async def aexecute(self, ops: Any) -> list[Any]:
        await asyncio.sleep(0)
        return self.execute(ops)

    def scan(self, prefix: str) -> Any:
        return self.store.scan(prefix)


def down(op: Op[Any]) -> StoreError:
    return StoreError("as told")


def well(op: Op[Any]) -> None:
    return None


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def passes(watched: CircuitBreaker, op: Op[Any]) -> bool:
    try:
        watched.execute([op])
    except StoreError:
        return False
    return True


@pytest.mark.parametrize("asked", OPS)
@pytest.mark.parametrize("failed", OPS)
def test_whatever_failed_an_answer_to_anything_ends_the_outage(time: list[float], failed: str, asked: str) -> None:
    news: list[StoreHealth] = []
    store = Faulty(MemoryStore())
    watched = CircuitBreaker(store, workers=1, clock=ManualClock(), notify=news.append)
    store.fault = down
    assert not passes(watched, OPS[failed])
    store.fault = well
    time[0] += module.PROBE
    for _ in range(10):
        assert passes(watched, OPS[asked]), "once the server has answered, whoever asks for the same is answered"
    time[0] += module.SETTLED
    assert watched.health.ok
    assert not watched.failing
    assert passes(watched, OPS[asked])
    assert [health.ok for health in news] == [False, True]
    assert module.PROBE + module.SETTLED < 1


@pytest.mark.parametrize(
    ("world", "kind"),
    [
        ("asgi", "memory"),
        ("wsgi", "memory"),
        ("wsgi", "a memory store's subclass"),
        ("wsgi", "sqlite"),
        ("asgi", "redis"),
        ("wsgi", "redis"),
        ("asgi", "postgresql"),
        ("asgi", "leased"),
    ],
)
def test_a_junk_key_in_an_outage_locks_no_right_key_out(
    kind: str, world: str, time: list[float], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """39 of 40 right keys were refused for good: nobody asked any more for what had failed."""
    from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

    store: Any
    if kind == "leased":
        store = Leased(Faulty(MemoryStore()))  # type: ignore[arg-type]
        faulty = store.store
    elif kind == "a memory store's subclass":
        store = faulty = Sub()
    else:
        store = faulty = Faulty(store_of(kind, request, tmp_path, name=f"circuit{world}"))
    guard = Keyguard(APIKeys(), store=store)
    keys = [guard.keys.issue("acme").key.reveal() for _ in range(40)]
    app = guard.asgi(asgi_app) if world == "asgi" else guard.wsgi(wsgi_app)

    def status(key: str) -> int:
        ask = Ask(headers=(("x-api-key", key),))
        return (ask_asgi(app, ask) if world == "asgi" else ask_wsgi(app, ask)).status

    faulty.fault = down
    assert status(unknown_key()) == 503
    faulty.fault = well
    time[0] += module.PROBE
    assert [status(key) for key in keys] == [200] * 40
    time[0] += module.SETTLED
    assert guard.health.ok


def unknown_key() -> str:
    """A key of the right form that nobody was given."""
    return Keyguard(APIKeys()).keys.issue("nobody").key.reveal()


class Sub(MemoryStore):
    fault: Callable[[Op[Any]], BaseException | None] = staticmethod(lambda op: None)

    def execute(self, ops: Any) -> list[Any]:
        for op in ops:
            fault = self.fault(op)
            if fault is not None:
                raise fault
        return super().execute(ops)


def test_a_storage_of_the_limits_library_is_back_with_its_first_answer(time: list[float]) -> None:
    store = Faulty(LimitsStore(MemoryStorage()))
    stack = Keyguard(RateLimit("100/hour", if_store_fails="refuse"), store=store)  # type: ignore[arg-type]
    store.fault = down
    assert play(stack).status == 503
    store.fault = well
    time[0] += module.PROBE
    assert [play(stack).status for _ in range(3)] == [200] * 3
    assert stack.health.ok
    store.store.close()


def test_a_full_server_that_reads_goes_on_reading_and_stays_out_of_order(time: list[float]) -> None:
    """And who writes is a probe, four times a second."""
    news: list[StoreHealth] = []
    store = Faulty(MemoryStore())
    watched = CircuitBreaker(store, workers=1, clock=ManualClock(), notify=news.append)
    tried: list[str] = []

    def full(op: Op[Any]) -> StoreError | None:
        tried.append(type(op).__name__)
        return StoreError("out of memory") if isinstance(op, Take) else None

    store.fault = full
    assert not passes(watched, TAKE)
    time[0] += module.PROBE
    for _ in range(8):
        for _ in range(10):
            assert passes(watched, READ)
            assert not passes(watched, TAKE)
        assert not watched.health.ok
        time[0] += module.PROBE
    assert tried.count("Read") == 80
    assert tried.count("Take") <= 9
    assert [health.ok for health in news] == [False]
    store.fault = well
    assert passes(watched, TAKE)
    assert [health.ok for health in news] == [False, True]


def test_a_server_that_goes_again_after_an_answer_is_left_alone_again(time: list[float]) -> None:
    store = Faulty(MemoryStore())
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())
    store.fault = down
    assert not passes(watched, TAKE)
    store.fault = well
    time[0] += module.PROBE
    assert passes(watched, READ)
    tried = []
    store.fault = lambda op: tried.append(op) or down(op)  # type: ignore[func-returns-value]
    assert [passes(watched, READ) for _ in range(10)] == [False] * 10
    assert len(tried) == 1
    assert not watched.health.ok


class Slow:
    """A store whose answers the test gives, one by one."""

    timeout = 1.0

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[list[Any]]] = []

    async def aexecute(self, ops: Any) -> list[Any]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    def execute(self, ops: Any) -> list[Any]:
        raise AssertionError

    def scan(self, prefix: str) -> list[Any]:
        return []


async def ask(watched: CircuitBreaker, op: Op[Any] = READ) -> asyncio.Task[Any]:
    answer: Any = watched.aexecute([op])
    task = asyncio.ensure_future(answer)
    await asyncio.sleep(0)
    return task


def refuses(watched: CircuitBreaker) -> bool:
    try:
        answer: Any = watched.aexecute([READ])
    except StoreError as error:
        return "out of order" in str(error)
    answer.close()
    return False


@pytest.mark.parametrize("end", ["cancelled", "busy", "partial", "a bad value", "a mistake"])
def test_a_probe_that_fails_for_a_reason_of_its_own_makes_room_at_once(time: list[float], end: str) -> None:
    store = Slow()
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())
    partial = StoreError("wrong type")
    partial.partial = True
    ends = {"busy": StoreBusy("busy"), "partial": partial, "a bad value": ValueError("x"), "a mistake": KeyError("x")}

    async def story() -> None:
        first = await ask(watched)
        store.asked[0].set_exception(StoreError("as told"))
        await asyncio.gather(first, return_exceptions=True)
        time[0] += module.PROBE
        for _ in range(5):
            probe = await ask(watched)
            if end == "cancelled":
                probe.cancel()
            else:
                store.asked[-1].set_exception(ends[end])
            await asyncio.gather(probe, return_exceptions=True)
        last = await ask(watched)
        store.asked[-1].set_result([(None,)])
        assert await last == [(None,)]

    asyncio.run(story())
    assert watched.health.since is None or watched.health.partial


def test_probes_that_hang_are_in_nobody_s_way(time: list[float]) -> None:
    store = Slow()
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())

    async def story() -> None:
        first = await ask(watched)
        store.asked[0].set_exception(StoreError("as told"))
        await asyncio.gather(first, return_exceptions=True)
        stuck = []
        for _ in range(3):
            time[0] += module.PROBE
            stuck.append(await ask(watched))
            assert refuses(watched), "one at a time"
        time[0] += module.PROBE
        probe = await ask(watched)
        store.asked[1].set_exception(StoreError("too late"))  # which began before
        await asyncio.gather(stuck[0], return_exceptions=True)
        store.asked[-1].set_result([(None,)])
        await probe
        assert watched.health.ok
        for number, answer in enumerate(store.asked[2:-1]):
            answer.set_exception(StoreError(f"too late as well {number}"))
        await asyncio.gather(*stuck, return_exceptions=True)
        assert watched.health.ok, "what began before the store answered says nothing by failing after it"
        assert watched.health.outages == 1

    asyncio.run(story())


def test_of_many_under_way_when_it_fails_none_opens_it_twice_or_closes_it(time: list[float]) -> None:
    news: list[StoreHealth] = []
    store = Slow()
    watched = CircuitBreaker(store, workers=1, clock=ManualClock(), notify=news.append)

    async def story() -> None:
        tasks = [await ask(watched) for _ in range(100)]
        for place, answer in enumerate(store.asked):
            if place % 2:
                answer.set_exception(StoreError("as told"))
            else:
                answer.set_result([(None,)])
            await asyncio.sleep(0)
            time[0] += 0.002
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [health.ok for health in news] == [False]
        time[0] += module.PROBE
        probe = await ask(watched)
        store.asked[-1].set_result([(None,)])
        await probe
        assert [health.ok for health in news] == [False, True]

    asyncio.run(story())


def test_failures_of_those_under_way_put_the_next_probe_off_for_nobody(time: list[float]) -> None:
    store = Slow()
    watched = CircuitBreaker(store, workers=1, clock=ManualClock())

    async def story() -> None:
        tasks = [await ask(watched) for _ in range(10)]
        for answer in store.asked[:9]:
            answer.set_exception(StoreError("as told"))
            await asyncio.sleep(0)
            time[0] += module.PROBE / 4
        probe = await ask(watched)
        store.asked[-1].set_result([(None,)])
        await probe
        store.asked[9].set_result([(None,)])
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(story())
    assert watched.health.ok


@pytest.fixture
def storm() -> Callable[[Any, Any], list[bool]]:
    """Callers in threads, all of the time; how they fared from a second after the outage on."""

    def run(ask_one: Callable[[int], bool], fail: Callable[[bool], None]) -> list[bool]:
        stop, since_well = threading.Event(), threading.Event()
        fared: list[bool] = []

        def caller(number: int) -> None:
            while not stop.is_set():
                late = since_well.is_set()
                passed = ask_one(number)
                if late:
                    fared.append(passed)
                real_time.sleep(0.002)

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(len(OPS))]
        for thread in threads:
            thread.start()
        fail(True)
        real_time.sleep(0.1)
        fail(False)
        real_time.sleep(1)
        since_well.set()
        deadline = real_time.monotonic() + 30
        while len(fared) < 500 and real_time.monotonic() < deadline:
            real_time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        return fared

    return run


def test_many_threads_after_a_short_outage(storm: Any) -> None:
    """Each asks for one kind of operation; one kind fails first. Three stores at a time, because it takes a second."""
    ops = list(OPS.values())

    def outage(failing: str) -> None:
        store = Faulty(MemoryStore())
        watched = CircuitBreaker(store, workers=1, clock=ManualClock())

        def fail(on: bool) -> None:
            store.fault = down if on else well
            if on:
                passes(watched, OPS[failing])

        fared = storm(lambda number: passes(watched, ops[number]), fail)
        assert len(fared) >= 500
        assert all(fared)
        assert watched.health.ok

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(outage, ["Read", "Take", "Authenticate"]))


def test_stacks_on_one_store_share_what_is_known_of_it(time: list[float]) -> None:
    """And what they count without it: two layers with one limit admit its share once."""
    store = Faulty(MemoryStore())
    news: list[tuple[str, bool]] = []
    one, two = (
        Keyguard(
            RateLimit("6/minute", name="shared"),
            store=store,  # type: ignore[arg-type]
            workers=2,
            on_health=lambda health, name=name: news.append((name, health.ok)),  # type: ignore[misc]
        )
        for name in ("one", "two")
    )
    tried: list[Any] = []
    store.fault = lambda op: tried.append(op) or down(op)  # type: ignore[func-returns-value]
    statuses = [play(stack).status for _ in range(5) for stack in (one, two)]
    assert statuses.count(200) == 3
    assert len(tried) == 1
    assert not one.health.ok
    assert not two.health.ok
    store.fault = well
    time[0] += module.PROBE
    assert play(two).status == 200
    assert one.health.ok
    assert sorted(news) == [("one", False), ("one", True), ("two", False), ("two", True)]


@pytest.mark.parametrize(
    ("world", "fault", "mode", "statuses"),
    [
        ("asgi", RuntimeError, "local", [200, 503]),
        ("wsgi", RuntimeError, "allow", [200, 200]),
        ("asgi", KeyError, "allow", [200, 200]),
        ("wsgi", KeyError, "refuse", [503, 503]),
        ("asgi", ConnectionResetError, "refuse", [503, 503]),
        ("wsgi", ConnectionResetError, "local", [200, 503]),
        ("asgi", MemoryError, "allow", [200, 200]),
        ("wsgi", MemoryError, "local", [200, 503]),
    ],
)
def test_an_exception_that_no_store_should_raise_passes_over_no_setting(
    world: str, fault: type[Exception], mode: Any, statuses: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

    secret = "postgresql://me:verysecret@host"
    store = Faulty(MemoryStore())
    guard = Keyguard(RateLimit("1/minute", if_store_fails=mode), store=store)  # type: ignore[arg-type]
    app = guard.asgi(asgi_app) if world == "asgi" else guard.wsgi(wsgi_app)

    def inner() -> None:
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise fault(secret) from error

    def raises(op: Op[Any]) -> None:
        inner()

    store.fault = raises
    with caplog.at_level(logging.DEBUG):
        got = [(ask_asgi(app, Ask()) if world == "asgi" else ask_wsgi(app, Ask())).status for _ in range(2)]
    assert got == statuses
    assert not guard.health.ok
    assert fault.__name__ in caplog.text
    assert "in inner" in caplog.text
    assert "verysecret" not in caplog.text
    assert "verysecret" not in guard.health.failure
    assert sum("in inner" in record.getMessage() for record in caplog.records) == 1, "told once"
