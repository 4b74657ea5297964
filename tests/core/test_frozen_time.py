"""Apps whose tests have freezegun or time-machine make time stand still: limits and keys go by that time."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import freezegun
import pytest
import time_machine

from keyguard import APIKeys, Keyguard, RateLimit, ResponseCache, quota
from keyguard.clock import monotonic, steady_clock, travelling, wall_clock
from keyguard.testing import play
from tests.support.servers import RedisServer

DAY = datetime(2031, 5, 6, 12, tzinfo=UTC)
Move = Callable[[float], Any]


@contextmanager
def by_freezegun() -> Iterator[Move]:
    with freezegun.freeze_time(DAY) as frozen:
        yield frozen.tick


@contextmanager
def by_time_machine() -> Iterator[Move]:
    with time_machine.travel(DAY, tick=False) as traveller:
        yield traveller.shift


BOTH = pytest.mark.parametrize("still", [by_freezegun, by_time_machine])


@BOTH
@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/k.db"])
def test_limits_and_keys_go_by_the_time_that_was_made(still: Any, url: str, tmp_path: Path) -> None:
    """Also if the app was imported before."""
    guard = Keyguard(APIKeys(), RateLimit("2/minute", quota("4/day"), by="key"), store=url.format(tmp_path))
    with still() as move:
        issued = guard.keys.issue("acme", expires="1 day")
        sent = {"X-API-Key": issued.key.reveal()}
        assert issued.record.created == DAY
        assert [play(guard, headers=sent).status for _ in range(3)] == [200, 200, 429]
        assert guard.limits.peek(issued.record.id)[0].at == DAY
        move(60)
        assert [play(guard, headers=sent).status for _ in range(3)] == [200, 200, 429]
        refused = play(guard, headers=sent)
        assert refused.header("retry-after") == str(12 * 3600 - 60)  # the quota of the day
        move(86_400)
        assert play(guard, headers=sent).status == 401  # it has expired


@BOTH
def test_afterwards_time_is_as_before(still: Any) -> None:
    clock, begun = steady_clock(), wall_clock()
    with still() as move:
        assert clock() == wall_clock() == DAY.timestamp() * 1_000_000
        assert travelling()
        made_inside = steady_clock()
        move(1)
        assert made_inside() == clock() == (DAY + timedelta(seconds=1)).timestamp() * 1_000_000
    assert not travelling()
    for each in (clock, made_inside):
        assert abs(each() - wall_clock()) < 60_000_000
        assert each() >= begun - 1_000_000


@BOTH
def test_deadlines_pass_all_the_same(still: Any) -> None:
    """What waits for a store or for other requests would wait for ever."""
    with still():
        first = monotonic()
        while monotonic() == first:
            pass
        assert monotonic() - first < 1000


@BOTH
def test_a_cached_response_ages(still: Any) -> None:
    guard = Keyguard(ResponseCache(ttl=60, public=True), store="memory://")
    with still() as move:
        states = [play(guard).header("cache-status") for _ in range(2)]
        move(10)
        again = play(guard)
        assert ("hit" in str(states[1]), again.header("age")) == (True, "10")
        move(60)
        assert "hit" not in str(play(guard).header("cache-status"))


@BOTH
def test_a_store_that_goes_by_its_servers_time_says_so(
    still: Any, valkey: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{valkey.url}?namespace=frozen-{tmp_path.name}"
    with caplog.at_level(logging.WARNING, "keyguard"):
        assert play(Keyguard(RateLimit("1/minute"), store=url)).status == 200
        assert caplog.records == []
        with still():
            assert play(Keyguard(RateLimit("1/minute"), store=url)).status == 429
    (record,) = caplog.records
    assert "made another time" in record.getMessage()
    assert "g.advance()" in record.getMessage()


def test_keyguard_may_be_imported_while_time_stands_still() -> None:
    code = (
        "import freezegun\n"
        "with freezegun.freeze_time('2031-01-01') as frozen:\n"
        "    from keyguard import Keyguard, RateLimit\n"
        "    from keyguard.testing import play\n"
        "    guard = Keyguard(RateLimit('1/minute'))\n"
        "    print(play(guard).status, play(guard).status)\n"
        "    frozen.tick(60)\n"
        "    print(play(guard).status)\n"
        "other = Keyguard(RateLimit('1/minute'))\n"
        "print(play(other).status, play(other).status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["200", "429", "200", "200", "429"], done.stderr


def test_a_process_without_tests_pays_nothing_for_it() -> None:
    code = "from keyguard.clock import steady_clock; print(steady_clock().__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "steady\n"
