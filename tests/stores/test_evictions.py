"""No guard's data displaces another's decision: what a full server evicts, and a cache with a store of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from limits.storage import MemoryStorage

from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit, ResponseCache
from keyguard.stores import open_store
from keyguard.stores.limits import LimitsStore
from keyguard.stores.postgres import PostgresStore
from tests.support.harness import Ask, aask, ask_wsgi
from tests.support.servers import Postgres, RedisServer, wait_until


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Cache-Control", "public, max-age=600"), ("Content-Length", "20000")])
    return [b"x" * 20_000]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    head = [(b"cache-control", b"public, max-age=600"), (b"content-length", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"x"})


def ask(guard: Keyguard, world: str, path: str = "/") -> Any:
    if world == "threads":
        return ask_wsgi(guard.wsgi(wsgi), Ask(path), lint=False)

    async def story() -> Any:
        answer = await aask(guard.asgi(asgi), Ask(path), lint=False)
        for store in {guard.store, *[one.store for one in guard.guards if isinstance(one, ResponseCache)]}:
            if hasattr(store, "aclose"):
                await store.aclose()
        return answer

    return asyncio.run(story())


def close(*guards: Keyguard) -> None:
    for guard in guards:
        guard.close()
        for store in (guard.store, getattr(guard.guards[-1], "store", None)):
            if hasattr(store, "close"):
                store.close()  # type: ignore[union-attr]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as started:
        yield started


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_server_that_evicts_counters_or_keys_is_warned_of_once(
    world: str, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    for policy, what in (("volatile-lru", "counters"), ("volatile-ttl", "counters"), ("allkeys-lfu", "API keys")):
        server.ask("CONFIG", "SET", "maxmemory-policy", policy)
        guard = Keyguard(RateLimit("9/hour", by="ip"), store=f"{server.url}?timeout=1")
        caplog.clear()
        assert {ask(guard, world).status for _ in range(3)} == {200}
        # On a slow machine a connection that was begun beside serves the request before the first one has its answer.
        wait_until(lambda: warnings(caplog), "a warning")
        (warning,) = warnings(caplog)
        assert f"maxmemory-policy {policy}: once its memory is full, it evicts {what}" in warning
        assert "noeviction" in warning
        server.ask("FLUSHALL")
        close(guard)


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_server_that_keeps_everything_or_holds_cached_responses_alone_is_not(
    world: str, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Keyguard(RateLimit("9/hour", by="ip"), store=f"{server.url}?timeout=1")
    assert ask(guard, world).status == 200
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    for cached in (f"{server.url}?timeout=1", open_store(f"{server.url}?timeout=1")):
        apart = Keyguard(RateLimit("9/hour", by="ip"), ResponseCache(store=cached), store="memory://")
        assert [ask(apart, world).status for _ in range(2)] == [200, 200]
        close(apart)
    assert warnings(caplog) == []
    close(guard)


@pytest.mark.parametrize(
    ("rights", "told"), [(["+config|get"], True), (["+info"], True), ([], False)], ids=["config", "info", "neither"]
)
@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_user_who_may_not_ask_is_no_error(
    world: str, rights: list[str], told: bool, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    needed = ["+eval", "+evalsha", "+time", "+get", "+set", "+del", "+hget", "+hmget", "+hset", "+hdel", "+pexpire"]
    server.ask("ACL", "SETUSER", "app", "on", ">pw", "~keyguard:*", "-@all", "+pttl", *needed, *rights)
    guard = Keyguard(RateLimit("9/hour", by="ip"), store=f"{server.url}?timeout=1".replace("//", "//app:pw@"))
    assert ask(guard, world).status == 200
    assert guard.health.failures == 0
    if told:
        wait_until(lambda: warnings(caplog), "a warning")
    else:
        assert warnings(caplog) == []
    close(guard)


# -- a store of its own for what is cached ---------------------------------------------------------------------------


@pytest.fixture(params=["redis", "sqlite", "postgresql", "memory"])
def cached(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where responses are cached."""
    if request.param == "redis":
        server = request.getfixturevalue("server")
        server.ask("CONFIG", "SET", "maxmemory", "6mb", "maxmemory-policy", "allkeys-lru")
        return str(server.url) + "?timeout=1"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/cache.db?cache_bytes=1048576"
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        store = PostgresStore(postgres.url, schema="evictions", timeout=1)
        store.migrate()
        store.close()
        return f"{postgres.url}?schema=evictions&timeout=1"
    return "memory://"


@pytest.mark.parametrize(("world", "opened"), [("threads", True), ("loop", False)])
def test_a_cache_may_have_a_store_of_its_own(
    world: str, opened: bool, cached: str, valkey: RedisServer, tmp_path: Path
) -> None:
    for number, decisions in enumerate(
        ["memory://", f"sqlite:///{tmp_path}/k.db", f"{valkey.url}?namespace=own-{cached[:4]}&timeout=1"]
    ):
        cache = ResponseCache(store=open_store(cached) if opened else cached, name=f"n{number}{world}{opened}")
        guard = Keyguard(RateLimit("5/hour", by="ip", name=f"{world}{opened}"), cache, store=decisions)
        seen = [(answer.status, answer.get("cache-status")) for answer in [ask(guard, world, "/x") for _ in range(6)]]
        assert [status for status, _ in seen] == [200] * 5 + [429]
        assert "hit" in str(seen[1][1])
        assert [key for key, _ in guard.store.scan("rc:")] == []
        if not cached.startswith("memory"):
            assert [key for key, _ in cache.store.scan("rc:")], "it is shared"  # type: ignore[union-attr]
            assert [key for key, _ in cache.store.scan("rl:")] == []  # type: ignore[union-attr]
        cache.purge("/x")
        close(guard)


@pytest.mark.slow
def test_hundreds_of_urls_reset_no_limit(cached: str, valkey: RedisServer) -> None:
    """A caller whose limit is used up fills the cache's memory many times over, by one who has none."""
    guard = Keyguard(
        APIKeys(optional=True),
        RateLimit("3/hour", by="ip", paths=["/login"]),
        ResponseCache(store=cached, name="nine"),
        store=f"{valkey.url}?namespace=nine-{cached[:4]}&timeout=1",
    )
    key = guard.keys.issue("acme").key.reveal()
    app = guard.wsgi(wsgi)
    count = {"redis": 400, "sqlite": 150}.get(cached.partition(":")[0], 50)
    assert [ask(guard, "threads", "/login").status for _ in range(4)] == [200, 200, 200, 429]
    for number in range(count):
        assert ask_wsgi(app, Ask(f"/{number}"), lint=False).status == 200
    assert ask(guard, "threads", "/login").status == 429
    assert ask_wsgi(app, Ask("/login", (("X-API-Key", key),)), lint=False).status == 429
    assert ask_wsgi(app, Ask("/x", (("X-API-Key", key),)), lint=False).status == 200
    close(guard)


def test_a_cache_has_one_store_that_can_hold_it(tmp_path: Path, valkey: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="store is a URL or a store"):
        ResponseCache(store=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no store for the scheme"):
        Keyguard(ResponseCache(store="nothing://x"))
    with pytest.raises(ConfigurationError, match="share one store"):
        Keyguard(ResponseCache(store=f"sqlite:///{tmp_path}/a.db"), ResponseCache(name="b"), store=valkey.url)
    with pytest.raises(ConfigurationError, match="holds limits alone"):
        Keyguard(ResponseCache(store=LimitsStore(MemoryStorage())))
