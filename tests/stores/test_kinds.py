"""A kind of limit knows itself: stores ask it, and a script holds the kinds that it is sent for."""

from __future__ import annotations

import pytest

from keyguard.clock import SECOND
from keyguard.ops import Demand, Take
from keyguard.rates import Limit, smooth, window
from keyguard.rates.window import WindowLog
from keyguard.stores.memory import MemoryStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.redis.scripts import KINDS, script_name, script_text
from keyguard.testing import ManualClock
from keyguard.testing.conformance.drawing import LIMITS
from tests.support.servers import RedisServer

LOG, SLICES = window(3, 10 * SECOND, "3/10 seconds"), window(100, 3600 * SECOND, "100/hour")
EVEN = smooth("5/second", burst=4)


class Changing(WindowLog):
    """A limit whose numbers depend on the time, as those of a calendar do: each minute admits one more."""

    __slots__ = ()

    script = "log"
    steady = False

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        return self.quota + now // (60 * SECOND) % 60, self.period, 0, 0


def test_a_subclass_is_not_taken_for_the_kind_that_it_is_made_of() -> None:
    class Other(WindowLog):
        pass

    assert Other.script == ""
    assert [limit.script for limit in (LOG, SLICES, EVEN)] == ["log", "slices", "smooth"]
    assert {limit.script for limit in LIMITS} - {""} == KINDS.keys()


@pytest.mark.parametrize(("limit", "durable"), [(LOG, False), (SLICES, True), (EVEN, False)])
def test_what_lasts_an_hour_or_more_is_durable(limit: Limit, durable: bool) -> None:
    assert limit.durable is durable


def test_a_script_holds_the_kinds_that_its_call_uses() -> None:
    windows, both, none = (
        script_text(script_name("take", kinds))[0] for kinds in (["window"], ["window", "smooth"], [])
    )
    assert b"take_log" in windows
    assert b"take_smooth" not in windows
    assert b"take_smooth" in both
    assert b"take_log" not in none
    assert len(script_text("read")[0]) < len(none) < len(windows) < len(both)


def test_numbers_that_change_are_asked_for_each_decision(valkey: RedisServer) -> None:
    clock = ManualClock()  # an hour begins
    store = RedisStore(valkey.url).scratch(clock)
    take = Take([Demand("", "rl:changing|x", Changing(1, 3600 * SECOND, "changing"))])
    try:
        for _ in range(5):
            assert [store.execute([take])[0].refused for _ in range(2)] == [False, True]
            clock.advance(60)
    finally:
        store.close()


def test_what_may_not_be_forgotten_stays_in_a_full_memory_store() -> None:
    class Balance(WindowLog):
        may_be_forgotten = False

    store = MemoryStore(1024 * 1024)
    kept = Take([Demand("", "rl:balance|kept", Balance(5, 3600 * SECOND, "balance"))])
    store.execute([kept])
    for place in range(10_000):
        store.execute([Take([Demand("", f"rl:limit|{place}", SLICES)])])
    assert store.stats().forgotten > 0
    assert store.execute([kept])[0].takings[0][2] == 3
