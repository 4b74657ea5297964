"""What the response cache costs on stores that processes share: a hit that this process does not hold, against one bare
call of the store's client in the same run, as ratios; a miss, against the same; and four processes that miss at once.

    python benchmarks/cache_stores.py

Starts servers of its own on 127.0.0.1. Each figure is the median of several rounds in which both sides take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import redis
import redis.asyncio
from benchmarks.redis_store import ratios, tell
from tests.support.servers import RedisServer

from keyguard import Keyguard, ResponseCache
from keyguard.stores import open_store
from keyguard.stores.redis.async_connection import LoopLink
from keyguard.stores.redis.sync_connection import ThreadLink

ROOT = Path(__file__).parent.parent
BODY = b"x" * 2000
GET = "return redis.call('GET', KEYS[1])"


class Site:
    """A stack with a cache in front of an app that answers 2000 bytes; nothing is used without asking the store."""

    def __init__(self, url: str) -> None:
        self.store: Any = open_store(url)
        self.stack = Keyguard(ResponseCache(local_ttl=0), store=self.store)
        self.fields = [
            (b"cache-control", b"max-age=600"),
            (b"content-length", b"2000"),
            (b"content-type", b"text/plain"),
        ]
        self.asgi = self.stack.asgi(self._asgi)
        self.wsgi = self.stack.wsgi(self._wsgi)

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.fields})
        await send({"type": "http.response.body", "body": BODY})

    def _wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [(name.decode(), value.decode()) for name, value in self.fields])
        return [BODY]

    async def aget(self, path: str) -> None:
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "scheme": "http", "http_version": "1.1", "headers": [(b"host", b"example.test")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        await self.asgi(scope, _receive, _send)

    def get(self, path: str) -> None:
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "",
            "HTTP_HOST": "example.test", "wsgi.url_scheme": "http", "REMOTE_ADDR": "127.0.0.1",
        }  # fmt: skip
        body = self.wsgi(environ, lambda status, fields, exc_info=None: None)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()

    def check(self) -> None:
        """What was measured as hits were some."""
        stats = self.stack.cache.stats()
        assert (stats.misses <= 100, stats.errors) == (True, 0), stats


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: dict[str, Any]) -> None:
    pass


def spent(count: int, call: Callable[[int], object]) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        for n in range(count):
            call(n)
        return (time.perf_counter() - began) / count * 1e6

    return measure


def on_redis_in_threads(url: str, rounds: int, count: int) -> None:
    site = Site(url)
    client = redis.Redis.from_url(url.partition("?")[0])
    sha = client.script_load(GET)
    for n in range(100):
        site.get(f"/{n}")
        client.set(f"n{n}", BODY)
    ours, theirs = (
        spent(count, lambda n: site.get(f"/{n % 100}")),
        spent(count, lambda n: client.evalsha(sha, 1, f"n{n % 100}")),
    )
    ours(), theirs()
    tell("Redis, a hit against EVALSHA of redis-py, threads", "us", *ratios(rounds, ours, theirs))
    site.check()
    fresh = iter(range(10**9))
    tell("Redis, a miss against EVALSHA of redis-py, threads", "us",
         *ratios(rounds, spent(count // 4, lambda n: site.get(f"/miss/{next(fresh)}")), theirs))  # fmt: skip
    site.store.close()
    client.close()


def on_redis_in_tasks(url: str, rounds: int, count: int, flying: int) -> None:
    async def run() -> None:
        site = Site(url)
        client = redis.asyncio.Redis.from_url(url.partition("?")[0])
        sha = await client.script_load(GET)
        for n in range(100):
            await site.aget(f"/{n}")
            await client.set(f"n{n}", BODY)

        async def once(one: Callable[[int], Awaitable[object]]) -> float:
            async def worker(n: int) -> None:
                for step in range(count // flying):
                    await one(n + step)

            began = time.perf_counter()
            await asyncio.gather(*[worker(n) for n in range(flying)])
            return (time.perf_counter() - began) / count * 1e6

        async def ours(n: int) -> None:
            await site.aget(f"/{n % 100}")

        async def theirs(n: int) -> None:
            await client.evalsha(sha, 1, f"n{n % 100}")

        await once(ours), await once(theirs)
        pairs = []
        for place in range(rounds):
            if place % 2:
                pairs.append((await once(ours), await once(theirs)))
            else:
                pairs.append((await once(theirs), await once(ours))[::-1])
        found = sorted(a / b for a, b in pairs)
        middle = [statistics.median(side) for side in zip(*pairs, strict=True)]
        tell(f"Redis, a hit against EVALSHA of redis-py, asyncio, {flying} in flight", "us", *middle, found)
        site.check()
        await site.store.aclose()
        await client.aclose()

    asyncio.run(run())


def on_sqlite(folder: Path, rounds: int, count: int) -> None:
    site = Site(f"sqlite:///{folder}/k.db?timeout=1")
    other = sqlite3.connect(folder / "k.db", isolation_level=None)
    for n in range(100):
        site.get(f"/{n}")
    keys = [key for (key,) in other.execute("SELECT key FROM cached WHERE length(value) > 2000")]
    assert len(keys) == 100
    select = "SELECT value FROM cached WHERE key = ?"
    ours = spent(count, lambda n: site.get(f"/{n % 100}"))
    theirs = spent(count, lambda n: other.execute(select, (keys[n % 100],)).fetchone())
    ours(), theirs()
    tell("SQLite, a hit against SELECT of sqlite3", "us", *ratios(rounds, ours, theirs))
    site.check()
    fresh = iter(range(10**9))
    tell("SQLite, a miss against SELECT of sqlite3", "us",
         *ratios(rounds, spent(count // 4, lambda n: site.get(f"/miss/{next(fresh)}")), theirs))  # fmt: skip
    other.close()
    site.store.close()


def trips(url: str) -> None:
    """What a hit and a miss send to Redis, one after the other."""
    sent = 0

    def counting(link: type) -> None:
        ask = link.ask  # type: ignore[attr-defined]

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal sent
            sent += 1
            return ask(*args, **kwargs)

        link.ask = counted  # type: ignore[attr-defined]

    site = Site(url + "&namespace=trips")
    site.get("/warm")
    for link in (ThreadLink, LoopLink):
        counting(link)
    counts = []
    for path in ("/x", "/x"):
        before = sent
        site.get(path)
        counts.append(sent - before)
    print(f"round trips to Redis: a miss {counts[0]}, a hit {counts[1]}")
    site.store.close()


def together(url: str, folder: Path, rounds: int) -> None:
    """Four processes with 25 requests each miss at once, with an app that takes 200 ms."""
    slowest, calls = [], []
    for number in range(rounds):
        notes = folder / f"notes{number}"
        own = f"{url}&namespace=t{number}" if url.startswith("redis") else f"sqlite:///{folder}/t{number}.db?timeout=1"
        words = [sys.executable, "-m", "tests.support.cache_worker", own, "public", "200", "25", str(notes)]
        workers = [
            subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]  # fmt: skip
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        found = [json.loads(worker.communicate()[0]) for worker in workers]
        slowest.append(max(one["slowest"] for one in found))
        calls.append(sum(one["calls"] for one in found))
    middle, worst = statistics.median(slowest) / 0.2, max(slowest) / 0.2
    print(f"four processes, 100 misses at once, {url.partition(':')[0]}: the app ran {max(calls)} time(s) at most; the "
          f"slowest answer took {middle:.2f} x the app's time (worst of {rounds}: {worst:.2f} x)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--server", default="valkey", choices=["valkey", "redis6"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, RedisServer(options.server) as server:
        url = f"{server.url}?timeout=1"  # what is late on a busy machine would be no hit
        on_redis_in_threads(url, options.rounds, options.count)
        for flying in (1, 64):
            on_redis_in_tasks(url, options.rounds, options.count, flying)
        on_sqlite(Path(folder), options.rounds, options.count)
        trips(url)
        for store in (url, "sqlite"):
            together(store, Path(folder), 5)


if __name__ == "__main__":
    main()
