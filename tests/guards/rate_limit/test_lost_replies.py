"""What handlers charge and reserve is charged once, whatever becomes of the store's replies, and of the process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, Outcome, RateLimit, open_store
from keyguard.errors import StoreError
from keyguard.ops import Demand, Take
from tests.support.harness import Ask, aask, ask_wsgi
from tests.support.servers import Postgres, Proxy, RedisServer, wait_until

ROOT = Path(__file__).parents[3]


def settle(outcome: Outcome) -> int:
    return 5


TOKENS = RateLimit("100/hour", by="ip", cost=0, name="tokens", if_store_fails="allow")
SETTLED = RateLimit("100/day", by="ip", cost=3, name="settled", settle=settle, if_store_fails="allow")


def spent(store: Any, limit: RateLimit) -> int:
    """What is spent or held, once the store answers."""
    (rule,) = limit.rules
    take = Take([Demand("", rule.prefix + "198.51.100.1", rule.limit, 0, holds=True)])
    ends = time.monotonic() + 45
    while True:
        try:
            return 100 - int(store.execute([take])[0].takings[0][2])
        except StoreError:
            assert time.monotonic() < ends
            time.sleep(0.05)


@pytest.fixture(params=["redis", "postgresql"])
def proxied(request: pytest.FixtureRequest, valkey: RedisServer, postgres: Postgres) -> Iterator[tuple[str, Proxy]]:
    name = request.node.name.replace("[", "_").replace("]", "").replace("-", "_").replace(" ", "_")[-50:]
    if request.param == "redis":
        with Proxy(valkey.port) as proxy:
            yield f"redis://127.0.0.1:{proxy.port}?namespace={name}&timeout=0.5", proxy
    else:
        with Proxy(postgres.port) as proxy:
            url = postgres.url.replace(f":{postgres.port}/", f":{proxy.port}/")
            yield f"{url}{'&' if '?' in url else '?'}schema={name.lower()}&timeout=0.5", proxy


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["drop", "reset", "deaf"])
@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_what_is_booked_at_the_end_is_charged_once(world: str, mode: str, proxied: tuple[str, Proxy]) -> None:
    url, proxy = proxied
    store: Any = open_store(url)
    getattr(store, "migrate", lambda: None)()
    guard = Keyguard(TOKENS, SETTLED, store=store)
    served: list[int] = []

    def lose() -> None:
        served.append(1)
        proxy.mode, proxy.delay = mode, 0.3

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        guard.charge(4, "tokens")
        async with guard.reserve(20, "tokens") as hold:
            hold.settle(7)
        lose()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        guard.charge(4, "tokens")
        with guard.reserve(20, "tokens") as hold:
            hold.settle(7)
        lose()
        start_response("200 OK", [])
        return [b""]

    async def story() -> None:
        await aask(guard.asgi(asgi), Ask(), lint=False)
        with suppress(Exception):
            await store.aclose()

    try:
        if world == "asgi":
            asyncio.run(story())
        else:
            ask_wsgi(guard.wsgi(wsgi), Ask(), lint=False)
        assert served == [1]
        proxy.mode = ""
        asked = guard._watched  # as requests ask: what could not be sent is sent with the next one
        wait_until(lambda: (spent(asked, TOKENS), spent(asked, SETTLED)) == (11, 5), "the settlements")
        for _ in range(3):
            assert (spent(store, TOKENS), spent(store, SETTLED)) == (11, 5)
    finally:
        proxy.mode = ""
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["drop", "deaf"])
def test_a_reservation_whose_reply_is_lost_holds_nothing(mode: str, proxied: tuple[str, Proxy]) -> None:
    url, proxy = proxied
    store: Any = open_store(url)
    getattr(store, "migrate", lambda: None)()
    guard = Keyguard(TOKENS, store=store)

    def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        proxy.mode = mode
        with guard.reserve(20, "tokens"):  # it is let pass, as the limit was told to, and nothing is known of it
            proxy.mode = ""
        start_response("200 OK", [])
        return [b""]

    try:
        # Or the store is taken to be busy: the process itself may be late, on a machine that is.
        assert ask_wsgi(guard.wsgi(wsgi), Ask(), lint=False).status in (200, 503)
        proxy.mode = ""
        wait_until(lambda: spent(store, TOKENS) == 0, "what was held to be called off")
    finally:
        proxy.mode = ""
        store.close()


KILLED = """
import sys, time
from keyguard import Keyguard, RateLimit
from keyguard.guards.rate_limit import reserving
from keyguard.stack import handlers
from tests.support.harness import Ask, ask_wsgi

reserving.LEASE = handlers.LEASE = 1_000_000
guard = Keyguard(RateLimit("100/hour", by="ip", cost=0, name="tokens"), store=sys.argv[1])


def app(environ, start_response):
    with guard.reserve(30):
        print("holding", flush=True)
        time.sleep(60)
    return []


ask_wsgi(guard.wsgi(app), Ask(), lint=False)
"""


@pytest.mark.slow
def test_what_a_killed_process_held_comes_back_by_the_lease(valkey: RedisServer) -> None:
    url = f"redis://127.0.0.1:{valkey.port}?namespace=killed-holding"
    store: Any = open_store(url)
    child = subprocess.Popen([sys.executable, "-c", KILLED, url], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"holding\n"
        assert spent(store, TOKENS) == 30
        time.sleep(1.5)  # longer than a lease: it is renewed as long as the process lives
        assert spent(store, TOKENS) == 30
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        wait_until(lambda: spent(store, TOKENS) == 0, "the lease to end")
    finally:
        child.kill()
        child.wait(60)
        child.stdout.close()  # type: ignore[union-attr]
        store.close()
