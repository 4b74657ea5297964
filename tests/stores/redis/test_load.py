"""A process with much to do never takes its Redis for out of order, and one busy key concerns that key alone."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from keyguard import Keyguard, RateLimit, StoreBusy
from keyguard.ops import Demand, Op, Put, Read, Take
from keyguard.rates import window
from keyguard.stores.redis import RedisStore
from tests.support.faulty import NOISE, noise
from tests.support.harness import Ask, aask, asgi_app, ask_wsgi, wsgi_app
from tests.support.servers import Proxy, RedisCluster, RedisServer

LIMIT = 100
CROWDS = {
    ("plain", "threads"): [10, 1000],
    ("plain", "tasks"): [100, 1000],
    ("cluster", "threads"): [100, 400],
    ("cluster", "tasks"): [10, 400],
}


def outcome(status: int, body: bytes) -> str:
    return str(json.loads(body)["cause"]) if status == 503 else str(status)


def guard_on(url: str, name: str) -> Keyguard:
    return Keyguard(RateLimit(f"{LIMIT}/hour", by="ip", if_store_fails="allow"), store=f"{url}?namespace={name}")


def check(guard: Keyguard, seen: Counter[str], asked: int) -> None:
    """The store has decided each request, or nobody has."""
    assert set(seen) <= {"200", "429", "overload"}, (seen, guard.health)
    assert seen["200"] <= LIMIT, seen
    assert seen["200"] == min(LIMIT, asked) or seen["overload"], seen
    assert (guard.health.ok, guard.health.outages, guard.health.degraded) == (True, 0, {})


def in_threads(guard: Keyguard, crowd: int, rounds: int) -> Counter[str]:
    app, seen, gate = guard.wsgi(wsgi_app), [], threading.Barrier(crowd)

    def ask() -> None:
        gate.wait()
        for _ in range(rounds):
            answer = ask_wsgi(app, Ask("/"), lint=False)
            seen.append(outcome(answer.status, answer.body))

    threads = [threading.Thread(target=ask) for _ in range(crowd)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(seen)


async def in_tasks(guard: Keyguard, crowd: int, rounds: int) -> Counter[str]:
    app, seen = guard.asgi(asgi_app), []

    async def ask() -> None:
        for _ in range(rounds):
            answer = await aask(app, Ask("/"), lint=False)
            seen.append(outcome(answer.status, answer.body))

    await asyncio.gather(*[ask() for _ in range(crowd)])
    store: Any = guard.store
    await store.aclose()
    return Counter(seen)


@pytest.mark.parametrize(
    ("kind", "world", "crowd"), [(*how, crowd) for how, crowds in CROWDS.items() for crowd in crowds]
)
def test_a_crowd_is_decided_by_the_store_or_not_at_all(
    kind: str, world: str, crowd: int, valkey: RedisServer, request: pytest.FixtureRequest
) -> None:
    url = valkey.url if kind == "plain" else request.getfixturevalue("cluster").url
    rounds = max(2, 400 // crowd)
    for tries in range(3):  # where others have the cores the server is late, and not for the crowd
        timeout = min(1.0, 0.075 * noise() / NOISE)
        guard = guard_on(url, f"crowd-{world}-{crowd}-{tries}&timeout={timeout:.3f}")
        seen = in_threads(guard, crowd, rounds) if world == "threads" else asyncio.run(in_tasks(guard, crowd, rounds))
        store: Any = guard.store
        store.close()
        if not guard.health.outages and guard.health.ok:
            break
    check(guard, seen, crowd * rounds)
    assert seen["overload"] < crowd * rounds, "somebody gets a turn"


@pytest.mark.parametrize("world", ["threads", "tasks"])
def test_a_crowd_that_comes_first_of_all_is_no_outage(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection has just been opened, and the server has decided nothing yet: it answered the greeting."""
    monkeypatch.setattr("keyguard.stores.redis.pulse._SILENCE", 60.0)
    with RedisServer() as server:
        guard = guard_on(server.url, "first&timeout=0.5")
        server.ask("CLIENT", "PAUSE", "2000", "WRITE")
        seen = in_threads(guard, 60, 1) if world == "threads" else asyncio.run(in_tasks(guard, 60, 1))
        assert set(seen) <= {"200", "overload"}, seen
        assert seen["overload"], "it was slow"
        assert (guard.health.outages, guard.health.degraded) == (0, {})
        store: Any = guard.store
        store.close()


def test_threads_that_wait_travel_together(valkey: RedisServer) -> None:
    """One connection serves them all, in a few trips."""
    store = RedisStore(valkey.url, namespace="together", timeout=1, max_connections=1)
    take = Take([Demand("d", "rl:together|x", window(1000, 3_600_000_000, "1000/hour"))])
    store.execute([take])
    before = valkey.ask("INFO", "stats")["total_connections_received"]
    lefts: list[int] = []
    threads = [
        threading.Thread(target=lambda: lefts.append(store.execute([take])[0].takings[0][2])) for _ in range(200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lefts) == list(range(799, 999)), "each has its own answer"
    assert valkey.ask("INFO", "stats")["total_connections_received"] - before == 1, "that which asked"
    store.close()


@pytest.mark.parametrize("world", ["threads", "tasks"])
@pytest.mark.parametrize("seconds", [0.06, 0.35])
def test_a_slow_handshake_is_no_outage(seconds: float, world: str, valkey: RedisServer) -> None:
    """Each trip that opens a connection takes that long: meanwhile callers are told of overload, then it is there."""
    with Proxy(valkey.port) as proxy:
        proxy.mode, proxy.delay = "delay", seconds
        guard = guard_on(f"redis://127.0.0.1:{proxy.port}/1", f"handshake-{seconds}-{world}")
        seen: list[str] = []

        def note(answer: Any) -> None:
            seen.append(outcome(answer.status, answer.body))
            if proxy.replies >= 2:  # SELECT, and the one trip: it is open
                proxy.mode = ""

        async def story() -> None:
            app = guard.asgi(asgi_app)
            while "200" not in seen:
                note(await aask(app, Ask("/"), lint=False))
                assert time.monotonic() < ends
            store: Any = guard.store
            await store.aclose()

        ends = time.monotonic() + 30
        if world == "tasks":
            asyncio.run(story())
        while world == "threads" and "200" not in seen:
            note(ask_wsgi(guard.wsgi(wsgi_app), Ask("/"), lint=False))
            assert time.monotonic() < ends
        assert set(seen) <= {"200", "overload"}, seen
        assert (guard.health.outages, guard.health.degraded) == (0, {})
        store: Any = guard.store
        store.close()


class Raced(Op[int]):
    """An operation without a script, on a key that others change each time it has been read."""

    __slots__ = ("raced",)

    def __init__(self, store: Any, key: str) -> None:
        self.keys = (key,)
        self.raced = store

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Any]:
        found = int(old[0] or b"0")
        self.raced.execute([Put(self.keys[0], b"%d" % (found + 1))])
        return found, [(self.keys[0], b"%d" % (found + 100), None, None)]


@pytest.mark.parametrize("world", ["threads", "tasks"])
def test_a_key_that_others_change_all_the_time_concerns_that_key_alone(world: str, valkey: RedisServer) -> None:
    guard = guard_on(valkey.url, f"raced-{world}")
    others = RedisStore(valkey.url, namespace=f"raced-{world}", timeout=1)
    asked: Any = guard.store

    async def story() -> None:
        with pytest.raises(StoreBusy, match="changed by others"):
            await asked.aexecute([Raced(others, "k|hot")])
        assert await asked.aexecute([Read("k|cold")]) == [(None,)]
        await asked.aclose()

    if world == "tasks":
        asyncio.run(story())
    else:
        with pytest.raises(StoreBusy, match="changed by others"):
            asked.execute([Raced(others, "k|hot")])
        assert asked.execute([Read("k|cold")]) == [(None,)]
    asked.close()
    others.close()


# -- connections that died silently, and such as cannot be opened ------------------------------------------------


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[Proxy]:
    with Proxy(valkey.port) as started:
        yield started


def fill(store: RedisStore, connections: int) -> None:
    """Have so many connections open at once."""
    assert not isinstance(store._line, RedisCluster)
    link: Any = store._line._threads  # type: ignore[union-attr]
    held = []
    while len(held) < connections:
        store.execute([Read("k|1")])
        with link._lock:
            if link._idle:
                held.append(link._idle.pop())
    with link._lock:
        link._idle += held


def test_idle_connections_that_died_silently_are_not_tried_one_after_the_other(proxy: Proxy) -> None:
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}", namespace="silent", timeout=0.3)  # to connect anew takes time
    guard = Keyguard(RateLimit("1000/hour", by="ip", if_store_fails="refuse"), store=store)
    app = guard.wsgi(wsgi_app)
    fill(store, 12)
    accepted = proxy.accepted
    proxy.forget()
    refused = 0
    began = time.monotonic()
    while ask_wsgi(app, Ask("/"), lint=False).status != 200:
        refused += 1
        assert time.monotonic() < began + 30
    assert guard.health.failures == 1, "the first says what is to be thought of the others"
    assert proxy.accepted > accepted
    store.close()


@pytest.mark.parametrize("world", ["threads", "tasks"])
def test_a_server_that_comes_back_is_not_waited_for_on_what_was_begun_before(world: str, proxy: Proxy) -> None:
    """A connection that is on its way to nowhere has seconds; the next one is begun beside it."""
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}", namespace=f"back-{world}")
    proxy.mode = "deaf"

    async def story() -> float:
        with pytest.raises(Exception, match="no connection in time"):
            await store.aexecute([Read("k|1")])
        proxy.mode = ""
        began = time.monotonic()
        while True:
            try:
                await store.aexecute([Read("k|1")])
            except Exception:
                assert time.monotonic() < began + 4.5, "it was waited for"
                await asyncio.sleep(0.05)
            else:
                break
        await store.aclose()
        return time.monotonic() - began

    if world == "tasks":
        asyncio.run(story())
        return
    with pytest.raises(Exception, match="no connection in time"):
        store.execute([Read("k|1")])
    proxy.mode = ""
    began = time.monotonic()
    while True:
        try:
            store.execute([Read("k|1")])
        except Exception:
            assert time.monotonic() < began + 4.5, "it was waited for"
        else:
            break
    store.close()


def test_where_no_further_connection_can_be_opened_the_open_ones_serve() -> None:
    with RedisServer() as server:
        guard = guard_on(server.url, "few")
        app = guard.wsgi(wsgi_app)
        assert ask_wsgi(app, Ask("/"), lint=False).status == 200
        admin = server.admin()
        admin.execute_command("CONFIG", "SET", "maxclients", "2")  # ours, and the administrator's
        seen = in_threads(guard, 50, 10)
        assert set(seen) <= {"200", "429", "overload"}, (seen, guard.health)
        assert seen["200"] == LIMIT - 1
        assert (guard.health.outages, guard.health.degraded) == (0, {})
        assert admin.execute_command("INFO", "stats")["rejected_connections"] > 0, "it was tried"
        admin.close()
        store: Any = guard.store
        store.close()
