"""The response cache: `python benchmarks/cache.py`. Needs the `bench` extra.

Hits and misses are compared as in `speed.py`: ratios within a round, their median and quartiles over the rounds; of CPU
time, since nothing of it waits and a busy machine would show otherwise. Then a hundred requests at once miss the same
slow answer; then very many distinct URLs are asked for, and what the process grows by is compared with the cache's
bound.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import asking
from keyguard import APIKeys, Keyguard, ResponseCache
from memory_bound import resident
from rounds import Variants, run_rounds, show

ITEMS = [{"id": number, "name": f"thing number {number:04}", "price": 100 + number} for number in range(18)]  # 1 KB


# -- the apps -------------------------------------------------------------------------------------------------------


def fastapi_async() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/hello")
    async def hello() -> Any:
        return ITEMS

    return app


def fastapi_model() -> Any:
    """The same with a response model, as FastAPI's own documentation has it."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Item(BaseModel):
        id: int
        name: str
        price: int

    app = FastAPI()

    @app.get("/hello", response_model=list[Item])
    async def hello() -> Any:
        return ITEMS

    return app


def fastapi_threaded() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/hello")
    def hello() -> Any:
        return ITEMS

    return app


def flask() -> Any:
    from flask import Flask

    app = Flask("bench")

    @app.get("/hello")
    def hello() -> Any:
        return ITEMS

    return app


def body_of(app: Any) -> bytes:
    """What the route makes."""
    parts: list[bytes] = []

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    asyncio.run(app(asking.scope_with(None), asking.receive, send))
    return b"".join(parts)


def floor_asgi(body: bytes) -> Any:
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def floor_wsgi(body: bytes) -> Any:
    headers = [("Content-Length", str(len(body))), ("Content-Type", "application/json")]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return [body]

    return app


def cached(*outside: Any, **options: Any) -> Keyguard:
    """A cache for an app that says nothing of caching: the bare route and the cached one are the same."""
    return Keyguard(*outside, ResponseCache(ttl=3600, **options))


# -- hits and misses ------------------------------------------------------------------------------------------------


def timings(rounds: int, count: int) -> dict[str, list[float]]:
    """Microseconds of CPU time a request: a list over the rounds for each variant."""
    loop = asyncio.new_event_loop()
    numbers = iter(range(1 << 60))

    async def run_distinct(app: Any, count: int) -> None:
        async def send(message: Any) -> None:
            pass

        for _ in range(count):
            await app({**asking.scope_with(None), "query_string": b"n=%d" % next(numbers)}, asking.receive, send)

    def asgi(app: Any, key: str | None = None) -> Callable[[int], None]:
        scope = asking.scope_with(key)
        return lambda count: loop.run_until_complete(asking.run_asgi(app, scope, count))

    def distinct(app: Any) -> Callable[[int], None]:
        return lambda count: loop.run_until_complete(run_distinct(app, count))

    def wsgi(app: Any) -> Callable[[int], None]:
        environ = asking.environ_with(None)
        return lambda count: asking.run_wsgi(app, environ, count)

    keyed = cached(APIKeys(), public=True)
    key = keyed.keys.issue("bench").key.reveal()
    conditional = Keyguard(ResponseCache(ttl=3600, when=lambda request: True))
    body = body_of(fastapi_async())
    refused = Keyguard(ResponseCache())  # nothing says how long it is fresh: nothing is stored
    variants: Variants = {
        "bare fastapi, async def": (asgi(fastapi_async()), count),
        "bare fastapi, model": (asgi(fastapi_model()), count),
        "bare fastapi, def": (asgi(fastapi_threaded()), count // 2),
        "bare flask": (wsgi(flask()), count),
        "floor, asgi": (asgi(floor_asgi(body)), count * 10),
        "floor, wsgi": (wsgi(floor_wsgi(body)), count * 10),
        "hit, asgi": (asgi(cached().asgi(fastapi_async())), count * 10),
        "hit, asgi, when=": (asgi(conditional.asgi(fastapi_async())), count * 10),
        "hit, asgi, APIKeys outside": (asgi(keyed.asgi(fastapi_async()), key), count * 5),
        "hit, wsgi": (wsgi(cached().wsgi(flask())), count * 10),
        "miss, stored": (distinct(cached().asgi(fastapi_async())), count),
        "miss, not stored": (distinct(refused.asgi(fastapi_async())), count),
        "distinct, bare": (distinct(fastapi_async()), count),
    }
    times = run_rounds(variants, rounds, time.process_time)
    loop.close()
    return times


RATIOS: list[tuple[str, str, str, str, str]] = [
    # what is asked, numerator, denominator, what is taken off the numerator, wanted
    ("a hit over the route, async def", "hit, asgi", "bare fastapi, async def", "", "at most 0.05"),
    ("a hit over the route, async def, response model", "hit, asgi", "bare fastapi, model", "", "at most 0.05"),
    ("a hit over the route, def", "hit, asgi", "bare fastapi, def", "", "at most 0.05"),
    ("a hit with when= over the route, async def", "hit, asgi, when=", "bare fastapi, async def", "", ""),
    ("a hit within APIKeys over the route, async def", "hit, asgi, APIKeys outside", "bare fastapi, async def", "", ""),
    ("a hit within APIKeys over the route, def", "hit, asgi, APIKeys outside", "bare fastapi, def", "", ""),
    ("a hit over Flask's route", "hit, wsgi", "bare flask", "", ""),
    ("the floor over the route, async def", "floor, asgi", "bare fastapi, async def", "", ""),
    ("the floor over Flask's route", "floor, wsgi", "bare flask", "", ""),
    ("what a stored miss adds, over the route", "miss, stored", "distinct, bare", "distinct, bare", ""),
    ("what a miss that is not stored adds", "miss, not stored", "distinct, bare", "distinct, bare", ""),
]


def show_timings(rounds: int, count: int) -> bool:
    times = timings(rounds, count)
    show("microseconds of CPU a request", times)
    print()
    ratios, bounds = {}, {}
    for label, above, below, less, wanted in RATIOS:
        off = times[less] if less else [0.0] * rounds
        ratios[label] = [(a - z) / b for a, b, z in zip(times[above], times[below], off, strict=True)]
        bounds[label] = wanted
    show("ratio", ratios, bounds)
    return all(
        not wanted or statistics.median(ratios[label]) <= float(wanted.split()[-1]) for label, wanted in bounds.items()
    )


# -- many at once ---------------------------------------------------------------------------------------------------

HANDLER = 0.2  # seconds
AT_ONCE = 100


def stampede_asgi() -> tuple[int, float]:
    """How often the app ran, and how long the slowest waited."""
    ran = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ran
        ran += 1
        await asyncio.sleep(HANDLER)
        await floor_asgi(b"x" * 1024)(scope, receive, send)

    guarded = cached().asgi(app)

    async def one() -> float:
        async def send(message: Any) -> None:
            pass

        start = time.perf_counter()
        await guarded(asking.scope_with(None), asking.receive, send)
        return time.perf_counter() - start

    async def all_of_them() -> float:
        return max(await asyncio.gather(*[one() for _ in range(AT_ONCE)]))

    slowest = asyncio.run(all_of_them())
    return ran, slowest


def stampede_wsgi() -> tuple[int, float]:
    ran: list[int] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        ran.append(1)
        time.sleep(HANDLER)
        return floor_wsgi(b"x" * 1024)(environ, start_response)  # type: ignore[no-any-return]

    guarded = cached().wsgi(app)
    took: list[float] = []

    def one() -> None:
        start = time.perf_counter()
        asking.run_wsgi(guarded, asking.environ_with(None), 1)
        took.append(time.perf_counter() - start)

    threads = [threading.Thread(target=one) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(ran), max(took)


def show_stampedes(rounds: int) -> bool:
    print(f"\n{AT_ONCE} misses at once of a handler of {HANDLER * 1000:.0f} ms{'':21} ran  slowest over the handler")
    good = True
    for name, stampede in (("asgi, tasks", stampede_asgi), ("wsgi, threads", stampede_wsgi)):
        found = [stampede() for _ in range(rounds)]
        ran = max(times for times, _ in found)
        low, median, high = statistics.quantiles([seconds / HANDLER for _, seconds in found], n=4)
        good &= ran == 1 and median <= 1.2
        print(f"{name:57} {ran:5}  {low:.3f}  {median:.3f}  {high:.3f}  at most 1.2")
    return good


# -- many URLs ------------------------------------------------------------------------------------------------------


def show_memory(urls: int, max_bytes: int) -> bool:
    guard = cached(max_bytes=max_bytes)
    app = guard.asgi(floor_asgi(b"x" * 1024))

    async def send(message: Any) -> None:
        pass

    async def ask() -> int:
        peak = 0
        for number in range(urls):
            path = f"/items/{number}"
            scope = {**asking.scope_with(None), "path": path, "raw_path": path.encode()}
            await app(scope, asking.receive, send)
            if number % 5000 == 0:
                peak = max(peak, resident())
        return max(peak, resident())

    gc.collect()
    before = resident()
    start = time.perf_counter()
    grown = asyncio.run(ask()) - before
    seconds = time.perf_counter() - start
    stats = guard.cache.stats()
    print(f"\n{urls:,} distinct URLs in {seconds:.0f} s, {seconds / urls * 1e6:.1f} us each; {stats}")
    print(f"the process grew by {grown / 1024:.1f} MiB at most; the bound is {max_bytes / 2**20:.0f} MiB")
    return grown * 1024 <= max_bytes and stats.bytes <= max_bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--count", type=int, default=300, help="requests of a bare route in a round")
    parser.add_argument("--urls", type=int, default=1_000_000, help="distinct URLs; 0 leaves that out")
    parser.add_argument("--max-bytes", type=int, default=64 * 2**20, help="the cache's bound for these")
    options = parser.parse_args()
    good = show_timings(options.rounds, options.count) if options.rounds else True
    good &= show_stampedes(max(3, options.rounds // 5))
    if options.urls:
        good &= show_memory(options.urls, options.max_bytes)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
