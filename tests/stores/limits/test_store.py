"""Storages of the `limits` library as stores: best effort, and said so."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond, parse
from limits.storage import MemcachedStorage, MemoryStorage, RedisStorage

from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit, smooth
from keyguard.stores.limits import LimitsStore
from keyguard.testing import play
from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app
from tests.support.servers import RedisServer, free_port


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        return MemoryStorage()
    server: RedisServer = request.getfixturevalue("valkey")
    server.ask("FLUSHALL")
    return RedisStorage(server.url)


def test_it_limits_and_tells(storage: Any) -> None:
    guard = Keyguard(RateLimit("3/minute", name="a"), store=LimitsStore(storage))
    answers = [play(guard) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert (answers[0].header("RateLimit") or "").startswith('"a:3/minute";r=2;t=')
    assert 1 <= int(answers[3].header("Retry-After") or 0) <= 60
    assert play(guard, client="198.51.100.2").status == 200


def test_several_limits_are_best_effort_and_it_says_so_at_the_start(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "keyguard"):
        guard = Keyguard(RateLimit("2/minute; 100/hour"), store=LimitsStore(storage))
    assert "best effort: 2 limits are not taken all or nothing" in caplog.text
    assert [play(guard).status for _ in range(4)] == [200, 200, 429, 429]


def test_what_it_cannot_do_stops_the_start() -> None:
    store = LimitsStore(MemoryStorage())
    with pytest.raises(ConfigurationError, match="keeps no keys"):
        Keyguard(APIKeys(), RateLimit("1/minute", by="key"), store=store)
    with pytest.raises(ConfigurationError, match="cannot pace evenly"):
        Keyguard(RateLimit(smooth("10/second")), store=store)
    with pytest.raises(ConfigurationError, match=r"an object of limits\.storage"):
        LimitsStore("memory://")  # type: ignore[arg-type]


def test_a_storage_that_is_down_is_a_fault_and_nobody_s_usage() -> None:
    storage = MemcachedStorage(f"memcached://127.0.0.1:{free_port()}", timeout=0.1, connect_timeout=0.1)
    guard = Keyguard(RateLimit("1/minute", if_store_fails="refuse"), store=LimitsStore(storage))
    answer = play(guard)
    assert answer.status == 503
    assert b'"cause": "fault"' in answer.body
    local = Keyguard(RateLimit("1/minute"), store=LimitsStore(storage))
    assert [play(local).status for _ in range(3)] == [200, 503, 503]


def test_a_storage_that_stands_still_holds_nobody_up_for_long() -> None:
    """Whatever patience the storage has itself: this one would wait for five seconds, ten times."""
    with RedisServer() as server:
        storage = RedisStorage(server.url, socket_timeout=5)
        service = [Keyguard(RateLimit("1/minute", if_store_fails="refuse"), store=LimitsStore(storage)) for _ in "ab"]
        apps = [service[0].asgi(asgi_app), service[1].wsgi(wsgi_app)]
        assert [ask_asgi(apps[0], Ask()).status, ask_wsgi(apps[1], Ask()).status] == [200, 429]
        server.signal(signal.SIGSTOP)
        for ask, app in ((ask_asgi, apps[0]), (ask_wsgi, apps[1])):
            for _ in range(3):
                began = time.monotonic()
                assert ask(app, Ask()).status == 503
                assert time.monotonic() - began < 0.5
        server.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (RateLimitItemPerMinute(2), "2/minute"),
        (RateLimitItemPerSecond(2, 30), "2/30 seconds"),
        (parse("2/hour"), "2/hour"),
    ],
)
def test_rate_items_are_rates(item: Any, text: str) -> None:
    for guard in (Keyguard(RateLimit(item, name="a")), Keyguard(RateLimit(lambda request: item, name="a"))):
        answers = [play(guard) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert f'"a:{text}";r=1' in (answers[0].header("RateLimit") or "")


def test_a_store_that_was_closed_is_used_again(storage: Any) -> None:
    """As when an app is started twice in one process, by its tests, say."""
    store = LimitsStore(storage)
    guard = Keyguard(RateLimit("2/minute", name="again"), store=store)
    assert [play(guard).status for _ in range(2)] == [200, 200]
    store.close()
    assert play(guard).status == 429
    store.close()


def test_a_storage_that_hangs_does_not_keep_the_process_from_ending() -> None:
    script = (
        "from limits.storage import MemcachedStorage\n"
        "from keyguard import Keyguard, RateLimit\n"
        "from keyguard.stores.limits import LimitsStore\n"
        "from keyguard.testing import play\n"
        "guard = Keyguard(RateLimit('5/minute'), store=LimitsStore(MemcachedStorage('memcached://127.0.0.1:{}')))\n"
        "assert play(guard).status == 200\n"
        "assert not guard.health.ok\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = [sys.executable, "-c", script.format(silent.getsockname()[1])]
        subprocess.run(words, check=True, timeout=20, stderr=subprocess.DEVNULL)
