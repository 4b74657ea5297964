"""Many at once on PostgreSQL: the callers' own load, a hot key and a held lock are no outage, and admit nobody more."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest

from keyguard import Keyguard, RateLimit
from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import Demand, Put, Read, Take
from keyguard.rates import window
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.postgres.names import lock_of
from tests.support.faulty import NOISE, noise
from tests.support.harness import Ask, aask, asgi_app, ask_wsgi, wsgi_app
from tests.support.servers import Postgres, wait_until

pytestmark = pytest.mark.slow

N = 10


def opened(postgres: Postgres, schema: str, **settings: Any) -> PostgresStore:
    store = PostgresStore(postgres.url, schema=schema, **settings)
    store.migrate()
    return store


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What so many threads return that begin at the same moment."""
    gate, found = threading.Barrier(count), [None] * count

    def one(number: int) -> None:
        gate.wait(60)
        found[number] = work(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(110)
    return found


def outcomes(answers: list[Any]) -> Counter[tuple[int, str]]:
    for answer in answers:
        if answer.status == 503:
            assert answer.get("retry-after") == "1"
    return Counter((one.status, json.loads(one.body)["cause"] if one.status > 400 else "") for one in answers)


@pytest.mark.parametrize(("in_flight", "world"), [(100, "threads"), (500, "threads"), (10, "tasks"), (1000, "tasks")])
def test_no_more_than_the_limit_is_admitted_however_many_come_at_once(
    in_flight: int, world: str, postgres: Postgres
) -> None:
    """A hundred threads had ten admitted by the store, and ten more without it."""

    async def flood(app: Any) -> list[Any]:
        return await asyncio.gather(*[aask(app, Ask("/"), lint=False) for _ in range(in_flight)])

    for tries in range(3):  # where others have the cores the server is late, and not for the crowd
        timeout = min(1.0, 0.075 * noise() / NOISE)
        store = opened(postgres, f"load_{world}_{in_flight}_{tries}", timeout=timeout)
        guard = Keyguard(RateLimit(f"{N}/hour", by="ip"), store=store)
        app = guard.wsgi(wsgi_app) if world == "threads" else guard.asgi(asgi_app)
        found: Counter[tuple[int, str]] = Counter()
        for _ in range(2):  # before there is a connection, and after
            if world == "threads":
                found += outcomes(together(in_flight, lambda _, app=app: ask_wsgi(app, Ask("/"), lint=False)))
            else:
                found += outcomes(asyncio.run(flood(app)))
        store.close()
        if not guard.health.outages and guard.health.ok:
            break
    assert found.keys() <= {(200, ""), (429, "usage"), (503, "overload")}, found
    assert found[200, ""] <= N
    assert guard.health.ok
    assert guard.health.failures == 0
    assert guard.health.degraded == {}


def take(key: str, cost: int = 1) -> Take:
    limit = window(1000, 60_000_000, "1000/minute")
    return Take([Demand("", f"rl:load:{limit.code}|{key}", limit, cost)])


def test_a_thousand_callers_are_decided_by_a_few_connections(postgres: Postgres) -> None:
    store = opened(postgres, "thousand", timeout=1)
    for hot in (True, False):
        found = together(1000, lambda number, hot=hot: store.execute([take("hot" if hot else f"{number}")])[0].refused)
        assert found == [False] * 1000
    assert store.execute([take("hot", 0)])[0].takings[0][2] == 0
    mine = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keyguard' AND strpos(query, 'thousand') > 0"
    assert postgres.query(mine)[0][0] <= 10
    store.close()


def test_what_got_no_turn_was_charged_nothing(postgres: Postgres) -> None:
    """With too little time for all of them."""
    store = opened(postgres, "no_turn", timeout=0.03, max_connections=1)

    def ask(number: int) -> bool | None:
        try:
            return bool(store.execute([take(f"{number % 40}")])[0].refused)
        except StoreError:
            return None

    answers = together(600, ask)
    assert set(answers) <= {False, None}
    patient = PostgresStore(postgres.url, schema="no_turn", timeout=1)

    def used() -> int:
        ask(0)  # what became of the last ones is asked for with the next
        return sum(1000 - patient.execute([take(f"{number}", 0)])[0].takings[0][2] for number in range(1, 40))

    served = sum(answer is not None for number, answer in enumerate(answers) if number % 40)
    wait_until(lambda: used() == served, f"{served} units to be used")
    store.close()
    patient.close()


# -- a lock concerns its key alone -----------------------------------------------------------------------------------

HOT = take("hot").keys[0].encode()


def holding(text: str, *words: Any) -> Callable[[Postgres, str], AbstractContextManager[None]]:
    @contextmanager
    def held(postgres: Postgres, schema: str) -> Iterator[None]:
        with psycopg.connect(postgres.url) as other:
            other.execute(text.replace("SCHEMA", schema), words)
            yield
            other.rollback()

    return held


HELD = {
    "by another process": holding("SELECT pg_advisory_xact_lock(%s)", lock_of(HOT)),
    "by hand, the row is read": holding("SELECT 1 FROM SCHEMA.counters WHERE key = %s FOR UPDATE", HOT),
    "by hand, the row is written": holding("UPDATE SCHEMA.counters SET value = value WHERE key = %s", HOT),
    "by hand, the row is deleted": holding("DELETE FROM SCHEMA.counters WHERE key = %s", HOT),
}


@pytest.mark.parametrize(("how", "connections"), [*zip(HELD, [10, 1, 2, 1], strict=True), ("by another process", 1)])
def test_a_key_that_somebody_holds_keeps_nobody_else(how: str, connections: int, postgres: Postgres) -> None:
    schema = f"held_{list(HELD).index(how)}_{connections}"
    store = opened(postgres, schema, timeout=0.4, max_connections=connections)
    guard = Keyguard(RateLimit("1000/hour", by="ip"), store=store)
    for key in ("hot", "0", "1"):
        wait_until(lambda key=key: store.execute([take(key)]), "the store")
    ended = threading.Event()
    busy: list[str] = []

    def insist() -> None:
        while not ended.is_set():
            with pytest.raises(StoreBusy):
                store.execute([take("hot")])
            busy.append("busy")

    with HELD[how](postgres, schema):
        threads = [threading.Thread(target=insist) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(busy) >= 8, "those who want the key to be told")
        neighbours = together(8, lambda number: [bool(store.execute([take(f"{number}")])) for _ in range(10)])
        assert neighbours == [[True] * 10] * 8, "somebody waited for a key that is not his"
        ended.set()
        for thread in threads:
            thread.join(30)
    wait_until(lambda: store.execute([take("hot", 0)])[0].takings[0][2] == 999, "nobody else to be charged")
    assert guard.health.ok
    store.close()


def test_a_key_that_is_being_inserted_by_hand_keeps_nobody_else(postgres: Postgres) -> None:
    """There is no row that could be seen to be locked."""
    store = opened(postgres, "inserted", timeout=0.5)
    wait_until(lambda: store.execute([take("warm")]), "the store")
    with psycopg.connect(postgres.url) as other:
        other.execute("INSERT INTO inserted.counters VALUES (%s, '', 0)", [HOT])

        def ask(number: int) -> str:
            try:
                store.execute([take("hot" if number % 8 == 0 else f"{number}")])
            except StoreBusy:
                return "busy"
            return "decided"

        for _ in range(2):
            found = together(16, ask)
            assert found == (["busy"] + ["decided"] * 7) * 2
        other.rollback()
    # The last one may just have been let in, with nobody there any more to be told.
    wait_until(lambda: store.execute([take("hot", 0)])[0].takings[0][2] == 1000, "nobody to be charged")
    store.close()


def test_what_is_only_read_waits_for_nobody(postgres: Postgres) -> None:
    store = opened(postgres, "reading", timeout=0.5)
    store.execute([Put("k|a", b"value")])
    with psycopg.connect(postgres.url) as other:
        other.execute("UPDATE reading.entries SET value = 'other'")
        other.execute("SELECT pg_advisory_xact_lock(%s)", [lock_of(b"k|a")])
        assert together(20, lambda _: store.execute([Read("k|a")])) == [[(b"value",)]] * 20
        other.rollback()
    store.close()


def test_processes_take_turns_at_a_hot_key(postgres: Postgres) -> None:
    """Each of several stores, as many processes have them, gets its turns."""
    stores = [opened(postgres, "turns", timeout=1) for _ in range(3)]
    found = together(30, lambda number: [stores[number % 3].execute([take("hot")])[0].refused for _ in range(10)])
    assert found == [[False] * 10] * 30
    assert stores[0].execute([take("hot", 0)])[0].takings[0][2] == 700
    for store in stores:
        store.close()


def test_a_caller_whose_operation_is_wrong_harms_none_of_those_he_travels_with(postgres: Postgres) -> None:
    store = opened(postgres, "wrong", timeout=1)

    class Wrong(Put):
        def apply(self, old: Any, now: int) -> Any:
            raise LookupError("a mistake")

    def ask(number: int) -> str:
        try:
            if number % 4 == 0:
                store.execute([Wrong("k|wrong", b"")])
            elif number % 4 == 1:  # longer than the database takes a key
                store.execute([Put("k|" + secrets.token_urlsafe(9000), b"x")])
            else:
                store.execute([take(f"{number}")])
        except Exception as error:
            return type(error).__name__
        return "decided"

    assert together(32, ask) == ["LookupError", "StoreError", "decided", "decided"] * 8
    store.close()


def test_whoever_leaves_gives_back_what_he_was_charged(postgres: Postgres) -> None:
    store = opened(postgres, "leaving", timeout=1)

    async def story() -> None:
        tasks = [asyncio.ensure_future(store.aexecute([take("hot")])) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    store.execute([take("hot")])
    for _ in range(5):
        asyncio.run(story())
    wait_until(lambda: store.execute([take("hot", 0)])[0].takings[0][2] == 999, "all but one to be given back")
    store.close()


def test_time_passes_for_a_key_that_is_let_go_in_time(postgres: Postgres) -> None:
    store = opened(postgres, "let_go", timeout=1)
    store.execute([take("hot")])
    with psycopg.connect(postgres.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [lock_of(HOT)])
        done: list[Any] = []
        waiting = threading.Thread(target=lambda: done.append(store.execute([take("hot")])))
        waiting.start()
        began = time.monotonic()
        while time.monotonic() < began + 0.1:
            assert done == []
        other.rollback()
        waiting.join(30)
    assert done[0][0].takings[0][2] == 998
    store.close()
