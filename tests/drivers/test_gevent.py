"""Under gevent every thread is a greenlet: what waits lets the others go on, also if keyguard was loaded unpatched."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyguard.stores.sqlite import SQLiteStore
from tests.drivers.test_uwsgi import check
from tests.support.neighbours import ROOT, WSGI_SERVERS, served
from tests.support.servers import RedisServer, python, wait_until

pytestmark = pytest.mark.slow

GEVENT = WSGI_SERVERS["gunicorn-gevent"]
MODES = {"patched first": GEVENT, "preloaded unpatched": [*GEVENT, "--preload"]}


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [("patched first", ["memory", "redis"]), ("preloaded unpatched", ["sqlite", "redis"])],
    ids=list(MODES),
)
def test_who_waits_for_another_s_answer_holds_nobody_up_and_as_many_as_the_limit_are_admitted(
    mode: str, kinds: list[str], valkey: RedisServer, tmp_path: Path
) -> None:
    stores = {
        "memory": "memory://",
        "sqlite": f"sqlite:///{tmp_path}/gevent.db?timeout=5",
        "redis": f"{valkey.url}?namespace={mode.replace(' ', '-')}&timeout=1",
    }
    words = {"KEYGUARD_STORES": " ".join(stores[kind] for kind in kinds), "KEYGUARD_COUNTED": "50"}
    with (
        served(MODES[mode], "tests.support.served_neighbours:waiting_wsgi", tmp_path, **words) as server,
        ThreadPoolExecutor(24) as pool,
    ):
        for kind in kinds:
            slow = [pool.submit(server.get, f"/{kind}/slow") for _ in range(20)]
            wait_until(
                lambda kind=kind: json.loads(server.get(f"/{kind}/look")[1])["calls"], "one of them to be served"
            )
            time.sleep(0.3)  # until the others wait for it: the server's own clock
            assert server.get(f"/{kind}/release")[0] == 200
            answers = [each.result() for each in slow]
            assert {status for status, _, _ in answers} == {200}, kind
            told = {tuple(json.loads(body).items()) for _, body, _ in answers}
            assert told == {(("calls", 1), ("released", True))}, f"others had to wait for the slow ones, {kind}"
            asks = [pool.submit(server.get, f"/{kind}/counted") for _ in range(70)]
            statuses = [each.result()[0] for each in asks]
            assert (statuses.count(200), statuses.count(429)) == (50, 20), kind
        assert "Traceback" not in server.stop()


STORY = """
import sys
if sys.argv[1] == "before":
    from gevent import monkey; monkey.patch_all()
import json, time
from keyguard import APIKeys, Identity, Keyguard, RateLimit, ResponseCache
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_wsgi
if sys.argv[1] == "after":
    from gevent import monkey; monkey.patch_all()
import gevent, threading

clock, made = ManualClock(), []

def lookup(key):
    time.sleep(0.01)
    return Identity(key, key_id=key)

def app(environ, start_response):
    made.append(environ["keyguard.request"].identity.subject)
    time.sleep(0.05)
    start_response("200 OK", [("Cache-Control", "public, max-age=1, stale-while-revalidate=60")])
    return [environ["keyguard.request"].identity.subject.encode() if environ["PATH_INFO"] == "/who" else b"shared"]

guard = Keyguard(APIKeys(lookup=lookup), RateLimit("1000/hour", by="key"), ResponseCache(by="key"), clock=clock)
shared = Keyguard(APIKeys(lookup=lookup), ResponseCache(), clock=clock)
own, one = guard.wsgi(app), shared.wsgi(app)

def ask(app, path, key):
    return ask_wsgi(app, Ask(path, (("X-API-Key", key),)), lint=False).body.decode()

# Each greenlet has a context and a request's state of its own.
jobs = [gevent.spawn(ask, own, "/who", f"caller-{n % 10}") for n in range(40)]
gevent.joinall(jobs, timeout=60)
assert [job.value for job in jobs] == [f"caller-{n % 10}" for n in range(40)], [job.value for job in jobs]
assert len(made) == 10, made  # those who miss the same wait for one

made.clear()
jobs = [gevent.spawn(ask, one, "/shared", f"caller-{n}") for n in range(10)]
gevent.joinall(jobs, timeout=60)
assert [job.value for job in jobs] == ["shared"] * 10
first = len(made)
clock.advance(5)
assert ask(one, "/shared", "caller-0") == "shared"  # stale; refreshed in the background
for _ in range(600):
    if len(made) > first and not any(t.name == "keyguard-detached" for t in threading.enumerate()):
        break
    gevent.sleep(0.01)
assert len(made) == first + 1
print("done")
"""


@pytest.mark.parametrize("patched", ["before", "after"])
def test_greenlets_wait_refresh_and_are_told_apart(patched: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STORY, patched], cwd=ROOT, capture_output=True, text=True, timeout=110,
        check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr


FILE_STORY = """
import sys
if sys.argv[1] == "before":
    from gevent import monkey; monkey.patch_all()
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[2], timeout=30)  # whatever it has of locks and threads was made by now
take = Take([Demand("d", "rl:gevent|x", window(15, 3_600_000_000, "15/hour"))])
if sys.argv[1] == "after":
    from gevent import monkey; monkey.patch_all()
import gevent, time

lag, done = 0.0, False

def watch():
    global lag
    while not done:
        began = time.monotonic()
        gevent.sleep(0.005)
        lag = max(lag, time.monotonic() - began)

watching = gevent.spawn(watch)
gevent.sleep(0.02)
print("ready", flush=True)
sys.stdin.readline()  # until another process has locked the file
lag = 0.0
asking = [gevent.spawn(store.execute, [take]) for _ in range(25)]
while not store._turns.jobs:
    gevent.sleep(0.001)
began = time.monotonic()
print("waiting", flush=True)
gevent.joinall(asking, timeout=60)
waited = time.monotonic() - began
done = True
watching.join()
print(sum(not job.value[0].refused for job in asking), waited > 0.9, lag < 0.5, flush=True)
store.close()
"""


@pytest.mark.parametrize("patched", ["before", "after"])
def test_greenlets_that_wait_for_another_process_s_lock_stop_nobody(patched: str, tmp_path: Path) -> None:
    """One slept with a lock in its hands that gevent knew nothing of, and the next one stopped the process."""
    SQLiteStore(tmp_path / "k.db").close()
    with python("-W", "ignore", "-c", FILE_STORY, patched, str(tmp_path / "k.db"), cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        other = sqlite3.connect(tmp_path / "k.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        process.stdin.write("locked\n")
        process.stdin.flush()
        assert process.stdout.readline() == "waiting\n"
        time.sleep(1.0)  # as long as the others are to have gone on: the subject
        other.execute("COMMIT")
        other.close()
        assert process.stdout.readline() == "15 True True\n"


@pytest.mark.parametrize("mode", list(MODES))
def test_workers_on_one_file_admit_exactly_the_limit_while_others_write_to_it(mode: str, tmp_path: Path) -> None:
    """A worker stood still for a second, took that for an outage, and admitted one by itself on top."""
    path = tmp_path / "gevent.db"
    SQLiteStore(path).close()
    ended = threading.Event()

    def write() -> None:
        other = sqlite3.connect(path, isolation_level=None, timeout=30)
        while not ended.wait(0.005):
            other.execute("BEGIN IMMEDIATE")
            time.sleep(0.005)  # the file is locked half of the time
            other.execute("COMMIT")
        other.close()

    writing = threading.Thread(target=write)
    writing.start()
    try:
        with (
            served(
                [*MODES[mode], "--workers=2"], "tests.support.served_neighbours:waiting_wsgi", tmp_path,
                KEYGUARD_STORES=f"sqlite:///{path}?timeout=5",
            ) as server,
            ThreadPoolExecutor(24) as pool,
        ):  # fmt: skip
            statuses = Counter(answer[0] for answer in pool.map(lambda _: server.get("/sqlite/counted"), range(200)))
            log = server.stop()
    finally:
        ended.set()
        writing.join(30)
    assert statuses == {200: 150, 429: 50}, log[-3000:]
    assert "out of order" not in log


@pytest.mark.parametrize("mode", list(MODES))
def test_a_file_that_was_used_before_the_fork_is_everybody_s_own(mode: str, tmp_path: Path) -> None:
    check([*MODES[mode], "--workers=3"], [f"sqlite:///{tmp_path}/k.db?timeout=5"], tmp_path)


ON_REDIS = """
import sys
if sys.argv[1] == "before":
    from gevent import monkey; monkey.patch_all()
from keyguard.errors import StoreBusy
from keyguard.ops import Demand, Read, Take
from keyguard.rates import window
from keyguard.stores.redis import RedisStore
if sys.argv[1] == "after":
    from gevent import monkey; monkey.patch_all()
import gevent, threading

store = RedisStore(sys.argv[2], namespace="gevent-" + sys.argv[1], timeout=1, max_connections=4)
take = Take([Demand("d", "rl:gevent|x", window(10_000, 3_600_000_000, "10000/hour"))])

def ask():
    return store.execute([take])[0].takings[0][2]

jobs = [gevent.spawn(ask) for _ in range(500)]
gevent.joinall(jobs, timeout=60)
assert sorted(job.get() for job in jobs) == list(range(9_500, 10_000))

told = 500
# Those that are killed on their way hold nobody up, take nobody's answer along, and are undone.
for _ in range(5):
    jobs = [gevent.spawn(ask) for _ in range(10)]
    gevent.sleep(0)
    for job in jobs[::2]:
        job.kill(block=False)
    gevent.joinall(jobs, timeout=60)
    assert all(isinstance(job.get(), int) for job in jobs[1::2])
    told += sum(isinstance(job.value, int) for job in jobs) + 1  # some had their answer before they were killed
    ask()
link = store._line._threads
assert (link._used, link._sent, len(link._waiting)) == (0, 0, 0), (link._used, link._sent, link._waiting)
free = Take([Demand("d", "rl:gevent|x", window(10_000, 3_600_000_000, "10000/hour"), 0)])
left = store.execute([free])[0].takings[0][2]
assert left == 10_000 - told, (left, told)
store.close()
print("done")
"""


@pytest.mark.parametrize("patched", ["before", "after"])
def test_greenlets_share_redis(patched: str, valkey: RedisServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ON_REDIS, patched, valkey.url], cwd=ROOT, capture_output=True, text=True,
        timeout=110, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr
