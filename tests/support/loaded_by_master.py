"""An app that uses every store while uWSGI's master loads it, in each way that takes a thread elsewhere.

After each step the threads that are alive are written down in KEYGUARD_TOLD, and so is each worker that has begun.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import limits.storage
import trio
import uwsgi  # type: ignore[import-not-found]

from keyguard import APIKeys, Identity, Keyguard, RateLimit, Request, ResponseCache, StoreError, open_store
from keyguard.flow import blocking
from keyguard.keys import KeyRegistry
from keyguard.ops import Demand, Settle, Take
from keyguard.process.event_loops import in_thread
from keyguard.rates import window
from keyguard.stores.leased import Leased
from keyguard.stores.limits import LimitsStore
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from tests.support.harness import Ask, aask, asgi_app, ask_wsgi, wsgi_app

TOLD = Path(os.environ["KEYGUARD_TOLD"])
REDIS, POSTGRES, FILE = (os.environ[f"KEYGUARD_{name}"] for name in ("REDIS", "POSTGRES", "FILE"))
NOWHERE = os.environ["KEYGUARD_NOWHERE"]
"""A port on which nobody listens."""

TAKE = Take([Demand("d", "rl:master|x", window(1000, 3_600_000_000, "1000/hour"))])
HOLDER = """
import sqlite3, sys, time
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(0.3)
other.execute("COMMIT")
"""


def asked(store: Any) -> Any:
    return store.execute([TAKE])[0]


def asked_in_loop(store: Any) -> Any:
    async def ask() -> Any:
        answer = getattr(store, "aexecute", store.execute)([TAKE])
        found = (answer if isinstance(answer, list) else await answer)[0]
        if hasattr(store, "aclose"):
            await store.aclose()
        return found

    return asyncio.run(ask())


def failed(store: Any) -> None:
    for ask in (asked, asked_in_loop):
        try:
            ask(store)
        except StoreError:
            continue
        raise AssertionError(f"{store!r} answered")


def held(use: Callable[[], Any]) -> Any:
    """Use the file while another process has it."""
    python = str(Path(sys.prefix) / "bin" / "python")  # sys.executable is uWSGI
    with subprocess.Popen([python, "-c", HOLDER, FILE], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(4) == b"held"
        return use()


def settled(store: Any) -> None:
    """Nobody waits for it: it is left to a thread elsewhere."""
    taken = asked(store)
    held(lambda: store.execute([Settle(taken, [0])]))


made: list[str] = []


def cached(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    made.append(environ["PATH_INFO"])
    start_response("200 OK", [("Cache-Control", "public, max-age=0, stale-while-revalidate=600")])
    return [b"x"]


def refreshed(store: str) -> None:
    """The second request is answered with what the first has left, and that is refreshed in the background."""
    guarded = Keyguard(ResponseCache(), store=store).wsgi(cached)
    made.clear()
    for _ in range(2):
        assert ask_wsgi(guarded, Ask("/cached"), lint=False).status == 200
    assert made == ["/cached"] * 2, "it ran at once"


@blocking
def somebody(request: Request) -> str:
    return "somebody"


def guarded(store: Any) -> Keyguard:
    return Keyguard(
        APIKeys(lookup=lambda key: Identity(key, key_id=key), optional=True),
        RateLimit("1000/hour", by=somebody, name="all"),
        store=store,
    )


def served(store: Any) -> None:
    """Functions that block are called, and under trio the store too."""
    assert ask_wsgi(guarded(store).wsgi(wsgi_app), Ask("/"), lint=False).status == 200
    app = guarded(store).asgi(asgi_app)

    async def ask() -> int:
        return (await aask(app, Ask("/"), lint=False)).status

    assert asyncio.run(ask()) == 200
    if "sqlite" in repr(store).lower() or "memory" in repr(store).lower():
        assert trio.run(ask) == 200


def issued(store: Any) -> None:
    registry = KeyRegistry(store)

    async def issue() -> None:
        await registry.aissue("somebody")
        assert len(await registry.alist()) >= 1

    asyncio.run(issue())


def aside() -> None:
    async def call() -> int:
        return await in_thread(lambda: 5)

    assert (asyncio.run(call()), trio.run(call)) == (5, 5)


def credentials() -> tuple[str, str]:
    return ("default", "any")


def login() -> tuple[str, str]:
    return ("keyguard", "any")


sqlite = open_store(f"sqlite:///{FILE}?timeout=5")
redis_store = RedisStore(f"{REDIS}?client_name=x", namespace="master", timeout=1)
named = RedisStore(REDIS, namespace="master", timeout=1, credentials=credentials)
postgres = PostgresStore(POSTGRES, schema="master", timeout=1, credentials=login)
leased = Leased(RedisStore(REDIS, namespace="leased", timeout=1), workers=2)
storage = LimitsStore(limits.storage.RedisStorage(REDIS), timeout=1)
no_redis = RedisStore(f"redis://localhost:{NOWHERE}", timeout=1)
no_postgres = PostgresStore(f"postgresql://x@localhost:{NOWHERE}/x", timeout=1, credentials=login)

STEPS: dict[str, Callable[[], Any]] = {
    "sqlite, held": lambda: held(partial(asked, sqlite)),
    "sqlite, held, in a loop": lambda: held(partial(asked_in_loop, sqlite)),
    "sqlite, settled": lambda: settled(sqlite),
    "no redis": lambda: failed(no_redis),
    "no postgres": lambda: failed(no_postgres),
    "in a thread": aside,
}
for name, store in {
    "memory": open_store("memory://"), "sqlite": sqlite, "redis": redis_store, "redis, named": named,
    "postgres": postgres, "leased": leased, "limits": storage,
}.items():  # fmt: skip
    STEPS |= {name: partial(asked, store), f"{name}, in a loop": partial(asked_in_loop, store)}
    if name not in ("leased", "limits"):
        STEPS |= {f"{name}, served": partial(served, store), f"{name}, issued": partial(issued, store)}
for name in ("memory://", f"sqlite:///{FILE}?timeout=5", f"{REDIS}?timeout=1", f"{POSTGRES}?schema=master&timeout=1"):
    STEPS[f"{name}, refreshed"] = partial(refreshed, name)


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]


left: dict[str, list[str]] = {}
for name, step in STEPS.items():
    step()
    left[name] = alive()
(TOLD / "left").write_text(json.dumps(left))
(TOLD / "left").rename(TOLD / "left.json")  # whoever waits for it finds it whole


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    body = json.dumps([asked(store).refused for store in (sqlite, redis_store, named, postgres, leased, storage)])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body.encode()]


def begun() -> None:
    (TOLD / f"worker-{os.getpid()}").touch()


uwsgi.post_fork_hook = begun
