"""Under gevent every thread is a greenlet: what waits lets the others go on, also if keyguard was loaded unpatched."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.neighbours import ROOT, WSGI_SERVERS, served

pytestmark = pytest.mark.slow

GEVENT = WSGI_SERVERS["gunicorn-gevent"]
MODES = {"patched first": GEVENT, "preloaded unpatched": [*GEVENT, "--preload"]}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("mode", list(MODES))
def test_who_waits_for_another_s_answer_holds_nobody_up(mode: str, kind: str, tmp_path: Path) -> None:
    store = "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/gevent.db"
    with (
        served(MODES[mode], "tests.served_neighbours:waiting_wsgi", tmp_path, KEYGUARD_STORE=store) as server,
        ThreadPoolExecutor(24) as pool,
    ):
        assert server.get("/quick")[0] == 200
        begin = time.monotonic()
        slow = [pool.submit(server.get, "/slow") for _ in range(20)]
        while time.monotonic() - begin < 0.3:
            time.sleep(0.01)  # until they wait: the server's own clock
        asked = time.monotonic()
        assert server.get("/quick")[0] == 200
        quick = time.monotonic() - asked
        answers = [each.result() for each in slow]
        took = time.monotonic() - begin
        assert {status for status, _, _ in answers} == {200}
        assert {json.loads(body)["calls"] for _, body, _ in answers} == {1}
        assert took > quick + 0.5, "the quick one waited for the slow ones"
        assert "Traceback" not in server.stop()


@pytest.mark.parametrize("mode", list(MODES))
def test_as_many_as_the_limit_are_admitted(mode: str, tmp_path: Path) -> None:
    with (
        served(MODES[mode], "tests.served_neighbours:waiting_wsgi", tmp_path) as server,
        ThreadPoolExecutor(24) as pool,
    ):
        statuses = [answer[0] for answer in pool.map(lambda _: server.get("/counted"), range(200))]
    assert (statuses.count(200), statuses.count(429)) == (150, 50)


STORY = """
import sys
if sys.argv[1] == "before":
    from gevent import monkey; monkey.patch_all()
import json, time
from keyguard import APIKeys, Identity, Keyguard, RateLimit, ResponseCache
from keyguard.testing import ManualClock
from tests.harness import Ask, ask_wsgi
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

# Each greenlet has a context and findings of its own.
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
