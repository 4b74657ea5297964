"""PostgreSQL beside gevent, whose threads are greenlets of one thread of the system, and behind bridges."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asgiref.wsgi import WsgiToAsgi

from keyguard import Keyguard, RateLimit
from keyguard.stores.postgres import PostgresStore
from tests.support.harness import Ask, aask, wsgi_app
from tests.support.neighbours import ROOT, WSGI_SERVERS, served
from tests.support.servers import Postgres

pytestmark = pytest.mark.slow

GEVENT = WSGI_SERVERS["gunicorn-gevent"]
MODES = {"patched first": GEVENT, "preloaded unpatched": [*GEVENT, "--preload"]}

STORY = """
import sys
if sys.argv[1] == "before":
    from gevent import monkey; monkey.patch_all()
import asyncio, time, threading
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.postgres import PostgresStore
if sys.argv[1] == "after":
    from gevent import monkey; monkey.patch_all()
import gevent
import psycopg

limit = window(50, 3_600_000_000, "50/hour")
store = PostgresStore(sys.argv[2], schema=sys.argv[3], timeout=1)
store.migrate()

def take(key="x"):
    return Take([Demand("", f"rl:x:{limit.code}|{key}", limit)])

# The store's own loop is begun while a loop of the app's runs, in the same thread of the system.
closed = []

async def numbers():
    try:
        for number in range(3):
            yield number
            await asyncio.sleep(0)
    finally:
        closed.append(asyncio.get_running_loop())

async def story(key):
    loop = asyncio.get_running_loop()
    async for number in numbers():
        break
    found = await asyncio.gather(*[store.aexecute([take(key)]) for _ in range(20)])
    assert asyncio.get_running_loop() is loop
    await asyncio.sleep(0.01)
    assert asyncio.current_task() is not None
    return [results[0].refused for results in found]

assert asyncio.run(story("first")) == [False] * 20
assert len(closed) == 1
# And after it has been used by greenlets. They wait for tables that are locked until another greenlet has run.
holder = psycopg.connect(sys.argv[2])
tables = holder.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [sys.argv[3]]).fetchall()
holder.execute("LOCK TABLE " + ", ".join(f'"{sys.argv[3]}"."{name}"' for name, in tables))
jobs = [gevent.spawn(store.execute, [take()]) for _ in range(100)]
ticks = []
def tick():
    while len(ticks) < 2:  # within the second that the store waits
        ticks.append(sum(job.ready() for job in jobs))
        gevent.sleep(0.001)
    holder.commit()
ticking = gevent.spawn(tick)
gevent.joinall(jobs, timeout=60)
ticking.join(60)
assert sum(not job.value[0].refused for job in jobs) == 50
assert ticks == [0, 0], "greenlets that wait hold the others up"
holder.close()
for key in ("second", "third"):
    assert asyncio.run(story(key)) == [False] * 20
try:
    asyncio.get_running_loop()
except RuntimeError:
    pass
else:
    raise AssertionError("a loop seems to run")
store.close()
print("done")
"""


@pytest.mark.parametrize("patched", ["before", "after"])
def test_event_loops_of_the_app_s_own_work_under_gevent(patched: str, postgres: Postgres) -> None:
    words = [sys.executable, "-W", "ignore", "-c", STORY, patched, postgres.url, f"gevent_{patched}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize("mode", list(MODES))
def test_as_many_as_the_limit_are_admitted_under_gevent(mode: str, postgres: Postgres, tmp_path: Path) -> None:
    schema = "gunicorn_" + mode.replace(" ", "_")
    store = PostgresStore(postgres.url, schema=schema)
    store.migrate()
    with (
        served(
            MODES[mode],
            "tests.support.served_neighbours:waiting_wsgi",
            tmp_path,
            KEYGUARD_STORES=f"{postgres.url}?schema={schema}&timeout=1",
        ) as server,
        ThreadPoolExecutor(24) as pool,
    ):
        statuses = [answer[0] for answer in pool.map(lambda _: server.get("/postgresql/counted"), range(200))]
    assert (statuses.count(200), statuses.count(429)) == (150, 50)


@pytest.mark.parametrize("outside", [True, False], ids=["around the bridge", "inside it"])
def test_the_first_requests_through_a_bridge_are_served(outside: bool, postgres: Postgres) -> None:
    """There is no connection yet, and the bridge's threads and loop have much to do."""
    schema = f"bridge_{outside}".lower()
    store = PostgresStore(postgres.url, schema=schema, timeout=0.5)
    store.migrate()
    guard = Keyguard(RateLimit("1000/hour", by="ip"), store=store)
    bridge: Any = WsgiToAsgi
    app = guard.asgi(bridge(wsgi_app)) if outside else bridge(guard.wsgi(wsgi_app))

    async def first() -> list[int]:
        return [answer.status for answer in await asyncio.gather(*[aask(app, Ask("/"), lint=False) for _ in range(20)])]

    for _ in range(2):
        assert asyncio.run(first()) == [200] * 20
    assert guard.health.failures == 0
    store.close()
