"""What is settled after a decision is settled once, whatever becomes of the reply: it may be asked for again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keyguard.errors import StoreError
from keyguard.ops import REMEMBERED, Demand, Renew, Settle, Take, Taken
from keyguard.rates import Limit, smooth, window
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStore
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.servers import Postgres, Proxy, RedisCluster, RedisServer, wait_until

LIMIT = window(1000, 3_600_000_000, "1000/hour")
LEASE = 600_000_000  # longer than any test
LIMITS = [window(30, 60_000_000, "30/minute"), LIMIT, smooth("60/minute", burst=30)]


def demand(cost: int, limit: Limit = LIMIT, lease: int = 0) -> Demand:
    return Demand("", f"rl:settled:{limit.code}|x", limit, cost, lease, holds=True)


def used(store: Any, limit: Limit = LIMIT) -> int:
    return limit.max_cost - int(store.execute([Take([demand(0, limit)])])[0].takings[0][2])


def taken(store: Any, cost: int, limit: Limit = LIMIT, lease: int = 0) -> Taken:
    found: Taken = store.execute([Take([demand(cost, limit, lease)])])[0]
    return found


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    clock = ManualClock()
    opened: Any = {
        "memory": lambda: MemoryStore(clock=clock),
        "sqlite": lambda: SQLiteStore(tmp_path / "limits.db", 5.0, clock=clock),
    }[request.param]()
    opened.time = clock
    yield opened
    getattr(opened, "close", lambda: None)()


@pytest.mark.parametrize("limit", LIMITS)
def test_it_costs_in_the_end_what_was_settled(store: Any, limit: Limit) -> None:
    for cost, settled in ((3, 0), (3, 1), (3, 3), (1, 4), (0, 2)):
        before = used(store, limit)
        settle = Settle(taken(store, cost, limit), [settled])
        for _ in range(2):
            store.execute([settle])
            assert used(store, limit) == before + settled


@pytest.mark.parametrize("limit", LIMITS)
def test_more_than_there_is_left_uses_up_the_limit_and_is_forgotten_like_the_rest(store: Any, limit: Limit) -> None:
    store.execute([Settle(taken(store, 1, limit), [10 * limit.max_cost])])
    refused = taken(store, 1, limit)
    assert refused.refused
    assert 0 < refused.wait <= limit.period * 1.1
    store.time.advance(timedelta(microseconds=refused.wait))
    assert not taken(store, 1, limit).refused


def test_a_settlement_names_a_cost_for_each_demand() -> None:
    with pytest.raises(ValueError, match="a cost for each of 1 demands, not 2"):
        Settle(Taken([demand(1)], [], 0, False), [1, 2])


def test_what_was_refused_is_not_settled(store: Any) -> None:
    refused = taken(store, 1001)
    store.execute([Settle(refused, [5])])
    assert used(store) == 0


def test_a_caller_s_settlements_take_little_room_and_are_forgotten() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    for _ in range(200):
        store.execute([Settle(taken(store, 2), [1])])
    ((_, tokens),) = store.scan("rl:settled|")
    assert len(tokens) == 16 * 32
    clock.advance(timedelta(microseconds=REMEMBERED))
    assert store.scan("rl:settled|") == []


# -- lost replies --------------------------------------------------------------------------------------------------


def patiently(ask: Any) -> Any:
    """Ask until there is an answer: a machine may be too busy for the first."""
    ends = time.monotonic() + 45
    while True:
        try:
            return ask()
        except StoreError:
            assert time.monotonic() < ends
            time.sleep(0.05)


def settle_through(store: Any, proxy: Proxy, mode: str, again: Callable[[Settle], None]) -> None:
    """Settle while replies are lost, then again, and look that each happened once."""
    expected = patiently(lambda: used(store))
    for cost, settled, lease in ((3, 1, 0), (1, 4, 0), (5, 0, 0), (3, 2, LEASE), (4, 0, LEASE)):
        settle = Settle(patiently(lambda cost=cost, lease=lease: taken(store, cost, lease=lease)), [settled])
        proxy.mode, proxy.delay = mode, 0.3
        with suppress(StoreError):
            again(settle)
        proxy.mode = ""
        patiently(lambda settle=settle: again(settle))
        expected += settled
        assert patiently(lambda: used(store)) == expected


MODES = ["reset", "cut", "drop", "delay", "half-close", "deaf", "reset once"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", ["threads", "loop"])
def test_redis(mode: str, world: str, valkey: RedisServer) -> None:
    with Proxy(valkey.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", namespace=f"settled-{mode.replace(' ', '-')}-{world}")

        def again(settle: Settle) -> None:
            if world == "threads":
                store.execute([settle])
            else:

                async def story() -> None:
                    try:
                        await store.aexecute([settle])
                    finally:
                        await store.aclose()

                asyncio.run(story())

        settle_through(store, proxy, mode, again)
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_what_was_held_when_the_reply_was_lost_is_released_or_can_be(mode: str, valkey: RedisServer) -> None:
    with Proxy(valkey.port) as proxy:
        name = f"held-{mode.replace(' ', '-')}"
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", namespace=name)
        patiently(lambda: used(store))
        proxy.mode, proxy.delay = mode, 0.3
        held = None
        with suppress(StoreError):
            held = taken(store, 3, lease=LEASE)  # answered when it was asked once more
        proxy.mode = ""
        if held is not None:
            assert patiently(lambda: store.execute([Renew(held)])) == [True]
            patiently(lambda: store.execute([Settle(held)]))
        wait_until(lambda: patiently(lambda: used(store)) == 0, "the units to be released")
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["drop", "deaf", "delay"])
def test_redis_settles_by_itself_what_was_not_answered(mode: str, valkey: RedisServer) -> None:
    """Whoever asked has been told of the failure, and need not ask again: it is done with what comes next."""
    with Proxy(valkey.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", namespace=f"settled-later-{mode}")
        settle = Settle(patiently(lambda: taken(store, 3)), [1])
        proxy.mode, proxy.delay = mode, 0.3
        with pytest.raises(StoreError):
            store.execute([settle])
        proxy.mode = ""

        def settled() -> bool:
            with suppress(StoreError):
                return used(store) == 1
            return False

        wait_until(settled, "the settlement")
        patiently(lambda: store.execute([settle]))
        assert patiently(lambda: used(store)) == 1
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_postgresql(mode: str, postgres: Postgres) -> None:
    with Proxy(postgres.port) as proxy:
        url = postgres.url.replace(f":{postgres.port}/", f":{proxy.port}/")
        store = PostgresStore(url, schema=f"settled_{mode.replace(' ', '_').replace('-', '_')}")
        store.migrate()
        settle_through(store, proxy, mode, lambda settle: store.execute([settle]))
        store.close()


def test_what_lies_on_several_nodes_is_given_back_by_the_time_of_each(cluster: RedisCluster) -> None:
    """A decision on several nodes has one moment for whoever asks, and yet each node has its own."""
    store = RedisStore(cluster.url, timeout=1, namespace="nodes")
    limit = window(10, 60_000_000, "10/minute")
    whole = [Demand("", f"rl:nodes:{limit.code}|{bucket}", limit) for bucket in "abcdef"]
    held = [Demand("", each.key, limit, 2, LEASE) for each in whole]

    def left() -> list[int]:
        demands = [Demand("", each.key, limit, 0, holds=True) for each in whole]
        return [taking[2] for taking in patiently(lambda: store.execute([Take(demands)]))[0].takings]

    for demands, places in ((whole, range(6)), (whole, range(3)), (held, range(6)), (held, range(2, 5))):
        (taken,) = patiently(lambda demands=demands: store.execute([Take(demands)]))
        before = left()
        if demands is held:
            assert patiently(lambda taken=taken: store.execute([Renew(taken)])) == [True]
        settle = Settle(taken.part([*places]))
        patiently(lambda settle=settle: store.execute([settle]))
        cost = demands[0].cost
        assert left() == [units + cost * (place in places) for place, units in enumerate(before)]
    store.clear()
    store.close()


# -- leases --------------------------------------------------------------------------------------------------------


class Losing(MemoryStore):
    """A store whose replies are lost."""

    lose = False
    lost = 0
    """Units of decisions that nobody was told of."""

    def execute(self, ops: Any) -> list[Any]:
        found = super().execute(ops)
        if self.lose:
            self.lost += sum(demand.cost for op in ops if isinstance(op, Take) for demand in op.demands)
            raise StoreError("the reply was lost")
        return found


def test_leased_units_go_back_once_though_the_shared_store_fails() -> None:
    """What took them back fails after it has happened, and is sent again."""
    clock = ManualClock()
    shared = Losing(clock=clock)
    tier = Leased(shared, workers=1, clock=clock)
    held = [taken(tier, 1) for _ in range(20)]
    clock.advance(300)  # into another slice: what comes back now goes to the shared store
    for one in held:
        tier.execute([Settle(one)])
    for lost in (True, True, False):
        shared.lose = lost
        with suppress(StoreError):
            taken(tier, 1)
    tier.close()
    assert used(shared) == shared.lost + 1, "nothing but decisions is charged twice, or not at all"


def test_what_costs_more_than_is_leased_is_charged_in_the_shared_store() -> None:
    clock = ManualClock()
    shared = MemoryStore(clock=clock)
    tier = Leased(shared, workers=1, clock=clock)
    for _ in range(10):
        one = taken(tier, 1)
    settle = Settle(one, [500])
    for _ in range(2):
        tier.execute([settle])
    tier.close()
    assert used(shared) == 9 + 500


def test_leased_units_are_settled_once() -> None:
    clock = ManualClock()
    shared = MemoryStore(clock=clock)
    tier = Leased(shared, workers=1, clock=clock)
    for _ in range(10):
        one = taken(tier, 2)
    settle = Settle(one, [1])
    for _ in range(3):
        tier.execute([settle])
    tier.close()
    assert used(shared) == 19
