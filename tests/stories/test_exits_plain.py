"""A process that ends, however it has used its stores, leaves nothing unclosed: warnings are errors in it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyguard.stores.postgres import PostgresStore
from tests.support.servers import Postgres, RedisCluster, RedisServer, python

pytestmark = pytest.mark.slow

Run = Callable[[list[str], str, Path], int]
ROOT = Path(__file__).parents[2]

BEGIN = """
import atexit
at_last = []
atexit.register(lambda: [one() for one in at_last])  # when all that is imported from now on has ended
import asyncio, json, os, signal, sys, threading, warnings
from keyguard import APIKeys, Keyguard, RateLimit, ResponseCache, open_store
from tests.support.harness import Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app
signal.signal(signal.SIGINT, signal.default_int_handler)  # who started this may have had it ignored
def guard(store=None):
    return Keyguard(APIKeys(public=["/*"]), RateLimit("1000/minute"), ResponseCache(), store=store or url)
def served(ask, app):  # a busy machine may be too late for the store at first
    return any(ask(app, Ask()).status == 200 for _ in range(45))
"""
FORKS = """
import gc, keyguard.stores.postgres, keyguard.stores.redis, keyguard.stores.sqlite.store
gc.collect(), gc.freeze()  # or each child would look through all that, and have a copy of it
for line in sys.stdin:
    ways, url, log = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
names = [dict(globals()) for _ in ways]  # what each has made is there until the end
try:
    for way, own in zip(ways, names):
        exec(way, own)
finally:
    gc.unfreeze()  # at its end it does look: what is frozen would hold what is left, and nobody would say so
"""
"""What is needed is imported once: nothing else has happened in a child, which ends as any process does."""

WAYS = {
    "opened and never used": "store = open_store(url); guard(store).asgi(asgi_app); guard().wsgi(wsgi_app)",
    "in event loops": """
import gc
left = guard().asgi(asgi_app)
assert served(ask_asgi, left)
del left
gc.collect()
one = guard()
apps = one.asgi(asgi_app), one.wsgi(wsgi_app)
for _ in range(2):
    assert served(ask_asgi, apps[0]) and served(ask_wsgi, apps[1])
async def story():
    issued = await one.keys.aissue("acme")
    await one.keys.arotate(issued.record.id)
    await one.keys.alist()
asyncio.run(story())
""",
    "in threads": """
app = guard().wsgi(wsgi_app)
threads = [threading.Thread(target=ask_wsgi, args=(app, Ask())) for _ in range(6)]
[one.start() for one in threads], [one.join() for one in threads]
assert served(ask_wsgi, app)
""",
    "in the background, after the end": """
ended, times = threading.Event(), []
def late(environ, start_response):
    times.append(1)
    if len(times) > 1:
        ended.wait(60)
    start_response("200 OK", [("Cache-Control", "max-age=0, stale-while-revalidate=600")])
    return [b""]
app = guard().wsgi(late)
for _ in range(2000):
    ask_wsgi(app, Ask("/late"), lint=False)
    if len(times) > 1:
        break
    ended.wait(0.01)
else:
    raise SystemExit("nothing is refreshed")
def last():
    ended.set()
    [one.join(0.2) for one in threading.enumerate() if one.name == "keyguard-detached"]
    if any(one.name == "keyguard-postgres" for one in threading.enumerate()):
        print("a store was opened again", file=sys.stderr)
at_last.append(last)
""",
    "before a fork, and in the child": """
app, awaited = guard().wsgi(wsgi_app), guard().asgi(asgi_app)
ask_wsgi(app, Ask()), ask_asgi(awaited, Ask())
if os.fork() == 0:
    assert served(ask_wsgi, app) and served(ask_asgi, awaited)
    sys.exit(0)
assert os.wait()[1] == 0
""",
    "interrupted in a loop": """
app = guard().asgi(asgi_app)
async def serve():
    assert 200 in [(await aask(app, Ask())).status for _ in range(5)]
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(50):
        await aask(app, Ask())
        await asyncio.sleep(0.01)
try:
    asyncio.run(serve())
except KeyboardInterrupt:
    pass
else:
    raise SystemExit("not interrupted")
""",
    "interrupted in a thread": """
def once(environ, start_response):
    os.kill(os.getpid(), signal.SIGINT)
    return wsgi_app(environ, start_response)
app = guard().wsgi(once)
try:
    for _ in range(20):
        ask_wsgi(app, Ask("/x"))
except KeyboardInterrupt:
    pass
else:
    raise SystemExit("not interrupted")
""",
}
ENDS = [[way for way in WAYS if "interrupted" not in way], [way for way in WAYS if "interrupted" in way]]
CASES = [
    *[(ways, kind) for ways in ENDS for kind in ("sqlite", "redis", "postgresql")],
    (["in event loops"], "memory"),
    (["in event loops", "interrupted in a loop"], "cluster"),
]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs pieces of code in a process of its own that writes its errors to a file; returns its exit code."""
    words = ["-W", "error", "-W", "default::DeprecationWarning", "-c", BEGIN + FORKS]
    with python(*words, cwd=ROOT, start_new_session=True) as forking:
        assert forking.stdin is not None
        assert forking.stdout is not None

        def run(ways: list[str], url: str, log: Path) -> int:
            print(json.dumps([ways, url, str(log)]), file=forking.stdin, flush=True)
            return int(forking.stdout.readline())  # type: ignore[union-attr]

        try:
            yield run
        finally:
            os.killpg(forking.pid, signal.SIGKILL)


@pytest.mark.parametrize(("ways", "kind"), CASES, ids=lambda words: words if type(words) is str else ", ".join(words))
def test_nothing_is_left_unclosed(
    ways: list[str], kind: str, run: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "memory":
        url = "memory://"
    elif kind == "sqlite":
        url = f"sqlite:///{tmp_path}/exit.db?timeout=1"
    elif kind == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        store = PostgresStore(postgres.url)
        store.migrate()
        store.close()
        url = f"{postgres.url}?timeout=1"
    else:
        server: RedisServer | RedisCluster = request.getfixturevalue("valkey" if kind == "redis" else "cluster")
        url = f"{server.url}?timeout=1"
    code = run([WAYS[way] for way in ways], url, tmp_path / "log")
    assert (code, (tmp_path / "log").read_text()) == (0, "")


def test_what_is_left_is_seen(run: Run, tmp_path: Path) -> None:
    run(["import socket; left = [socket.socket()]; left.append(left)"], "memory://", tmp_path / "log")
    assert "ResourceWarning: unclosed <socket.socket" in (tmp_path / "log").read_text()
